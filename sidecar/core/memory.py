"""The engine's state as JSON, and back: what a restart must not forget.

    {"version": 1, "ledger": {...},
     "routes": {name: {"arms": {arm: digest}, "ledger", "spend", "beliefs": {arm: {...}}, "staging", ...}},
     "bindings": [[owner, arm, propensity, [keys]]]}

Kept: spending, token histories, posteriors, rollouts with their evidence, experiments with the units that they counted,
thresholds with their windows (some seconds old; their slots know their times), what drift and anomalies learnt, tuned
parameters, and the MAX_BINDINGS youngest conversations. Left out: key counts (minutes old, they mean nothing after a
restart), reservations (their calls died), cached vectors. What is known of an arm is kept with a digest of its upstream,
model and params, so that a changed arm does not inherit it; conversations of an arm that changed, or whose rollout begins
again, are free. What belongs to a route that the policy does not have is kept as it is until the route returns: a policy
that is broken for a moment must not undo a rollback or open a budget.

**Each part stands alone.** A part is read into a copy first, numbers are checked (finite, at most LARGEST; not finite is
null in JSON), and only then it is taken over. A part that cannot be read is left as it is, at a start: new; an event
`state.ignored` names it, and all others are taken over. Only what is no snapshot at all, or one of another version, is
refused as a whole.

What it does not know: whether numbers that can be are true.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any, Final

import orjson

from sidecar.core.budget import Ledger
from sidecar.core.constraint import Promise
from sidecar.core.learnt import restore, state_of
from sidecar.core.rollout import Phase
from sidecar.core.route import RouteState
from sidecar.core.selector import Selector
from sidecar.core.spend import ArmSpend, Spend
from sidecar.core.staging import arm_digest
from sidecar.core.sticky import Binding, Sticky, salt_of
from sidecar.core.thresholds import end_stored
from sidecar.core.trial import left_behind, trial_of
from sidecar.core.types import MOST_SUM, Event

VERSION: Final = 1
UNREADABLE: Final = (ValueError, TypeError, KeyError, AttributeError, IndexError, ArithmeticError)  # a broken part
LARGEST: Final = float(MOST_SUM)  # nano-dollars, tokens, seconds
LARGEST_EVIDENCE: Final = 1e101  # wealth of tests is cut at 1e100
_KEYS: Final = 2**64 - 1
# 0..32,768; about 100 kB of JSON: more makes a snapshot hold the loop, fewer switch models at restarts
MAX_BINDINGS: Final = 4_096

Part = dict[str, Any]  # what the snapshot holds of one route
Known = dict[str, object]  # by route: its part of the snapshot that was taken over last
Resumed = set[tuple[str | None, str | None]]  # (route, arm) of rollouts that go on, or wait: no start of them is news
Read = Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What `load` found besides the parts that it filled."""

    events: list[Event]
    absent: dict[str, Part]  # of routes that are not there
    resumed: Resumed


# ---- writing


def dump(ledger: Ledger, routes: Sequence[RouteState], bindings: bytes, absent: Mapping[str, Part]) -> bytes:
    """The snapshot of these parts, of `bindings` (what `pack` made) and of `absent` routes as they were."""
    return orjson.dumps(
        {
            "version": VERSION,
            "ledger": ledger.to_state(),
            "routes": {**absent, **{state.route.name: _route(state) for state in routes}},
            "bindings": orjson.Fragment(bindings),
        }
    )


def stand(ledger: Ledger, routes: Sequence[RouteState], parts: int) -> bytes:
    """A snapshot for `parts` processes that decide and do not learn: without conversations, of what is watched only what is
    tuned, and with an equal part of what calls saved under a ceiling on their mean. A tenth of the whole."""
    told = {}
    for state in routes:
        part, tuner = _route(state), state.watch.tuner
        part.pop("watch", None)
        part["ledger"] = state.ledger.to_state() | {"saved_nusd": state.ledger.savings.nusd / parts}
        told[state.route.name] = part if tuner is None else part | {"watch": {"tuning": tuner.to_state()}}
    return orjson.dumps({"version": VERSION, "ledger": ledger.to_state(), "routes": told, "bindings": []})


def part_of(state: RouteState) -> Part:
    """What a snapshot would hold of this route."""
    part: Part = orjson.loads(orjson.dumps(_route(state)))
    return part


