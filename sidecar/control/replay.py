"""Another policy on the log: what would it have chosen for each logged call, and what would that have cost and given?

The target's probabilities come from an engine of its own, through the public verbs: rules, dialects, canary hashes and
the selector count exactly as in life. For each call `decide` is asked, with fresh chance each time, until the answers'
propensities add up; what is left belongs to the one arm that did not come up, or is spread over those few. Outcomes are
never replayed: they are the logged ones, weighted by `core.evaluation`.

What is evaluated, by the target's mode:

* `observe`, `shadow`, `ab`, `canary`: fixed shares. Rollouts stand at `step` percent (100: all arms are in; the last
  one is the stable arm of a canary route).
* `optimize`, learner `log`: an engine that begins with nothing and is taught each logged call after it was asked about
  it. Its choice for call i depends on the calls before i only, so no call judges what was learnt from it. It learns
  from the arms that the log has chosen and not from those that it would have chosen itself.
* `optimize`, learner `frozen`: the engine of a snapshot, taught nothing. Where the snapshot was learnt from the same
  log, the answer flatters it a little.

Budgets and thresholds of the target are left out (their state depends on the path taken): a note says what they might
do. Calls that its rules refuse are counted and left out. An assignment is evaluated when it was made: later calls of the
conversation follow it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import msgspec
import numpy as np

from sidecar.control.logged import Call, Calls, Score
from sidecar.core.engine import Engine
from sidecar.core.evaluation import TOLERATED, Answer, Counts, Estimate, Floats, Log, evaluate, gaps, self_check
from sidecar.core.policy import Policy, RolloutSpec, Route
from sidecar.core.route import PriceOf
from sidecar.core.types import Decision, Facts, Feedback
from sidecar.errors import ReplayError, RolloutError

Learner = Literal["log", "frozen"]
MAX_DRAWS: Final = 32  # questions for one call; an arm of 5 % stays unseen in a fifth of them, and is then guessed
GUESSED: Final = 0.005  # of the probability may be spread evenly over the arms that did not come up
MAX_STRATA: Final = 64  # tasks that the direct model tells apart; the rest is one
TICK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Target:
    """The policy in question, and how it is to stand."""

    policy: Policy
    price_of: PriceOf
    step: int = 100  # percent at which its rollouts stand
    learner: Learner = "log"
    state: bytes | None = None  # learner `frozen`: the snapshot
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What the log says. `answers` by outcome: estimates, or why there are none."""

    calls: int
    units: int
    span: tuple[float, float]
    left_out: Mapping[str, int]
    shares: Mapping[str, tuple[float, float]]  # arm: of the log, of the target
    answers: Mapping[str, Answer | str]
    checks: Mapping[str, tuple[float, Estimate]]  # outcome: the logged mean, and the logging policy by IPS
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Asked:
    """The target's answers: one row a call, columns are the log's arms."""

    rows: list[list[float]] = field(default_factory=list)
    kept: list[Call] = field(default_factory=list)
    guessed: float = 0.0
    unasked: list[str] = field(default_factory=list)  # what the target might do beside that


def replay(calls: Calls, scores: Sequence[Score], target: Target, say: Callable[[str], None]) -> Report:
    """Evaluates the target on the log. Raises ReplayError, with every reason, when the log cannot answer."""
    if any(route.match.paths for route in target.policy.routes):
        raise ReplayError(
            "the policy matches routes by path, and the log holds no paths; leave `paths` out and use --route"
        )
    if not calls.kept:
        left = "; ".join(f"{count} {why}" for why, count in calls.left_out.items()) or "no row"
        raise ReplayError(f"no logged call was decided by chance: {left}")
    arms = tuple(dict.fromkeys(call.arm for call in calls.kept))
    asked = _Asker(target, calls.kept, arms, scores).ask(calls, say)
    if not asked.kept:
        raise ReplayError("the policy's rules refuse every logged call")
    log = _log(asked, arms)
    if why := gaps(log):
        lines = "\n  ".join(why)
        raise ReplayError(
            f"the log cannot answer for this policy:\n  {lines}\n"
            "Let the arms that are missing serve a small share first (canary, or optimize), then ask again."
        )
    return _report(asked, log, calls, scores)


