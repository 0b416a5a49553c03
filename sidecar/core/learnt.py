"""What a selector knows of its arms as JSON values, and back; also what earlier versions wrote.

    {arm: {"samples", "answered", "latency", "late", "labelled", "context": {"tasks", "text", ...}}}

Before there was context an arm had "posteriors": answers, labels, latencies. They are read as scores without a task.
"""

from collections.abc import Mapping
from typing import Any

from sidecar.core.quality import NOISE
from sidecar.core.selector import Selector


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
        selector.labelled = selector.labelled or bool(state["labelled"])
        context = state["context"]
    selector.model.restore(place, context)
    selector.touch()