def pack(sticky: Sticky) -> bytes:
    """The youngest conversations as JSON, youngest first, keys that share an assignment together."""
    groups: dict[tuple[str, str, float], list[int]] = {}
    for key, binding in sticky.youngest(MAX_BINDINGS):
        groups.setdefault((binding.owner, binding.arm, binding.propensity), []).append(key)
    return orjson.dumps([(*assignment, keys) for assignment, keys in groups.items()])


def _route(state: RouteState) -> dict[str, object]:
    digests = {name: arm_digest(arm) for name, arm in state.arms.items()}
    return {
        "arms": digests,
        "ledger": state.ledger.to_state(),
        "spend": state.spend.to_state(),
        "beliefs": {arm: {"digest": digests[arm], **belief} for arm, belief in state_of(state.selector).items()},
        "prices": {"quality": state.selector.price, "money": state.selector.money},  # for `explain`; never restored
        "promise": {"baseline": state.selector.baseline, **state.selector.promise.to_state()},
        "staging": state.staging.to_state(),
        **({} if state.trial is None else {"experiment": state.trial.experiment.to_state()}),
        "thresholds": state.thresholds.to_state(),
        **({"watch": state.watch.to_state()} if state.watch.active else {}),
    }


def without(text: bytes, key: int) -> bytes:
    """A snapshot without the conversation of this key: not its arm in any route, nor how its newest call ended.

    What it taught stays, and so does 32 bits of the key in an experiment that counted it. Raises one of UNREADABLE when the
    text is no snapshot, of whatever version.
    """
    state = orjson.loads(text)
    free = {key ^ salt_of(name) for name in state["routes"]}
    state["bindings"] = [
        (*assignment, [one for one in keys if one not in free]) for *assignment, keys in state["bindings"]
    ]
    for part in state["routes"].values():
        free_unit(part, key)
    return orjson.dumps(state)


def free_unit(part: object, key: int) -> None:
    """Takes the unit out of what a snapshot holds of one route, as far as it can be read."""
    match part:
        case {"staging": {"brake": dict(brake)}}:
            for ends in brake.values():
                match ends:
                    case [_, _, list(units)]:
                        units[:] = [unit for unit in units if not (isinstance(unit, list) and unit[:1] == [key])]


# ---- reading


def version_of(text: bytes) -> int | None:
    """The version of a snapshot; None when it is none."""
    try:
        found = orjson.loads(text)["version"]
    except UNREADABLE:
        return None
    return found if isinstance(found, int) else None


def load(
    text: bytes, ledger: Ledger, routes: Sequence[RouteState], sticky: Sticky, now: float, known: Known | None = None
) -> Loaded:
    """Fills these parts from a snapshot; what cannot be read is named in an event and stays as it is. With `known`, so do
    routes of which it says nothing else than when they were put there.

    Raises one of UNREADABLE, and nothing has changed, when it is no snapshot of this version.
    """
    state = orjson.loads(text)
    if not isinstance(state, dict):
        raise TypeError("a snapshot is a JSON object")
    if state["version"] != VERSION:
        raise ValueError(f"snapshot version {state['version']!r}, this program reads version {VERSION}")
    reading = _Reading("")
    reading.ledger(state, ledger, now)
    reading.bindings(state, sticky)
    found = state.get("routes")
    if not isinstance(found, dict):
        reading.lose("routes", TypeError("no table of routes"))
        found = {}
    absent, resumed, events = dict[str, Part](found), Resumed(), reading.events
    for route in routes:
        name = route.route.name
        if name in absent:
            part = absent.pop(name)
            if known is not None and known.get(name) == part:
                continue
            told, going_on = claim(route, part, now)
            if known is not None:
                known[name] = part
            events += told
            resumed |= going_on
    for name, part in absent.items() if known is None else ():
        events += end_stored(name, part.get("thresholds") if isinstance(part, dict) else None)
    restored = {"routes": len(found) - len(absent), "bindings": len(sticky)}
    return Loaded([*events, Event(kind="state.restored", detail=restored)], absent, resumed)


