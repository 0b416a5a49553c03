"""A campaign of faults: a real sidecar, a real simulated provider, a relay on each side, and exchanges by plan.

`run` gives a `Told`: what each exchange came to, every broken promise, and the books. They balance when the metrics, the
status of the admin port and the rows of the database say the same, and say of every exchange what its client saw; and when
nothing is left open afterwards: descriptors, tasks, pool slots, bytes.
"""

import asyncio
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep
from typing import Any

from sidecar.clock import monotonic
from tests.e2e import fault_stack
from tests.e2e.fault_client import Caller
from tests.e2e.fault_judge import Seen, judge
from tests.e2e.fault_plan import LONG_S, Plan, chains, flood, plan
from tests.e2e.fault_row import judge_row
from tests.e2e.process import Sidecar
from tests.fixtures.answers import is_whole
from tests.fixtures.relay import Passage, Relay, Toxic

TOLD_S = LONG_S + 1.0  # for every leg to end when one has: 0.1 s is promised; a stalled relay needs the rest
LATE_S = 0.1  # as promised, from a client's leaving to the end of its upstream's connection; half of them keep it
REST_S = 15.0  # for everything to close and to be written after the last exchange
_PAUSE_S = 0.5
_GLANCE_S = 0.005
_COUNTED = re.compile(
    r"^llm_sidecar_(accepted|requests|shed)_total"
    r"(?:\{.*?(?:outcome|cause)=\"(completed|failed|aborted|overload)\".*\})? (\S+)$",
    re.MULTILINE,
)
CONCURRENCY = 24


@dataclass(slots=True)
class Books:
    """What was counted, three times."""

    metrics: Counter[str]
    status: Counter[str]
    rows: Counter[str]
    accepted: int
    rest: dict[str, float]  # what is open afterwards, and may not be


@dataclass(slots=True)
class Told:
    """What a campaign came to."""

    seed: int
    ends: dict[str, Counter[str]] = field(default_factory=dict)  # by toxic: how its exchanges ended
    met: Counter[str] = field(default_factory=Counter)  # by toxic: exchanges to which it came to pass
    broken: list[str] = field(default_factory=list)
    books: Books | None = None
    exchanges: int = 0
    closed_s: list[float] = field(default_factory=list)  # sorted: how soon upstreams learnt that a client had left
    took_s: float = 0.0


