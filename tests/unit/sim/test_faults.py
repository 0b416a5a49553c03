"""Everything that the simulated provider can do wrong, seen from a client."""

import pytest

from sidecar.sim.knobs import Distribution, Fault, SimConfig, SimulatedModel
from sidecar.sim.marker import score
from tests.unit.sim.client import chat, post, send
from tests.unit.sim.conftest import Start

MODEL = SimulatedModel(itl=Distribution(0.001), output_tokens=Distribution(10))
MESSAGE = {"model": "m", "max_tokens": 50, "messages": [1]}


def failing(kind: str, **members: object) -> SimConfig:
    return SimConfig(default=MODEL, faults=(Fault(kind, **members),))


@pytest.mark.parametrize(("status", "kind"), [(429, "requests"), (500, "server_error"), (503, "server_error")])
async def test_statuses_come_in_the_openai_shape(start: Start, status: int, kind: str) -> None:
    """Errors carry the dialect's body, Retry-After, and on 429 the rate-limit headers."""
    provider = await start(failing("status", status=status, retry_after_s=2.4))
    exchange = await send(provider.port, chat())
    assert (exchange.status, exchange.json["error"]["type"]) == (status, kind)
    assert b"\r\nretry-after: 2\r\n" in exchange.head
    assert (b"x-ratelimit-remaining-requests: 0" in exchange.head) == (status == 429)


async def test_statuses_come_in_the_anthropic_shape(start: Start) -> None:
    """An overloaded Anthropic says 529 with its own error type and no Retry-After unless told."""
    provider = await start(failing("status", status=529))
    exchange = await send(provider.port, post("/v1/messages", MESSAGE))
    assert (exchange.status, exchange.json["error"]["type"]) == (529, "overloaded_error")
    assert b"retry-after" not in exchange.head
    provider.set_faults([Fault("status", status=429)])
    limited = await send(provider.port, post("/v1/messages", MESSAGE))
    assert b"anthropic-ratelimit-remaining-requests: 0" in limited.head


async def test_a_rate_is_a_probability(start: Start) -> None:
    """With rate 0.3, of 400 requests 120 fail; 4 standard deviations are 37."""
    provider = await start(SimConfig(faults=(Fault("status", rate=0.3),)))
    failed = sum([(await send(provider.port, chat())).status == 503 for _ in range(400)])
    assert abs(failed - 120) <= 37


async def test_resets(start: Start) -> None:
    """A reset before the answer, and one after so many bytes of it, are resets and not ends."""
    provider = await start(failing("reset_before"))
    before = await send(provider.port, chat())
    assert (before.end, before.raw) == ("reset", b"")
    provider.set_faults([Fault("reset_after", after_bytes=100)])
    after = await send(provider.port, chat(stream=True))
    assert after.end == "reset"
    assert len(after.raw) <= 100


@pytest.mark.parametrize(("tokens", "stream", "parts"), [(0, True, 0), (0, False, 0), (3, True, 4), (3, False, 0)])
async def test_stalls(start: Start, tokens: int, stream: bool, parts: int) -> None:
    """Silence before the head, or after some tokens (half the body when whole), with the connection open."""
    provider = await start(failing("stall", after_tokens=tokens))
    exchange = await send(provider.port, chat(stream=stream), 0.5)
    assert exchange.end == "silent"
    assert (exchange.raw == b"") == (tokens == 0)
    assert exchange.raw.count(b"data: ") == parts
    assert len(provider.aborts) in (0, 1)


@pytest.mark.parametrize("stream", [True, False])
async def test_truncation_ends_without_the_framing_s_end(start: Start, stream: bool) -> None:
    """The connection closes in the middle: no last chunk, no [DONE], fewer bytes than promised."""
    provider = await start(failing("truncate", after_tokens=4))
    exchange = await send(provider.port, chat(stream=stream))
    assert exchange.end == "eof"
    assert b"[DONE]" not in exchange.raw
    assert exchange.raw.count(b"data: ") == (5 if stream else 0)


async def test_no_done_is_well_formed_but_incomplete(start: Start) -> None:
    """The stream ends as HTTP wants it and lacks its terminal event; whole answers are untouched."""
    provider = await start(failing("no_done", after_tokens=4))
    exchange = await send(provider.port, chat(stream=True))
    assert exchange.end == "whole"
    assert b"[DONE]" not in exchange.raw
    assert (await send(provider.port, chat())).json["usage"]


async def test_error_events_come_mid_stream(start: Start) -> None:
    """Both dialects can fail in the middle of a 200, with their own error event."""
    provider = await start(failing("error_event", after_tokens=2))
    openai_events = (await send(provider.port, chat(stream=True))).events
    assert openai_events[-1]["error"]["type"] == "server_error"
    anthropic_events = (await send(provider.port, post("/v1/messages", MESSAGE | {"stream": True}))).events
    assert anthropic_events[-1]["error"]["type"] == "overloaded_error"


async def test_drip_slow_and_garbage(start: Start) -> None:
    """Slow drip keeps every byte; `slow` delays; garbage is no HTTP or no JSON."""
    provider = await start(failing("drip", drip_bytes=200, interval_s=0.002))
    dripped = await send(provider.port, chat(stream=True))
    assert (dripped.end, len(dripped.reads) >= 8) == ("whole", True)
    assert dripped.events[-1]["choices"][0]["finish_reason"] == "stop"
    assert len(provider.sent) == 1
    provider.set_faults([Fault("slow", extra_s=0.1)])
    slow = await send(provider.port, chat(stream=True))
    assert slow.reads[-1][0] - slow.sent_at >= 0.1
    provider.set_faults([Fault("garbage_head")])
    assert not (await send(provider.port, chat())).raw.startswith(b"HTTP")
    provider.set_faults([Fault("garbage_body")])
    body = (await send(provider.port, chat())).body
    assert b"\xff" in body


async def test_wrong_lowers_quality(start: Start) -> None:
    """The fault `wrong` at rate 1 makes every sum wrong, and only the text shows it."""
    provider = await start(failing("wrong", rate=1.0))
    answers = [(await send(provider.port, chat())).json for _ in range(5)]
    assert [score(answer["choices"][0]["message"]["content"]) for answer in answers] == [0.0] * 5
