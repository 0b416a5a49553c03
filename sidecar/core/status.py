"""What the engine knows, for people: frozen records for the API, `/ready` and the command line."""

from collections.abc import Mapping
from dataclasses import dataclass

from sidecar.core.abilities import named
from sidecar.core.constraint import pareto_front
from sidecar.core.experiment_status import ExperimentStatus
from sidecar.core.rollout import RolloutStatus
from sidecar.core.route import RouteState
from sidecar.core.thresholds import ThresholdStatus
from sidecar.core.types import Mode
from sidecar.core.watch import WatchStatus, in_a_line, notes


@dataclass(frozen=True, slots=True)
class ArmStatus:
    """One arm. `share` is its part of new assignments; costs are nano-dollars a call; None is unknown."""

    id: str
    upstream: str
    model: str
    role: str  # baseline | stable | canary | pool | held | retired | waiting | rolled_back | observed
    share: float
    exchanges: float  # that taught, faded beyond 5,000
    answered: float  # posterior mean of the probability that an answer is fine
    labels: int
    label_mean: float | None
    quality: float  # posterior mean over what was asked so far
    feasible: float  # P(quality is within max_quality_loss of the baseline's), serving alone
    on_front: bool  # no other arm is both cheaper and better
    expected_nusd: float | None
    cannot: tuple[str, ...] = ()  # needs of requests that it is known not to meet
    context_tokens: int | None = None  # None: not known
    # open | half_open: not offered, or to few calls, where another arm may serve; "open 1/2": in 1 of 2 workers
    breaker: str = "closed"


@dataclass(frozen=True, slots=True)
class RouteStatus:
    """One route with its arms, rollouts and spending."""

    route: str
    mode: Mode
    arms: tuple[ArmStatus, ...]
    rollouts: tuple[RolloutStatus, ...]
    experiment: ExperimentStatus | None
    explanations: tuple[str, ...]
    diverted_to: str | None
    price: float  # of what is minimised, against quality: `core.constraint`
    money_price: float  # beside it, of cost, for a ceiling
    thresholds: tuple[ThresholdStatus, ...]
    watch: WatchStatus
    notes: tuple[str, ...]  # limits, drift, anomalies and tuning, a line each
    spent_day_nusd: int | None  # None: without a budget nobody counts it
    spent_month_nusd: int | None
    reserved_nusd: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the arms of one route stand: of the status what is asked for each second."""

    route: str
    roles: Mapping[str, str]  # as `ArmStatus.role`
    labels: Mapping[str, int]


def standing(state: RouteState) -> Standing:
    beliefs = state.selector.beliefs
    return Standing(
        state.route.name,
        {arm: _role(state, arm) for arm in state.arms},
        {arm: beliefs[arm].samples for arm in state.arms},
    )


def explain(state: RouteState, now: float) -> tuple[str, ...]:
    """Where its rollouts, its rests and its experiment stand, a sentence each."""
    return (
        *(one.explain(now) for one in state.staging.rollouts.values()),
        *state.staging.resting.explain(now),
        *([] if state.trial is None else state.trial.experiment.explain()),
    )


def breaches(state: RouteState, now: float) -> tuple[str, ...]:
    """The thresholds whose action is in force, and where they send the traffic, a sentence each."""
    route, to = state.route.name, state.diverted_to()
    told = [f"On this pod, on route {route}, {in_a_line(one)}." for one in state.thresholds.breached(now)]
    return (*told, *([] if to is None else [f"On this pod, thresholds send the calls of route {route} to {to}."]))


def describe(state: RouteState, now: float) -> RouteStatus:
    """The status of one route; computes probabilities anew, changes nothing."""
    limits, watch = state.thresholds.status(now), state.watch.status()
    compared = None if state.trial is None else state.trial.experiment
    diverted = state.diverted_to()
    shares = state.shares() if diverted is None else {arm: float(arm == diverted) for arm in state.arms}
    gates = dict(zip(state.arms, state.selector.feasible().tolist(), strict=True))
    means = state.selector.quality()[0]
    quality = dict(zip(state.arms, means.tolist(), strict=True))
    front = pareto_front(state.selector.expected_nusd, means)
    best = {arm for place, arm in enumerate(state.arms) if place in front}
    return RouteStatus(
        route=state.route.name,
        mode=state.route.mode,
        arms=tuple(_arm(state, arm, shares[arm], (gates[arm], quality[arm], arm in best)) for arm in state.arms),
        price=state.selector.price,
        money_price=state.selector.money,
        rollouts=tuple(rollout.status(now) for rollout in state.staging.rollouts.values()),
        experiment=None if compared is None else compared.status(),
        explanations=explain(state, now),
        diverted_to=diverted,
        thresholds=limits,
        watch=watch,
        notes=notes(limits, watch),
        spent_day_nusd=None if state.route.budget is None else state.ledger.spent_day_nusd,
        spent_month_nusd=None if state.route.budget is None else state.ledger.spent_month_nusd,
        reserved_nusd=state.ledger.reserved_nusd,
    )


def _arm(state: RouteState, arm: str, share: float, judged: tuple[float, float, bool]) -> ArmStatus:
    belief = state.selector.beliefs[arm]
    place, can = list(state.arms).index(arm), state.arms[arm].capabilities
    count, total = state.selector.model.scores(place)
    return ArmStatus(
        id=arm,
        upstream=state.arms[arm].upstream,
        model=state.arms[arm].model,
        role=_role(state, arm),
        share=share,
        exchanges=belief.answered.n,
        answered=belief.answered.moments()[0],
        labels=belief.samples,
        label_mean=total / count if belief.samples and count else None,
        quality=judged[1],
        feasible=judged[0],
        on_front=judged[2],
        expected_nusd=state.spend.expected_nusd(arm),
        cannot=tuple(named(can.limits.lacks)),
        context_tokens=can.context_tokens,
        breaker=state.ejection.state_of(arm),
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
    if arm in staging.resting:
        return staging.resting.arms[arm].kind
    return {"promoted": "pool", "rolled_back": "rolled_back"}.get(str(staging.rollouts[arm].phase), "waiting")