class Campaign:
    """One run of some plans against one sidecar."""

    def __init__(self, seed: int, *, progress: bool = False, workers: int = 1) -> None:
        """With `workers` the sidecar is a leader and so many processes that carry the traffic."""
        self.told = Told(seed)
        self._progress = progress
        self._workers = workers
        self._seen: list[Seen] = []

    async def run(self, folder: Path, numbers: Sequence[int], concurrency: int = CONCURRENCY) -> Told:
        """Runs these exchanges; the sidecar has to end with status 0."""
        begun = monotonic()
        with fault_stack.provider(folder) as provider, fault_stack.refusing() as nobody:
            async with Relay(provider.port, self._upstream_toxics) as upstream:
                with fault_stack.sidecar(folder, upstream.port, nobody, self._workers) as sidecar:
                    async with Relay(sidecar.port, self._client_toxics) as near:
                        await self._all(sidecar, near, upstream, numbers, concurrency)
                    await self._stop(sidecar)
        self.told.took_s = monotonic() - begun
        return self.told

    async def _stop(self, sidecar: Sidecar) -> None:
        if await asyncio.to_thread(sidecar.stop):
            self.told.broken.append(f"the sidecar did not end well:\n{sidecar.output()[-2000:]}")
        if "Traceback" in sidecar.output() or '"level":"error"' in sidecar.output():
            self.told.broken.append(f"the sidecar's log has an error:\n{sidecar.output()[:3000]}")

    def _client_toxics(self, number: int, sighting: int) -> Sequence[Toxic]:
        return plan(self.told.seed, number).client if not sighting else ()

    def _upstream_toxics(self, number: int, sighting: int) -> Sequence[Toxic]:
        found = plan(self.told.seed, number)
        return found.upstream if sighting == found.spoiled else ()

    async def _all(
        self, sidecar: Sidecar, near: Relay, upstream: Relay, numbers: Sequence[int], concurrency: int
    ) -> None:
        await asyncio.to_thread(_establish, sidecar)
        rest = await asyncio.to_thread(_open, sidecar)
        rows = chains(self.told.seed, numbers)
        rows.reverse()
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(rows))):
                group.create_task(self._work(rows, near, upstream))
        if len(numbers) > 1:
            async with asyncio.TaskGroup() as group:
                for one in flood(self.told.seed):
                    group.create_task(self._work([[one]], near, upstream))
            if not any(seen.own == "overloaded" for seen in self._seen):
                self.told.broken.append("more calls than there is room for, and none was shed")
        self.told.exchanges = len(self._seen)
        self.told.closed_s = sorted(seen.closed_s for seen in self._seen if seen.closed_s is not None)
        late_s = self.told.closed_s[len(self.told.closed_s) // 2] if self.told.closed_s else 0.0
        if len(self.told.closed_s) >= 10 and late_s > LATE_S:
            self.told.broken.append(f"half of the upstreams learnt later than {late_s:.2f} s that a client had left")
        await self._settled(sidecar, upstream, rest)

    async def _work(self, rows: list[list[Plan]], near: Relay, upstream: Relay) -> None:
        while rows:
            caller = Caller(near.port, lambda one: one.number in near.passages)
            for one in rows.pop():
                view = await caller.call(one)
                calls = upstream.passages
                await _quiet(lambda: _is_over(near.passages.get(one.number, []), calls.get(one.number, [])))  # noqa: B023
                client = near.passages.pop(one.number, [None])[0]
                seen = judge(one, client, calls.get(one.number, []), view)
                if client is not None and not _is_over([client], calls.pop(one.number, [])):
                    seen.broken.append(f"a connection is still open {TOLD_S} s after the end")
                self._seen.append(seen)
                self._fault(seen, seen.broken)
                if self._progress and len(self._seen) % 500 == 0:
                    sys.stderr.write(f"{len(self._seen)} exchanges, {len(self.told.broken)} broken promises\n")
            await caller.close()

    def _fault(self, seen: Seen, broken: Sequence[str]) -> None:
        self.told.broken += [f"{what}\n    {seen.plan.told}" for what in broken]

    async def _settled(self, sidecar: Sidecar, upstream: Relay, rest: dict[str, float]) -> None:
        """Waits until all is closed, then opens the books."""
        broken: list[str] = []
        until = monotonic() + REST_S
        while True:
            self.told.books, rows = await asyncio.to_thread(_books, sidecar, rest)
            broken = _unbalanced(self.told.books)
            if not broken or monotonic() > until:
                break
            await asyncio.sleep(_PAUSE_S)
        self.told.broken += broken
        for seen in self._seen:
            seen.heard(upstream.passages.get(seen.plan.number, ()))
        self._rows(rows)

    def _rows(self, rows: Sequence[dict[str, Any]]) -> None:
        """Holds each exchange against its row."""
        by_id = {row["id"]: row for row in rows}
        by_model = {row["requested_model"]: row for row in rows}
        for seen in self._seen:
            row = by_id.get(seen.decision) or by_model.get(seen.plan.model)
            if row is not None and seen.decision not in ("", row["id"]):
                self._fault(seen, [f"its client was told of decision {seen.decision}, which no row has"])
            if row is not None and not seen.plan.shape.twice:
                self._fault(seen, judge_row(seen, row))
            elif seen.decision and row is None and seen.own != "overloaded":
                self._fault(seen, ["it has no row"])
            end = ("shed" if seen.own == "overloaded" else "turned away") if row is None else row["outcome"]
            end += f" {row['error']}" if row is not None and row["outcome"] == "failed" else ""
            self.told.ends.setdefault(seen.plan.what, Counter())[end] += 1
            self.told.met[seen.plan.what] += seen.met and bool(seen.plan.client or seen.plan.upstream)


def _establish(sidecar: Sidecar) -> None:
    """The cascade's weak arm serves everybody: only arms that are established take part."""
    notes = [note for note in sidecar.ready()[1]["notes"] if note.startswith("policy not in force")]
    assert not notes, notes
    for _ in range(3):
        route = next(one for one in sidecar.admin("GET", "/api/v1/status")["routes"] if one["route"] == "climb")
        if all(one["phase"] == "promoted" for one in route["rollouts"]):
            return
        sidecar.admin("POST", "/api/v1/routes/climb/rollout", {"action": "promote"})


def _open(sidecar: Sidecar) -> dict[str, float]:
    """What the process holds now, each of which goes back to where it was."""
    load = sidecar.admin("GET", "/api/v1/status")["load"]
    pools = load["pools"].values()
    return {
        **{name: load[name] for name in ("exchanges", "tasks", "buffered_bytes", "waiting_bodies", "connections")},
        **{f"pool {name}": sum(pool[name] for pool in pools) for name in ("open", "idle", "waiting", "dialling")},
        **{name: sum(load[name].values()) for name in ("calls", "retries")},
        "descriptors": _descriptors(sidecar.process.pid),
        "bugs": load["books"]["bugs"],
    }


def _descriptors(pid: int) -> int:
    """The fewest of some looks: what is left open stays, the connection that has just asked for the status goes."""
    found = []
    for _ in range(5):
        found.append(len(list(Path(f"/proc/{pid}/fd").iterdir())))
        sleep(_GLANCE_S)
    return min(found)


async def _quiet(over: Callable[[], bool]) -> None:
    for _ in range(int(TOLD_S / _GLANCE_S)):
        if over():
            return
        await asyncio.sleep(_GLANCE_S)


def _is_over(near: Sequence[Passage], calls: Sequence[Passage]) -> bool:
    """Whether nothing more can happen to an exchange: its answer is whole, or all its connections have ended."""
    if not near:
        return False
    called = all(is_whole(one.went["down"]) or one.left["up"] or _is_cut(one) for one in calls)
    return called and all(is_whole(one.came["down"]) or one.left["down"] or _is_cut(one) for one in near)


def _is_cut(one: Passage) -> bool:
    """The relay ended both sides, or one was reset."""
    return bool(one.told["down"] and one.told["up"]) or "reset" in (one.told["down"], one.told["up"])


def _books(sidecar: Sidecar, rest: dict[str, float]) -> tuple[Books, list[dict[str, Any]]]:
    """All books as they are now, and the rows. `rest` is what was open before."""
    now = _open(sidecar)
    left = {name: count - rest[name] for name, count in now.items() if count > rest[name]}
    status = sidecar.admin("GET", "/api/v1/status")["load"]["books"]
    rows = sidecar.decisions()
    counted: Counter[str] = Counter()
    for name, label, value in _COUNTED.findall(sidecar.metrics()):
        counted[label or name] += int(float(value))
    accepted = counted.pop("accepted")
    counted["shed"] = counted.pop("overload")
    ends = ("completed", "failed", "aborted", "shed")
    told = Counter(row["outcome"] for row in rows)
    return Books(+counted, +Counter({name: status[name] for name in ends}), told, accepted, left), rows


def _unbalanced(books: Books) -> list[str]:
    broken = []
    if sum(books.metrics.values()) != books.accepted:
        broken.append(f"{books.accepted} were accepted, but {dict(books.metrics)} ended")
    if books.metrics != books.status:
        broken.append(f"metrics say {dict(books.metrics)}, the status {dict(books.status)}")
    unshed = Counter({name: count for name, count in books.metrics.items() if name != "shed"})
    if unshed != books.rows:
        broken.append(f"metrics say {dict(unshed)}, the rows {dict(books.rows)}")
    if books.rest:
        broken.append(f"left open, more than at the start: {books.rest}")
    return broken
