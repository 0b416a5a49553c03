"""Every snippet of docs/clients.md runs as it stands there, but for the port; what it prints is an answer."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sdk.stack import ROOT, Stack

PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
NODE = ROOT / "tests" / "sdk" / "node"
BLOCKS = re.findall(r"^```(python|ts|sh)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
RUN = [(language, text) for language, text in BLOCKS if "export " not in text and "/feedback" not in text]
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY", "MISTRAL_API_KEY", "CO_API_KEY")
KEYS += ("GOOGLE_GENERATIVE_AI_API_KEY",)


def _name(block: tuple[str, str]) -> str:
    before = PAGE.partition(block[1])[0]
    return f"{block[0]}-{(re.findall(r'^[*][*](.+?)[*][*]', before, re.MULTILINE) or ['?'])[-1]}"


def _run(language: str, text: str, folder: Path, environ: dict[str, str]) -> str:
    if language == "ts":
        file = NODE / f".snippet-{abs(hash(text))}.ts"  # where its imports are found
        file.write_text(text)
        command = ["node", "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON", str(file)]
    else:
        file = folder / "snippet"
        file.write_text(text)
        command = [sys.executable, "-W", "ignore", str(file)] if language == "python" else ["bash", "-eu", str(file)]
    try:
        done = subprocess.run(
            command, env=os.environ | environ, cwd=folder, capture_output=True, text=True, timeout=120, check=False
        )
    finally:
        file.unlink()
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("block", RUN, ids=_name)
def test_a_snippet(stack: Stack, tmp_path: Path, block: tuple[str, str]) -> None:
    """The simulated provider's answers are sums; a key of each provider is in the environment, as the SDKs want it."""
    language, text = block
    environ = dict.fromkeys(KEYS, "key") | {"LLM_USER_PATH": str(tmp_path)}
    said = _run(language, text.replace("http://localhost:9090", stack.url), tmp_path, environ)
    assert " = " in said
    for origin in re.findall(r"https?://\S+", text):
        assert origin.startswith("http://localhost:9090")


def test_every_client_has_its_snippet() -> None:
    """The clients that are tested here, and nothing that is not run."""
    assert len(RUN) == len(BLOCKS) - 2
    for name in ("openai", "anthropic", "google", "mistralai", "cohere", "langchain_openai", "llama_index", "litellm"):
        assert any(f"import {name}" in text or f"from {name}" in text for _, text in RUN), name
    for name in ("instructor", "pydantic_ai", "llm -m", '"openai"', '"@anthropic-ai/sdk"', '"ai"', "curl "):
        assert any(name in text for _, text in RUN), name
