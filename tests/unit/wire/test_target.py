"""join_target: path bytes go verbatim, the API version is not repeated, and a longer prefix is a fence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import ProtocolError
from sidecar.wire.target import (
    CREDENTIALS,
    any_model_in,
    asks_array,
    join_target,
    model_in,
    path_segment,
    value_in,
    without,
)


@pytest.mark.parametrize(
    ("prefix", "target", "joined"),
    [
        ("", b"/v1/chat/completions", b"/v1/chat/completions"),
        ("/v1", b"/v1/chat/completions", b"/v1/chat/completions"),
        ("/v1", b"/v1", b"/v1"),
        ("/v1", b"/v1?x=1", b"/v1?x=1"),
        ("/v1", b"/v1beta/models", b"/v1/v1beta/models"),
        ("/v1beta", b"/v1beta/models/g:generateContent?alt=sse", b"/v1beta/models/g:generateContent?alt=sse"),
        ("/v1", b"/v10/x", b"/v1/v10/x"),
        ("/openai/v1", b"/v1/chat/completions", b"/openai/v1/chat/completions"),
        ("/openai", b"/v1/chat/completions", b"/openai/v1/chat/completions"),
        ("/openai", b"/v1/x?next=/../y", b"/openai/v1/x?next=/../y"),
        ("/a", b"/v1/x%2Fy/%7E/[1]//z...", b"/a/v1/x%2Fy/%7E/[1]//z..."),
        ("/v1", b"/v1/../x", b"/v1/../x"),
        ("/notv1", b"/v1/x", b"/notv1/v1/x"),
        ("/notv1", b"/v1beta/x", b"/notv1/v1beta/x"),
    ],
)
def test_joins(prefix: str, target: bytes, joined: bytes) -> None:
    """The trailing version is said once, and all other bytes stay as they came."""
    assert join_target(prefix, target) == joined


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/../admin",
        b"/v1/..",
        b"/v1/./x",
        b"/v1/%2e%2e/x",
        b"/v1/%2E./x",
        b"/v1/.%2e?x",
        b"/v1/..%2fx",
        b"/v1/x%2F..%2Fy",
        b"/v1/..\\x",
        b"/v1/..%5Cx",
        b"/v1/..;a=b/x",
        b"/v1/..#x",
    ],
)
def test_a_longer_prefix_is_a_fence(target: bytes) -> None:
    """Dot segments, raw or encoded, cannot climb over a prefix: 400."""
    with pytest.raises(ProtocolError, match="dot segments") as caught:
        join_target("/tenant/v1", target)
    assert caught.value.answer == 400


@pytest.mark.parametrize("target", [b"", b"*", b"http://evil/v1/x", b"v1/x", b"@evil/x"])
def test_only_origin_form(target: bytes) -> None:
    """A target that names a host, or none at all, is 400 with every prefix."""
    for prefix in ("", "/v1"):
        with pytest.raises(ProtocolError, match="slash"):
            join_target(prefix, target)


@given(st.sampled_from(["", "/v1", "/a", "/a/b/v1"]), st.binary(max_size=40))
def test_the_target_is_the_end_of_the_result(prefix: str, rest: bytes) -> None:
    """Whatever the bytes: the result ends with the target as it came and begins with the prefix, or it is refused."""
    target = b"/" + rest
    try:
        joined = join_target(prefix, target)
    except ProtocolError:
        assert prefix
        assert b"." in rest or b"%2" in rest
        return
    assert joined.endswith(target)
    assert joined.startswith(prefix.encode())


@pytest.mark.parametrize(
    ("target", "model", "generates"),
    [
        (b"/v1beta/models/g-1:generateContent", b"g-1", True),
        (b"/v1beta/models/g-1:embedContent?key=k", b"g-1", False),
        (b"/v1/projects/p/locations/l/publishers/google/models/g%2F1:countTokens", b"g%2F1", False),
        (b"/v1beta/models/g-1", None, False),
        (b"/v1beta/models", None, False),
    ],
)
def test_the_model_in_a_path(target: bytes, model: bytes | None, generates: bool) -> None:
    """Every method of Gemini's names it; only those that generate may be sent to another model."""
    assert any_model_in(target) == model
    assert (model_in(target) is not None) == generates


@pytest.mark.parametrize(
    ("target", "left"),
    [
        (b"/v1beta/x?key=k", b"/v1beta/x"),
        (b"/v1beta/x?a=b&k%65y=k&c", b"/v1beta/x?a=b&c"),
        (b"/v1beta/x?keys=1&access_token=t", b"/v1beta/x?keys=1"),
        (b"/v1beta/key=k", b"/v1beta/key=k"),
    ],
)
def test_a_query_without_its_keys(target: bytes, left: bytes) -> None:
    """However they are written; what else there is stays as it came."""
    assert without(target, CREDENTIALS) == left


def test_the_key_of_a_query() -> None:
    """The first one, decoded."""
    assert value_in(b"/x?a=1&key=k%2F1&key=2", CREDENTIALS) == b"k/1"
    assert value_in(b"/x?a=1", CREDENTIALS) is None


@pytest.mark.parametrize("model", ["", ".", ".."])
def test_no_model_climbs(model: str) -> None:
    """A name that servers read as a way to another place is refused."""
    with pytest.raises(ProtocolError) as caught:
        path_segment(model)
    assert caught.value.answer == 400


def test_a_model_is_one_segment() -> None:
    """Also with slashes, line ends, and half a surrogate pair."""
    assert path_segment("a/b?c\r\n\ud800") == b"a%2Fb%3Fc%0D%0A%3F"


@pytest.mark.parametrize(
    ("target", "array"),
    [
        (b"/v1beta/models/m:streamGenerateContent", True),
        (b"/v1beta/models/m:streamGenerateContent?alt=json", True),
        (b"/v1beta/models/m:streamGenerateContent?x=1&alt=sse", False),
        (b"/v1beta/models/m:streamGenerateContent?$alt=sse", False),
        (b"/v1beta/models/m:generateContent", False),
        (b"/v1/messages", False),
    ],
)
def test_a_stream_as_an_array(target: bytes, *, array: bool) -> None:
    """Gemini streams events only where they are asked for."""
    assert asks_array(target) == array
