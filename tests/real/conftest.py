"""The two real models, and real sidecars in front of them, once for all tests marked `real`."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.real import models, process
from tests.real.models import ModelServer


@dataclass(frozen=True, slots=True)
class Pair:
    """One model, reached directly and through a sidecar."""

    model: str
    direct: str
    through: str


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[str, ModelServer]]:
    with models.running() as both:
        yield both


def _front(folder: Path, openai: ModelServer, anthropic: ModelServer) -> Iterator[str | None]:
    """OPENAI_UPSTREAM and ANTHROPIC_UPSTREAM are different models, so that a call which takes the wrong one is seen.

    To test the tests themselves: with LLM_SIDECAR_REAL_DIRECT=1 a model is compared with itself, without a sidecar.
    """
    if os.environ.get("LLM_SIDECAR_REAL_DIRECT"):
        yield None
        return
    with process.running(folder, {"OPENAI_UPSTREAM": openai.url, "ANTHROPIC_UPSTREAM": anthropic.url}) as sidecar:
        yield sidecar.url


@pytest.fixture(scope="session")
def fronts(
    servers: dict[str, ModelServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str | None]]:
    """Two sidecars' origins, by the model that is their OpenAI upstream; the other one is the Anthropic upstream."""
    smollm2, gemma3 = servers["smollm2"], servers["gemma3"]
    with (
        contextlib.contextmanager(_front)(tmp_path_factory.mktemp("openai-is-smollm2"), smollm2, gemma3) as first,
        contextlib.contextmanager(_front)(tmp_path_factory.mktemp("openai-is-gemma3"), gemma3, smollm2) as second,
    ):
        yield {"smollm2": first, "gemma3": second}


@pytest.fixture(params=["smollm2", "gemma3"])
def openai_pair(request: pytest.FixtureRequest, servers: dict[str, ModelServer], fronts: dict[str, str | None]) -> Pair:
    """Each model in turn behind OPENAI_UPSTREAM."""
    server = servers[request.param]
    return Pair(server.model, server.url, fronts[request.param] or server.url)


@pytest.fixture(params=["smollm2", "gemma3"])
def anthropic_pair(
    request: pytest.FixtureRequest, servers: dict[str, ModelServer], fronts: dict[str, str | None]
) -> Pair:
    """Each model in turn behind ANTHROPIC_UPSTREAM."""
    server, other = servers[request.param], {"smollm2": "gemma3", "gemma3": "smollm2"}[request.param]
    return Pair(server.model, server.url, fronts[other] or server.url)


@pytest.fixture(scope="session")
def smollm2(servers: dict[str, ModelServer]) -> ModelServer:
    return servers["smollm2"]
