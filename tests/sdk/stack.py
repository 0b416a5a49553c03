"""The real sidecar and the simulated provider as processes, with a policy that can put any arm behind any call.

A call that carries the tag `arm=<dialect>` is served by an upstream of that dialect, under the model name that it asked
for; without the tag it passes as it is, to the provider of its own dialect. Only the standard library is imported here:
the sidecar runs in an environment of its own (LLM_SIDECAR_PYTHON), the tests in that of the SDKs.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.real import process

ROOT = Path(__file__).resolve().parents[2]
ARMS = ("openai", "anthropic", "gemini", "cohere", "bedrock")
MODELS: dict[str, dict[str, object]] = {
    "plain": {},
    "two-calls": {"tool_calls": 2},
    "thinks": {"reasoning_tokens": 5, "reasoning_visible": True},
    "caches": {"cached_fraction": 0.5},
    "filtered": {"filtered": 1},
    "refuses": {"refusal": 1},
    "mistral-plain": {},
    "mistral-two-calls": {"tool_calls": 2},
    "busy": {},
    "down": {},
    "breaks": {},
}  # what each simulated model is like
FAULTS = [
    {"kind": "status", "status": 429, "retry_after_s": 1, "models": ["busy"]},
    {"kind": "status", "status": 503, "models": ["down"]},
    {"kind": "error_event", "after_tokens": 3, "models": ["breaks"]},
]


@dataclass(frozen=True, slots=True)
class Stack:
    """What tests need to know of the two processes: origins without a path."""

    url: str
    provider: str

    @property
    def v1(self) -> str:
        return self.url + "/v1"


def tags(arm: str | None) -> dict[str, str]:
    """The headers that put an arm of this dialect behind a call; none for the call's own provider."""
    return {} if arm is None else {"x-sidecar-tags": f"arm={arm}"}


def virtual(arm: str, model: str) -> str:
    """The name of a model that is served by this arm without a tag, for clients that cannot send headers."""
    return f"{model}-on-{arm}"


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Stack]:
    """Both processes, ready; ended at the end."""
    sim = folder / "sim.yaml"  # JSON is YAML
    sim.write_text(json.dumps({"models": MODELS, "faults": FAULTS}))
    python = os.environ.get("LLM_SIDECAR_PYTHON", sys.executable)
    with subprocess.Popen(
        [python, "-m", "sidecar.sim", "--config", str(sim)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as provider:
        try:
            assert provider.stdout is not None
            origin = f"http://127.0.0.1:{int(provider.stdout.readline())}"
            settings = dict.fromkeys(("OPENAI_UPSTREAM", "ANTHROPIC_UPSTREAM", "GEMINI_UPSTREAM"), origin)
            policies = _policy(folder, origin)
            with process.running(folder, {**settings, "SIDECAR_POLICIES": str(policies), "SERVICE_ID": "sdk"}) as one:
                yield Stack(one.url, origin)
        finally:
            provider.terminate()


def _policy(folder: Path, origin: str) -> Path:
    """A folder with the policy: for each arm and model a route by tag and one by name."""
    key = folder / "key"
    key.write_text("AKID:secret")  # the sidecar's own; Bedrock's is a pair
    key.chmod(0o600)
    upstreams = {
        arm: {"dialect": arm, "base_url": origin, "api_key": {"file": str(key)}, "price": "free"} for arm in ARMS
    }
    routes = []
    for arm in ARMS:
        for model in MODELS:
            baseline = {"id": "served", "upstream": arm, "model": model}
            tagged = {"models": [model], "tags": {"arm": arm}}
            named = virtual(arm, model)
            routes.append({"name": f"{arm}-{model}", "match": tagged, "baseline": baseline})
            routes.append({"name": named, "match": {"models": [named]}, "virtual": [named], "baseline": baseline})
    policies = folder / "policies"
    policies.mkdir()
    (policies / "sdk.yaml").write_text(
        json.dumps({"version": 1, "service": "sdk", "upstreams": upstreams, "routes": routes})
    )
    return policies
