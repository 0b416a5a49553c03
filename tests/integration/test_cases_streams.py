"""Cases of docs/cases.md about streams: what the client sees when, and what is written down of it."""

import asyncio
import gzip
import json
import zlib
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

import pytest

from sidecar.core.types import Settled
from sidecar.sim.knobs import Distribution, SimulatedModel
from tests.integration.conftest import Running, Serve, Sim, Upstream
from tests.integration.raw import SSE_HEAD, Client, Step, call, chunked, connected, delta, event, post, until

STREAM = b'{"model":"m","stream":true,"messages":[]}'
TURN_S = 0.25  # how late a timer may be on a busy machine; no bound of a test is tighter


def watch(side: Running) -> list[Settled]:
    """What the sidecar hands to its store, metrics and log from now on."""
    seen: list[Settled] = []
    side.app.plane.emit = seen.append
    return seen


async def stamps(client: Client, count: int) -> list[float]:
    """When the first read came that held the n-th event, for each n."""
    got = await client.response(timeout_s=120)  # a slow machine takes more than a minute for them
    found: list[float] = []
    text = b""
    for at, piece in got.reads:
        text += piece
        found += [at] * (text.count(b"}}]}\n\n") - len(found))
    assert len(found) == count, got.end
    return found


async def test_gaps_between_events_are_preserved(upstream: Upstream, serve: Serve) -> None:
    """GW-07: 300 events, 4 ms apart: gaps are those of the same events on a direct connection; 1 ms is promised at p99.

    Both connections get each event in the same turn of the upstream's loop, so a late timer moves both; what is left is
    the sidecar's own share. Both are printed. What is judged is that events stay apart: a proxy that puts two of them
    together moves their gap by 4 ms, and a machine that takes the process away between two reads does so now and then.
    """
    count = 300
    up = await upstream([SSE_HEAD])
    side = await serve(up)
    async with connected(up.port) as direct, connected(side.port) as proxied:
        for client in (direct, proxied):
            client.send(post(body=STREAM))
        assert await up.until(lambda: [peer.bytes_written for peer in up.peers] == [len(SSE_HEAD)] * 2)
        times = asyncio.gather(stamps(direct, count), stamps(proxied, count))
        for number in range(count):
            for peer in up.peers:
                peer.transport.write(delta(f"t{number}"))
            await asyncio.sleep(0.004)
        for peer in up.peers:
            peer.transport.write(b"0\r\n\r\n")
        straight, through = await times
    lag = [late - soon for late, soon in zip(through, straight, strict=True)]
    moved = sorted(abs(after - before) for before, after in pairwise(lag))
    print("gaps moved by, median and p99 in seconds:", median(moved), moved[int(len(moved) * 0.99) - 1])
    assert median(moved) < 0.004
    assert len(set(through)) > count * 0.5, "events were put together"


@dataclass(frozen=True)
class Asked:
    """A streamed request of one dialect."""

    path: str
    body: bytes
    lines: list[bytes] = field(default_factory=list)


CHAT = Asked("/v1/chat/completions", b'{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"Hi"}]}')
MESSAGES = Asked(
    "/v1/messages",
    b'{"model":"claude-haiku-4-5","stream":true,"max_tokens":900,"messages":[{"role":"user","content":"Hi"}]}',
    [b"anthropic-version: 2023-06-01"],
)
RESPONSES = Asked("/v1/responses", b'{"model":"gpt-4o","stream":true,"input":"Hi"}')
ALL = pytest.mark.parametrize("asked", [CHAT, MESSAGES, RESPONSES], ids=["chat", "messages", "responses"])


@ALL
async def test_the_four_clocks_of_a_stream(sim: Sim, serve: Serve, asked: Asked) -> None:
    """GW-08: first byte, event, token and answer token are four times, each where the provider put it, on every endpoint.

    No timer of the provider fires more than 0.3 ms early (its contract), so each clock has its planned time as lower
    bound; TURN_S is the upper one, and less than what lies between two of them. None of them is the duration.
    """
    knobs = SimulatedModel(
        ttfb=Distribution(0.05),
        ttfe=Distribution(0.35),
        ttft=Distribution(0.65),
        itl=Distribution(0.06),
        reasoning_tokens=Distribution(5),
        reasoning_visible=True,
        output_tokens=Distribution(10),
    )
    side = await serve(await sim(default=knobs))
    seen = watch(side)
    assert (await call(side.port, post(asked.path, asked.body, *asked.lines))).end == "whole"
    clocks = seen[0].outcome.clocks
    answer = (
        0.65 if asked is RESPONSES else 0.65 + 5 * 0.06
    )  # responses: reasoning is counted, but not streamed as text
    for planned, found in ((0.05, clocks.ttfb_s), (0.35, clocks.ttfe_s), (0.65, clocks.ttft_s)):
        assert found is not None
        assert planned - 0.001 < found < planned + TURN_S, clocks
    assert clocks.sent_s is not None
    assert 0 <= clocks.sent_s < TURN_S
    assert clocks.ttfa_s is not None
    assert answer - 0.001 < clocks.ttfa_s < 0.65 + 5 * 0.06 + TURN_S, clocks
    assert clocks.duration_s > 0.65 + 9 * 0.06