def claim(state: RouteState, kept: object, now: float) -> tuple[list[Event], Resumed]:
    """Gives a route what a snapshot holds of it, part by part. Answers what there is to tell, with an event for each part
    that could not be read, and (route, arm) of the rollouts that go on or wait."""
    reading = _Reading(state.route.name)
    if not isinstance(kept, dict):
        reading.lose("all parts", TypeError("no table of parts"))
        return reading.events, set()
    digests = reading.digests(kept)
    same = [arm for arm, one in state.arms.items() if digests.get(arm) == arm_digest(one)]
    reading.ledger(kept, state.ledger, now)
    reading.beliefs(kept, state, same)
    reading.take("spend", kept, [lambda one: _spend(Spend(), one, same), lambda one: _spend(state.spend, one, same)])
    reading.promise(kept, state, same)
    state.reprice()
    state.selector.touch()
    reading.each("thresholds", kept, lambda one: reading.thresholds(one, state, now))
    state.diversion.forget(state.thresholds.diversions)
    reading.each("watch", kept, lambda one: state.watch.restore(one, same, now))
    reading.experiment(kept, state)
    resumed = reading.staging(kept, state, same, now)
    changed, anew = (digests.keys() | state.arms.keys()) - set(same), state.staging.rollouts.keys() - resumed
    state.staging.credit(state.labels, anew)
    for arm in sorted(changed | anew):
        state.sticky.unbind(f"{state.route.name}/{arm}")
        reading.events += state.thresholds.begin(arm, now)
    waiting = {arm for arm, one in state.staging.rollouts.items() if one.phase is Phase.PENDING}
    return reading.events, {(state.route.name, arm) for arm in resumed | waiting}


class _Reading:
    """Takes the parts of one route (or, without a name, of the service) over; `events` says what there is to tell."""

    def __init__(self, route: str) -> None:
        self.route = route
        self.events: list[Event] = []

    def take(self, key: str, kept: Part, reads: Sequence[Read], largest: float = LARGEST, part: str = "") -> bool:
        """Gives `kept[key]` to each of `reads` in turn, the last of which takes it over; whether it came so far."""
        try:
            one = kept[key]
            check(one, largest)
            for read in reads:
                read(one)
        except UNREADABLE as error:
            self.lose(part or key, error)
            return False
        return True

    def each(self, key: str, kept: Part, read: Callable[[Part], dict[str, str]]) -> None:
        """As `take`, for what may be absent and whose own parts stand alone: `read` names those that do not, and why."""
        lost: dict[str, str] = {}
        if key in kept and self.take(key, kept, [_table, lambda one: lost.update(read(one))], LARGEST_EVIDENCE):
            for name, why in lost.items():
                self.lose(f"{key}.{name}", ValueError(why))

    def lose(self, part: str, why: Exception) -> None:
        """Tells of a part that could not be read."""
        where = f"{part} of route {self.route}" if self.route else part
        text = f"state not taken over: {where} begins anew: {type(why).__name__}: {why}"
        event = Event(kind="state.ignored", severity="high", route=self.route, message=text, detail={"part": part})
        self.events.append(event)

    def digests(self, kept: Part) -> dict[str, object]:
        """What the arms were when the snapshot was made. Older ones say it with the beliefs only."""
        known: dict[str, object] = {}
        match kept.get("beliefs"):
            case dict() as beliefs:
                known = {arm: one.get("digest") for arm, one in beliefs.items() if isinstance(one, dict)}
            case _:
                pass
        if "arms" in kept:
            self.take("arms", kept, [_texts, known.update])
        return known

    def ledger(self, kept: Part, ledger: Ledger, now: float) -> None:
        """What was spent; the sliding window of a budget for itself."""

        def read(into: Ledger, one: Part) -> None:
            if min(int(one["day_nusd"]), int(one["month_nusd"])) < 0:
                raise ValueError("spending below 0")
            into.restore({name: value for name, value in one.items() if name != "window"}, now)

        def whole(into: Ledger) -> None:
            into.restore(kept["ledger"], now)

        copy = Ledger(now, ledger.budget)
        taken = self.take("ledger", kept, [lambda one: read(copy, one), lambda one: read(ledger, one)])
        if taken and "window" in kept["ledger"]:
            reads: list[Read] = [_pair, lambda _: whole(copy), lambda _: whole(ledger)]
            self.take("window", kept["ledger"], reads, part="ledger.window")

    def beliefs(self, kept: Part, state: RouteState, same: Sequence[str]) -> None:
        """What is known of arms that are the same, each for itself."""
        found = kept.get("beliefs")
        if not isinstance(found, dict):
            self.lose("beliefs", TypeError("no table of arms"))
            return
        copy = Selector(state.selector.arms, state.route.objective)
        for arm in same:
            reads: list[Read] = [partial(restore, copy, arm), partial(restore, state.selector, arm)]
            self.take(arm, found, reads, part=f"beliefs.{arm}")

    def promise(self, kept: Part, state: RouteState, same: Sequence[str]) -> None:
        """The books of the promise. The reference begins anew, with what is known of the baseline, where that is another
        one now, or none was kept: older snapshots have two sums of scores, or no promise at all."""
        selector = state.selector
        taken: list[Promise] = []
        if "promise" in kept:
            self.take("promise", kept, [lambda one: taken.append(_promise(one))])
        selector.promise = taken[0] if taken else Promise()
        match kept.get("promise"):
            case {"baseline": selector.baseline} if taken and selector.baseline in same:
                pass
            case _:
                selector.measure_baseline()

    def experiment(self, kept: Part, state: RouteState) -> None:
        """The comparison under way, if it is still the route's; another one is over."""
        if "experiment" not in kept:
            return
        copy, reads = trial_of(state.route, state.sticky, state.salt), list[Read]([_table])
        if state.trial is not None and copy is not None:
            reads += [copy.experiment.restore, state.trial.experiment.restore]
        if self.take("experiment", kept, reads, LARGEST_EVIDENCE):
            now = None if state.trial is None else state.trial.experiment.id
            self.events += left_behind(self.route, kept["experiment"], now)

    def thresholds(self, one: Part, state: RouteState, now: float) -> dict[str, str]:
        """Levels and windows of those that are what they were; what was breached of others is over."""
        self.events += state.thresholds.left_behind(one)
        return state.thresholds.restore(one, now)

    def staging(self, kept: Part, state: RouteState, same: Sequence[str], now: float) -> set[str]:
        """The rollouts; the arms whose rollouts go on."""
        found: list[tuple[list[Event], set[str]]] = []
        reads: list[Read] = [lambda one: found.append(state.staging.restore(one, now, same))]
        if not self.take("staging", kept, reads, LARGEST_EVIDENCE):
            return set()
        events, resumed = found[0]
        self.events += events
        return resumed

    def bindings(self, kept: Part, sticky: Sticky) -> None:
        """The conversations, oldest first; groups that cannot be read are left out."""
        groups, broken = kept.get("bindings"), list[Exception]()
        for group in reversed(groups) if isinstance(groups, list) else ():
            try:
                _bind(sticky, *group)
            except UNREADABLE as error:
                broken.append(error)
        if not isinstance(groups, list):
            self.lose("bindings", TypeError("no list of conversations"))
        elif broken:
            self.lose("bindings", broken[0])


