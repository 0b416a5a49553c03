"""Workers that hang: who is killed, when, and who is not."""

import asyncio
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.config.settings import Settings
from sidecar.core.sticky import Binding
from sidecar.proxy.plane import Books
from sidecar.tasks import Tasks
from sidecar.workers.crew import SILENT_S, Crew, Member
from sidecar.workers.leader import LeadingSidecar
from sidecar.workers.link import Link
from sidecar.workers.messages import Counted, Gauge, Orders, Report, frame, read_orders

STEP_S = 0.25


@pytest.fixture
def crew() -> Iterator[Crew]:
    """Three that serve; nobody looked yet."""
    tasks = Tasks(lambda _name, _error: None)
    made = Crew(replace(Settings(), workers=3), tasks, lambda _member, _report: None, lambda _member: None)
    for index in range(3):
        member = made.members[index] = Member(index, index + 1)
        member.process = sleeper()
        member.serving = member.greeted = True
    yield made
    made.kill()


def looks(crew: Crew, *, heard: tuple[int, ...], until_s: float, at: float = 100.0) -> list[int]:
    """The crew is looked at every STEP_S for so long while these workers are heard; who was killed, in order."""
    killed: list[int] = []
    for step in range(int(until_s / STEP_S) + 1):
        found = crew.look(at + step * STEP_S)
        if found is not None:
            killed.append(found.index)
        for index in heard:
            crew.members[index].silent_s = 0.0
    return killed


def sleeper() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["/bin/sleep", "60"])


def alive(crew: Crew) -> list[int]:
    for member in crew.members.values():
        assert member.process is not None
        if member.hung:
            member.process.wait(5.0)
    return [one.index for one in crew.members.values() if one.process is not None and one.process.poll() is None]


def test_one_that_is_silent_is_killed_in_time_and_once(crew: Crew) -> None:
    """Not before SILENT_S, soon after it, and nobody else."""
    assert looks(crew, heard=(0, 2), until_s=SILENT_S - 1.0) == []
    assert looks(crew, heard=(0, 2), until_s=SILENT_S, at=100.0 + SILENT_S) == [1]
    assert (alive(crew), crew.hangs) == ([0, 2], 1)


def test_a_leader_that_was_stalled_kills_nobody(crew: Crew) -> None:
    """It did not run for a minute, five times in a row: it could hear nobody, and that says nothing of them."""
    for minute in range(5):
        assert looks(crew, heard=(), until_s=STEP_S, at=60.0 * minute) == []
        assert looks(crew, heard=(0, 1, 2), until_s=STEP_S, at=60.0 * minute + 2 * STEP_S) == []
    assert alive(crew) == [0, 1, 2]


def test_while_nobody_is_heard_only_one_is_killed(crew: Crew) -> None:
    """The next only when another serves in its place."""
    [first] = looks(crew, heard=(), until_s=3 * SILENT_S)
    assert first not in alive(crew)
    del crew.members[first]
    assert looks(crew, heard=(), until_s=3 * SILENT_S, at=1_000.0) == []
    born = crew.members[first] = Member(first, 9)
    born.process = sleeper()
    born.greeted = born.serving = True
    assert sorted(looks(crew, heard=(first,), until_s=1.0, at=2_000.0)) == sorted({0, 1, 2} - {first})


def test_the_last_that_serves_is_spared(crew: Crew) -> None:
    """Its silence is a reason to wait for another one, and not to have none."""
    crew.members[0].serving = crew.members[2].serving = False
    assert looks(crew, heard=(0, 2), until_s=3 * SILENT_S) == []
    crew.members[2].serving = True
    assert looks(crew, heard=(0, 2), until_s=STEP_S, at=1_000.0) == [1]


def test_one_that_never_said_a_word_has_more_time(crew: Crew) -> None:
    """It imports and reads; then it is killed as the others are."""
    crew.members[1].serving = crew.members[1].greeted = False
    assert looks(crew, heard=(0, 2), until_s=2 * SILENT_S) == []
    assert looks(crew, heard=(0, 2), until_s=2 * SILENT_S, at=1_000.0) == [1]


def test_a_hung_one_that_is_spared_hides_no_other(crew: Crew) -> None:
    """The last that serves hangs, and so does its successor before it serves: that one is replaced until one comes up."""
    for born in (crew.members[0], crew.members[2]):
        born.serving = born.greeted = False
    crew.members[1].silent_s = SILENT_S
    assert looks(crew, heard=(2,), until_s=5 * SILENT_S) == [0]
    assert alive(crew) == [1, 2]


def test_nobody_is_spared_while_all_end(crew: Crew) -> None:
    """A worker that hangs does not hold the drain up until its end."""
    crew.stop()
    assert sorted(looks(crew, heard=(), until_s=SILENT_S + 3 * STEP_S)) == [0, 1, 2]


