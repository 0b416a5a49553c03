"""What the control loop's slower lanes find to change in a route: pure functions of its state that answer proposals.

    fast   hold       an arm of the pool fails, or is late, more often than the others by more than the objective allows:
                      it rests for minutes. Urgent: it waits for no other change.
           reinstate  a retired arm is wanted again: its price was cut, what dominated it got worse or left, a new task came
    main   retire     another arm of the pool dominates it (`core.dominance`): it rests for a day, and exploring it costs
                      nothing; a day later twice as long, and so on
           promote    an experiment has a winner, and its `on_winner` says promote: new units go to it
    deep   retry      a retired arm's time is over: it may have become better unseen, so it is back in the pool, and for
                      TRIAL scores of the route it is probed

**Hold.** Of the last LOOK_S, calls of the arm and of all others at the same time: with x and y the shares that failed (or
were later than the objective's limit), z = (x - y - allowed) / standard error (`impact.excess`) must be above that of
SURE. Where the others are hardly called now, what they did in the two hours before stands in. Allowed are
`max_quality_loss` of failures (LEAST_FAILED to MOST_FAILED), for a failure is an answer of quality 0, and LATE of late
answers, for the limits are 95th percentiles. What the whole provider suffers from moves y as well and holds nobody. An arm
that is as good as the others, at 5 % failures of both, is held by chance at fewer than one look in a million where 5 % are
allowed, and at fewer than three where LEAST_FAILED are (a test computes it).
The rest of what takes an arm out is elsewhere: most of its calls failing (`core.brake`), harm of a canary
(`core.guardrails`), limits that the policy states (`core.thresholds`), quality that fell (`core.quality`).

**Never**: the baseline, and with `retire` the last other arm: a choice is what the policy asked for. Each change says what
it expects: of a hold by the means of those minutes, of the others by the selector's shares, costs and qualities.

An undo finds the route as it is then, under whatever policy; it spares the arm for a while (`core.resting`).

What it does not do: derive `auto` limits from the past. `core.baseline` does with every window.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sidecar.core.cycle import Lane, Proposal
from sidecar.core.dominance import dominance
from sidecar.core.draws import PROBE
from sidecar.core.experiment import Experiment
from sidecar.core.impact import Minutes, Sums, excess, expected, latency_s, total, usual_of
from sidecar.core.normal import ndtr
from sidecar.core.policy import Route
from sidecar.core.resting import Kind
from sidecar.core.route import RouteState
from sidecar.core.selector import LATE
from sidecar.core.types import Event, Outcome

SURE: Final = 0.999  # .99..1 - 1e-6: smaller takes arms out by chance, larger finds less
WANTED: Final = 0.975  # 0.5..SURE: below it a retired arm is wanted again; nearer to SURE it comes and goes
LOOK_S: Final = 300.0  # 120..1,800; shorter sees few calls, longer sees what is over
MIN_CALLS: Final = 30  # 10..500 of the arm; fewer hold on one bad burst, more hold late
# 0.01..0.1; allowed where `max_quality_loss` allows less: below it chance holds arms every day
LEAST_FAILED: Final = 0.03
MOST_FAILED: Final = 0.2  # 0.05..0.5; allowed where `max_quality_loss` allows more, or everything
TRIAL: Final = 300  # 100..1,500 scores of the route, a tenth of them the arm's; fewer see no recovery, more cost more


@dataclass(frozen=True, slots=True)
class Seen:
    """What a source sees beside its route: the exchanges of late, and routes by name, for what is undone later."""

    minutes: Minutes
    find: Callable[[str], RouteState | None]


Source = Callable[[RouteState, Seen, float], Sequence[Proposal]]


def is_late(route: Route, outcome: Outcome) -> bool | None:
    """Whether an exchange took longer than the objective's limit; None without a limit, or where lateness has a price."""
    objective = route.objective
    limit_s = objective.ttft_s if outcome.stream else objective.latency_s
    if limit_s is None or route.mode != "optimize" or objective.late_nusd:
        return None
    took_s = latency_s(outcome)
    return None if took_s is None else took_s > limit_s


# ---- fast


