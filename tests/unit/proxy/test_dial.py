"""HTTPS_PROXY and NO_PROXY as curl reads them."""

import pytest

from sidecar.errors import ConfigError
from sidecar.proxy.dial import Egress, client_tls


@pytest.mark.parametrize(
    ("text", "host", "port", "authorization"),
    [
        ("http://proxy.example:3128", "proxy.example", 3128, b""),
        ("proxy.example:3128", "proxy.example", 3128, b""),
        ("http://proxy.example", "proxy.example", 8080, b""),
        ("http://[::1]:3128/", "::1", 3128, b""),
        ("http://user:p%40ss@proxy.example", "proxy.example", 8080, b"Proxy-Authorization: Basic dXNlcjpwQHNz\r\n"),
        ("http://user@proxy.example", "proxy.example", 8080, b"Proxy-Authorization: Basic dXNlcjo=\r\n"),
    ],
)
def test_the_proxy_url(text: str, host: str, port: int, authorization: bytes) -> None:
    """Scheme, port and credentials are optional."""
    egress = Egress.parse(text, ())
    assert (egress.host, egress.port, egress.authorization) == (host, port, authorization)


@pytest.mark.parametrize("text", ["https://proxy.example", "socks5://proxy.example:1080", "http://", "ftp://x"])
def test_other_proxies_are_refused_at_start(text: str) -> None:
    """What is not understood is told, not ignored."""
    with pytest.raises(ConfigError, match="HTTPS_PROXY"):
        Egress.parse(text, ())


@pytest.mark.parametrize(
    ("entry", "host", "direct"),
    [
        ("*", "any.example", True),
        ("example.com", "example.com", True),
        ("example.com", "EXAMPLE.com", True),
        ("example.com", "api.example.com", True),
        (".example.com", "api.example.com", True),
        ("*.example.com", "api.example.com", True),
        ("example.com", "badexample.com", False),
        ("example.com", "example.com.evil", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "ten.example", False),
        ("fd00::/8", "[fd00::1]", True),
        ("127.0.0.1", "127.0.0.1", True),
    ],
)
def test_no_proxy(entry: str, host: str, direct: bool) -> None:
    """Names cover their subdomains and nothing that only ends alike; networks cover addresses."""
    assert Egress.parse("http://p:1", ["other.test", entry]).serves(host) is not direct


def test_a_missing_ca_file_is_told() -> None:
    """The message names the file."""
    with pytest.raises(ConfigError, match=r"no-such\.pem"):
        client_tls("no-such.pem")
