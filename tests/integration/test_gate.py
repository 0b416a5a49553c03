"""Who may speak to the traffic port, and that nothing in a request chooses where it goes."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.conftest import Serve, Upstream
from tests.integration.raw import call, connected, get, ok, post

BODY = b'{"model":"m","messages":[]}'


def request(host: bytes, *lines: bytes) -> bytes:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: " + host + b"\r\n"
    return head + b"".join(line + b"\r\n" for line in lines) + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"LocalHost:9090",
        b"127.0.0.1",
        b"127.0.0.1:1",
        b"[::1]",
        b"[::1]:9090",
        b"llm.internal",
        b"LLM.internal:80",
    ],
)
async def test_known_hosts_pass(upstream: Upstream, serve: Serve, host: bytes) -> None:
    """INC-40: localhost in every spelling, any port, and the configured names."""
    up = await upstream()
    side = await serve(up, host_names="llm.internal")
    assert (await call(side.port, request(host))).status == 200


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example",
        b"localhost.evil.example",
        b"127.0.0.1.evil.example",
        b"evil.example:9090",
        b"127.0.0.2",
        b"[::2]",
        b"0.0.0.0",
        b"localhost@evil.example",
        b"evil.example@localhost",
        b"",
        b"localhost:80@evil.example",
        b"[::1]evil",
        b"[::1",
        b"localhost.",
        b"127.1",
    ],
)
async def test_other_hosts_are_421(upstream: Upstream, serve: Serve, host: bytes) -> None:
    """SEC-ADMIN, GW-47: DNS rebinding (CVE-2026-63118): a page that reaches us under its own name gets nothing."""
    up = await upstream()
    side = await serve(up)
    got = await call(side.port, request(host))
    assert got.status in (400, 421)
    assert not up.peers


async def test_http_1_0_with_a_foreign_host_is_421(upstream: Upstream, serve: Serve) -> None:
    """SEC-ADMIN: the check does not depend on the version."""
    up = await upstream()
    side = await serve(up)
    assert (await call(side.port, b"GET /v1/models HTTP/1.0\r\nHost: evil.example\r\n\r\n")).status == 421
    assert not up.peers


@pytest.mark.parametrize(
    "line",
    [
        b"Origin: https://evil.example",
        b"Origin: null",
        b"origin: http://localhost:9090",
        b"Sec-Fetch-Site: cross-site",
        b"Sec-Fetch-Site: same-site",
        b"sec-fetch-site: CROSS-SITE",
    ],
)
async def test_web_pages_are_403(upstream: Upstream, serve: Serve, line: bytes) -> None:
    """SEC-ADMIN: any page may send to a port on localhost; browsers say so."""
    up = await upstream()
    side = await serve(up)
    got = await call(side.port, request(b"localhost", line))
    assert got.status == 403
    assert b"access-control" not in got.head.lower()
    assert not up.peers


async def test_listed_origins_pass(upstream: Upstream, serve: Serve) -> None:
    """A page that the operator listed may; same-origin and typed requests may too."""
    up = await upstream()
    side = await serve(up, allowed_origins="https://app.example")
    for lines in (
        [b"Origin: https://app.example", b"Sec-Fetch-Site: cross-site"],
        [b"Sec-Fetch-Site: none"],
        [b"Sec-Fetch-Site: same-origin"],
    ):
        assert (await call(side.port, request(b"localhost", *lines))).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/metrics",
        "/health",
        "/ready",
        "/api/v1/decisions",
        "/openapi.json",
        "/v1",
        "/v2/x",
        "/V1/models",
        "/v1x/y",
        "/_sidecar/v1/other",
        "//v1/models",
        "/%761/models",
        "/.env",
        "/v1alpha/x",
    ],
)
async def test_other_paths_are_a_json_404(upstream: Upstream, serve: Serve, path: str) -> None:
    """SEC-ADMIN, GW-47, CVE-2025-23217: no admin or health here; what is not under a known prefix is not forwarded."""
    up = await upstream()
    side = await serve(up)
    got = await call(side.port, get(path))
    assert got.status == 404
    assert got.value(b"content-type") == b"application/json"
    assert b'"message"' in got.body
    assert not up.peers


async def test_health_answers_nothing_but_health(upstream: Upstream, serve: Serve) -> None:
    """SEC-ADMIN: LLM traffic and the admin API are not on the health port."""
    up = await upstream()
    side = await serve(up)
    for one in (post(), get("/api/v1/decisions"), get("/v1/models"), get("/openapi.json")):
        assert (await call(side.health_port, one)).status in (404, 405)
    assert not up.peers


@pytest.mark.parametrize(
    "target",
    [
        "/v1/../../admin",
        "/v1/%2e%2e/x",
        "/v1/..%2fx",
        "/v1/.%2E/x",
        "/v1/..;a/x",
        "/v1/x/.",
        "/v1/..\\x",
        "/v1/%2E%2E%5Cx",
        "/v1/..",
    ],
)
async def test_dot_segments_do_not_climb_over_a_prefix(upstream: Upstream, serve: Serve, target: str) -> None:
    """SEC-SSRF: with a longer prefix they are 400, raw or encoded; nothing reaches the upstream."""
    up = await upstream()
    side = await serve(f"http://127.0.0.1:{up.port}/tenant/a/v1")
    got = await call(side.port, get(target))
    assert got.status == 400
    assert not up.requests
    assert side.balanced


async def test_a_prefix_is_put_before_the_path(upstream: Upstream, serve: Serve) -> None:
    """Origin plus optional prefix; a trailing /v1 is not repeated."""
    up = await upstream()
    side = await serve(f"http://127.0.0.1:{up.port}/tenant/a/v1")
    await call(side.port, get("/v1/models?x=/../y"))
    assert up.requests[0].line == b"GET /tenant/a/v1/models?x=/../y HTTP/1.1"


TRICKS = st.sampled_from(
    [
        b"@127.0.0.1:%d/",
        b"127.0.0.1:%d",
        b"http://127.0.0.1:%d/v1/x",
        b"//127.0.0.1:%d/v1/x",
        b"/v1/x#@127.0.0.1:%d",
        b"/v1/@127.0.0.1:%d/",
        b"/v1/x?url=http://127.0.0.1:%d",
        b"/\\127.0.0.1:%d/v1",
        b"*",
    ]
)
FIELDS = st.lists(
    st.sampled_from(
        [
            b"X-Forwarded-Host",
            b"Forwarded",
            b"X-Original-URL",
            b"X-Rewrite-URL",
            b"X-Host",
            b"x-prefiller-url",
            b"x-sidecar-upstream",
            b"api-base",
        ]
    ),
    max_size=4,
)


async def test_nothing_in_a_request_chooses_the_host(upstream: Upstream, serve: Serve) -> None:
    """SEC-SSRF, GW-49, GW-47: SSRF: targets, headers and bodies that name another server never reach it."""
    up, other = await upstream(), await upstream()
    side = await serve(up)
    wanted: list[bytes] = []

    @given(TRICKS, FIELDS, st.booleans())
    @settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True)
    def collect(target: bytes, fields: list[bytes], as_host: bool) -> None:
        where = b"127.0.0.1:%d" % other.port
        line = target % other.port if b"%d" in target else target
        block = b"".join(name + b": http://" + where + b"/\r\n" for name in fields)
        host = where if as_host else b"localhost"
        body = b'{"model":"m","api_base":"http://%b","base_url":"http://%b"}' % (where, where)
        wanted.append(
            b"POST %b HTTP/1.1\r\nHost: %b\r\n%bContent-Length: %d\r\n\r\n%b" % (line, host, block, len(body), body)
        )

    collect()
    for one in dict.fromkeys(wanted):
        await call(side.port, one)
    assert not other.peers
    assert side.balanced


async def test_redirects_are_not_followed(upstream: Upstream, serve: Serve) -> None:
    """SEC-KEYS: a redirect is an answer; the client's key goes nowhere else."""
    other = await upstream()
    up = await upstream([ok(b"", b"Location: http://127.0.0.1:%d/v1/x" % other.port, status=b"307 Temporary Redirect")])
    side = await serve(up)
    got = await call(side.port, post())
    assert got.status == 307
    assert not other.peers


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """A file with one client's token."""
    file = tmp_path / "tokens"
    file.write_text("token-of-the-support-bot support-bot\n")
    file.chmod(0o600)
    return file


