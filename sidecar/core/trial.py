"""An experiment in its route's traffic: which variant a request gets, and which conversations keep theirs.

A conversation keeps its variant (`core.sticky`) as long as its arm may serve, also after the end: only new ones follow the
verdict. A binding's owner is `route/experiment/variant`, its arm the variant's arm, its tag and step what the decision
carries as rollout_id and rollout_step. Bindings that come from before a restart have lost both: they still hold, and count
no more. Where rules, dialect or fallback leave not every variant's arm, nothing is drawn: what would be compared then is
not one kind of request.

What it does not know: outcomes (`core.experiment` has them), and what the edits of a prompt say.
"""

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from sidecar.core.experiment import Experiment
from sidecar.core.policy import Route
from sidecar.core.sticky import Binding, Sticky
from sidecar.core.types import Decision, Event, Facts, Reason, Unit


class Trial:
    """One route's experiment and its bindings. `salt` tells the route's keys from other routes'."""

    def __init__(self, experiment: Experiment, sticky: Sticky, salt: int) -> None:
        self.experiment = experiment
        self._sticky = sticky
        self._salt = salt
        self._last: dict[str, Binding] = {}  # the newest of each variant: thousands of conversations share one

    def assign(self, facts: Facts, unit: Unit, eligible: tuple[str, ...]) -> tuple[Binding, Reason] | None:
        """The binding of the request's unit, kept or drawn now, and why; None when nothing is drawn."""
        key = 0 if unit == "request" else facts.key ^ self._salt
        experiment, bound = self.experiment, self._sticky.get(key) if key else None
        if bound is not None and bound.arm in eligible and experiment.bound_to(bound.owner) is not None:
            return bound, "sticky"
        if any(choice.arm.id not in eligible for choice in experiment.choices):
            return None
        index, share, epoch = experiment.draw(facts.draw if unit == "request" else facts.key)
        made = self._binding(index, share, epoch)
        if key:
            self._sticky.bind(key, made)
        return made, "policy" if epoch is None else "sampled"

    def _binding(self, index: int, share: float, epoch: int | None) -> Binding:
        choice = self.experiment.choices[index]
        generation, last = self._sticky.generation(choice.owner), self._last.get(choice.tag)
        if last is None or (last.propensity, last.generation, last.step) != (share, generation, epoch):
            tag = "" if epoch is None else choice.tag
            last = self._last[choice.tag] = Binding(choice.owner, choice.arm.id, share, generation, tag, epoch)
        return last

    def dress(self, made: Decision, bound: Binding | None) -> Decision:
        """The decision with params and prompt of the variant that `bound` names, if it is of that variant's arm."""
        index = None if bound is None else self.experiment.bound_to(bound.owner)
        if bound is None or index is None or made.arm != bound.arm:
            return made
        choice = self.experiment.choices[index]
        tag = bound.tag or None
        return replace(
            made,
            params=choice.arm.params,
            system=choice.edits,
            rollout_id=tag,
            rollout_step=bound.step if tag else None,
        )

    def free(self) -> None:
        """All its conversations are free."""
        for choice in self.experiment.choices:
            self._sticky.unbind(choice.owner)


def trial_of(route: Route, sticky: Sticky, salt: int) -> Trial | None:
    """The route's experiment, where its mode is `ab`."""
    if route.mode != "ab" or route.experiment is None:
        return None
    return Trial(Experiment(route, route.experiment), sticky, salt)


def left_behind(route: str, kept: Mapping[str, Any], experiment_id: str | None) -> list[Event]:
    """What `Experiment.leave` would have told of an experiment under way of which the state alone is left, where the route
    has another one by now, or none."""
    if kept.get("phase") != "running" or kept.get("id") == experiment_id:
        return []
    cause = "the policy has changed"
    detail = {
        "experiment_id": kept.get("id"),
        "phase": "ended",
        "verdict": "inconclusive",
        "winner": None,
        "cause": cause,
    }
    text = f"inconclusive: no winner, {cause}"
    return [Event(kind="experiment.ended", severity="medium", route=route, message=text, detail=detail)]


def carry_over(old: Trial | None, new: Trial | None) -> tuple[Trial | None, list[Event]]:
    """What goes on under the next policy: the old trial when both are of one experiment; else it ends."""
    if old is None:
        return new, []
    if new is not None and new.experiment.id == old.experiment.id:
        return old, old.experiment.obey(new.experiment.spec)
    old.free()
    return new, old.experiment.leave()
