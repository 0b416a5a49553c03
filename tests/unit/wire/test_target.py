"""join_target: path bytes go verbatim, the API version is not repeated, and a longer prefix is a fence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import ProtocolError
from sidecar.wire.target import join_target


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