def hold(state: RouteState, seen: Seen, now: float) -> list[Proposal]:
    """Arms that are out of order now."""
    found = []
    for arm in state.staging.pool[1:] if state.chooses else ():
        begin = max(now - LOOK_S, state.staging.resting.back_at(arm))
        arms, past = (seen.minutes.between(state.route.name, *span) for span in ((begin, now), (0.0, begin)))
        one, (rest, before) = arms.get(arm, Sums()), (_others(sums, arm) for sums in (arms, past))
        if one.calls < MIN_CALLS or not state.staging.resting.may(arm, "held", now):
            continue
        sure, metric = max((_sure(state.route, one, rest, before, metric), metric) for metric in ("failed", "late"))
        if sure < SURE:
            continue
        share = one.calls / (one.calls + rest.calls)
        seconds = state.staging.resting.length_s(arm, "held", now)
        found.append(
            Proposal(
                kind="arm.hold",
                route=state.route.name,
                arm=arm,
                rationale=_excess_of(arm, one, rest, metric),
                apply=_rest(state, arm, "held", _excess_of(arm, one, rest, metric)),
                undo=_undo(seen, state.route.name, arm),
                confidence=sure,
                expected=expected(arms, arm, share, 0.0),
                facts={"share": share, "seconds": seconds},
                urgent=True,
            )
        )
    return found


def _others(arms: Mapping[str, Sums], arm: str) -> Sums:
    return total({name: sums for name, sums in arms.items() if name != arm})


def _sure(route: Route, one: Sums, rest: Sums, before: Sums, metric: str) -> float:
    """Probability that the arm is worse than the rest by more than the objective allows; 0 where nothing is known."""
    if not one.share(metric)[1]:
        return 0.0
    allowed = LATE if metric == "late" else min(max(route.objective.max_quality_loss, LEAST_FAILED), MOST_FAILED)
    return float(ndtr(excess(one, rest, metric, allowed, usual_of(before, metric))))


def _excess_of(arm: str, one: Sums, rest: Sums, metric: str) -> str:
    what = "failed" if metric == "failed" else "came later than the objective wants"
    (bad, calls), (others, of) = one.share(metric), rest.share(metric)
    return f"{bad:.0f} of {calls:.0f} calls of {arm} {what}, of the others' at the same time {others:.0f} of {of:.0f}"


def reinstate(state: RouteState, seen: Seen, now: float) -> list[Proposal]:  # noqa: ARG001  the form of all sources
    """Retired arms that are dominated no more, by what is known now."""
    found = []
    for arm in _retired(state):
        best = dominance(state.selector, arm, _priced(state))
        sure = 0.0 if best is None else best.sure
        if sure < WANTED:
            why = f"{arm} may be worth having again: no arm of the pool is better and not dearer on all tasks now"
            found.append(_back(state, seen, arm, why, 1.0 - sure, trial=False))
    return found


# ---- main


def retire(state: RouteState, seen: Seen, now: float) -> list[Proposal]:
    """The arm of the pool that another one dominates most surely; never the baseline, never the last beside it."""
    pool, priced, found = state.staging.pool, _priced(state), []
    for arm in pool[1:] if len(pool) > 2 and state.chooses else ():
        may = state.staging.resting.may(arm, "retired", now) and arm in priced
        best = dominance(state.selector, arm, priced) if may else None
        if best is not None and best.sure >= SURE:
            found.append((best.sure, arm, best))
    if not found:
        return []
    sure, arm, best = max(found, key=lambda one: one[0])
    on = "" if best.tasks == 1 else f" on each of {best.tasks} tasks"
    why = f"{best.by} is better than {arm}{on} and not dearer, with probability {min(sure, 0.9999):.4f} at least"
    share = state.shares()[arm]
    return [
        Proposal(
            kind="arm.retire",
            route=state.route.name,
            arm=arm,
            rationale=why,
            apply=_rest(state, arm, "retired", why),
            undo=_undo(seen, state.route.name, arm),
            confidence=sure,
            expected=_moved(state, arm, share, 0.0),
            facts={"share": share, "seconds": state.staging.resting.length_s(arm, "retired", now)},
        )
    ]


