"""What workers and their leader say to each other: nothing is lost, doubled or told that must not be told."""

import asyncio
import os
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme
from msgspec.structs import replace as with_

from sidecar.clock import offset_s, steady
from sidecar.config.policy import Loaded, Written, load_text, load_written
from sidecar.config.settings import Settings
from sidecar.core.engine import PASS
from sidecar.core.features import features
from sidecar.core.following import Follower, Lesson
from sidecar.core.leading import Leader
from sidecar.core.policy import NO_POLICY, Judge, Quality, Shadow
from sidecar.core.types import Event, Outcome, Settled
from sidecar.core.variants import Replace
from sidecar.proxy.plane import Books, Plane
from sidecar.tasks import Tasks
from sidecar.workers.crew import Crew, Member
from sidecar.workers.leader import divided, summed
from sidecar.workers.link import Link
from sidecar.workers.messages import (
    DRAIN,
    Exchange,
    Hello,
    Orders,
    Report,
    add,
    exchange_of,
    frame,
    lessons_alone,
    lessons_of,
    read_hello,
    read_orders,
    read_report,
)
from sidecar.workers.telling import BATCH, FULL_BYTES, MOST, Telling
from sidecar.workers.worker import Worker
from sidecar.workers.worker import divided as divided_policy
from tests.unit.core.engines import NOW, ROUTE, facts, outcome, policy


def ended(ended_as: Outcome | None = None) -> Settled:
    made = facts()
    return Settled(
        id="a" * 26,
        at=NOW,
        facts=made,
        decision=with_(PASS, route="support", arm="mini"),
        outcome=ended_as or outcome(),
        upstream="up",
        sent_model="m",
    )


def through(exchange: Exchange) -> Exchange:
    """The exchange as the leader gets it."""
    report = Report(turn=1, books=Books(), spending={}, exchanges=[exchange])
    [read] = read_report(frame(report)[4:]).exchanges
    return read


def test_a_call_passes_with_its_lesson_only_once() -> None:
    """What was taught is what is recorded: the lesson is made of the record again."""
    settled = ended()
    exchange = exchange_of(settled, [Lesson(settled.facts, settled.decision, settled.outcome)])
    assert (exchange.lessons, exchange.taught, exchange.same) == ([], True, True)
    read = through(exchange)
    assert read == exchange
    assert lessons_of(read) == [Lesson(settled.facts, settled.decision, settled.outcome)]


def test_a_lesson_that_differs_from_the_record_is_its_own() -> None:
    """A fallback's decision, the stage of a cascade, and lessons of calls before it come in their order."""
    settled = ended()
    other = Lesson(facts(2), settled.decision, outcome("failed"), call=False)
    own = Lesson(settled.facts, with_(settled.decision, arm="nano"), settled.outcome)
    exchange = through(exchange_of(settled, [other, own]))
    assert (exchange.taught, exchange.same) == (True, False)
    assert lessons_of(exchange) == [other, own]
    assert not through(exchange_of(settled, [other])).taught
    assert not exchange_of(settled, []).taught
    assert lessons_of(through(lessons_alone([other]))) == [other]


def test_texts_of_prompts_do_not_pass_and_features_do() -> None:
    """What a variant says to the model stays where it is; the numbers of a text arrive as they were."""
    seen = features("how much is it", 7)
    settled = ended()
    edited = with_(settled.decision, system=(Replace("the secret prompt"),))
    settled = with_(settled, decision=edited, facts=with_(settled.facts, text=seen))
    exchange = exchange_of(settled, [Lesson(facts(2), edited, settled.outcome, call=False)])
    report = frame(Report(turn=1, books=Books(), spending={}, exchanges=[exchange]))
    assert b"secret" not in report
    read = through(exchange).settled
    assert read is not None
    assert np.array_equal(read.facts.text, seen)


