"""Where a call goes at an upstream: at its client's own path, or at the one that the upstream has for it."""

import pytest

from sidecar.core.guard import Guards
from sidecar.core.policy import Upstream
from sidecar.core.types import Dialect, Endpoint
from sidecar.errors import ProtocolError
from sidecar.proxy.gate import Way
from sidecar.proxy.origin import Origin
from sidecar.wire.http1 import parse_request

CHAT, GENERATE = b"/v1/chat/completions", b"/v1beta/models/flash:generateContent"
STREAM = b"/v1beta/models/flash:streamGenerateContent"
DEPLOYED = b"/openai/deployments/mine/chat/completions?api-version=2023-05-15&x=1"
AT_AZURE = b"/openai/deployments/%b/chat/completions?%b"

Of = tuple[Dialect, str | None]  # an upstream's dialect and provider
PLAIN: Of = ("openai", None)
GEMINI: Of = ("gemini", "google")
AZURE: Of = ("openai", "azure-deployments")
VERTEX: Of = ("gemini", "vertex")


def asked_at(
    of: Of,
    target: bytes,
    model: str | None,
    asked: str | None = "app",
    beyond: str = "",
    model_in_path: str = "",
) -> bytes | None:
    dialect, provider = of
    spec = Upstream("up", dialect, "https", "h", 443, provider=provider)
    origin = Origin(spec, None, Guards().of(spec), None, lambda: None)  # type: ignore[arg-type]  # neither is asked
    head = parse_request(b"POST %b HTTP/1.1\r\nHost: h\r\n\r\n" % target)
    assert head is not None
    endpoint: Endpoint = "generate" if b":" in target else "chat" if b"chat" in target else "embeddings"
    return origin.target(head, Way(endpoint, dialect, "", beyond=beyond, model=model_in_path), model, asked)


@pytest.mark.parametrize(
    ("of", "target", "model", "expected"),
    [
        (PLAIN, CHAT, "new", None),
        (PLAIN, b"/v1/embeddings", "new", None),
        (PLAIN, GENERATE, None, None),
        (GEMINI, GENERATE, None, None),
        (GEMINI, GENERATE + b"?k=1", "pro/2", b"/v1beta/models/pro%2F2:generateContent?k=1"),
        (GEMINI, STREAM + b"?alt=sse", "pro", b"/v1beta/models/pro:streamGenerateContent?alt=sse"),
        (GEMINI, STREAM, "pro", b"/v1beta/models/pro:streamGenerateContent"),
        (GEMINI, b"/v1beta/models/flash:countTokens", "pro", None),
        (VERTEX, STREAM, None, b"/models/flash:streamGenerateContent"),
        (AZURE, CHAT, "new", AT_AZURE % (b"new", b"api-version=2024-10-21")),
        (AZURE, CHAT + b"?x=1", None, AT_AZURE % (b"app", b"api-version=2024-10-21&x=1")),
    ],
)
def test_where_ordinary_clients_are_led(of: Of, target: bytes, model: str, expected: bytes) -> None:
    """To the path of the upstream's own, where it has one or names the model in it; how they want a stream they said."""
    assert asked_at(of, target, model) == expected


@pytest.mark.parametrize(
    ("of", "model", "expected"),
    [
        (AZURE, None, None),
        (AZURE, "mine", None),
        (AZURE, "new", AT_AZURE % (b"new", b"api-version=2023-05-15&x=1")),
        (PLAIN, "new", CHAT + b"?x=1"),
        (PLAIN, None, CHAT + b"?x=1"),
    ],
)
def test_where_clients_of_a_provider_s_own_paths_are_led(of: Of, model: str | None, expected: bytes | None) -> None:
    """At their provider nothing changes for their model, and their version of its API holds; it goes nowhere else."""
    assert asked_at(of, DEPLOYED, model, model_in_path="mine", beyond="/openai/") == expected


def test_a_path_names_a_model() -> None:
    """One that the request does not name, or that would lead elsewhere, is refused."""
    with pytest.raises(ProtocolError):
        asked_at(AZURE, CHAT, None, asked=None)
    with pytest.raises(ProtocolError):
        asked_at(AZURE, CHAT, "..")
