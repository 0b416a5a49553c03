"""Listen addresses and origins."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.address import (
    Origin,
    comes_back,
    is_loopback,
    is_ourselves,
    parse_listen,
    parse_origin,
    show_listen,
)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://api.openai.com/v1", Origin("https", "api.openai.com", 443, "/v1")),
        ("https://api.openai.com/v1/", Origin("https", "api.openai.com", 443, "/v1")),
        ("http://localhost:8000", Origin("http", "localhost", 8000)),
        ("HTTP://[::1]:8000/a/b", Origin("http", "::1", 8000, "/a/b")),
        ("http://Host.Example/", Origin("http", "host.example", 80)),
        ("http://model_1.vllm.svc.:8000", Origin("http", "model_1.vllm.svc.", 8000)),
        ("https://10.0.0.1", Origin("https", "10.0.0.1", 443)),
    ],
)
def test_origins(text: str, origin: Origin) -> None:
    """Scheme, host, port and prefix, with the scheme's port where none is written."""
    assert parse_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    ["", "api.openai.com", "ftp://x", "https://", "https://u:p@x", "https://x?y",
     "https://x/#", "https://x:0", "https://x:99999",
     "https://x/a/../b", "https://x/%2e%2E/b", "https://x//b", "https://x/ü", "https://x y/",
     "https://[::1", "https://x/a b", "https://x:-1", "https://::1", "https://[zz]", "https://[10.0.0.1]",
     "https://a..b", "https://.a", "https://.", f"https://{'a' * 64}.example", f"https://{'a.' * 127}com",
     "https://a%41.example", "https://[v1.a]", "https://256.0.0.1", "https://10.0.1"],
)  # fmt: skip
def test_what_is_no_origin(text: str) -> None:
    """User, query, fragment, dot segments, hosts that no lookup could find and nonsense are refused with how to write it."""
    with pytest.raises(ValueError, match="; write an origin"):
        parse_origin(text)


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("127.0.0.1:9090", (("127.0.0.1", 9090),)),
        ("[::1]:9090,127.0.0.1:9090", (("::1", 9090), ("127.0.0.1", 9090))),
        ("localhost:1", (("127.0.0.1", 1), ("::1", 1))),
        (":9091", (("0.0.0.0", 9091), ("::", 9091))),
        ("*:9091, 0.0.0.0:9091", (("0.0.0.0", 9091), ("::", 9091))),
        ("", ()),
    ],
)
def test_listen_lists(text: str, addresses: tuple[tuple[str, int], ...]) -> None:
    """Each spelling, each address once."""
    assert parse_listen(text) == addresses
    assert parse_listen(show_listen(addresses)) == addresses


@pytest.mark.parametrize(
    "text", ["9090", "localhost", "127.0.0.1:", "127.0.0.1:70000", "::1:9090", "[127.0.0.1]:1", "example.com:80", "x:y"]
)
def test_what_is_no_listen_address(text: str) -> None:
    """Names are not looked up; IPv6 needs brackets."""
    with pytest.raises(ValueError, match="is not a listen address; "):
        parse_listen(text)


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes another exception than ValueError."""
    for parse in (parse_listen, parse_origin):
        try:
            result = parse(text)
        except ValueError:
            continue
        assert isinstance(result, tuple | Origin)


def test_loopback() -> None:
    """Loopback is what cannot leave the machine."""
    assert all(map(is_loopback, ("127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", "localhost", "LocalHost.")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "example.com", "")))


@pytest.mark.parametrize(
    ("url", "listening", "ours"),
    [
        ("http://localhost:9090/v1", "localhost:9090", True),
        ("http://127.0.0.1:9090", "[::1]:9090", True),
        ("http://[::1]:9090", ":9090", True),
        ("http://0.0.0.0:9090", "127.0.0.1:9090", True),
        ("http://10.0.0.7:9090", "10.0.0.7:9090", True),
        ("http://10.0.0.8:9090", "10.0.0.7:9090", False),
        ("http://localhost:9090", "10.0.0.7:9090", False),
        ("http://localhost:8000", "localhost:9090", False),
        ("https://api.openai.com", ":443", False),
        ("http://[::ffff:10.0.0.7]:9090", "10.0.0.7:9090", True),
    ],
)
def test_loop_guard(url: str, listening: str, ours: bool) -> None:
    """An upstream that is one of our listeners is recognised, whatever the spelling."""
    assert is_ourselves(parse_origin(url), parse_listen(listening)) is ours


@pytest.mark.parametrize(
    ("peer", "local", "listening", "ours"),
    [
        (("127.0.0.1", 9090), "127.0.0.1", "localhost:9090", True),
        (("::1", 9090), "::1", "localhost:9090", True),
        (("127.0.0.1", 9091), "127.0.0.1", "localhost:9090", False),
        (("127.0.0.2", 9090), "127.0.0.1", "localhost:9090", False),
        (("127.0.0.2", 9090), "127.0.0.1", "*:9090", True),
        (("10.0.0.7", 9090), "10.0.0.7", "*:9090", True),
        (("10.0.0.8", 9090), "10.0.0.7", "*:9090", False),
        (("10.0.0.7", 9090), "10.0.0.7", "localhost:9090", False),
        (("::ffff:127.0.0.1", 9090), "::ffff:127.0.0.1", "localhost:9090", True),
        (("127.0.0.1", 9090), "127.0.0.1", "[::ffff:127.0.0.1]:9090", True),
        (("::ffff:10.0.0.7", 9090), "::ffff:10.0.0.7", "*:9090", True),
        (("::ffff:127.0.0.1", 9091), "::ffff:127.0.0.1", "localhost:9090", False),
        (("fe80::1%eth0", 9090), "fe80::2%eth0", "localhost:9090", False),
    ],
)
def test_a_connection_that_comes_back_is_seen(peer: tuple[str, int], local: str, listening: str, ours: bool) -> None:
    """SEC-SSRF: by the numbers of both ends, whatever name led there."""
    assert comes_back(peer, local, parse_listen(listening)) is ours