@pytest.mark.parametrize("mode", ["no policy", "fallback"])
async def test_the_first_event_goes_on_at_once(
    upstream: Upstream, serve: Serve, mode: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """GW-10: message_start does not wait until thinking has ended, also where the policy could fall back."""
    start = event(b'{"type":"message_start","message":{"id":"msg_1","usage":{"input_tokens":3}}}')
    begun = asyncio.Event()
    up = await upstream([SSE_HEAD + start, begun, event(b'{"type":"content_block_delta"}') + b"0\r\n\r\n"])
    options: dict[str, object] = {}
    if mode == "fallback":
        folder = tmp_path_factory.mktemp("policies")
        (folder / "p.yaml").write_text(
            f"""version: 1
service: default
upstreams:
  one: {{dialect: anthropic, base_url: "http://127.0.0.1:{up.port}"}}
routes:
  - name: all
    match: {{models: ["*"]}}
    mode: observe
    baseline: {{id: base, upstream: one, model: claude-haiku-4-5}}
    arms: [{{id: other, upstream: one, model: claude-sonnet-4-5}}]
    fallback: {{arms: [other], on: [connect, 429, 5xx, timeout], max: 1}}
"""
        )
        options["policies"] = folder
    side = await serve(up, **options)
    async with connected(side.port) as client:
        client.send(post(MESSAGES.path, MESSAGES.body, *MESSAGES.lines))
        assert b"content_block_delta" not in await client.until(b"message_start")
        begun.set()
        got = await client.response()
    assert b"content_block_delta" in got.body
    assert got.value(b"x-sidecar-model") == b"%b/claude-haiku-4-5" % (b"one" if mode == "fallback" else b"anthropic")


async def test_pings_are_passed_on_and_are_no_tokens(upstream: Upstream, serve: Serve) -> None:
    """GW-11: an upstream's pings and comments keep the client's connection awake: each goes on when it comes, and long
    thinking behind them is not taken for a dead upstream nor for a token."""
    pings: list[Step] = [b"6\r\n: hi\n\n\r\n", 0.2, event(b'{"type":"ping"}'), 0.2] * 3
    up = await upstream([SSE_HEAD, *pings, event(b'{"type":"message_stop"}') + b"0\r\n\r\n"])
    side = await serve(up, idle_timeout="800ms")
    seen = watch(side)
    got = await call(side.port, post(MESSAGES.path, MESSAGES.body, *MESSAGES.lines))
    assert got.end == "whole"
    assert got.body.count(b": hi\n\n") == got.body.count(b'"ping"') == 3
    times = [at for at, piece in got.reads if b"hi" in piece or b"ping" in piece]
    assert len(times) == 6
    assert times[-1] - times[0] > 0.8, "the idle timer had its time"
    assert len(set(times)) == 6, "pings were put together"
    assert seen[0].outcome.clocks.ttft_s is None
    assert seen[0].outcome.kind == "completed"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_compressed_stream_comes_out_as_it_was_and_is_metered(
    upstream: Upstream, serve: Serve, coding: str
) -> None:
    """GW-31, INC-1: bytes, Content-Encoding and framing agree with one another; usage is read from a copy; the first event
    is not held until the stream ends."""
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    events = [b'data: {"id":"c1","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n']
    events += [b'data: {"id":"c1","choices":[],"usage":%b}\n\n' % json.dumps(usage).encode(), b"data: [DONE]\n\n"]
    packer = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
    packed = [packer.compress(one) + packer.flush(zlib.Z_SYNC_FLUSH) for one in events]
    packed.append(packer.flush())
    head = SSE_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: %b\r\n\r\n" % coding.encode())
    begun = asyncio.Event()
    up = await upstream([head + chunked(packed[0])[:-5], begun, chunked(*packed[1:])])
    side = await serve(up)
    seen = watch(side)
    body = b'{"model":"m","stream":true,"stream_options":{"include_usage":true},"messages":[]}'
    async with connected(side.port) as client:
        client.send(post("/v1/chat/completions", body, b"Accept-Encoding: gzip, deflate"))
        assert packed[1] not in await client.until(packed[0])
        begun.set()
        got = await client.response()
    assert up.requests[0].value(b"accept-encoding") == b"gzip, deflate"
    assert got.value(b"content-encoding") == coding.encode()
    assert got.value(b"content-length") is None
    assert got.body == b"".join(packed)
    assert (gzip.decompress(got.body) if coding == "gzip" else zlib.decompress(got.body)) == b"".join(events)
    found = seen[0].outcome.usage
    assert found is not None
    assert (found.input_tokens, found.output_tokens, seen[0].outcome.usage_source) == (7, 5, "provider")


@ALL
async def test_what_a_client_that_left_has_cost(sim: Sim, serve: Serve, asked: Asked) -> None:
    """GW-18, INC-6: the spend of an abort is an estimate from what was seen, marked as a lower bound, never null and never
    exact; the provider is told.

    20 tokens of the simulated provider are 20 short words: an estimate within a factor of three is one of this text.
    """
    provider = await sim(default=SimulatedModel(itl=Distribution(0.01), output_tokens=Distribution(600)))
    side = await serve(provider)
    seen = watch(side)
    deltas = (
        b"content_block_delta" if asked is MESSAGES else b'output_text.delta"' if asked is RESPONSES else b'"content":'
    )
    async with connected(side.port) as client:
        client.send(post(asked.path, asked.body, *asked.lines))
        while client.data.count(deltas) < 20:
            client.data += await asyncio.wait_for(client.reader.read(65536), 5)
        tokens = client.data.count(deltas)
        client.close()
        assert await until(lambda: bool(seen))
    one = seen[0].outcome
    assert (one.kind, one.cost_kind, one.usage_source) == ("aborted", "lower_bound", "estimate")
    assert one.usage is not None
    assert one.usage.output_tokens is not None
    assert tokens / 3 < one.usage.output_tokens < tokens * 3
    assert one.cost_nusd is not None
    assert one.cost_nusd > 0
    assert seen[0].reward is None, "an abort does not teach"
    assert await until(lambda: len(provider.aborts) == 1)
