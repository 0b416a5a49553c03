"""Which endpoint of which dialect a path is."""

import pytest

from sidecar.proxy.gate import Gate, Refused, Way
from sidecar.wire.http1 import parse_request_fully


def judge(path: str, *lines: str) -> Way | Refused:
    head = "".join(f"{line}\r\n" for line in ("Host: localhost", *lines))
    return Gate(frozenset(), frozenset()).admit(parse_request_fully(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode()))


@pytest.mark.parametrize(
    ("path", "endpoint", "dialect"),
    [
        ("/v1/chat/completions", "chat", "openai"),
        ("/v1/chat/completions?api-version=1", "chat", "openai"),
        ("/v1/completions", "completions", "openai"),
        ("/v1/responses", "responses", "openai"),
        ("/v1/responses/resp_1", "other", "openai"),
        ("/v1/embeddings", "embeddings", "openai"),
        ("/v1/messages", "messages", "anthropic"),
        ("/v1/messages/count_tokens", "count_tokens", "anthropic"),
        ("/v1/messages/batches", "other", "anthropic"),
        ("/v1/models", "other", "openai"),
        ("/v1beta/models/g:generateContent", "generate", "gemini"),
        ("/v1beta/models/g:embedContent", "embeddings", "gemini"),
        ("/v1beta/models/g:batchEmbedContents", "embeddings", "gemini"),
        ("/v1beta/models/g:countTokens", "count_tokens", "gemini"),
        ("/v1/responses/input_tokens", "count_tokens", "openai"),
        ("/v1beta/models/g:streamGenerateContent?alt=sse", "generate", "gemini"),
        ("/v1beta/models", "other", "gemini"),
    ],
)
def test_paths(path: str, endpoint: str, dialect: str) -> None:
    """The shape of the path tells the provider."""
    way = judge(path)
    assert isinstance(way, Way)
    assert (way.endpoint, way.dialect, way.local) == (endpoint, dialect, False)


def test_the_anthropic_version_header_tells_too() -> None:
    """For paths that both providers have."""
    way = judge("/v1/models", "anthropic-version: 2023-06-01")
    assert isinstance(way, Way)
    assert way.dialect == "anthropic"


def test_the_path_of_a_record_is_short_and_has_no_query() -> None:
    """SEC-KEYS, GW-42: keys in queries stay out, labels stay bounded."""
    way = judge("/v1/" + "x" * 5000 + "?key=secret")
    assert isinstance(way, Way)
    assert way.path == "/v1/" + "x" * 252


def test_only_one_path_is_ours_and_only_one_is_tunnelled() -> None:
    """The feedback endpoint and /v1/realtime."""
    ours, realtime = judge("/_sidecar/v1/feedback"), judge("/v1/realtime?model=m")
    assert isinstance(ours, Way)
    assert isinstance(realtime, Way)
    assert (ours.local, realtime.realtime) == (True, True)
    assert isinstance(judge("/_sidecar/v1/feedback/x"), Refused)


def test_a_prefix_of_the_policy_passes_as_it_is() -> None:
    """What an upstream of the policy adds is no endpoint that we know, and nothing but it is added."""
    gate = Gate(frozenset(), frozenset())
    gate.beyond = ("/v2/",)
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\n\r\n"
    way = gate.admit(parse_request_fully(head % b"/v2/chat?x=1"))
    assert isinstance(way, Way)
    assert (way.endpoint, way.path, way.beyond) == ("other", "/v2/chat", "/v2/")
    refused = gate.admit(parse_request_fully(head % b"/v3/chat"))
    assert isinstance(refused, Refused)
    assert "/v1/, /v1beta/, /v2/" in refused.message
