"""What the engine knows, for people: frozen records for the API, `/ready` and the command line."""

from dataclasses import dataclass

from sidecar.core.rollout import RolloutStatus
from sidecar.core.route import RouteState
from sidecar.core.thresholds import ThresholdStatus
from sidecar.core.types import Mode


@dataclass(frozen=True, slots=True)
class ArmStatus:
    """One arm. `share` is its part of new assignments; costs are nano-dollars a call; None is unknown."""

    id: str
    upstream: str
    model: str
    role: str  # baseline | stable | canary | pool | waiting | rolled_back | observed
    share: float
    exchanges: float  # that taught, faded beyond 5,000
    answered: float  # posterior mean of the probability that an answer is fine
    labels: int
    label_mean: float | None
    feasible: float  # P(quality is within max_quality_loss of the baseline's)
    expected_nusd: float | None


@dataclass(frozen=True, slots=True)
class RouteStatus:
    """One route with its arms, rollouts and spending."""

    route: str
    mode: Mode
    arms: tuple[ArmStatus, ...]
    rollouts: tuple[RolloutStatus, ...]
    explanations: tuple[str, ...]
    diverted_to: str | None
    thresholds: tuple[ThresholdStatus, ...]
    spent_day_nusd: int
    spent_month_nusd: int
    reserved_nusd: int


def describe(state: RouteState, now: float) -> RouteStatus:
    """The status of one route; computes probabilities anew, changes nothing."""
    rollouts = tuple(state.staging.rollouts.values())
    shares = state.shares()
    gates = dict(zip(state.arms, state.selector.feasible(tuple(state.arms)).tolist(), strict=True))
    return RouteStatus(
        route=state.route.name,
        mode=state.route.mode,
        arms=tuple(_arm(state, arm, shares[arm], gates[arm]) for arm in state.arms),
        rollouts=tuple(rollout.status(now) for rollout in rollouts),
        explanations=tuple(rollout.explain(now) for rollout in rollouts),
        diverted_to=state.diverted_to(),
        thresholds=state.thresholds.status(now),
        spent_day_nusd=state.ledger.spent_day_nusd,
        spent_month_nusd=state.ledger.spent_month_nusd,
        reserved_nusd=state.ledger.reserved_nusd,
    )


def _arm(state: RouteState, arm: str, share: float, gate: float) -> ArmStatus:
    belief = state.selector.beliefs[arm]
    return ArmStatus(
        id=arm,
        upstream=state.arms[arm].upstream,
        model=state.arms[arm].model,
        role=_role(state, arm),
        share=share,
        exchanges=belief.answered.n,
        answered=belief.answered.moments()[0],
        labels=belief.samples,
        label_mean=belief.labels.total / belief.labels.n if belief.labels.n else None,
        feasible=gate,
        expected_nusd=state.spend.expected_nusd(arm),
    )


def _role(state: RouteState, arm: str) -> str:
    staging = state.staging
    if arm == state.route.baseline.id:
        return "baseline"
    if arm not in staging.rollouts:
        return "observed"
    if arm == staging.arm:
        return "canary"
    if arm == staging.stable:
        return "stable"
    return {"promoted": "pool", "rolled_back": "rolled_back"}.get(str(staging.rollouts[arm].phase), "waiting")
