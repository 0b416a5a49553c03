"""The control loop hands everything on once, in small batches, and one part that fails does not stop the others."""

import asyncio
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from sidecar.control import loop as loop_module
from sidecar.control.loop import BATCH, SLICE, Consumers, ControlLoop
from sidecar.core.record import COLUMNS, Row
from sidecar.core.types import Settled
from tests.fixtures.settled import settled

ID = COLUMNS.index("id")


class Told:
    """Consumers and steps that note what they get; those called `bad` raise."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.rows: list[str] = []
        self.steps = 0
        self.bugs: list[tuple[str, str]] = []
        consumers = Consumers(
            "bot", [("bad", self._raise), ("good", self._take)], [("bad rows", self._raise), ("rows", self._take_rows)]
        )
        self.loop = ControlLoop(consumers, [("bad step", self._step_badly), ("step", self._step)], self._bug)

    def _raise(self, _batch: Sequence[object]) -> None:
        raise ValueError("bad consumer")

    def _take(self, batch: Sequence[Settled]) -> None:
        self.ids += [one.id for one in batch]

    def _take_rows(self, batch: Sequence[Row]) -> None:
        self.rows += [str(one[ID]) for one in batch]

    def _step(self) -> None:
        self.steps += 1

    def _step_badly(self) -> None:
        raise KeyError("bad step")

    def _bug(self, where: str, error: BaseException) -> None:
        self.bugs.append((where, type(error).__name__))


def test_all_consumers_get_all() -> None:
    """Those behind one that raises too; its failure is told once a batch."""
    told = Told()
    batch = [settled(number) for number in range(3)]
    for one in batch:
        told.loop.emit(one)
    assert told.ids == []
    told.loop.flush()
    told.loop.flush()  # nothing waits: nobody is called
    assert told.ids == told.rows == [one.id for one in batch]
    assert told.bugs == [("bad", "ValueError"), ("bad rows", "ValueError")]


def test_a_full_batch_goes_at_once() -> None:
    """BATCH exchanges are handed on without waiting for the timer."""
    told = Told()
    for number in range(BATCH + 1):
        told.loop.emit(settled(number))
    assert len(told.ids) == BATCH


def test_a_bad_record_costs_its_own_row() -> None:
    """An exchange of which no row can be made does not take its neighbours away."""
    told = Told()
    bad = replace(settled(1), at="yesterday")
    for one in (settled(0), bad, settled(2)):
        told.loop.emit(one)
    told.loop.flush()
    assert len(told.ids) == 3
    assert told.rows == [settled(0).id, settled(2).id]
    assert [where for where, _ in told.bugs] == ["bad", "record", "bad rows"]


async def test_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches go on by themselves, steps run each time, the lag of a held-up loop is seen, and stop hands on the rest."""
    monkeypatch.setattr(loop_module, "FLUSH_S", 0.01)
    monkeypatch.setattr(loop_module, "TICK_S", 0.02)
    told = Told()
    told.loop.start()
    told.loop.emit(settled(0))
    for _ in range(500):
        if told.steps >= 3 and told.ids:
            break
        await asyncio.sleep(0.01)
    assert ("bad step", "KeyError") in told.bugs
    told.loop.emit(settled(1))
    told.loop.stop()
    assert len(told.ids) == 2
    steps = told.steps
    await asyncio.sleep(0.06)
    assert told.steps == steps
    assert told.loop.lag_s >= 0.0


async def test_what_waits_goes_on_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two of them the loop has a turn, in which exchanges may end; all stay in their order."""
    monkeypatch.setattr(loop_module, "FLUSH_S", 0.01)
    slices: list[list[str]] = []
    over = asyncio.Event()

    def take(batch: Sequence[Settled]) -> None:
        slices.append([one.id for one in batch])
        if len(slices) == 1:
            asyncio.get_running_loop().call_soon(loop.emit, settled(2 * SLICE + 1))
        elif len(slices) == 3:
            over.set()

    loop = ControlLoop(Consumers("bot", [("take", take)]), [], lambda where, error: pytest.fail(f"{where}: {error}"))
    loop.start()
    for number in range(2 * SLICE + 1):
        loop.emit(settled(number))
    await asyncio.wait_for(over.wait(), 5.0)
    loop.stop()
    assert [len(one) for one in slices] == [SLICE, SLICE, 2]
    assert [one for some in slices for one in some] == [settled(number).id for number in range(2 * SLICE + 2)]


async def test_flush_overtakes_the_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who wants everything now has it, also between two slices; what comes afterwards goes on by itself again."""
    monkeypatch.setattr(loop_module, "FLUSH_S", 0.01)
    told = Told()
    told.loop.emit(settled(0))  # before the start: it waits
    told.loop.start()
    for number in range(1, 2 * SLICE):
        told.loop.emit(settled(number))
    asyncio.get_running_loop().call_later(0.01, told.loop.flush)
    for expected in (2 * SLICE, 2 * SLICE + 1):
        for _ in range(500):
            if len(told.rows) == expected:
                break
            await asyncio.sleep(0.01)
        told.loop.emit(settled(expected))
    assert told.rows == [settled(number).id for number in range(2 * SLICE + 1)]
    told.loop.stop()


def test_while_records_are_shed_nobody_gets_rows() -> None:
    """Who is spared gets nothing either; what was over before is handed on, what is shed is counted."""
    taken: list[str] = []
    rows: list[str] = []
    spans: list[str] = []
    consumers = Consumers(
        "bot",
        [
            ("taken", lambda batch: taken.extend(one.id for one in batch)),
            ("spans", lambda b: spans.extend(x.id for x in b)),
        ],
        [("rows", lambda batch: rows.extend(str(one[ID]) for one in batch))],
        frozenset({"spans"}),
    )
    loop = ControlLoop(consumers, [], lambda where, error: pytest.fail(f"{where}: {error}"))
    ids = [settled(number).id for number in range(3)]
    for number in range(3):
        loop.emit(settled(number))
        if number < 2:
            loop.shed_records(number == 0)
    loop.flush()
    assert taken == ids
    assert rows == spans == [ids[0], ids[2]]
    assert loop.shed == 1