def test_settings_and_events_arrive_as_they_were(tmp_path: object) -> None:
    """Paths are paths, also those that are no text, and details of events keep their JSON values."""
    settings = Settings.load({"SIDECAR_DB": "/var/lib/x.db", "OBSERVATORY_URL": "http://o:4318"})
    hello = Hello(1, 2, settings, 0.5, b"{}")
    assert read_hello(frame(hello)[4:]) == hello
    event = Event(kind="k", detail={"text": "t", "list": [1, {"a": None}], "number": 0.5})
    report = Report(turn=0, books=Books(accepted=3), spending={"r": (1, 2)}, events=[event])
    read = read_report(frame(report)[4:])
    assert (read.events, read.books, read.spending) == ([event], Books(accepted=3), {"r": (1, 2)})
    policy = Written("routes: []", Path(os.fsdecode(b"caf\xe9.yaml")), named={"p.txt": b"\xef"})
    orders = Orders(turn=3, written=policy, leases={"r": (1, float("inf"))}, answers=[(1, 202, b"{}")])
    assert read_orders(frame(orders)[4:]) == orders


class Pair:
    """Both ends of a socket between two links, and what arrived at the second."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.lost = 0
        self.first = Link(lambda _body: None, lambda: None)
        self.second = Link(self.got.append, self._lose)

    def _lose(self) -> None:
        self.lost += 1

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        for link, sock in zip((self.first, self.second), socket.socketpair(), strict=True):
            sock.setblocking(False)
            await loop.create_unix_connection(lambda link=link: link, sock=sock)

    async def end(self) -> None:
        self.first.close()
        await asyncio.wait_for(self.second.lost.wait(), 5.0)


async def test_messages_arrive_whole_whatever_their_size() -> None:
    """Small ones together, one of three megabytes in pieces; the end is told once, and nothing is sent after it."""
    pair = Pair()
    assert not pair.first.open
    pair.first.send(Orders(turn=9))  # nobody is there yet: dropped
    await pair.open()
    sent = [Orders(turn=1), Orders(turn=2, stand=b"x" * 3_000_000), Orders(turn=3)]
    for orders in sent:
        pair.first.send(orders)
    await pair.end()
    assert [read_orders(body) for body in pair.got] == sent
    pair.first.send(Orders(turn=4))
    assert (pair.lost, pair.first.open, pair.first.waiting) == (1, False, 0)


def test_a_message_beyond_all_bounds_is_refused() -> None:
    link = Link(lambda _body: None, lambda: None)
    with pytest.raises(ValueError, match="beyond all bounds"):
        link.data_received(b"\xff\xff\xff\xff")


class FullLink(Link):
    """The leader does not read."""

    full = True
    sent: list[Report]

    def __init__(self) -> None:
        super().__init__(lambda _body: None, lambda: None)
        self.sent = []

    @property
    def waiting(self) -> int:
        return 2**40 if self.full else 0

    @property
    def open(self) -> bool:
        return True

    def send(self, message: Hello | Orders | Report) -> None:
        assert isinstance(message, Report)
        self.sent.append(read_report(frame(message)[4:]))


def telling(link: Link) -> tuple[Telling, Follower]:
    engine = Follower(NO_POLICY, np.random.default_rng(1), NOW)
    made = Telling(engine, link)
    made.plane = Plane(Settings(), engine, Tasks(lambda _name, _error: None), made.ended)
    return made, engine


async def test_a_leader_that_does_not_read_costs_rows_and_no_money() -> None:
    """The oldest calls are given up, counted, and paid for; the rest is told as soon as it reads again."""
    link = FullLink()
    made, engine = telling(link)
    for _ in range(MOST + 5):
        settled = ended()
        engine.settle(settled.facts, settled.decision, settled.outcome, NOW)
        made.ended(settled)
    for n in range(2_000):
        made.events([Event(kind=f"k{n}")])
    link.full = False
    made.flush()
    [report] = link.sent
    assert (made.lost, report.lost, len(report.exchanges), len(report.events)) == (5, 5, MOST, 1_000)
    assert report.charges["support"][0] == 5 * 600
    made.flush()
    assert not link.sent[-1].exchanges
    assert not link.sent[-1].charges


async def test_a_call_that_cannot_be_written_costs_its_own_row_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number beyond 64 bits, say: all others are told, also those that come later, and what it cost is told as well."""
    link = FullLink()
    link.full = False
    made, engine = telling(link)
    bugs: list[str] = []
    assert made.plane is not None
    monkeypatch.setattr(made.plane, "on_bug", lambda where, error: bugs.append(f"{where} {type(error).__name__}"))
    bad = with_(ended(), facts=facts(max_tokens=10**30))
    for settled in (ended(), bad, ended()):
        engine.settle(settled.facts, settled.decision, settled.outcome, NOW)
        made.ended(settled)
    made.flush()
    [report] = link.sent
    assert (len(report.exchanges), report.lost, made.lost, bugs) == (2, 1, 1, ["tell OverflowError"])
    made.flush()
    assert link.sent[-1].charges["support"][0] == 600


