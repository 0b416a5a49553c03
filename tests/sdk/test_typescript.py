"""The TypeScript clients see the same from every arm as from their own provider; one process of Node asks all of them."""

import json
import subprocess
from typing import Any

import pytest

from tests.sdk.asked import TOOLS
from tests.sdk.stack import ARMS, ROOT, Stack

CLIENTS = {
    "openai-chat": ("chat", "stream", "tools", "tools_stream", "schema"),
    "openai-responses": ("chat", "stream", "tools", "schema"),
    "anthropic": ("chat", "stream", "tools", "tools_stream", "schema"),
    "ai-openai-chat": ("chat", "stream", "tools", "tools_stream", "schema"),
    "ai-openai-responses": ("chat", "stream", "tools", "tools_stream", "schema"),
    "ai-anthropic": ("chat", "stream", "tools", "tools_stream", "schema"),
    "ai-google": ("chat", "stream", "tools", "tools_stream", "schema"),
}


@pytest.fixture(scope="module")
def seen(stack: Stack) -> Any:
    command = ["node", "matrix.mjs", stack.url, ",".join(ARMS)]
    folder = ROOT / "tests" / "sdk" / "node"
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize(("client", "kind"), [(client, kind) for client in CLIENTS for kind in CLIENTS[client]])
def test_a_client(seen: Any, client: str, kind: str) -> None:
    """One client, one kind of call, every arm."""
    told = seen[client][kind]
    own = told.pop("")
    assert own
    assert "failed" not in str(own)
    if "tools" in kind:
        assert [name for name, _ in (own if isinstance(own, list) else own["calls"])] == list(TOOLS)
    assert told == dict.fromkeys(ARMS, own)


def test_all_are_asked(seen: Any) -> None:
    """What is listed here is what was asked there."""
    assert {client: tuple(kinds) for client, kinds in seen.items()} == CLIENTS
