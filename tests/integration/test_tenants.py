"""Many services on one shared port, told apart by token, header or path: each has arms, budgets and figures of its own."""

import asyncio
import sqlite3
from base64 import b64encode, urlsafe_b64encode
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.clock import steady
from sidecar.core.cycle import Lane, Proposal, Source
from tests.integration.conftest import Running, Serve, Upstream
from tests.integration.raw import call, connected, get, ok, post, until
from tests.integration.test_bodies import SWITCH, UPGRADE

CHAT = b'{"model":"m","messages":[]}'
ANSWER = ok(b'{"choices":[],"usage":{"prompt_tokens":1000000,"completion_tokens":0}}')  # a dollar
SHOP, SEARCH = b"token-of-the-shop-service", b"token-of-the-search-service"
POLICY = """
version: 1
service: gateway
upstreams:
  held:
    dialect: openai
    base_url: "http://127.0.0.1:{port}"{api_key}
    price: {{input_mtok: 1, output_mtok: 1}}
  passing: {{dialect: openai, base_url: "http://127.0.0.1:{port}", price: free}}
routes:
  - name: shop
    match: {{tenant: shop}}
    baseline: {{id: large, upstream: held, model: large}}
    budget: {{daily_usd: 1, on_exceeded: deny}}
  - name: search
    match: {{tenant: search}}
    baseline: {{id: small, upstream: held, model: small}}
    budget: {{daily_usd: 1, on_exceeded: deny}}
  - name: others
    baseline: {{id: m, upstream: passing, model: m}}
"""


def files(folder: Path, port: int) -> dict[str, Any]:
    """The settings of a shared sidecar with a policy, tokens and a database."""
    (folder / "policies").mkdir()
    (folder / "key").write_text("sk-held-by-the-sidecar\n")
    (folder / "policies" / "gateway.yaml").write_text(
        POLICY.format(port=port, api_key=f"\n    api_key: {{file: {folder / 'key'}}}")
    )
    lines = [b"%b shop" % SHOP, b"%b search" % SEARCH, b"token-of-somebody-else else"]
    (folder / "tokens").write_bytes(b"\n".join(lines) + b"\n")
    return {
        "mode": "standalone",
        "service": "gateway",
        "policies": folder / "policies",
        "client_tokens_file": folder / "tokens",
        "db": folder / "sidecar.db",
    }


def seen_by(side: Running) -> list[Any]:
    """What is settled from now on."""
    seen: list[Any] = []
    emit = side.app.plane.emit

    def both(settled: Any) -> None:
        seen.append(settled)
        emit(settled)

    side.app.plane.emit = both
    return seen


@pytest.mark.parametrize(
    "line",
    [
        b"Authorization: Bearer %b",
        b"X-Api-Key: %b",
        b"api-key: %b",
        b"x-goog-api-key: %b",
        b"x-sidecar-token: %b",
    ],
)
async def test_a_token_says_whose_call_it_is(upstream: Upstream, serve: Serve, tmp_path: Path, line: bytes) -> None:
    """The token chooses the route, on one connection too, whatever header or path say besides."""
    up = await upstream([ANSWER])
    side = await serve(up, **files(tmp_path, up.port))
    seen = seen_by(side)
    async with connected(side.port) as client:
        for token, path in ((SHOP, "/v1"), (SEARCH, "/v1"), (SHOP, "/for/search/v1")):
            lie = [b"x-sidecar-tenant: search", b"x-sidecar-tags: tenant=search, tier=gold"]
            client.send(post(f"{path}/chat/completions", CHAT, line % token, *lie))
            await client.response()
    assert [one.decision.route for one in seen] == ["shop", "search", "shop"]
    assert [dict(one.facts.tags) for one in seen[:2]] == [
        {"tenant": "shop", "tier": "gold"},
        {"tenant": "search", "tier": "gold"},
    ]
    assert all(SHOP not in one.head and SEARCH not in one.head for one in up.requests)


