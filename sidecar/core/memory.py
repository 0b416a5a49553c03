"""The engine's state as JSON, and back: what a restart must not forget.

    {"version": 1, "ledger": {...}, "routes": {name: {"ledger", "spend", "beliefs": {arm: {"digest", ...}}, "staging"}},
     "bindings": [[owner, arm, propensity, [keys]]]}

Kept: spending, token histories, posteriors, rollouts with their evidence, and the MAX_BINDINGS youngest
conversations. Left out: threshold windows and key counts (minutes old, they mean nothing after a restart),
reservations (their calls died), cached vectors. Beliefs are kept under a digest of the arm's upstream, model and
params, so that a changed arm does not inherit them. Numbers that are not finite become null in JSON and are refused
on the way back.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from sidecar.core.budget import Ledger
from sidecar.core.route import RouteState
from sidecar.core.staging import arm_digest
from sidecar.core.sticky import Binding, Sticky
from sidecar.core.types import Event

VERSION = 1
MAX_BINDINGS = (
    4_096  # 0..65,536; about 100 kB of JSON: more makes a snapshot hold the loop, fewer switch models at restarts
)


def dump(ledger: Ledger, routes: Sequence[RouteState], sticky: Sticky) -> bytes:
    """The snapshot of these parts."""
    return orjson.dumps(
        {
            "version": VERSION,
            "ledger": ledger.to_state(),
            "routes": {state.route.name: _route(state) for state in routes},
            "bindings": _bindings(sticky),
        }
    )


def load(text: bytes, ledger: Ledger, routes: Sequence[RouteState], sticky: Sticky, now: float) -> list[Event]:
    """Fills these parts from a snapshot. Raises ValueError, TypeError, KeyError, AttributeError or IndexError when it
    cannot be read; the parts are then half filled and must be thrown away."""
    state: dict[str, Any] = orjson.loads(text)
    if state["version"] != VERSION:
        raise ValueError(f"snapshot version {state['version']!r}, this program reads version {VERSION}")
    ledger.restore(state["ledger"], now)
    restored, events = 0, list[Event]()
    for route in routes:
        kept = state["routes"].get(route.route.name)
        if kept is not None:
            events += _restore(route, kept, now)
            restored += 1
    for owner, arm, propensity, keys in reversed(state["bindings"]):
        binding = Binding(owner, arm, float(propensity), sticky.generation(owner))
        for key in keys:
            sticky.bind(int(key), binding)
    return [*events, Event(kind="state.restored", detail={"routes": restored, "bindings": len(sticky)})]


def _route(state: RouteState) -> dict[str, object]:
    beliefs = {
        arm: {"digest": arm_digest(state.arms[arm]), **belief.to_state()}
        for arm, belief in state.selector.beliefs.items()
    }
    return {
        "ledger": state.ledger.to_state(),
        "spend": state.spend.to_state(),
        "beliefs": beliefs,
        "staging": state.staging.to_state(),
    }


def _restore(state: RouteState, kept: dict[str, Any], now: float) -> list[Event]:
    state.ledger.restore(kept["ledger"], now)
    same = {
        arm: one
        for arm, one in kept["beliefs"].items()
        if arm in state.arms and one["digest"] == arm_digest(state.arms[arm])
    }
    for arm, one in same.items():
        state.selector.beliefs[arm].restore(int(one["samples"]), [[float(x) for x in row] for row in one["posteriors"]])
    arms = {arm: [int(x) for x in row] for arm, row in kept["spend"]["arms"].items() if arm in same}
    state.spend.restore([int(x) for x in kept["spend"]["total"]], arms)
    state.reprice()
    state.selector.touch()
    return state.staging.restore(kept["staging"], now)


def _bindings(sticky: Sticky) -> list[tuple[str, str, float, list[int]]]:
    """Youngest first, keys that share an assignment together."""
    groups: dict[tuple[str, str, float], list[int]] = {}
    for key, binding in sticky.youngest(MAX_BINDINGS):
        groups.setdefault((binding.owner, binding.arm, binding.propensity), []).append(key)
    return [(*assignment, keys) for assignment, keys in groups.items()]