async def test_standalone_asks_for_a_token(upstream: Upstream, serve: Serve, tokens: Path) -> None:
    """With a token file a request without a known token is 401 in the client's dialect, on every path."""
    up = await upstream()
    side = await serve(up, mode="standalone", client_tokens_file=tokens)
    for lines in (
        [],
        [b"Authorization: Bearer wrong"],
        [b"x-api-key: "],
        [b"Authorization: token-of-the-support-bot"],
        [b"Authorization: Basic token-of-the-support-bot"],
    ):
        got = await call(side.port, request(b"localhost", *lines))
        assert got.status == 401, lines
    assert not up.peers
    for lines in (
        [b"Authorization: Bearer token-of-the-support-bot"],
        [b"authorization: bearer token-of-the-support-bot"],
        [b"X-Api-Key: token-of-the-support-bot"],
        [b"x-goog-api-key: token-of-the-support-bot"],
    ):
        assert (await call(side.port, request(b"localhost", *lines))).status == 200, lines


async def test_a_token_is_asked_for_each_request_of_a_connection(
    upstream: Upstream, serve: Serve, tokens: Path
) -> None:
    """A connection is not trusted for what an earlier request on it carried."""
    up = await upstream()
    side = await serve(up, mode="standalone", client_tokens_file=tokens)
    async with connected(side.port) as client:
        statuses = []
        for line in (
            b"Authorization: Bearer token-of-the-support-bot",
            b"Authorization: Bearer token-of-the-support-bxt",
            b"Authorization: Bearer token-of-the-support-bot",
        ):
            client.send(request(b"localhost", line))
            statuses.append((await client.response()).status)
    assert statuses == [200, 401, 200]


@pytest.mark.parametrize("method", [b"HEAD", b"GET", b"POST"])
async def test_a_refusal_keeps_the_connection_when_the_request_was_whole(
    upstream: Upstream, serve: Serve, method: bytes
) -> None:
    """A 404 of ours costs the client no connection, and HEAD gets no body."""
    up = await upstream()
    side = await serve(up)
    async with connected(side.port) as client:
        client.send(method + b" /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc")
        assert (await client.response(method=method.decode())).status == 404
        client.send(get())
        assert (await client.response()).status == 200


async def test_refusals_speak_the_clients_dialect(upstream: Upstream, serve: Serve) -> None:
    """An Anthropic client gets an Anthropic error object."""
    up = await upstream()
    side = await serve(up)
    got = await call(side.port, get("/nothing", b"anthropic-version: 2023-06-01"))
    assert b'"type":"error"' in got.body