def check(value: object, largest: float = LARGEST) -> None:
    """Raises ValueError when a number in these JSON values is not finite or larger than `largest`."""
    left = [value]
    while left:
        match left.pop():
            case bool():
                pass
            case int() | float() as number if not (isfinite(number) and abs(number) <= largest):
                raise ValueError(f"a number beyond {largest:g}")
            case list() as some:
                left += some
            case dict() as table:
                left += table.values()
            case _:
                pass


def _table(one: object) -> None:
    if not isinstance(one, dict):
        raise TypeError("no table")


def _texts(one: Part) -> None:
    if not all(isinstance(digest, str) for digest in one.values()):
        raise TypeError("a digest that is no text")


def _pair(one: object) -> None:
    if not (isinstance(one, list) and len(one) == 2 and isinstance(one[1], list)):
        raise TypeError("no window")


def _bind(sticky: Sticky, owner: object, arm: object, propensity: float, keys: Sequence[object]) -> None:
    if not (isinstance(owner, str) and isinstance(arm, str) and 0.0 < propensity <= 1.0):
        raise ValueError("no assignment")
    binding = Binding(owner, arm, float(propensity), sticky.generation(owner))
    known = [key for key in keys if isinstance(key, int) and 0 <= key <= _KEYS]
    for key in known:
        sticky.bind(key, binding)
    if len(known) < len(keys):
        raise ValueError("a key that is none")


def _spend(spend: Spend, one: Part, same: Iterable[str]) -> None:
    """Gives `spend` the histories of these arms; it gets an arm that it does not have (a copy begins without any)."""
    total = [int(number) for number in one["total"]]
    rows = {arm: [float(number) for number in one["arms"][arm]] for arm in same if arm in one["arms"]}
    if min(total) < 0 or min((min(row) for row in rows.values()), default=0.0) < 0.0:
        raise ValueError("counts below 0")
    for arm in rows:
        spend.arms.setdefault(arm, ArmSpend())
    spend.restore(total, rows)


def _promise(one: Part | Sequence[float]) -> Promise:
    made = Promise()
    made.restore(one if isinstance(one, dict) else {"sums": one, "tasks": {}, "later": None, "look": 0.0})
    return made
