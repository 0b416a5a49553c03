"""What is known of an experiment, for people: frozen records for the API, and sentences."""

from dataclasses import dataclass
from typing import Literal

from sidecar.core.units import in_words

Verdict = Literal["winner", "no_difference", "inconclusive"]


@dataclass(frozen=True, slots=True)
class VariantStatus:
    """One variant. `mean` and its interval are in the metric's unit (geometric where `effect` is a ratio); `effect` is
    against the control: a difference, or for cost, latency and ttft a ratio. None: nothing known yet."""

    id: str
    arm: str
    share: float  # of new units
    units: int
    mean: float | None
    low: float | None
    high: float | None
    effect: float | None
    effect_low: float | None
    effect_high: float | None
    stopped: bool


@dataclass(frozen=True, slots=True)
class ExperimentStatus:
    """An experiment for people and the API. `since` is in steady seconds."""

    id: str
    route: str
    phase: str
    metric: str
    verdict: Verdict | None
    winner: str | None
    cause: str
    since: float
    variants: tuple[VariantStatus, ...]


def explained(status: ExperimentStatus, values: int) -> list[str]:
    """English sentences: one for all, and one for each variant. `values` of the metric were compared."""
    state = {
        "pending": "has not begun",
        "running": f"goes on after {values} units",
    }.get(status.phase, f"is over: {(status.verdict or '').replace('_', ' ')}, {status.cause}")
    whole = f"On this pod, the experiment on route {status.route} ({status.metric}) {state}."
    return [whole, *(_line(one, status) for one in status.variants)]


def _line(one: VariantStatus, status: ExperimentStatus) -> str:
    mean, low, high = (
        "" if value is None else in_words(status.metric, value) for value in (one.mean, one.low, one.high)
    )
    seen = f"mean {mean} ({low} to {high})" if mean else "no value yet"
    if one.effect is not None:
        seen += f", against the control {one.effect:.4g} ({one.effect_low:.4g} to {one.effect_high:.4g})"
    won = ", the winner" if one.id == status.winner else ""
    share = "stopped" if one.stopped else f"{one.share:.0%} of new units"
    return f"{one.id}: {share}, {one.units} units, {seen}{won}."
