"""A small campaign of faults with a fixed seed, and its relay. The large one: `python -m bench.campaign --faults N`."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.e2e.fault_campaign import Campaign
from tests.e2e.fault_plan import KINDS, SHAPES, plan
from tests.fixtures.relay import NOISE, Kind, Relay, Toxic

EXCHANGES = 400
SILENT = 4  # besides: upstreams that fall silent within a stream, of which 400 exchanges have hardly one


def silent(seed: int) -> list[int]:
    """Further exchanges of the seed: a stream that is passed on as it comes stops, and nobody tells."""
    found: list[int] = []
    for number in range(EXCHANGES, 10_000):
        one = plan(seed, number)
        toxic = one.upstream[0] if one.upstream and not (one.client or one.spoiled) else None
        within = toxic is not None and (toxic.kind, toxic.direction) == ("black_hole", "down") and toxic.after > 700
        if within and one.shape.route == "plain" and one.shape.stream:
            found.append(number)
    return found[:SILENT]


async def test_the_books_balance_under_faults(tmp_path: Path) -> None:
    """INC-16: each of 400 exchanges ends as its faults say, all books agree, nothing stays open."""
    told = await Campaign(11).run(tmp_path, [*range(EXCHANGES), *silent(11)])
    assert not told.broken, "\n".join(told.broken)
    assert told.books is not None
    assert told.exchanges > EXCHANGES
    assert len(+told.met) > 25, "toxics that never came to pass"
    assert min(told.books.rows[kind] for kind in ("completed", "failed", "aborted")) > 10
    assert told.books.metrics["shed"] > 10


def test_a_seed_says_it_all() -> None:
    """The same exchange whether it runs alone or among others; every shape and toxic is drawn."""
    drawn = [plan(11, number) for number in range(2000)]
    assert drawn[7] == plan(11, 7)
    assert drawn[7] != plan(12, 7)
    assert {one.shape.name for one in drawn} == {shape.name for shape in SHAPES}
    toxics = {
        (where, toxic.direction, toxic.kind)
        for one in drawn
        for where in ("client", "upstream")
        for toxic in getattr(one, where)
    }
    assert len(toxics) == 2 * 2 * len(KINDS)


class Echo:
    """A server that answers each read with its own bytes, and what one client saw of it through a relay."""

    def __init__(self, *toxics: Toxic) -> None:
        self.toxics = toxics
        self.heard = b""  # by the server
        self.heard_end = ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                self.heard += data
                writer.write(data)
            self.heard_end = "fin"
        except ConnectionResetError:
            self.heard_end = "reset"
        writer.close()

    def _plan(self, number: int, sighting: int) -> Sequence[Toxic]:
        return self.toxics if (number, sighting) == (7, 0) else ()

    async def through(self, data: bytes, wait_s: float = 0.4) -> tuple[bytes, str]:
        """What comes back for `data`, and how it ended: open, fin or reset."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        got, end = b"", "open"
        async with Relay(server.sockets[0].getsockname()[1], self._plan) as relay:
            reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
            writer.write(data)
            try:
                async with asyncio.timeout(wait_s):
                    while piece := await reader.read(65536):
                        got += piece
                    end = "fin"
            except TimeoutError:
                pass
            except ConnectionResetError:
                end = "reset"
            writer.transport.abort()
        server.close()
        await asyncio.sleep(0.01)
        return got, end


DATA = b"mark-000007a" + bytes(range(65, 91)) * 4


@pytest.mark.parametrize(
    ("kind", "amount", "came", "end"),
    [
        ("latency", 0.01, DATA, "open"),
        ("rate", 5000.0, DATA, "open"),
        ("slice", 7.0, DATA, "open"),
        ("stall", 0.01, DATA, "open"),
        ("garbage", 3.0, DATA[:20] + NOISE[:3] + DATA[20:], "open"),
        ("black_hole", 0.0, DATA[:20], "open"),
        ("half_close", 0.0, DATA[:20], "fin"),
        ("truncate", 0.0, DATA[:20], "fin"),
        ("reset", 0.0, DATA[:20], "reset"),
    ],
)
async def test_toxics_of_the_way_down(kind: Kind, amount: float, came: bytes, end: str) -> None:
    """Each does what its name says, to the byte."""
    echo = Echo(Toxic(kind, "down", after=20, amount=amount))
    got, ended = await echo.through(DATA)
    assert ended == end
    assert got == came or (end == "reset" and came.startswith(got))  # a reset may overtake the bytes before it
    assert echo.heard == DATA


@pytest.mark.parametrize(
    ("kind", "heard_end"), [("black_hole", ""), ("half_close", "fin"), ("truncate", "fin"), ("reset", "reset")]
)
async def test_toxics_of_the_way_up(kind: Kind, heard_end: str) -> None:
    """The server hears the first 20 bytes, and the end that the toxic makes."""
    echo = Echo(Toxic(kind, "up", after=20))
    await echo.through(DATA, wait_s=0.2)
    assert echo.heard == DATA[:20] or (kind == "reset" and DATA.startswith(echo.heard))
    assert echo.heard_end.startswith(heard_end)


async def test_another_exchange_is_not_spoiled() -> None:
    """A toxic belongs to its mark: what has none, or another one, passes."""
    other = DATA.replace(b"000007", b"000008")
    assert await Echo(Toxic("truncate", "down", after=5)).through(other, wait_s=0.1) == (other, "open")