def promote(state: RouteState, seen: Seen, now: float) -> list[Proposal]:  # noqa: ARG001  the form of all sources
    """The winner of the route's experiment, where its policy wants it promoted."""
    if state.trial is None:
        return []
    experiment, name, winner = state.trial.experiment, state.route.name, state.trial.experiment.winner
    spec = state.route.experiment  # the policy's of now: an edit of `on_winner` alone is no other experiment
    if not winner or experiment.promoted is not None or spec is None or spec.on_winner != "promote":
        return []

    def undo(_now: float) -> Sequence[Event]:
        found = seen.find(name)
        return [] if found is None or found.trial is None else found.trial.experiment.demote()

    variant = experiment.spec.variants[winner]
    return [
        Proposal(
            kind="experiment.promote",
            route=name,
            arm=variant.arm,
            rationale=f"{variant.id} has won: {experiment.cause}",
            apply=lambda _now: experiment.promote(),
            undo=undo,
            confidence=1.0 - experiment.spec.pod_alpha,
            expected=_of_winner(experiment, winner),
            facts={"variant": variant.id, "step": 100.0},
        )
    ]


def _of_winner(experiment: Experiment, winner: int) -> dict[str, float]:
    """The metric's mean with the winner against that with the control, which serves until then."""
    names = {"cost": "cost_nusd", "latency": "latency_s", "ttft": "latency_s", "error_rate": "failed"}
    variants = experiment.status().variants
    mean, control = variants[winner].mean, variants[0].mean
    return {names.get(experiment.spec.metric, "quality"): mean / control - 1.0} if mean is not None and control else {}


# ---- deep


def retry(state: RouteState, seen: Seen, now: float) -> list[Proposal]:
    """Retired arms whose time is over."""
    rests = state.staging.resting.arms
    due = [(arm, now - rests[arm].since) for arm in _retired(state) if now >= rests[arm].until]
    return [
        _back(state, seen, arm, f"{arm} was out for {out_s:.0f} s and may be better now", None, trial=True)
        for arm, out_s in due
    ]


def _priced(state: RouteState) -> tuple[str, ...]:
    """The arms of the pool of which anything is known that tells what they cost: of others nobody can say "not dearer"."""
    return tuple(arm for arm in state.staging.pool if state.spend.expected_nusd(arm) is not None)


def _retired(state: RouteState) -> list[str]:
    return [arm for arm, rest in state.staging.resting.arms.items() if rest.kind == "retired"]


# ---- what they have in common


def _back(state: RouteState, seen: Seen, arm: str, why: str, confidence: float | None, *, trial: bool) -> Proposal:
    name = state.route.name

    def apply(now: float) -> list[Event]:
        if trial:
            state.selector.model.put_on_probation(state.selector.arms.index(arm), TRIAL)
        state.selector.touch()
        return state.staging.wake(arm, why, now)

    def undo(now: float) -> list[Event]:
        found = seen.find(name)
        return [] if found is None else found.staging.rest(arm, "retired", "it did harm when it came back", now)

    return Proposal(
        kind="arm.return",
        route=name,
        arm=arm,
        rationale=why,
        apply=apply,
        undo=undo,
        confidence=confidence,
        expected=_moved(state, arm, 0.0, PROBE) if trial else {},
        facts={"trial": trial},
    )


def _rest(state: RouteState, arm: str, kind: Kind, why: str) -> Callable[[float], Sequence[Event]]:
    return lambda now: state.staging.rest(arm, kind, why, now)


def _undo(seen: Seen, route: str, arm: str) -> Callable[[float], Sequence[Event]]:
    def undo(now: float) -> list[Event]:
        found = seen.find(route)
        return [] if found is None else found.staging.wake(arm, "its rest did harm", now, spare=True)

    return undo


def _moved(state: RouteState, arm: str, before: float, after: float) -> dict[str, float]:
    """Relative change of cost and quality of a call when the arm's share goes from `before` to `after`, and the others' in
    proportion."""
    shares, selector = state.shares(), state.selector
    rest = sum(share for name, share in shares.items() if name != arm)
    found: dict[str, float] = {}
    for metric, values in (("cost_nusd", selector.expected_nusd), ("quality", selector.quality()[0])):
        of = dict(zip(selector.arms, values.tolist(), strict=True))
        others = sum(share * of[name] for name, share in shares.items() if name != arm) / (rest or 1.0)
        now = (1.0 - before) * others + before * of[arm]
        if now > 0.0:
            found[metric] = ((1.0 - after) * others + after * of[arm]) / now - 1.0
    return found


SOURCES: Final[Mapping[Lane, tuple[Source, ...]]] = {
    Lane.FAST: (hold, reinstate),
    Lane.MAIN: (retire, promote),
    Lane.DEEP: (retry,),
}