async def test_a_batch_is_told_at_once_and_the_rest_soon() -> None:
    """Lessons that no call came after are told too."""
    link = FullLink()
    link.full = False
    made, engine = telling(link)
    for _ in range(BATCH):
        made.ended(ended())
    assert len(link.sent) == 1
    engine.settle(facts(), PASS, outcome(), NOW)
    made.score("d", "judge", 0.5)
    made.errand(Event(kind="errand.judge"))
    assert len(link.sent) == 1
    async with asyncio.timeout(5.0):
        while len(link.sent) < 2:  # noqa: ASYNC110 - a timer of the thing under test ends it
            await asyncio.sleep(0.005)
    report = link.sent[1]
    assert (report.scores, report.errands) == ([("d", "judge", 0.5)], [Event(kind="errand.judge")])
    assert [lesson.decision for one in report.exchanges for lesson in lessons_of(one)] == [PASS]
    made.ask(1, b"{}", "shop")
    assert link.sent[2].asked == [(1, b"{}", "shop")]


async def test_all_scores_of_a_second_are_told() -> None:
    """However many there are, while the leader reads; while it does not, those that fit."""
    link = FullLink()
    made, _ = telling(link)
    for full in (False, True):
        link.full = full
        for n in range(2_500):
            made.score(f"{full}{n}", "abandoned", 1.0)
        link.full = False
        made.flush()
    found = [name for report in link.sent for name, _, _ in report.scores]
    assert found == [f"False{n}" for n in range(2_500)] + [f"True{n}" for n in range(1_000)]


async def test_without_a_leader_nothing_is_kept() -> None:
    """What happens then is counted, and memory stays what it is."""
    made, engine = telling(Link(lambda _body: None, lambda: None))
    for _ in range(3 * BATCH):
        settled = ended()
        engine.settle(settled.facts, settled.decision, settled.outcome, NOW)
        made.ended(settled)
    made.flush()
    assert made.lost == 3 * BATCH
    assert engine.lessons == []


async def test_a_worker_that_is_started_while_all_end_is_told_so() -> None:
    """An order that came before there was a connection is said again: nobody waits for it until the drain is over."""
    tasks = Tasks(lambda _name, _error: None)
    crew = Crew(replace(Settings(), workers=1), tasks, lambda _member, _report: None, lambda _member: None)
    starting = asyncio.ensure_future(crew.start())
    while not crew.members:  # noqa: ASYNC110 - it has a process from one step of the loop on, and a connection later
        await asyncio.sleep(0)
    crew.stop()
    try:
        async with asyncio.timeout(20.0):
            await starting
            while crew.alive:
                crew.changed.clear()
                await crew.changed.wait()
    finally:
        crew.kill()
        await tasks.close(1.0)
    assert crew.restarts == 0


async def test_a_worker_without_a_connection_is_not_left_behind() -> None:
    """Its socket is closed and its process is still there when the leader ends."""
    tasks, gone = Tasks(lambda _name, _error: None), list[Member]()
    crew = Crew(replace(Settings(), workers=1), tasks, lambda _member, _report: None, gone.append)
    await crew.start()
    link = crew.members[0].link
    assert link is not None
    link.close()
    async with asyncio.timeout(5.0):
        await link.lost.wait()
    assert (len(gone), len(crew.members), crew.alive) == (1, 0, 1)
    crew.kill()
    assert gone[0].process is not None
    assert gone[0].process.returncode is not None
    await tasks.close(1.0)


