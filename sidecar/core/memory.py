"""The engine's state as JSON, and back: what a restart must not forget.

    {"version": 1, "ledger": {...}, "routes": {name: {"ledger", "spend", "beliefs": {arm: {"digest", ...}}, "staging"}},
     "bindings": [[owner, arm, propensity, [keys]]]}

Kept: spending, token histories, posteriors, rollouts with their evidence, thresholds with their windows (some seconds
old; their slots know their times), what drift and anomalies learnt, tuned parameters, and the MAX_BINDINGS youngest
conversations. Left out: key counts (minutes old, they mean nothing after a restart), reservations (their calls died),
cached vectors. Beliefs are kept under a digest of the arm's upstream, model and params, so that a changed arm does not
inherit them; conversations of an arm that changed, or whose rollout begins again, are free. What belongs to a route
that the policy does not have is kept as it is until the route returns: a policy that is broken for a moment must not
undo a rollback or open a budget. Numbers that are not finite become null in JSON and are refused on the way back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from sidecar.core.budget import Ledger
from sidecar.core.learnt import restore, state_of
from sidecar.core.route import RouteState
from sidecar.core.staging import arm_digest
from sidecar.core.sticky import Binding, Sticky
from sidecar.core.types import Event

VERSION = 1
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError)  # what a broken state raises
MAX_BINDINGS = (
    4_096  # 0..32,768; about 100 kB of JSON: more makes a snapshot hold the loop, fewer switch models at restarts
)


Part = dict[str, Any]  # what the snapshot holds of one route


@dataclass(frozen=True, slots=True)
class Loaded:
    """What `load` found besides the parts that it filled."""

    events: list[Event]
    absent: dict[str, Part]  # of routes that are not there
    resumed: set[tuple[str | None, str | None]]  # (route, arm) of rollouts that go on


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


def load(text: bytes, ledger: Ledger, routes: Sequence[RouteState], sticky: Sticky, now: float) -> Loaded:
    """Fills these parts from a snapshot. Raises one of UNREADABLE when it cannot be read; the parts are then half
    filled and must be thrown away."""
    state: dict[str, Any] = orjson.loads(text)
    if state["version"] != VERSION:
        raise ValueError(f"snapshot version {state['version']!r}, this program reads version {VERSION}")
    ledger.restore(state["ledger"], now)
    for owner, arm, propensity, keys in reversed(state["bindings"]):
        binding = Binding(owner, arm, float(propensity), sticky.generation(owner))
        for key in keys:
            sticky.bind(int(key), binding)
    absent, events = dict[str, Part](state["routes"]), list[Event]()
    resumed: set[tuple[str | None, str | None]] = set()
    for route in routes:
        kept = absent.pop(route.route.name, None)
        if kept is not None:
            events += claim(route, kept, now)
            resumed |= going_on(route, kept)
    restored = {"routes": len(state["routes"]) - len(absent), "bindings": len(sticky)}
    return Loaded([*events, Event(kind="state.restored", detail=restored)], absent, resumed)


def part_of(state: RouteState) -> Part:
    """What a snapshot would hold of this route."""
    part: Part = orjson.loads(orjson.dumps(_route(state)))
    return part


def going_on(state: RouteState, kept: Part) -> set[tuple[str | None, str | None]]:
    """(route, arm) of the rollouts of `kept` that are the route's own, so that they do not begin again."""
    ours = state.staging.rollouts
    same = (arm for arm, one in kept["staging"]["rollouts"].items() if arm in ours and one["id"] == ours[arm].id)
    return {(state.route.name, arm) for arm in same}


def _route(state: RouteState) -> dict[str, object]:
    beliefs = {
        arm: {"digest": arm_digest(state.arms[arm]), **belief} for arm, belief in state_of(state.selector).items()
    }
    return {
        "ledger": state.ledger.to_state(),
        "spend": state.spend.to_state(),
        "beliefs": beliefs,
        "prices": {"quality": state.selector.price, "money": state.selector.money},  # for `explain`; never restored
        "promise": [state.selector.promise.scores, state.selector.promise.total],
        "staging": state.staging.to_state(),
        **({} if state.trial is None else {"experiment": state.trial.experiment.to_state()}),
        "thresholds": state.thresholds.to_state(),
        **({"watch": state.watch.to_state()} if state.watch.active else {}),
    }


def claim(state: RouteState, kept: Part, now: float) -> list[Event]:
    """Gives a route what a snapshot holds of it. Raises one of UNREADABLE; the route is then half filled."""
    state.ledger.restore(kept["ledger"], now)
    same = {
        arm: one
        for arm, one in kept["beliefs"].items()
        if arm in state.arms and one["digest"] == arm_digest(state.arms[arm])
    }
    for arm, one in same.items():
        restore(state.selector, arm, one)
    arms = {arm: [float(x) for x in row] for arm, row in kept["spend"]["arms"].items() if arm in same}
    rollouts = state.staging.rollouts
    begun = {
        arm for arm, one in kept["staging"]["rollouts"].items() if arm in rollouts and one["id"] != rollouts[arm].id
    }
    for arm in begun | (kept["beliefs"].keys() - same.keys()):
        state.sticky.unbind(f"{state.route.name}/{arm}")
    state.spend.restore([int(x) for x in kept["spend"]["total"]], arms)
    promise = state.selector.promise
    promise.scores, promise.total = map(float, kept.get("promise", (0.0, 0.0)))
    state.reprice()
    state.selector.touch()
    state.thresholds.restore(kept.get("thresholds", {}), now)
    state.watch.restore(kept.get("watch", {}), same, now)
    compared = kept.get("experiment")
    if compared is not None and state.trial is not None:
        state.trial.experiment.restore(compared)
    return state.staging.restore(kept["staging"], now)


def pack(sticky: Sticky) -> bytes:
    """The youngest conversations as JSON, youngest first, keys that share an assignment together."""
    groups: dict[tuple[str, str, float], list[int]] = {}
    for key, binding in sticky.youngest(MAX_BINDINGS):
        groups.setdefault((binding.owner, binding.arm, binding.propensity), []).append(key)
    return orjson.dumps([(*assignment, keys) for assignment, keys in groups.items()])