async def leader(tmp_path: Path) -> tuple[LeadingSidecar, Member, list[Orders]]:
    """A leader that nobody started, one worker that it has greeted, and what that worker was told."""
    made = LeadingSidecar(Settings(workers=2, policies=tmp_path, db=None), {})
    told: list[Orders] = []
    member = made.crew.members[0] = Member(0, 1)
    member.link = Listening(told)
    report = Report(turn=0, books=Books(), spending={})
    made.crew._hear(member, frame(report)[4:])
    return made, member, told


class Listening(Link):
    """Keeps what is sent, as far as it can be written."""

    def __init__(self, told: list[Orders]) -> None:
        super().__init__(lambda _body: None, lambda: None)
        self._told = told

    def send(self, message: object) -> None:
        assert isinstance(message, Orders)
        self._told.append(read_orders(frame(message)[4:]))


async def test_orders_that_cannot_be_written_keep_no_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number beyond 64 bits, say: it is told as a bug, and everything is said again as soon as it can be."""
    made, member, told = await leader(tmp_path)
    assert (len(told), member.greeted) == (1, True)
    made.crew._hear(member, frame(Report(turn=member.turn, books=Books(), spending={}))[4:])
    made.engine._sticky.bind(1, Binding("support/mini", "mini", 1.0, 0))
    made.engine._sticky.unbind("support/mini")
    with monkeypatch.context() as broken:
        broken.setattr(made.engine, "leases", lambda _who, _now: {"support": (10**30, 0.0)})
        made.tell()
    assert (len(told), member.turn, made.plane.books.bugs) == (1, 0, 1)
    made.tell()
    assert (len(told), told[-1].unbound, member.turn) == (2, ["support/mini"], told[-1].turn)
    await made.tasks.close(1.0)


async def test_a_greeting_that_could_not_be_written_is_said_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, with the conversations: a worker that was half greeted would not know them."""
    with monkeypatch.context() as broken:
        broken.setattr(LeadingSidecar, "_orders", lambda *_: (_ for _ in ()).throw(OverflowError))
        made, member, told = await leader(tmp_path)
    assert (told, member.greeted, member.turn) == ([], False, 0)
    made.engine._sticky.bind(7, Binding("support/mini", "mini", 0.5, 0))
    made.crew._hear(member, frame(Report(turn=0, books=Books(), spending={}))[4:])
    assert ([one.key for one in told[-1].bound], member.greeted) == ([7], True)
    await made.tasks.close(1.0)


async def test_responses_of_a_database_that_came_late_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that serve already are asked to go on with them."""
    made, _, told = await leader(tmp_path)
    left = ("", "resp_1", "mini", 7)

    async def responses(_last: int) -> list[tuple[str, str, str, int]]:
        return [left]

    monkeypatch.setattr(made.archive, "responses", responses)
    await made._take_over()
    assert told[-1].kept == [left]
    await made.tasks.close(1.0)


async def test_a_silent_worker_is_noted_before_it_is_killed(tmp_path: Path) -> None:
    made, member, _ = await leader(tmp_path)
    member.silent_s = 4.0
    assert "worker 0 says nothing for 4 s" in made.readiness().notes
    member.process = sleeper()
    member.silent_s = SILENT_S
    made._look()
    assert await asyncio.to_thread(member.process.wait, 5.0) == -9
    assert made.crew.hangs == 1
    await made.tasks.close(1.0)


async def test_a_tokens_file_that_went_bad_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The leader carries no call that would ask for a token."""
    monkeypatch.setattr("sidecar.config.secrets.CHECK_S", 0.0)
    file = tmp_path / "tokens"
    file.write_text("a-token-of-one-service shop\n")
    settings = Settings(workers=2, policies=tmp_path, db=None, mode="standalone", client_tokens_file=file)
    made = LeadingSidecar(settings, {})
    assert not [note for note in made.readiness().notes if "client tokens" in note]
    file.write_text("short shop\n")
    assert [note for note in made.readiness().notes if "client tokens" in note and "line 1" in note]
    await made.tasks.close(1.0)


async def test_what_is_said_of_a_shadow_is_what_workers_say(tmp_path: Path) -> None:
    """The leader makes no copies, which is no news."""
    (tmp_path / "p.yaml").write_text(
        'version: 1\nupstreams: {o: {dialect: openai, base_url: "http://h", price: free}}\n'
        "routes: [{name: r, match: {models: [m]}, mode: shadow, baseline: {id: a, upstream: o, model: m},"
        " arms: [{id: b, upstream: o, model: n}], shadow: {arm: b, sample: 1, daily_usd: 1}}]\n"
    )
    made, member, _ = await leader(tmp_path)
    assert made.engine.routes
    member.counted = Counted(notes=["worker 0: 7 pairs"], told={"errands": [{"route": "r"}]})
    ready = made.readiness()
    assert [note for note in ready.notes if "shadow" in note or "pairs" in note] == ["worker 0: 7 pairs"]
    assert ready.detail["errands"] == [{"worker": 0, "route": "r"}]
    await made.tasks.close(1.0)