async def test_tenants_have_budgets_rows_and_metrics_of_their_own(
    upstream: Upstream, serve: Serve, tmp_path: Path
) -> None:
    """One service's empty purse is no other's: the second call of the shop is refused, that of search is served. Rows name
    the tenant, metrics its route."""
    up = await upstream([ANSWER])
    side = await serve(up, **files(tmp_path, up.port))
    asked = [post("/v1/chat/completions", CHAT, b"Authorization: Bearer " + token) for token in (SHOP, SHOP, SEARCH)]
    assert [(await call(side.port, one)).status for one in asked] == [200, 429, 200]
    side.app.loop.flush()
    assert await side.app.archive.stored(5.0)
    with closing(sqlite3.connect(tmp_path / "sidecar.db")) as connection:
        tenant = "json_extract(context, '$.tags.tenant')"
        rows = connection.execute(f"SELECT service, {tenant}, route FROM decisions ORDER BY id").fetchall()
    assert rows == [("gateway", "shop", "shop"), ("gateway", "shop", "shop"), ("gateway", "search", "search")]
    metrics = (await call(side.health_port, get("/metrics"))).body.decode()
    counted = [line for line in metrics.splitlines() if line.startswith("llm_sidecar_requests_total")]
    assert {line.split('route="')[1].split('"')[0] for line in counted} == {"shop", "search"}


