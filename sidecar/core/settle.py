"""What one finished exchange teaches: budgets, spending, beliefs, thresholds and the rollout, each exactly once.

Aborted exchanges are paid for and teach no belief; a rollout learns how long their clients waited in vain. A caller's
own mistake does not blame the arm. A cost that is unknown is taken to be what was reserved, so that a meter that fails
cannot open a budget; a call that the upstream answered with an error, or never answered, costs nothing unless it says so.
"""

from msgspec import Struct

from sidecar.core.reward import SILENT, Signal, measure
from sidecar.core.route import RouteState
from sidecar.core.types import Decision, Event, Facts, Feedback, Outcome

RESCORE_EVERY = 64  # exchanges between new cost scores; ticks bring them too


class Verdict(Struct, frozen=True, gc=False):
    """What one exchange was worth, and what happened because of it. None: unknown or not judged."""

    reward: float | None = None
    quality: float | None = None
    quality_source: str | None = None
    events: tuple[Event, ...] = ()


NOTHING = Verdict()


def billed_nusd(outcome: Outcome, reserved_nusd: int) -> int:
    """What is booked for one call: its cost, and where nobody knows it as much as was reserved. Nobody knows how much of an
    answer there was behind a silence that its client did not wait for: the prompt is the least that it cost."""
    if outcome.status >= 400 or (outcome.kind == "failed" and not outcome.status):
        return outcome.cost_nusd or 0
    if outcome.cost_nusd is None:
        return reserved_nusd
    usage = outcome.usage
    silent = outcome.kind == "aborted" and usage is not None and usage.output_tokens is None
    return max(outcome.cost_nusd, reserved_nusd) if silent else outcome.cost_nusd


def pay(state: RouteState, decision: Decision, outcome: Outcome, now: float, *, call: bool = True) -> None:
    """Books one exchange on the route's budget; `call` is as in `Engine.settle`."""
    if decision.reserved_nusd:
        state.ledger.release(decision.reserved_nusd)  # also where an edit of the policy took the budget away meanwhile
    if state.route.budget is not None:
        billed = billed_nusd(outcome, decision.reserved_nusd)
        # one that failed or was left, and cost nothing, is none that a mean counts
        if billed or outcome.kind == "completed":
            state.ledger.charge(billed, now, call=call)


def learn(
    state: RouteState, facts: Facts, decision: Decision, outcome: Outcome, now: float, *, call: bool = True
) -> Verdict:
    """Updates the route with one exchange; the verdict's events are those of thresholds and rollout. `call` is as in
    `Engine.settle`."""
    pay(state, decision, outcome, now, call=call)
    arm = outcome.served_arm or decision.arm
    signal = SILENT
    events: list[Event] = []
    if arm is not None and arm in state.arms:
        reference = state.reference_nusd
        signal = measure(outcome, state.selector.weights, state.route.quality.validators, reference)
        redefined = _redefined(state, facts, decision, outcome)
        if not redefined:
            _teach(state, arm, signal, facts, outcome)
        if not redefined and decision.rollout_id is not None and arm == decision.arm:
            events += _compare(state, facts, decision, outcome, signal, now)
        if not redefined and arm == decision.arm:
            events += state.staging.watch(arm, outcome, 0 if decision.unit == "request" else facts.key, now)
    if state.route.thresholds:
        events += state.obey(state.thresholds.observe(decision.arm, outcome, now, signal.quality), now)
    if state.watch.active:
        events += state.watch.observe(facts, decision, outcome, (signal.reward, signal.quality), now)
    if not events and signal.reward is None and signal.quality is None:
        return NOTHING
    return Verdict(signal.reward, signal.quality, signal.quality_source, tuple(events))


def _redefined(state: RouteState, facts: Facts, decision: Decision, outcome: Outcome) -> bool:
    """Whether the arm's id means another model, upstream or params than when this was decided.

    What a fallback meant under an earlier policy is not known any more: it teaches nothing either.
    """
    if decision.policy_version == state.version:
        return False
    arm = state.arms.get(decision.arm or "")
    if arm is None or outcome.served_arm is not None:
        return True
    sent = facts.model if decision.model is None else decision.model
    if (arm.upstream, arm.model) != (decision.upstream, sent):
        return True
    if decision.model is None:  # untouched requests get no params
        return False
    adds = state.trial is not None or state.watch.tuner is not None  # what a variant or tuning adds stands behind them
    return arm.params != (decision.params[: len(arm.params)] if adds else decision.params)


def _compare(
    state: RouteState, facts: Facts, decision: Decision, outcome: Outcome, signal: Signal, now: float
) -> list[Event]:
    staging = state.staging
    key = 0 if decision.unit == "request" else facts.key
    if state.trial is not None:
        return state.trial.experiment.observe(decision, outcome, signal.quality, key, now)
    if staging.active is None or decision.rollout_id != staging.tag or decision.arm is None:
        return []
    return staging.observe(decision.arm, outcome, signal.quality, (key, decision.rollout_step), now)


def score(state: RouteState, feedback: Feedback, now: float) -> list[Event]:
    """Takes one feedback score in. The selector learns all; windows, experiments and rollouts count labels: the first
    of each answer that is more than a weak signal."""
    arm = state.arms[feedback.arm]
    if feedback.served not in (None, (arm.upstream, arm.model)):
        return []  # the arm's name means another model since: a score of the old one says nothing about it
    state.selector.label(feedback)
    events: list[Event] = []
    if not feedback.is_label:
        return events
    events += state.obey(state.thresholds.label(feedback.arm, feedback.score, now), now)
    events += state.watch.label(feedback.arm, feedback.score, now)
    if state.trial is not None:
        step, key = feedback.rollout_step, feedback.context_key
        events += state.trial.experiment.label(feedback.rollout_id, step, key, feedback.score, now)
    staging = state.staging
    if staging.active is None or feedback.rollout_id != staging.tag:
        return events
    return events + staging.label(feedback.arm, feedback.score, (feedback.context_key, feedback.rollout_step), now)


def _teach(state: RouteState, arm: str, signal: Signal, facts: Facts, outcome: Outcome) -> None:
    state.selector.partial_fit(arm, signal, facts)
    if outcome.kind != "completed":
        return
    usage = outcome.usage
    tokens = (None, None) if usage is None else (usage.input_tokens, usage.output_tokens)
    state.spend.observe(arm, *tokens, outcome.cost_nusd, outcome.clocks.latency_s)
    state.settled += 1
    if state.settled % RESCORE_EVERY == 0:
        state.rescore()