async def test_counters_of_a_worker_that_ended_stay(tmp_path: Path) -> None:
    """Prometheus takes one that falls for a new process, and counts all of it again."""
    made, member, _ = await leader(tmp_path)
    dials, conns = [(("up", "ok"), 5.0)], [(("up", "idle"), 2.0)]
    told: dict[str, Gauge] = {"pool_dials": dials, "pool_connections": conns, "errands_dropped": 3.0}
    made.crew._hear(member, frame(Report(turn=0, books=Books(), spending={}, counted=Counted(told)))[4:])
    member.process = sleeper()
    made.crew._lost(member)
    other = made.crew.members[0] = Member(0, 2)
    made.crew._hear(other, frame(Report(turn=0, books=Books(), spending={}, counted=Counted(told)))[4:])
    text = made.metrics.render()[1].decode()
    assert 'llm_sidecar_pool_dials_total{result="ok",upstream="up"} 10.0' in text
    assert "llm_sidecar_errands_dropped_total 6.0" in text
    assert 'llm_sidecar_pool_connections{state="idle",upstream="up"} 2.0' in text
    made.crew.kill()
    await made.tasks.close(1.0)


async def test_no_series_lacks_the_labels_of_its_name(tmp_path: Path) -> None:
    """Before the first worker has told, and where none has a number: upstreams without a limit are not limited to 0."""
    made, member, _ = await leader(tmp_path)
    early = made.metrics.render()[1].decode()
    told: dict[str, Gauge] = {"concurrency_limit": [], "pool_connections": [], "errands_dropped": 0.0}
    made.crew._hear(member, frame(Report(turn=0, books=Books(), spending={}, counted=Counted(told)))[4:])
    for text in (early, made.metrics.render()[1].decode()):
        assert re.findall(r"^llm_sidecar_(?:concurrency|pool|breaker|upstream)\S* 0\.0$", text, re.MULTILINE) == []
        assert "\nllm_sidecar_errands_dropped_total 0.0\n" in text
    await made.tasks.close(1.0)


async def test_calls_that_die_with_their_worker_are_told_as_lost(tmp_path: Path) -> None:
    """They were accepted, and nothing else will ever count them."""
    made, member, _ = await leader(tmp_path)
    made.crew._hear(
        member, frame(Report(turn=0, books=Books(accepted=7, completed=3, shed=1), spending={}, lost=2))[4:]
    )
    member.process = sleeper()
    made.crew._lost(member)
    text = made.metrics.render()[1].decode()
    assert "llm_sidecar_accepted_total 7.0" in text
    assert "llm_sidecar_worker_rows_lost_total 5.0" in text
    made.crew.kill()
    await made.tasks.close(1.0)


async def test_memory_and_lag_are_those_of_all_processes(tmp_path: Path) -> None:
    """The leader carries no traffic: it is a worker that is short of memory, or late."""
    made, member, _ = await leader(tmp_path)
    pressure = made.traffic.memory.pressure
    pressure.limit_bytes, pressure.used_bytes, made.loop.lag_s = 100, 40, 0.5
    told: dict[str, Gauge] = {
        "memory_used_bytes": 99.0, "memory_limit_bytes": 100.0, "memory_level": 2.0, "loop_lag_seconds": 0.25,
    }  # fmt: skip
    made.crew._hear(member, frame(Report(turn=0, books=Books(), spending={}, counted=Counted(told)))[4:])
    text = made.metrics.render()[1].decode()
    for line in ("memory_used_bytes 139.0", "memory_limit_bytes 200.0", "memory_level 2.0", "loop_lag_seconds 0.5"):
        assert f"llm_sidecar_{line}\n" in text
    await made.tasks.close(1.0)


async def test_breakers_of_workers_are_the_leaders(tmp_path: Path) -> None:
    """It carries no traffic, so that its own never open: what it shows and judges by is what workers say."""
    made, member, _ = await leader(tmp_path)
    rows = [{"upstream": "up", "model": "m", "state": "open", "opened": 1, "left_s": 3.0, "calls": 5, "fails": 5}]
    report = Report(turn=0, books=Books(), spending={}, counted=Counted(told={"breakers": rows}))
    made.crew._hear(member, frame(report)[4:])
    made._tick()
    [told] = made.engine.guards.told["up", "m"]
    assert (told.state, told.out_s) == ("open", 0.0)
    del made.crew.members[0]
    made._tick()
    assert made.engine.guards.told == {}
    await made.tasks.close(1.0)