async def test_a_token_never_reaches_a_provider(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """SEC-KEYS: a token in the place of a key is ours alone: an upstream to which the client's key passes gets none. A
    client that brings a key of its own sends its token in x-sidecar-token, and its key passes, but to no held upstream."""
    up = await upstream([ANSWER])
    side = await serve(up, **files(tmp_path, up.port))
    both = (b"x-sidecar-token: token-of-somebody-else", b"Authorization: Bearer sk-own")
    for lines in ((b"Authorization: Bearer token-of-somebody-else",), both):
        assert (await call(side.port, post("/v1/chat/completions", CHAT, *lines))).status == 200
        assert (await call(side.port, post("/v1/messages", CHAT, *lines))).status == 200  # no route: a default upstream
    mine = (b"x-sidecar-token: " + SHOP, b"Authorization: Bearer sk-own")
    assert (await call(side.port, post("/v1/chat/completions", CHAT, *mine))).status == 200
    sent = [one.value(b"authorization") for one in up.requests]
    assert sent == [None, None, b"Bearer sk-own", b"Bearer sk-own", b"Bearer sk-held-by-the-sidecar"]
    assert all(b"token-of" not in one.head for one in up.requests)


async def test_without_tokens_a_header_or_the_path_says_it(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Where no key is held nobody asks for a token: a service names itself, by header or by base URL, and the upstream
    sees neither."""
    up = await upstream([ok()])
    open_to_all = POLICY.format(port=up.port, api_key="").replace("service: gateway", "service: '*'")
    (tmp_path / "p.yaml").write_text(open_to_all)
    side = await serve(up, mode="daemon", policies=tmp_path)
    seen = seen_by(side)
    async with connected(side.port) as client:
        for one in (
            post("/for/shop/v1/chat/completions?a=1", CHAT),
            post("/v1/chat/completions", CHAT),
            post("/v1/chat/completions", CHAT, b"X-Sidecar-Tenant: search"),
            post("/for/search/v1/chat/completions", CHAT) + post("/for/shop/v1/chat/completions", CHAT),
            post("/for/shop/v1/chat/completions", CHAT, b"Transfer-Encoding: chunked").replace(
                b"Content-Length: 27\r\n\r\n" + CHAT, b"\r\n1b\r\n" + CHAT + b"\r\n0\r\n\r\n"
            ),
        ):
            client.send(one)
            for _ in range(one.count(b"POST ")):
                assert (await client.response()).status == 200
        client.send(get("/for/shop/admin"))
        assert (await client.response()).status == 404
    assert [one.decision.route for one in seen] == ["shop", "others", "search", "search", "shop", "shop"]
    assert up.requests[0].line == b"POST /v1/chat/completions?a=1 HTTP/1.1"
    assert {one.line.split()[1].partition(b"?")[0] for one in up.requests} == {b"/v1/chat/completions"}
    assert not any(b"tenant" in one.head.lower() for one in up.requests)


@pytest.mark.parametrize(
    "path", ["/for/", "/for//v1/chat/completions", "/for/a b/v1/x", "/for/" + "x" * 65 + "/v1/models"]
)
async def test_what_names_no_tenant_is_no_path(upstream: Upstream, serve: Serve, path: str) -> None:
    up = await upstream()
    side = await serve(up, mode="standalone")
    assert (await call(side.port, post(path))).status in (400, 404)
    assert not up.requests


async def test_a_sidecar_has_one_service(upstream: Upstream, serve: Serve) -> None:
    """In mode sidecar a path that names a tenant is not known."""
    up = await upstream()
    side = await serve(up)
    assert (await call(side.port, post("/for/shop/v1/chat/completions"))).status == 404


async def test_a_broken_tokens_file_is_told(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """The last good tokens stay in use, and /ready says why the new ones are not."""
    up = await upstream([ok()])
    side = await serve(up, **files(tmp_path, up.port))
    assert side.app.readiness().notes == []
    (tmp_path / "tokens").write_text("half\n")
    tokens = side.app.plane.tokens
    assert tokens is not None
    assert tokens.service_of(SHOP, float("inf")) == "shop"
    assert any(note.startswith("client tokens: ") and "line 1" in note for note in side.app.readiness().notes)


async def test_a_node_works_at_its_interval(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """OPTIMIZATION_INTERVAL is the pace of the main lane of the control loop, while calls come; other lanes keep theirs."""
    up = await upstream([ok()])
    open_to_all = POLICY.format(port=up.port, api_key="")
    chooses = "    mode: optimize\n    arms: [{id: n, upstream: passing, model: n}]\n"
    (tmp_path / "p.yaml").write_text(open_to_all.replace("service: gateway", "service: '*'") + chooses)
    side = await serve(up, environ={"MODE": "daemon", "OPTIMIZATION_INTERVAL": "1s"}, policies=tmp_path)
    passes = Counter[Lane]()

    def counting(lane: Lane) -> Source:
        def looked(_now: float) -> list[Proposal]:
            passes[lane] += 1
            return []

        return looked

    for lane in (Lane.MAIN, Lane.DEEP):
        side.app.cycling.cycle.add(lane, counting(lane))
    async with asyncio.timeout(20):
        while passes[Lane.MAIN] < 3:
            assert (await call(side.port, post())).status == 200
            await asyncio.sleep(0.05)
    assert passes[Lane.DEEP] == 0


@pytest.mark.parametrize(
    ("path", "lines"),
    [
        ("/v1/chat/completions", (b"x-sidecar-token: %b", b"Authorization: Bearer %b")),
        ("/v1/chat/completions", (b"x-sidecar-token: %b", b"x-api-key: %b")),
        ("/v1/chat/completions?key=%b&b=1", (b"x-sidecar-token: %b",)),
        ("/v1/chat/completions?key=%b&b=1", (b"Authorization: Bearer %b",)),
        ("/v1/chat/completions?Key=%b&b=1", (b"x-sidecar-token: %b",)),
        ("/v1/chat/completions?key=real&k%65y=%b&b=1", (b"x-sidecar-token: %b",)),
        ("/v1/chat/completions?access_token=a&key=%b", (b"x-sidecar-token: %b",)),
        ("/v1/chat/completions?api-key=%b", (b"x-sidecar-token: %b",)),
        ("/v1/chat/completions", (b"x-sidecar-token: %b", b"x-api-key: %b", b"x-api-key: real")),
        ("/v1/chat/completions", (b"x-sidecar-token: %b", b"Authorization: Bearer a", b"Authorization: Bearer %b")),
        ("/v1/chat/completions", (b"x-sidecar-token: %b", b"Authorization: Bearer \t %b")),
        ("/v1/chat/completions", (b"x-sidecar-token: %b", b"Authorization: %b", b"api-key:")),
        ("/v1/chat/completions", (b"x-sidecar-token: %b", b'Authorization: Bearer "%b"')),
        ("/v1/chat/completions", (b"x-sidecar-token: %b", b"Authorization: Bearer %b, Bearer x")),
        (
            "/v1/chat/completions",
            (b"x-sidecar-token: %b", b"Authorization: Basic dXNlcjp0b2tlbi1vZi1zb21lYm9keS1lbHNl"),
        ),
        ("/v1/chat/completions", (b"x-sidecar-token: %b", b"Authorization: Bearer '%b'")),
        ("/v1/chat/completions", (b"x-sidecar-token: %b", b"Authorization: Bearer%20%b")),
        ("/v1/chat/completions", (b"x-sidecar-token: %b", b"Authorization: Token token=%b;x")),
        ("/v1/chat/completions", (b"x-sidecar-token: %b", b"x-api-key: key:%b")),
        ("/v1/chat/completions", (b"x-sidecar-token: %b", b"Sec-WebSocket-Protocol: realtime, %b")),
        ("/v1/chat/completions", (b"x-sidecar-token: %b", b"Sec-WebSocket-Protocol: cf-aig-authorization.%b")),
        ("/v1/chat/completions", (b"x-sidecar-token: %b", b"Sec-WebSocket-Protocol: OpenAI-Insecure-Api-Key.org.%b")),
        ("/v1/chat/completions", (b"x-sidecar-token: %b", b"Sec-WebSocket-Protocol: openai%2Dinsecure-api-key.%b")),
        (
            "/v1/chat/completions",
            (b"x-sidecar-token: %b", b"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.%b"),
        ),
        ("/v1/chat/completions", (b"x-sidecar-token: %b", b"Sec-WebSocket-Protocol: auth|%b, a")),
        ("/v1/chat/completions", (b"x-sidecar-token: %b", b"x-api-key: \xef\xbb\xbf%b/")),
        ("/v1/chat/completions", (b"x-sidecar-token: %b", b"Ocp-Apim-Subscription-Key: %b")),
        (
            "/v1/chat/completions",
            (b"x-sidecar-token: %b", b"Authorization: Basic " + b64encode(b"u:token-of-somebody-else\n")),
        ),
        (
            "/v1/chat/completions",
            (b"x-sidecar-token: %b", b"Authorization: Basic " + b64encode(b"u" * 3100 + b":token-of-somebody-else")),
        ),
        ("/v1/chat/completions", (b"x-sidecar-token: token-of-the-shop-service", b"x-api-key: a-b.c.d.e.f.g.%b")),
        ("/v1/chat/completions", (b"x-sidecar-token: token-of-the-shop-service", b"x-api-key: " + b"a " * 200 + b"%b")),
    ],
)
async def test_a_token_in_two_places_goes_nowhere(
    upstream: Upstream, serve: Serve, tmp_path: Path, path: str, lines: tuple[bytes, ...]
) -> None:
    """An upstream for which the sidecar holds no key gets what the client sends, and never a token."""
    up = await upstream([ANSWER])
    side = await serve(up, **files(tmp_path, up.port))
    token = b"token-of-somebody-else"
    asked = path.replace("%b", token.decode())
    got = await call(side.port, post(asked, CHAT, *(line.replace(b"%b", token) for line in lines)))
    assert got.status == 200
    assert token not in up.requests[-1].head
    assert b"Basic" not in up.requests[-1].head
    assert (b"b=1" in up.requests[-1].head) == ("b=1" in path)


@pytest.mark.parametrize(
    ("said", "left"),
    [
        (b"realtime, openai-beta.realtime-v1", b"realtime, openai-beta.realtime-v1"),
        (b"realtime, openai-insecure-api-key.%b, b", b"realtime, b"),
        (b"realtime, x.%b", b"realtime"),
        (b"base64url.bearer.authorization.k8s.io.%b64, v4.channel.k8s.io", b"v4.channel.k8s.io"),
        (b"realtime, auth-%b", b"realtime"),
        (b"realtime, bearer.%b.v1", b"realtime"),
        (b"realtime, x.%b64.y", b"realtime"),
        (b"%b", None),
        (b",".join([b"a"] * 200), None),
        (b",".join([b"%b", *(b"a%d" % one for one in range(20))]), None),
        (b"realtime, %b" + b"," * 5000, b"realtime"),
        (b"realtime, " + b"a" * 40_000, b"realtime"),
    ],
)
@pytest.mark.parametrize("where", [b"Authorization: Bearer %b", b"x-sidecar-token: %b"])
async def test_a_tenants_websocket_keeps_its_subprotocols(
    upstream: Upstream, serve: Serve, tmp_path: Path, where: bytes, said: bytes, left: bytes | None
) -> None:
    """A client that offered some and hears of none gives up: only what holds a token stays here."""
    up = await upstream([SWITCH, 5.0])
    side = await serve(up, **files(tmp_path, up.port))
    token = b"token-of-somebody-else"
    said = said.replace(b"%b64", urlsafe_b64encode(token).rstrip(b"=")).replace(b"%b", token)
    async with connected(side.port) as client:
        lines = [where.replace(b"%b", token), b"Sec-WebSocket-Protocol: " + said]
        client.send(get("/v1/realtime", *UPGRADE, *lines))
        await client.until(b"101")
    assert token not in up.requests[0].head
    assert up.requests[0].value(b"sec-websocket-protocol") == left


STICKY = "    mode: canary\n    sticky: {sticky}\n    arms: [{{id: o, upstream: passing, model: o}}]\n"


@pytest.mark.parametrize(
    ("sticky", "body", "lines"),
    [
        ("session", CHAT, (b"x-sidecar-session: 1",)),
        ("conversation", b'{"model":"m","conversation":"c1","messages":[]}', ()),
        ("conversation", b'{"model":"m","messages":[{"role":"user","content":"Hi"}]}', ()),
    ],
)
async def test_equal_conversations_of_two_tenants_are_two(
    upstream: Upstream, serve: Serve, tmp_path: Path, sticky: str, body: bytes, lines: tuple[bytes, ...]
) -> None:
    """GW-48: on one route too, whatever names them, and though both send the same provider's key."""
    up = await upstream([ANSWER])
    settings = files(tmp_path, up.port)
    policy = tmp_path / "policies" / "gateway.yaml"
    policy.write_text(policy.read_text() + STICKY.format(sticky=sticky))
    (tmp_path / "tokens").write_bytes(b"token-of-somebody-else else\ntoken-of-somebody-two two\n")
    side = await serve(up, **settings)
    seen = seen_by(side)
    for token in (b"token-of-somebody-else", b"token-of-somebody-two", b"token-of-somebody-else"):
        await call(side.port, post("/v1/chat/completions", body, b"x-sidecar-token: " + token, *lines))
    one, two, again = [settled.facts.key for settled in seen]
    assert one == again != two


async def test_feedback_speaks_of_ones_own_calls(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """GW-48: whoever knows another's id or completion id is told that there is none, from memory and from the database."""
    up = await upstream([ok(b'{"id":"c-1","choices":[],"usage":{"prompt_tokens":10,"completion_tokens":0}}')])
    side = await serve(up, **files(tmp_path, up.port))
    got = await call(side.port, post("/v1/chat/completions", CHAT, b"Authorization: Bearer " + SHOP))
    decision = got.value(b"x-sidecar-decision").decode()
    await side.recorded()

    async def scores(token: bytes, name: str, value: str) -> int:
        body = b'{"%b":"%b","score":1}' % (name.encode(), value.encode())
        return (await call(side.port, post("/_sidecar/v1/feedback", body, b"Authorization: Bearer " + token))).status

    for _ in ("remembered", "looked up"):
        for name, value in (("id", decision), ("completion_id", "c-1")):
            assert (await scores(SEARCH, name, value), await scores(SHOP, name, value)) == (404, 202)
        side.app.desk._newer.known.clear()
        side.app.desk._newer.by_completion.clear()


SEVENTH = ok(b'{"id":"chatcmpl-7","choices":[],"usage":{"prompt_tokens":10,"completion_tokens":0}}')


async def _asks(side: Running, token: bytes) -> str:
    got = await call(side.port, post("/v1/chat/completions", CHAT, b"Authorization: Bearer " + token))
    return got.value(b"x-sidecar-decision").decode()


async def _scores(side: Running, token: bytes) -> tuple[int, str | None]:
    body = b'{"completion_id":"chatcmpl-7","score":1}'
    got = await call(side.port, post("/_sidecar/v1/feedback", body, b"Authorization: Bearer " + token))
    return got.status, orjson.loads(got.body).get("id")


@pytest.mark.parametrize("stored", [True, False])
async def test_a_completion_id_of_two_of_ones_own_calls(
    upstream: Upstream, serve: Serve, tmp_path: Path, *, stored: bool
) -> None:
    """An upstream may say an id twice (Ollama draws them of 999): nobody guesses which call is meant, at once or later, with
    a database or without."""
    up = await upstream([SEVENTH])
    kept = files(tmp_path, up.port)
    side = await serve(up, **{name: kept[name] for name in kept if stored or name != "db"})
    await _asks(side, SHOP)
    await side.recorded()
    await _asks(side, SHOP)
    assert await _scores(side, SHOP) == (409, None)
    await side.recorded()
    assert await _scores(side, SHOP) == (409, None)


@pytest.mark.parametrize("stored", [True, False])
async def test_a_completion_id_that_another_tenants_call_has_too(
    upstream: Upstream, serve: Serve, tmp_path: Path, *, stored: bool
) -> None:
    """One's own is found right behind its answer, and later: others' are as if there were none."""
    up = await upstream([SEVENTH])
    kept = files(tmp_path, up.port)
    side = await serve(up, **{name: kept[name] for name in kept if stored or name != "db"})
    await _asks(side, SEARCH)
    await side.recorded()
    mine = await _asks(side, SHOP)
    assert await _scores(side, SHOP) == (202, mine)
    await side.recorded()
    assert await _scores(side, SHOP) == (202, mine)


async def test_calls_of_others_do_not_hide_ones_own(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """However many of them had the same completion id since, and though memory has forgotten all."""
    up = await upstream([SEVENTH])
    side = await serve(up, **files(tmp_path, up.port))
    mine = await _asks(side, SHOP)
    for _ in range(101):
        await _asks(side, SEARCH)
    await side.recorded()
    side.app.desk._newer = side.app.desk._older
    assert await _scores(side, SHOP) == (202, mine)


async def test_a_response_of_another_tenant_is_no_conversation_of_ones_own(
    upstream: Upstream, serve: Serve, tmp_path: Path
) -> None:
    """Who goes on with an id that is not its own is pinned to nobody's arm and joins nobody's conversation."""
    said = b'{"id":"resp_1","object":"response","status":"completed","model":"m","output":[],"usage":%b}'
    up = await upstream([ok(said % b'{"input_tokens":1,"output_tokens":1}')])
    settings = files(tmp_path, up.port)
    policy = tmp_path / "policies" / "gateway.yaml"
    policy.write_text(policy.read_text() + STICKY.format(sticky="conversation"))
    (tmp_path / "tokens").write_bytes(b"token-of-somebody-else else\ntoken-of-somebody-two two\n")
    side = await serve(up, **settings)
    seen = seen_by(side)
    later = b'{"model":"m","input":"go on","previous_response_id":"resp_1"}'
    for token, body in ((b"else", b'{"model":"m","input":"Hi"}'), (b"two", later), (b"else", later)):
        await call(side.port, post("/v1/responses", body, b"x-sidecar-token: token-of-somebody-" + token))
    first, others, own = [settled.facts for settled in seen]
    assert (own.key, own.pinned) == (first.key, "m")
    assert others.key != first.key
    assert others.pinned is None


async def test_a_token_with_commas_in_it(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """SEC-KEYS: it is known as a whole where it stands in a key's place, too."""
    up = await upstream([ANSWER])
    settings = files(tmp_path, up.port)
    (tmp_path / "tokens").write_bytes(b'a,token"with,all,that else\n')
    side = await serve(up, **settings)
    for line in (b"Authorization: Bearer %b", b"x-api-key: %b"):
        token = b'a,token"with,all,that'
        lines = (b"x-sidecar-token: " + token, line % token)
        assert (await call(side.port, post("/v1/chat/completions", CHAT, *lines))).status == 200
        assert token not in up.requests[-1].head


async def test_a_token_with_a_comma_among_subprotocols(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """Found in no single one of them: then none goes up, though another one holds a token too."""
    up = await upstream([SWITCH, 5.0])
    settings = files(tmp_path, up.port)
    (tmp_path / "tokens").write_bytes(b"abcd,efgh-ijkl-mnop else\ntoken-of-somebody-two two\n")
    side = await serve(up, **settings)
    offered = b"Sec-WebSocket-Protocol: realtime, token-of-somebody-two, abcd,efgh-ijkl-mnop"
    async with connected(side.port) as client:
        client.send(get("/v1/realtime", *UPGRADE, b"x-sidecar-token: abcd,efgh-ijkl-mnop", offered))
        await client.until(b"101")
    assert up.requests[0].value(b"sec-websocket-protocol") is None


async def test_a_key_that_becomes_a_token(upstream: Upstream, serve: Serve, tmp_path: Path) -> None:
    """SEC-KEYS: it goes up no more, on a connection that has always sent the same head, too."""
    up = await upstream([ANSWER])
    settings = files(tmp_path, up.port)
    (tmp_path / "policies" / "gateway.yaml").write_text(POLICY.format(port=up.port, api_key=""))
    side = await serve(up, **settings)
    key = b"key-of-the-shop-at-first"
    asked = post("/v1/chat/completions", CHAT, b"x-sidecar-token: token-of-somebody-else", b"x-api-key: " + key)
    async with connected(side.port) as client:
        client.send(asked)
        assert (await client.response()).status == 200
        assert key in up.requests[-1].head
        with (tmp_path / "tokens").open("ab") as tokens:
            tokens.write(key + b" late\n")
        known = side.app.plane.tokens
        assert known is not None
        assert await until(lambda: known.knows_any([key], steady()))
        client.send(asked)
        assert (await client.response()).status == 200
        assert key not in up.requests[-1].head