async def test_orders_that_cannot_be_obeyed_end_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours is counted; the turn is confirmed, else no lease would ever come again, and an order to end holds."""
    link = FullLink()
    link.full = False
    worker = Worker(Hello(0, 1, Settings(), offset_s()), link)

    def fault(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(worker.engine, "hear", fault)
    worker.on_message(frame(Orders(turn=7, stop=1))[4:])
    assert (link.sent[-1].turn, link.sent[-1].books.bugs) == (7, 1)
    assert worker._stopping.is_set()
    worker._asking[1] = fault
    monkeypatch.setattr(worker.tasks, "spawn", lambda reading, _name: (reading.close(), fault()))
    worker.on_message(frame(Orders(turn=8, answers=[(1, 202, b"")], written=Written("", Path("p"))))[4:])
    assert (link.sent[-1].turn, link.sent[-1].books.bugs, len(worker._orders)) == (8, 4, 0)
    with monkeypatch.context() as patch:
        patch.setattr(link, "send", fault)
        worker.on_message(frame(Orders(turn=9))[4:])
    worker.telling.flush()  # as every second
    assert link.sent[-1].turn == 9


async def test_a_worker_goes_on_while_it_reads_a_policy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What was said behind the policy waits for it and is obeyed in order; answers and the end wait for nothing."""
    link, go, heard, answers = FullLink(), threading.Event(), list[str](), list[int]()
    link.full = False
    worker = Worker(Hello(0, 1, Settings(), offset_s()), link)

    def slow(*of: Any) -> Loaded:
        assert go.wait(60.0)
        if not heard:
            raise ZeroDivisionError
        return load_written(*of)

    monkeypatch.setattr("sidecar.workers.worker.load_written", slow)
    monkeypatch.setattr(worker.engine, "hear", lambda unbound, _bound: heard.append(f"{unbound} {worker._wanted}"))
    loaded = load_text("version: 1\nroutes: []\n", tmp_path / "p.yaml", {})
    worker._asking[1] = lambda status, _body: answers.append(status)
    for turn, version in ((1, "bad"), (2, loaded.policy.version)):
        worker.on_message(frame(Orders(turn=turn, policy=version, written=loaded.written, unbound=[f"r{turn}"]))[4:])
    worker.on_message(frame(Orders(unbound=["r3"], answers=[(1, 202, b"")], stop=DRAIN))[4:])
    assert (answers, heard, worker._stopping.is_set()) == ([202], [], True)
    go.set()
    async with asyncio.timeout(20.0):
        while len(heard) < 3:  # noqa: ASYNC110 - a thread of the thing under test ends it
            await asyncio.sleep(0.005)
    assert heard == ["['r1'] bad", *(f"['{who}'] {loaded.policy.version}" for who in ("r2", "r3"))]
    assert (worker.engine.policy.version, link.sent[-1].turn) == (loaded.policy.version, 2)
    assert worker.plane.books.bugs == 1


