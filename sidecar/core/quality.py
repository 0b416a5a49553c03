"""Quality in context: which arm answers this kind of request well, learnt online from scores of answers.

**Model.** The score of arm a on a request of task t with text features x (`core.features`):

    score = m[a] + d[a, t] + w[a] . x + noise        noise sd NOISE

m is the arm's mean, shrunk to the mean of all arms' scores (so a new arm begins as an average one, or as its stated
prior); d the task's deviation, prior sd TASK_SD, so that a task with few scores is answered by the arm's mean and one
with many by itself; w the text's part of what is left, prior sd TEXT_SD. m and d are Gaussian posteriors with known
noise in closed form; w has a diagonal covariance (mean field: O(features) an update, a state of two numbers a feature;
on the public matrices it chooses as well as the full covariance). The weight of the context is learnt, not set: where
task or text tell nothing, d and w stay near zero. Shrinkage: Lindley and Smith, J. R. Stat. Soc. B 34, 1972.

**Change.** Old scores weigh as new ones until there is evidence against it. Two CUSUM sums a arm (Page, Biometrika 41,
1954) run over the standardised residuals z = (score - expected) / sd, cut to +-CLIP: S = max(0, S + z - SLACK), one for
each direction. When one passes ALARM, the arm's quality has changed: the mean residual since the sum last was zero is
added to all its means, and what is known of it weighs from now on as much as those scores do. So tasks keep their order
and a few new scores move all of them. By Siegmund's approximation a stationary arm has a false alarm about every
(exp(2 SLACK (ALARM + 1.17)) - 1) / (2 SLACK^2) = 120,000 scores; a fall by one sd is found after ALARM / (1 - SLACK) =
24. An arm that fell is on probation for PROBATION scores of the route: then RETURN is enough to find that it is well
again, and the selector probes it meanwhile (`core.selector`).

Bounded: MAX_TASKS tasks (the one seen longest ago goes), MAX_WEIGHT scores of weight an arm. Scores are queued and
digested off the request. What it does not know: seasons, and changes of what is asked.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from sidecar.core.features import FEATURES
from sidecar.core.types import Features

Floats = NDArray[np.float64]

NOISE: Final = 0.35  # 0.1..0.5, sd of a score around its mean: between yes-or-no scores (0.3..0.5) and a judge's
MEAN_SD: Final = 0.3  # 0.1..0.5, of the arms around each other; smaller holds new arms back, larger overrates luck
TASK_SD: Final = 0.2  # 0.05..0.5, of an arm's tasks around its mean; smaller ignores tasks, larger needs scores in each
TEXT_SD: Final = 0.05  # 0..0.3, of one feature's part; larger learns faster from text and chases its noise
PRIOR_MEAN: Final = 0.6  # of the arms' mean before any score
PRIOR_SCORES: Final = 5.0  # 1..50, its weight
MAX_WEIGHT: Final = 5_000.0  # 500..1e6 scores an arm; smaller stays noisy, larger follows slow drift later
MAX_TASKS: Final = 256  # 16..4,096; fewer forget rare tasks, more cost 16 bytes an arm each
MAX_PENDING: Final = 1_024  # scores that wait to be digested; then the learner makes time itself
SLACK: Final = 0.25  # 0.1..0.5 sd; smaller finds small changes and takes model error for change
ALARM: Final = 18.0  # 8..40; smaller alarms without cause, larger notices later
RETURN: Final = 6.0  # 3..ALARM, while on probation; smaller takes luck for recovery
PROBATION: Final = 1_500  # scores of the route; fewer give a provider less time to repair its model
CLIP: Final = 3.0  # 2..5 sd; one odd score is no change
_MIN_SCORES: Final = 20.0  # of an arm before its residuals mean anything
_RESIDUAL_SCORES: Final = 200.0  # over which the residuals' variance is smoothed


class Score(Struct, frozen=True, gc=False):
    """One score in [0, 1] of one answer of an arm. `weight` (0..1] is what it counts; `previous` (score, weight) is what
    was learnt of the same answer before and is taken out again."""

    arm: int
    task: str
    text: Features | None
    score: float
    weight: float = 1.0
    previous: tuple[float, float] | None = None


class QualityModel:
    """Beliefs about the scores of the arms 0..K-1; see the head of this file."""

    def __init__(self, arms: int) -> None:
        self.arms = arms
        self.count = np.zeros(arms)  # weight of scores
        self.total = np.zeros(arms)
        self.tasks: dict[str, NDArray[np.float64]] = {}  # task -> (2, K): weights and sums of scores
        self.weights = np.zeros((arms, FEATURES))
        self.variances = np.full((arms, FEATURES), TEXT_SD**2)
        self.prior_mean = np.full(arms, np.nan)  # stated for an arm, else the mean of all
        self.prior_weight = np.full(arms, NOISE**2 / MEAN_SD**2)
        self.textual = False  # some score came with a text
        self.residual = NOISE**2 / 2  # variance of residuals
        self.learnt = 0  # scores digested
        self.probation = np.zeros(arms, dtype=np.int64)  # until so many are learnt
        self.changes: list[tuple[int, float]] = []  # (arm, by how much), until somebody takes them
        self._sums = np.zeros((arms, 2))  # CUSUM: down, up
        self._runs = np.zeros((arms, 2, 2))  # scores and sums of residuals since each was zero
        self._pending: list[Score] = []

    # ---- learning

    def observe(self, score: Score) -> None:
        """Queues one score in [0, 1]; O(1)."""
        self._pending.append(score)
        if len(self._pending) >= MAX_PENDING:
            self.digest()

    @property
    def waiting(self) -> int:
        """Scores that are queued."""
        return len(self._pending)

    def digest(self) -> None:
        """Learns what is queued, in order."""
        pending, self._pending = self._pending, []
        for score in pending:
            self._learn(score)

    def _learn(self, one: Score) -> None:
        arm, cell = one.arm, self._task(one.task)
        if one.previous is not None:  # the same answer, judged anew
            score, weight = one.previous
            self._add(cell, arm, one.weight * one.score - weight * score, one.weight - weight)
            return
        mean, variance = self.moments(one.task)
        error = one.score - float(mean[arm])
        spread = float(variance[arm])
        if one.text is not None:
            self.textual = True
            error, spread = self._learn_text(one, one.text, error, spread)
        self._add(cell, arm, one.weight * one.score, one.weight)
        self.learnt += 1
        self.residual += (error * error - self.residual) / min(_RESIDUAL_SCORES, self.learnt + 20.0)
        if self.count[arm] >= _MIN_SCORES:
            self._watch(arm, error, (self.residual + spread) ** 0.5)
        if self.count[arm] > MAX_WEIGHT:
            self._discount(arm, 0.5, 0.0)

    def _add(self, cell: Floats, arm: int, total: float, weight: float) -> None:
        cell[0, arm] += weight
        cell[1, arm] += total
        self.count[arm] += weight
        self.total[arm] += total

    def _learn_text(self, one: Score, text: Features, error: float, spread: float) -> tuple[float, float]:
        """What is left of the error after the text's part, and its variance; the weights move."""
        variances, weights = self.variances[one.arm], self.weights[one.arm]
        noise = NOISE**2 / one.weight
        gain = variances * text
        error -= float(weights @ text)
        own = float(gain @ text)
        weights += gain * (error / (noise + own))
        variances /= 1.0 + variances * np.square(text) / noise
        return error, spread + own

    def _task(self, task: str) -> NDArray[np.float64]:
        """The task's scores, which become the youngest."""
        cell = self.tasks.pop(task, None)
        if cell is None:
            cell = np.zeros((2, self.arms))
            if len(self.tasks) >= MAX_TASKS:
                self.tasks.pop(next(iter(self.tasks)))
        self.tasks[task] = cell
        return cell

    # ---- change

    def _watch(self, arm: int, error: float, sd: float) -> None:
        z = min(CLIP, max(-CLIP, error / sd))
        for way, sign in ((0, -1.0), (1, 1.0)):
            sums, runs = self._sums[arm], self._runs[arm, way]
            sums[way] = max(0.0, sums[way] + sign * z - SLACK)
            if sums[way] == 0.0:
                runs[:] = 0.0
                continue
            runs += (1.0, error)
            limit = RETURN if way and self.on_probation(arm) else ALARM
            if sums[way] >= limit:
                self._change(arm, float(runs[1] / runs[0]), float(runs[0]))
                return

    def _change(self, arm: int, by: float, scores: float) -> None:
        self._discount(arm, min(1.0, scores / self.count[arm]), by)
        self._sums[arm] = 0.0
        self._runs[arm] = 0.0
        self.probation[arm] = self.learnt + PROBATION if by < 0 else 0
        self.changes.append((arm, by))

    def _discount(self, arm: int, weight: float, by: float) -> None:
        """What is known of an arm weighs `weight` of what it did, and all its means move by `by`."""
        for counts, totals in ((self.count, self.total), *((cell[0], cell[1]) for cell in self.tasks.values())):
            if counts[arm]:
                mean = min(1.0, max(0.0, totals[arm] / counts[arm] + by))
                counts[arm] *= weight
                totals[arm] = counts[arm] * mean

    def on_probation(self, arm: int) -> bool:
        """Whether the arm fell not long ago."""
        return bool(self.probation[arm] > self.learnt)

    # ---- beliefs

    def moments(self, task: str) -> tuple[Floats, Floats]:
        """Means and variances of the arms' scores on a task, shape (K,), without what a text adds."""
        mean, variance = self.overall()
        cell = self.tasks.get(task)
        if cell is None:
            return mean, variance + TASK_SD**2
        counts, totals = cell
        weight = NOISE**2 / TASK_SD**2
        share = weight / (counts + weight)
        return (totals + weight * mean) / (counts + weight), NOISE**2 / (counts + weight) + share * share * variance

    def overall(self) -> tuple[Floats, Floats]:
        """Means and variances of the arms' scores over what was asked so far, shape (K,)."""
        common = (self.total.sum() + PRIOR_SCORES * PRIOR_MEAN) / (self.count.sum() + PRIOR_SCORES)
        prior = np.where(np.isnan(self.prior_mean), common, self.prior_mean)
        weight = self.prior_weight
        return (self.total + weight * prior) / (self.count + weight), NOISE**2 / (self.count + weight)

    def weighted(self, arm: int) -> float:
        """The arm's expected score over the tasks as they were asked: stratified, so that being chosen for the easy
        ones is no merit."""
        if not self.tasks:
            return float(self.overall()[0][arm])
        asked = np.array([cell[0].sum() for cell in self.tasks.values()])
        means = np.array([self.moments(task)[0][arm] for task in self.tasks])
        return float(asked @ means / asked.sum()) if asked.any() else float(means.mean())

    # ---- from one policy to the next, and over a restart

    def adopt(self, other: "QualityModel", pairs: Sequence[tuple[int, int]]) -> None:
        """Takes over (own arm, other's arm) pairs of another model; also its tasks, residuals and counter."""
        other.digest()
        own, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        for task, cell in other.tasks.items():
            self._task(task)[:, own] = cell[:, theirs]
        for name in ("count", "total", "weights", "variances", "probation", "_sums", "_runs"):
            getattr(self, name)[own] = getattr(other, name)[theirs]
        self.textual, self.residual, self.learnt = other.textual, other.residual, other.learnt

    def to_state(self, arm: int) -> dict[str, object]:
        """JSON values of one arm; call `digest` before."""
        left = max(0, int(self.probation[arm]) - self.learnt)
        tasks = {task: cell[:, arm].tolist() for task, cell in self.tasks.items() if cell[0, arm]}
        text = [self.weights[arm].tolist(), self.variances[arm].tolist()] if self.textual else None
        return {"tasks": tasks, "text": text, "probation": left, "residual": self.residual}

    def restore(self, arm: int, scores: Sequence[float], state: Mapping[str, object]) -> None:
        """Takes over one arm: (weight, sum) of its scores, and what `to_state` gave, {} if nothing did.

        Raises ValueError, TypeError or KeyError when it cannot be read; the arm is then half filled.
        """
        self.count[arm], self.total[arm] = map(float, scores)
        if not state:
            return
        tasks, text = state["tasks"], state["text"]
        if not isinstance(tasks, Mapping):
            raise TypeError("the tasks of an arm are a map")
        for task, pair in tasks.items():
            self._task(str(task))[:, arm] = [float(number) for number in pair]
        if isinstance(text, Sequence):
            made = np.array(text, dtype=np.float64)
            if made.shape != (2, FEATURES) or not (made[1] > 0).all():
                raise ValueError("the weights of texts are of another version")
            self.weights[arm], self.variances[arm], self.textual = made[0], made[1], True
        self.probation[arm] = self.learnt + int(str(state["probation"]))
        self.residual = float(str(state["residual"]))
