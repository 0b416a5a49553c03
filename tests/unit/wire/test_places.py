"""What the paths of Azure OpenAI, Vertex, Cohere and Bedrock say, and where they go under an upstream's prefix."""

import pytest

from sidecar.errors import ProtocolError
from sidecar.wire.places import Place, generates, place_of, place_under
from sidecar.wire.providers import PROVIDERS

OURS = "/v1/projects/P/locations/L"
VERTEX = "/v1/projects/p/locations/l/publishers"


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/v1/chat/completions", None),
        ("/openaix", None),
        ("/openai/deployments/my%20d/chat/completions", Place("/openai/", "chat", model="my d")),
        ("/openai/deployments/d/embeddings", Place("/openai/", "embeddings", model="d")),
        ("/openai/deployments/d/audio/speech", Place("/openai/", model="d")),
        ("/openai/v1/responses", Place("/openai/", "responses")),
        ("/openai/files/file-1", Place("/openai/")),
        (
            f"{VERTEX}/google/models/g:generateContent",
            Place("/v1/projects/", "generate", "gemini", model="g", reads=True),
        ),
        (
            f"{VERTEX}/google/models/g:countTokens",
            Place("/v1/projects/", "count_tokens", "gemini", model="g", reads=True),
        ),
        (f"{VERTEX}/google/models/g:predict", Place("/v1/projects/", "other", "gemini", model="g", reads=True)),
        (
            f"{VERTEX}/anthropic/models/c@1:streamRawPredict",
            Place("/v1/projects/", "other", "anthropic", model="c@1", streams=True, reads=True),
        ),
        (f"{VERTEX}/mistralai/models/m:rawPredict", Place("/v1/projects/", "other", "openai", model="m", reads=True)),
        ("/v1beta1/projects/p/locations/l/endpoints/openapi/chat/completions", Place("/v1beta1/")),
        ("/v1/publishers/google/models", Place("/v1/publishers/", dialect="gemini")),
        ("/v2/chat", Place("/v2/", spoken="cohere", form="cohere", reads=True)),
        (
            "/model/cohere.command%3A0/converse",
            Place("/model/", "other", "openai", "bedrock", "converse", "cohere.command:0", reads=True),
        ),
        (
            "/model/anthropic.c/invoke-with-response-stream",
            Place("/model/", "other", "anthropic", "bedrock", None, "anthropic.c", True, True),
        ),
        ("/model/x", Place("/model/", spoken="bedrock", reads=True)),
    ],
)
def test_what_a_path_says(path: str, place: Place | None) -> None:
    assert place_of(path) == place


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v2/chat", True),
        ("/v2/embed", False),
        ("/v2/chat/more", False),
        ("/model/m/converse", True),
        ("/model/m/converse-stream", True),
        ("/model/m/invoke", False),
        ("/v1/files", False),
    ],
)
def test_where_a_model_answers_in_words(path: str, words: bool) -> None:
    """A client that leaves there before the first of them has a prompt to pay."""
    assert generates(path) is words


def test_every_prefix_has_its_provider() -> None:
    """What a 404 tells to configure is what makes the path pass."""
    for prefix in {prefix for one in PROVIDERS.values() for prefix in one.prefixes}:
        place = place_of(prefix + "x")
        assert place is not None
        assert place.prefix == prefix
        assert "give the policy an upstream with `dialect: " in place.missing


@pytest.mark.parametrize(
    ("prefix", "target", "sent"),
    [
        ("", b"/openai/v1/responses?x=1", b"/openai/v1/responses?x=1"),
        ("/openai/v1", b"/openai/v1/responses", b"/openai/v1/responses"),
        ("/openai", b"/openai/deployments/d/x", b"/openai/deployments/d/x"),
        ("/gate", b"/openai/x", b"/gate/openai/x"),
        ("/gate/openai/v1", b"/openai/x", b"/gate/openai/x"),
        ("/openai-gate/openai/v1", b"/openai/x", b"/openai-gate/openai/x"),
        ("/openai-gate", b"/openai/x", b"/openai-gate/openai/x"),
        ("/v1", b"/v1/projects/p/locations/l/x", b"/v1/projects/p/locations/l/x"),
        (f"{OURS}/publishers/google", b"/v1beta1/projects/p/locations/l/x?y=..", f"{OURS}/x?y=..".encode()),
        (f"/g{OURS}", b"/v1/publishers/a/models/m:v", f"/g{OURS}/publishers/a/models/m:v".encode()),
        ("/v2", b"/v2/chat", b"/v2/chat"),
        ("/bed", b"/model/m/converse", b"/bed/model/m/converse"),
    ],
)  # fmt: skip
def test_where_it_goes(prefix: str, target: bytes, sent: bytes) -> None:
    assert place_under(prefix, target) == sent


@pytest.mark.parametrize(
    ("prefix", "path"),
    [
        (OURS, b"/v1/projects/p/locations/l/../x"),
        (OURS, b"/v1/publishers/%2E%2e/x"),
        (OURS, b"/v1beta1/..%5cx"),
        ("/openai/v1", b"/openai/../x"),
        ("/openai", b"/openai/%2e%2e/x"),
        ("/gate/openai", b"/openai/../../x"),
        ("/gate", b"/openai/../x"),
    ],
)
def test_no_climbing(prefix: str, path: bytes) -> None:
    with pytest.raises(ProtocolError, match="dot segments"):
        place_under(prefix, path)


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/projects/p/locations/l?x=/../../../y",
        b"/v1/projects/p?x/locations/l/../../../y",
        b"/v1/projects/p/locations/l#/../../y",
        b"/v1/projects/p/locations/l?x=/publishers/google/models/m:generateContent",
    ],
)
def test_a_query_is_no_path(target: bytes) -> None:
    """What stands behind the path stays there: as a path it would climb, or call a model that nobody judged."""
    sent = place_under(OURS, target)
    assert sent == OURS.encode() + target.removeprefix(b"/v1")