async def test_a_worker_reads_again_what_it_could_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """No task or no thread was to be had: its leader says a policy once, and behind its first nothing would serve."""
    link, loaded = FullLink(), load_text("version: 1\nroutes: []\n", Path("p.yaml"), {})
    link.full = False
    worker = Worker(Hello(0, 1, Settings(), offset_s()), link)
    leader = Leader(loaded.policy, np.random.default_rng(3), steady())
    start, spawn = threading.Thread.start, worker.tasks.spawn

    def none_left(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    async def settled() -> None:
        async with asyncio.timeout(20.0):
            while worker._orders:  # noqa: ASYNC110 - a thread of the thing under test ends it
                await asyncio.sleep(0.005)

    monkeypatch.setattr(worker.tasks, "spawn", lambda reading, _name: (reading.close(), none_left()))
    orders = Orders(turn=1, policy=loaded.policy.version, written=loaded.written, stand=leader.stand())
    worker.on_message(frame(orders)[4:])
    assert (link.sent[-1].turn, worker._ordered.is_set()) == (1, False)
    monkeypatch.setattr(worker.tasks, "spawn", spawn)
    for started, expected in ((none_left, False), (start, True)):
        monkeypatch.setattr(threading.Thread, "start", started)
        worker._poll_policy()
        await settled()
        assert worker._ordered.is_set() == expected
    assert (worker.engine.policy.version, worker._followed) == (loaded.policy.version, leader.stand())
    worker._poll_policy()
    assert (worker._notes(), len(worker._orders), worker.plane.books.bugs) == ([], 0, 2)


async def test_a_worker_follows_what_is_said_of_its_own_policy_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the leader said of the policy before is not taken over again with the next one: it costs as much as to apply."""
    link, followed = FullLink(), list[bytes]()
    link.full = False
    worker = Worker(Hello(0, 1, Settings(), offset_s()), link)
    follow = worker.engine.follow

    def listening(stand: bytes, now: float) -> list[Event]:
        followed.append(stand)
        return follow(stand, now)

    monkeypatch.setattr(worker.engine, "follow", listening)
    leader, said = Leader(NO_POLICY, np.random.default_rng(3), steady()), list[bytes]()
    for turn in (1, 2):
        route = f"{{name: r{turn}, match: {{models: [m]}}, mode: observe, baseline: {{id: a, upstream: o, model: m}}}}"
        text = f'version: 1\nupstreams: {{o: {{dialect: openai, base_url: "http://h"}}}}\nroutes: [{route}]\n'
        loaded = load_text(text, Path("p.yaml"), {})
        leader.apply(loaded.policy, steady())
        said.append(leader.stand())
        orders = Orders(turn=turn, policy=loaded.policy.version, written=loaded.written, stand=said[-1])
        worker.on_message(frame(orders)[4:])
        async with asyncio.timeout(20.0):
            while not link.sent or link.sent[-1].turn < turn:  # noqa: ASYNC110 - a thread of the thing under test ends it
                await asyncio.sleep(0.005)
    assert worker.engine.policy.version == leader.policy.version
    assert followed == said


async def test_a_worker_that_ends_tells_all_to_a_leader_that_is_behind() -> None:
    """It has megabytes to read first: the last calls have their rows, and what they cost is booked."""
    pair = Pair()
    await pair.open()
    worker = Worker(Hello(0, 1, Settings(), offset_s()), pair.first)
    leader = pair.second._transport
    assert leader is not None
    leader.pause_reading()
    worker.telling.ask(1, bytes(FULL_BYTES + 2**20), "shop")
    worker.telling.ended(ended())
    asyncio.get_running_loop().call_soon(leader.resume_reading)
    await worker._close()
    assert worker.telling.lost == 0
    assert sum(len(read_report(body).exchanges) for body in pair.got) == 1


async def test_a_worker_waits_for_its_ca_file(tmp_path: Path) -> None:
    """It does not end, and does not serve before it can: the others do."""
    link, ca_file = FullLink(), tmp_path / "ca.pem"
    link.full = False
    worker = Worker(Hello(0, 1, replace(Settings(), ca_file=ca_file), offset_s()), link)
    stand = Leader(NO_POLICY, np.random.default_rng(3), steady()).stand()
    worker.on_message(frame(Orders(turn=1, policy=NO_POLICY.version, stand=stand))[4:])
    assert (link.sent[-1].turn, link.sent[-1].books.bugs, worker._ordered.is_set()) == (1, 0, False)
    [note] = worker._notes()
    assert f"ca_file {ca_file}" in note
    trustme.CA().cert_pem.write_to_path(str(ca_file))
    worker._poll_policy()
    assert (worker._notes(), worker._ordered.is_set(), worker._followed) == ([], True, stand)


async def test_a_rollback_and_a_budget_wait_for_no_ca_file(tmp_path: Path) -> None:
    """A worker that cannot put the leader's policy in force obeys them by the one that it has."""
    link, leader = FullLink(), Leader(NO_POLICY, np.random.default_rng(3), steady())
    link.full = False
    worker = Worker(Hello(0, 1, Settings(), offset_s()), link)
    leader.welcome(0)
    route = (
        "{name: r, match: {models: [m]}, mode: canary, baseline: {id: m, upstream: o, model: m}, budget: {daily_usd: 1},"
        " arms: [{id: n, upstream: o, model: n}], rollout: {steps: [50, 100]}}"
    )
    other = f', p: {{dialect: openai, base_url: "https://p", ca_file: {tmp_path / "ca.pem"}}}'
    for turn, more in enumerate(("", other), 1):
        text = f'version: 1\nupstreams: {{o: {{dialect: openai, base_url: "http://h"}}{more}}}\nroutes: [{route}]\n'
        loaded = load_text(text, Path("p.yaml"), {})
        leader.apply(loaded.policy, steady())
        if more:
            leader.rollback("r", steady())
            leader.charge("r", 10**8, steady())
        said = Orders(turn, loaded.policy.version, loaded.written, leader.stand(), leases=leader.leases(0, steady()))
        worker.on_message(frame(said)[4:])
        async with asyncio.timeout(20.0):
            while not link.sent or link.sent[-1].turn < turn:  # noqa: ASYNC110 - a thread of the thing under test ends it
                await asyncio.sleep(0.005)
    [state] = worker.engine.routes
    assert (worker._refused != "", worker.engine.policy.version == leader.policy.version) == (True, False)
    assert (state.staging.arm, worker.engine.spending["r"]) == ("", (0, 9 * 10**8))


async def test_a_policy_that_the_engine_did_not_take_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours, told once: the policy before serves, with its upstreams; what else was ordered is obeyed."""
    link, leader = FullLink(), Leader(NO_POLICY, np.random.default_rng(3), steady())
    link.full = False
    worker = Worker(Hello(0, 1, Settings(), offset_s()), link)
    apply, freed = worker.engine.apply, list[str]()

    def fault(*_: object) -> list[Event]:
        raise ZeroDivisionError

    monkeypatch.setattr(worker.engine, "hear", lambda unbound, _bound: freed.extend(unbound))
    for turn, name in enumerate("op", 1):
        route = f"{{name: r, match: {{models: [m]}}, mode: observe, baseline: {{id: m, upstream: {name}, model: m}}}}"
        text = f'version: 1\nupstreams: {{{name}: {{dialect: openai, base_url: "http://h"}}}}\nroutes: [{route}]\n'
        loaded = load_text(text, Path("p.yaml"), {})
        leader.apply(loaded.policy, steady())
        said = Orders(turn, loaded.policy.version, loaded.written, leader.stand(), unbound=[f"r/{name}"])
        worker.on_message(frame(said)[4:])
        async with asyncio.timeout(20.0):
            while not link.sent or link.sent[-1].turn < turn:  # noqa: ASYNC110 - a thread of the thing under test ends it
                await asyncio.sleep(0.005)
        monkeypatch.setattr(worker.engine, "apply", fault)
    looks = list[str]()
    monkeypatch.setattr(worker.traffic, "look_around", lambda: looks.extend(worker.plane.origins))
    worker._poll_policy()
    assert looks == ["o"], "what a cascade may ask is known of the policy that stays"
    assert (freed, worker.plane.books.bugs, list(worker.plane.origins)) == (["r/o", "r/p"], 1, ["o"])
    assert "ZeroDivisionError" in worker._notes()[0]
    monkeypatch.setattr(worker.engine, "apply", apply)
    worker._poll_policy()
    assert (worker._notes(), list(worker.plane.origins), worker._followed) == ([], ["p"], leader.stand())
    assert worker.engine.policy.version == leader.policy.version


def test_what_several_workers_counted_is_added_up() -> None:
    """By name, and by label where there are labels."""
    assert add({"a": 1, "b": {"c": 2}}, {"a": 2, "b": {"c": 1, "d": 5}, "e": {"f": 1}}) == {
        "a": 3,
        "b": {"c": 3, "d": 5},
        "e": {"f": 1},
    }
    assert summed([1.0, 2.0]) == 3.0
    assert summed([[(("x",), 1.0)], [(("x",), 2.0), (("y",), 1.0)]]) == {("x",): 3.0, ("y",): 1.0}


def test_each_worker_has_its_part_of_what_bounds_the_process() -> None:
    """Streams, connections, bytes and memory; what judges and shadows may spend."""
    settings = Settings(workers=3, max_streams=100, memory_limit_bytes=400 * 2**20, max_buffered_bytes=9 * 2**20)
    each = divided(settings)
    assert (each.max_streams, each.memory_limit_bytes, each.max_buffered_bytes) == (34, 100 * 2**20, 8 * 2**20)
    judge, shadow = Judge("openai", "m", daily_nusd=900, per_minute=2), Shadow("mini", daily_nusd=90, per_minute=60)
    made = policy(replace(ROUTE, quality=Quality(judge=judge), shadow=shadow))
    [route] = divided_policy(made, 3).routes
    assert route.quality.judge == replace(judge, daily_nusd=300, per_minute=1)
    assert route.shadow == replace(shadow, daily_nusd=30, per_minute=20)
    assert divided_policy(policy(), 3) == policy()
