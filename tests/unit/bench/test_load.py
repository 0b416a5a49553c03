"""The load generator against servers on this machine: it counts what is right and names what is wrong."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from bench import payloads, upstream
from bench.job import SPREAD, Job, Result
from bench.load import ClosedRun, StreamRun, new_run

JOB = Job("closed", 0, 3, 0.1)


def port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


async def ended(run: ClosedRun | StreamRun) -> None:
    """Closes the run's connections and lets both ends notice."""
    run.close()
    await asyncio.sleep(0.02)


async def executed(run: ClosedRun | StreamRun) -> Result:
    await run.warm()
    result = await run.run()
    await ended(run)
    return result


@pytest.fixture
async def good() -> AsyncIterator[int]:
    server = await upstream.serve(0)
    yield port_of(server)
    server.close()


async def answering(answer: Callable[[int], bytes]) -> asyncio.Server:
    """A server that answers each request with `answer(number)`; empty bytes close the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            found = payloads.LENGTH.search(head)
            assert found is not None
            knobs = payloads.ticket(await reader.readexactly(int(found[1])))
            assert knobs is not None
            writer.write(answer(knobs[0]))
            if not answer(knobs[0]):
                break
            await writer.drain()
        writer.close()

    async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    return await asyncio.start_server(quiet, "127.0.0.1", 0)


async def test_closed_loop_counts_every_right_answer(good: int) -> None:
    """Every request is answered right, numbered once, and has a latency."""
    run = new_run(replace(JOB, port=good, count=50, base=1000))
    result = await executed(run)
    assert (result.requests, result.errors) == (50, {})
    assert result.latency_us["n"] == 50
    assert result.next_number == 1000 + 3 * 20 + 50


async def test_closed_loop_ends_by_time(good: int) -> None:
    """Without a count the loop ends after its duration."""
    run = new_run(replace(JOB, port=good))
    result = await executed(run)
    assert result.requests > 0
    assert result.elapsed_s >= 0.1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda n: payloads.answer(n).replace(b"kindly", b"kindlY", 1), "wrong body"),
        (lambda n: payloads.answer(n + 1), "wrong body"),
        (lambda _: b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", "status 500"),
        (lambda _: b"", "connection lost"),
    ],
    ids=["one byte", "another request's", "status", "closed"],
)
async def test_wrong_answers_are_errors_and_no_measurements(answer: Callable[[int], bytes], error: str) -> None:
    """One changed byte, an answer to another request, a status, a lost connection: each is named, none is counted."""
    server = await answering(answer)
    run = new_run(replace(JOB, port=port_of(server)))
    result = await executed(run)
    server.close()
    assert result.requests == 0
    assert result.errors == {error: 3}


async def test_open_loop_sends_what_was_scheduled(good: int) -> None:
    """As many requests as the rate and the duration say, each with the generator's own lateness beside it."""
    run = new_run(Job("open", good, 4, 0.2, rate=200))
    result = await executed(run)
    assert (result.requests, result.errors) == (40, {})
    assert result.lateness_us["n"] == 40


async def test_open_loop_latency_counts_from_the_schedule() -> None:
    """A server that stalls once delays all that were due meanwhile: their latencies contain the wait (no omission)."""
    asked = 0
    server = await answering(payloads.answer)
    run = new_run(Job("open", port_of(server), 1, 0.2, rate=200))
    await run.warm()

    async def stall() -> None:
        await asyncio.sleep(0.02)
        asyncio.get_running_loop().call_soon(blocking)

    def blocking() -> None:
        nonlocal asked
        asked += 1
        end = asyncio.get_running_loop().time() + 0.1
        while asyncio.get_running_loop().time() < end:
            pass

    result, _ = await asyncio.gather(run.run(), stall())
    await ended(run)
    server.close()
    assert asked == 1
    assert result.requests == 40
    # At 200/s some 20 of the 40 arrivals fall into 100 ms; by the schedule's order a quarter of all wait 25 ms or more.
    assert result.latency_us["p90"] > 25_000


async def test_streams_are_checked_and_timed(good: int) -> None:
    """Each stream gives one truth and as many transits as tokens; the warm-up gives none."""
    run = new_run(Job("streams", good, 3, 0.0, chunks=4, gap_ms=1, first_ms=SPREAD))
    result = await executed(run)
    assert (result.requests, result.errors, result.chunks) == (3, {}, 12)
    assert result.path_us["n"] == 3
    wanted = {payloads.completion_id(number): number * 137 % 501 / 1e3 for number in (3, 4, 5)}
    assert dict(result.truth).keys() == wanted.keys()
    assert all(true_s >= wanted[name] for name, true_s in result.truth)


async def test_a_cut_stream_is_an_error() -> None:
    """A stream whose connection ends before its last event does not count."""
    server = await answering(lambda _: payloads.STREAM_HEAD)
    run = new_run(Job("streams", port_of(server), 2, 0.0, chunks=4))

    async def cut() -> None:
        await asyncio.sleep(0.05)
        server.close()
        for call in run.calls:
            if call.transport is not None:
                call.transport.abort()

    await asyncio.gather(run.warm(), cut())
    result = await run.run()
    await ended(run)
    assert result.requests == 0
    assert result.errors == {"connection lost": 2}


async def test_the_upstream_refuses_a_damaged_request(good: int) -> None:
    """A proxy that damages a body is found: 400 and an end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", good)
    writer.write(payloads.request(1, good).replace(b"support", b"supporT"))
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()
    await writer.wait_closed()
