"""What a selector knows of its arms as JSON values, and back; also what earlier versions wrote.

    {arm: {"samples", "answered", "latency", "late", "labelled", "context": {"tasks", "text", ...}}}

Before there was context an arm had "posteriors": answers, labels, latencies. They are read as scores without a task.
"""

from collections.abc import Mapping
from typing import Any

from sidecar.core.quality import NOISE
from sidecar.core.selector import Selector

_ROUNDING = 1e-6  # 0..1e-3, relative: sums of floats differ by less from what they should be


def state_of(selector: Selector) -> dict[str, dict[str, object]]:
    """JSON values of all arms, for `restore`."""
    selector.digest()
    return {
        arm: {
            **belief.to_state(),
            "labelled": selector.labelled,
            "context": selector.model.to_state(place),
        }
        for place, (arm, belief) in enumerate(selector.beliefs.items())
    }


def restore(selector: Selector, arm: str, state: Mapping[str, Any]) -> None:
    """Takes over one arm, also from what earlier versions wrote: their scores without context.

    Raises KeyError, TypeError, ValueError or IndexError when it cannot be read; the arm is then half filled.
    """
    _check(state)
    place = list(selector.beliefs).index(arm)
    belief = selector.beliefs[arm]
    if "posteriors" in state:
        answered, labels, *latency = state["posteriors"]
        belief.restore({"samples": state["samples"], "answered": answered, "latency": latency, "late": []})
        if belief.samples and not selector.labelled:
            selector.begin_labels()
        count, total = (labels if selector.labelled else answered)[:2]
        context = {"tasks": {"": [count, total]}, "text": None, "probation": 0, "residual": NOISE**2}
    else:
        belief.restore(state)
        if state["labelled"] and not selector.labelled:
            selector.begin_labels()
        context = state["context"]
    selector.model.restore(place, context)
    selector.touch()


def _check(state: Mapping[str, Any]) -> None:
    """Raises ValueError for counts and sums of scores in 0..1 that cannot be; a learner would answer with no number."""
    old = state.get("posteriors")
    pairs = [state["answered"], *state["late"], *state["context"]["tasks"].values()] if old is None else old[:2]
    speeds = state["latency"] if old is None else old[2:]
    for count, total, *_ in [*pairs, *speeds]:
        if not -_ROUNDING <= total <= count * (1.0 + _ROUNDING) + _ROUNDING:
            raise ValueError(f"a sum of {total:g} of {count:g} scores")
    if min((squares for _, _, squares in speeds), default=0.0) < -_ROUNDING or state["samples"] < 0:
        raise ValueError("squares or labels below 0")
    if old is None and not (0.0 <= state["context"]["residual"] <= 100.0 and state["context"]["probation"] >= 0):
        raise ValueError("no variance of residuals, or no number of scores")