def _log(asked: _Asked, arms: tuple[str, ...]) -> Log:
    kept, place = asked.kept, {arm: at for at, arm in enumerate(arms)}
    possible = np.zeros((len(kept), len(arms)), dtype=bool)
    for row, call in enumerate(kept):
        for arm in (call.arm, *call.possible):
            if arm in place:
                possible[row, place[arm]] = True
    return Log(
        arms=arms,
        chosen=np.array([place[call.arm] for call in kept], dtype=np.int64),
        propensity=np.array([call.propensity for call in kept]),
        target=np.array(asked.rows),
        possible=possible,
        stratum=_strata(kept),
        unit=_numbers([call.unit for call in kept]),
    )


def _numbers(keys: Sequence[object]) -> Counts:
    known: dict[object, int] = {}
    return np.array([known.setdefault(key, len(known)) for key in keys], dtype=np.int64)


def _strata(calls: Sequence[Call]) -> Counts:
    """Task, and the input's size by a factor of four: what quality and cost depend on and the log has."""
    keys = [(call.facts.task, call.facts.input_bytes.bit_length() // 2) for call in calls]
    return np.minimum(_numbers(keys), MAX_STRATA)


def _report(asked: _Asked, log: Log, calls: Calls, scores: Sequence[Score]) -> Report:
    outcomes = outcomes_of(asked.kept, scores)
    regime = _numbers([call.regime for call in asked.kept])
    checks = {name: self_check(log, values, regime) for name, values in outcomes.items()}
    logged = np.bincount(log.chosen, minlength=len(log.arms)) / len(log.chosen)
    return Report(
        calls=len(asked.kept),
        units=len(np.unique(log.unit)),
        span=(asked.kept[0].at_s, asked.kept[-1].at_s),
        left_out=calls.left_out,
        shares={arm: (float(logged[at]), float(log.target[:, at].mean())) for at, arm in enumerate(log.arms)},
        answers={name: evaluate(log, values) for name, values in outcomes.items()},
        checks={name: check for name, check in checks.items() if check is not None},
        notes=tuple(_notes(asked)),
    )


def _notes(asked: _Asked) -> Iterator[str]:
    """What a reader of the answer should know."""
    if asked.guessed > TOLERATED / 10:
        yield f"{asked.guessed:.2%} of the target's probability lay on arms that {MAX_DRAWS} draws left out: spread evenly"
    if trials := sum(call.mode == "ab" for call in asked.kept):
        yield f"{trials} calls were of experiments: all variants of an arm count as that arm"
    yield from asked.unasked


def _unasked(route: Route, costs: Mapping[str, float]) -> Iterator[str]:
    """What is left out of this route, whose arms are expected to cost so much a call: its budget and its thresholds."""
    budget = route.budget
    if budget is not None:
        hard = any((budget.per_request_nusd, budget.window_nusd, budget.daily_nusd, budget.monthly_nusd))
        dear = [arm for arm, cost in costs.items() if cost > min(costs.values()) and (hard or route.mode == "optimize")]
        might = [f"bar {', '.join(dear)}"] * bool(dear) + ["refuse calls"] * hard
        if might:
            yield f"route {route.name}: its budget is left out; it might {' and '.join(might)}"
    acts = [" ".join((one.action, one.arm or "")).strip() for one in route.thresholds if one.action != "log"]
    if acts:
        yield f"route {route.name}: its thresholds are left out; they might {', '.join(dict.fromkeys(acts))}"


def outcomes_of(calls: Sequence[Call], scores: Sequence[Score]) -> dict[str, Floats]:
    """The outcomes that the log has, as (n,) arrays with NaN where a call has none; those nobody has are left out.

    `score` is feedback (the mean of its sources), `quality` what was judged when the call ended; aborted calls have
    neither duration nor failure.
    """
    given: dict[str, list[float]] = {}
    for score in scores:
        given.setdefault(score.decision_id, []).append(score.score)
    ended = [call.outcome for call in calls]
    found: dict[str, list[float | None]] = {
        "score": [_average(given.get(call.id)) for call in calls],
        "quality": [call.quality for call in calls],
        "reward": [call.reward for call in calls],
        "cost_usd": [None if one.cost_nusd is None else one.cost_nusd / 1e9 for one in ended],
        "latency_s": [one.clocks.latency_s if one.kind == "completed" and not one.stream else None for one in ended],
        "ttft_s": [one.clocks.first_token_latency_s if one.stream else None for one in ended],
        "failed": [None if one.kind == "aborted" else float(one.kind == "failed") for one in ended],
    }
    arrays = {name: np.array(values, dtype=np.float64) for name, values in found.items()}
    return {name: values for name, values in arrays.items() if np.isfinite(values).any()}


def _average(values: list[float] | None) -> float | None:
    return None if not values else sum(values) / len(values)


class _Asker:
    """The target's engine, asked about each call in the log's order, and taught it where it learns."""

    def __init__(self, target: Target, calls: Sequence[Call], arms: Sequence[str], scores: Sequence[Score]) -> None:
        self._rng = np.random.default_rng([target.seed, 1])
        self._columns = {arm: at for at, arm in enumerate(arms)}
        self._at = calls[-1 if target.learner == "frozen" else 0].at_s
        policy = _standing(target.policy, target.step)
        self._engine = Engine(policy, np.random.default_rng([target.seed, 2]), self._at, target.price_of)
        self._policy, self._named = policy, target.policy.routes
        self._learns = target.learner == "log" and any(route.mode == "optimize" for route in policy.routes)
        self._as_logged, self._as_target = _names(policy, calls)
        if target.learner == "frozen" and target.state is not None:
            self._engine.restore(target.state, self._at)
        _let_in(self._engine, policy, target.step, self._at)
        known = {call.id: call for call in calls}
        due = sorted((score for score in scores if score.decision_id in known), key=lambda score: score.at_s)
        self._due = [(score, known[score.decision_id]) for score in due]
        self._due_at = 0
        self._served: dict[str, str] = {}  # call: the route of the target that took it

    def ask(self, calls: Calls, say: Callable[[str], None]) -> _Asked:
        """The target's probabilities for every call that it would serve."""
        asked, assigned = _Asked(), dict[tuple[str, str], tuple[list[float], str]]()
        for number, call in enumerate(calls.kept):
            if number % 10_000 == 0 and number:
                say(f"{number} of {len(calls.kept)} calls")
            self._pass_time(call.at_s)
            facts = msgspec.structs.replace(call.facts, task=self._task(call.facts) or call.facts.task)
            unit = (call.unit, call.arm)
            if unit not in assigned:
                drawn = self._row(facts)
                if drawn is None:
                    calls.leave("refused by the new policy's rules")
                    continue
                assigned[unit] = drawn[:2]
                asked.guessed += drawn[2]
            row, self._served[call.id] = assigned[unit]
            asked.rows.append(row)
            asked.kept.append(call._replace(facts=facts))
            if self._learns:
                self._learn(call, facts)
        asked.guessed /= max(1, len(asked.kept))
        for route, state in zip(self._named, self._engine.routes, strict=True):
            costs = {arm: state.spend.expected_nusd(arm) or 0.0 for arm in state.arms}
            asked.unasked += _unasked(route, costs)
        return asked

    def _task(self, facts: Facts) -> str:
        tags = (route.context.tag for route in self._policy.routes)
        return next((facts.tags[tag] for tag in tags if tag in facts.tags), "")

    def _row(self, facts: Facts) -> tuple[list[float], str, float] | None:
        """Probability of each column, the target's route, and how much was guessed; None when the target refuses."""
        found: dict[str | None, float] = {}
        left, rest, route = set[str](), 1.0, ""
        for _ in range(MAX_DRAWS):
            drawn = msgspec.structs.replace(facts, draw=int(self._rng.integers(1 << 63)))
            decision = self._engine.decide(drawn, self._at)
            if decision.refusal is not None:
                return None
            route = decision.route
            found[self._logged(decision, facts)] = decision.propensity
            rest = max(0.0, 1.0 - sum(found.values()))
            left = {self._as_logged.get(arm, arm) for arm in decision.eligible} - found.keys()
            if rest < GUESSED or len(left) <= 1:
                break
        row = [0.0] * len(self._columns)
        for arm, part in [*found.items(), *((arm, rest / len(left)) for arm in left)]:
            if arm in self._columns:
                row[self._columns[arm]] += part
        return row, route, rest if len(left) > 1 else 0.0

    def _logged(self, decision: Decision, facts: Facts) -> str | None:
        """The log's name of what the target chose: an arm, or the app's own model where it is one."""
        if decision.arm is not None:
            return self._as_logged.get(decision.arm, decision.arm)
        model = facts.model if decision.model is None else decision.model
        same = (arm.id for route in self._policy.routes for arm in route.all_arms if arm.model == model)
        return next((self._as_logged.get(arm, arm) for arm in same), None)

    def _pass_time(self, now: float) -> None:
        """Hands on the feedback that had come by `now`, and lets the engine tick once a second."""
        while self._learns and self._due_at < len(self._due) and self._due[self._due_at][0].at_s <= now:
            self._score(*self._due[self._due_at])
            self._due_at += 1
        if now - self._at >= TICK_S:
            self._at = now
            if self._learns:
                self._engine.tick(now)

    def _learn(self, call: Call, facts: Facts) -> None:
        route, arm = self._served[call.id], self._as_target.get(call.arm)
        if arm is None:
            return
        decision = Decision(
            route=route,
            mode="optimize",
            arm=arm,
            upstream=None,
            model=None,
            reason="sampled",
            propensity=call.propensity,
            policy_version=self._policy.version,
        )
        self._engine.settle(facts, decision, call.outcome, self._at)
        self._engine.refresh(self._at)

    def _score(self, score: Score, call: Call) -> None:
        arm = self._as_target.get(call.arm)
        if arm is None or call.id not in self._served:
            return
        given = Feedback(
            decision_id=call.id,
            route=self._served[call.id],
            arm=arm,
            score=score.score,
            source=score.source,
            label=score.label,
            task=self._task(call.facts) or call.facts.task,
        )
        self._engine.feedback(given, self._at)


def _standing(policy: Policy, step: int) -> Policy:
    """The policy without budgets, thresholds and stickiness, its rollouts with the one step that they stand at."""
    steps = (step,) if step == 100 else (step, 100)
    routes = [
        replace(
            route,
            budget=None,
            thresholds=(),
            drift=None,
            anomalies=None,
            tuning=None,
            sticky="request",
            quality=replace(route.quality, min_samples=0),
            rollout=replace(route.rollout or RolloutSpec(), strategy="canary", steps=steps),
        )
        for route in policy.routes
    ]
    return replace(policy, routes=tuple(routes))


def _let_in(engine: Engine, policy: Policy, step: int, now: float) -> None:
    """Brings the arms of every rollout in: all of them for 100, else the first one to its share."""
    for route in policy.routes:
        if route.mode not in ("canary", "optimize"):
            continue
        for _ in route.arms if step == 100 else ():
            engine.tick(now)
            try:
                engine.promote(route.name, now)
            except RolloutError:
                break  # a snapshot has brought the rest in already
        engine.tick(now)


def _names(policy: Policy, calls: Sequence[Call]) -> tuple[dict[str, str], dict[str, str]]:
    """Target's arm -> the log's, and back. Equal are arms with one name and one model, else with one upstream and model."""
    served = {call.arm: call.place for call in calls if call.place[1] is not None}
    names: dict[str, str] = {}
    for route in policy.routes:
        for arm in route.all_arms:
            same = [known for known, place in served.items() if place == (arm.upstream, arm.model)]
            if arm.id in served:
                names[arm.id] = arm.id if served[arm.id][1] == arm.model else f"{arm.id} ({arm.model})"
            elif same:
                names[arm.id] = same[0]
    return names, {logged: mine for mine, logged in names.items()}
