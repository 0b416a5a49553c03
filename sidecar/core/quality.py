"""Quality in context: which arm answers this kind of request well, learnt online from scores of answers.

**Model.** The score of arm a on a request of task t with text features x (`core.features`):

    score = m[a] + d[a, t] + (v + w[a]) . x + noise

m is the arm's mean, shrunk to the mean of all arms' scores (a new arm begins as an average one, or as its stated prior);
d the task's deviation, prior sd TASK_SD, so that a task with few scores is answered by the arm's mean and one with many
by itself; v and w the text's part of what is left, for all arms and for one, prior sd TEXT_SD. The weight of the context
is learnt, not set: where task or text tell nothing, it stays near zero. All levels are Gaussian: m, then d given m, in
closed form (Lindley and Smith, J. R. Stat. Soc. B 34, 1972), the text with a diagonal covariance (mean field: O(features)
an update, two numbers a feature; on the public matrices it chooses as well as the full one). The noise's variance is
that of the residuals of late, so a judge's fine scores teach faster than yes-or-no ones. How easy a task is for all arms
is left out: on the public matrices it narrowed the exploration and lost more than it told.

**Change.** Old scores weigh as new ones until there is evidence against it. Two CUSUM sums a arm (Page, Biometrika
41, 1954) run over the standardised residuals z = (score - expected) / sd, cut to +-CLIP: S = max(0, S + z - SLACK),
one for each direction. When one passes ALARM, the arm's quality has changed: the mean residual since the sum last was
zero is added to all its means, and what is known of it weighs from now on as much as those scores do. So tasks keep
their order and a few new scores move all of them. When it later rises to where it was, it weighs again what it did.
SLACK is doubled where the expectation itself is doubtful. With a known mean each sum has a false alarm about every
(exp(2 SLACK (ALARM + 1.17)) - 1) / (2 SLACK^2) = 41,000 scores (Siegmund's approximation; means are learnt, so it is
sooner in practice); a fall by one sd is found after ALARM / (1 - SLACK) = 18. An arm that fell is on probation for
PROBATION scores of the route: then RETURN is enough to find that it is well again, and the selector probes it
meanwhile (`core.selector`).

**Sums alone.** A model of a route that chooses by no belief adds scores up and fits nothing: counts and sums by arm and
task are what people are shown and what a later switch of the mode begins with. Texts and changes are left out of it.

Bounded: MAX_TASKS tasks, MAX_WEIGHT scores of weight an arm. Where there are more tasks, those seen longest ago share one
row, REST: no score of an arm is lost, and a task without a row is judged by that row, with TASK_SD around it. Scores are
queued and digested off the request. What it does not know: seasons, and changes of what is asked.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from sidecar.core.features import FEATURES
from sidecar.core.types import Features

Floats = NDArray[np.float64]

NOISE: Final = 0.35  # 0.1..0.5, sd of a score around its mean before it is learnt: of yes-or-no scores 0.3..0.5
LEAST_NOISE: Final = 0.1  # 0.02..0.3; however exact a judge is, smaller takes its habits for truth
MEAN_SD: Final = 0.3  # 0.1..0.5, of the arms around each other; smaller holds new arms back, larger overrates luck
TASK_SD: Final = 0.15  # 0.05..0.5, of an arm's tasks around that; smaller ignores tasks, larger needs scores in each
TEXT_SD: Final = 0.05  # 0..0.3, of one feature's part; larger learns faster from text and chases its noise
PRIOR_MEAN: Final = 0.6  # of the arms' mean before any score
PRIOR_SCORES: Final = 5.0  # 1..50, its weight
MAX_WEIGHT: Final = 5_000.0  # 500..1e6 scores an arm; smaller stays noisy, larger follows slow drift later
MAX_ASKED: Final = 10_000.0  # 1,000..1e6 scores; beyond, all is halved: fewer follow a new mix of tasks sooner
MAX_TASKS: Final = 256  # 16..4,096; fewer throw rare tasks together, more cost 16 bytes an arm each
REST: Final = "(other tasks)"  # their common row
MAX_PENDING: Final = 1_024  # scores that wait to be digested; then the learner makes time itself
# 1..64 scores of those that waited; more measure late ones against means of long ago: false alarms
FIT_EVERY: Final = 16
SLACK: Final = 0.35  # 0.1..0.5 sd; smaller finds small changes and takes model error for change
ALARM: Final = 12.0  # 8..40; smaller alarms without cause, larger notices later
RETURN: Final = 5.0  # 3..ALARM, while on probation; smaller takes luck for recovery
PROBATION: Final = 1_500  # scores of the route; fewer give a provider less time to repair its model
CLIP: Final = 3.0  # 2..5 sd; one odd score is no change
_MIN_SCORES: Final = 20.0  # of an arm before its residuals mean anything
SURE: Final = 0.5  # 0.2..1, weight from which a score is a judgement and no guess; larger lets guesses raise alarms
SURER: Final = 2.0  # 1.5..10, times the weight of the guess it replaces; larger leaves judgements out of the watch
_RESIDUAL_SCORES: Final = 200.0  # over which the residuals' variance is smoothed
_BIAS_SCORES: Final = 1_000.0  # and their mean


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

    def __init__(self, arms: int, *, sums: bool = False) -> None:
        """`sums`: nobody chooses by it, see the head of this file."""
        self.arms, self.sums = arms, sums
        self.tasks: dict[str, int] = {}  # task -> row, the one seen last at the end
        self.counts = np.zeros((0, arms))  # weights of scores by task and arm
        self.totals = np.zeros((0, arms))  # and their sums
        self.asked = np.zeros(0)  # weights of scores by task: forgetting an arm does not change what was asked
        self.prior_mean = np.full(arms, np.nan)  # stated for an arm, else the mean of all
        self.prior_sd = np.full(arms, MEAN_SD)
        self.shared = np.zeros((2, FEATURES))  # v: means and precisions (1 / variance, which add up) of the weights
        self.weights = np.zeros((arms, FEATURES))  # w
        self.precisions = np.full((arms, FEATURES), TEXT_SD**-2)
        self.shared[1] = TEXT_SD**-2
        self.textual = False  # some score came with a text
        self.residual = NOISE**2  # variance of residuals
        self.bias = 0.0  # their mean: below 0 where the arms that are chosen turn out worse than expected
        self.learnt = 0  # scores digested
        self.probation = np.zeros(arms, dtype=np.int64)  # until so many are learnt
        self.changes: list[tuple[int, float]] = []  # (arm, by how much), until somebody takes them
        self._sums = [[0.0, 0.0] for _ in range(arms)]  # CUSUM: down, up
        self._runs = [[[0.0, 0.0], [0.0, 0.0]] for _ in range(arms)]  # scores and sums of residuals since each was zero
        self._weights = [0.0] * arms  # of all scores of each arm
        self._surely = [0] * arms  # judgements of each arm, since the start of the process
        self._before: dict[int, tuple[float, float]] = {}  # weight and sum of an arm's scores before it fell
        self._pending: list[Score] = []
        self.overall = (np.zeros(arms), np.zeros(arms))  # means and variances of the arms, all tasks alike
        self.mean = self.variance = np.zeros((0, arms))  # by task
        self._fit()

    @property
    def noise(self) -> float:
        """Variance of a score around what is expected."""
        return min(NOISE**2, max(LEAST_NOISE**2, self.residual))

    @property
    def variances(self) -> Floats:
        """Of the arms' weights of the text, (K, FEATURES)."""
        return 1.0 / self.precisions

    def expect(self, arm: int, mean: float, scores: float) -> None:
        """States a prior with the weight of `scores` (above 0) yes-or-no scores."""
        self.prior_mean[arm], self.prior_sd[arm] = mean, NOISE / scores**0.5
        self._fit()

    def share_priors(self, other: "QualityModel") -> None:
        """Begins with what was stated to `other`, which has the same arms."""
        self.prior_mean, self.prior_sd = other.prior_mean, other.prior_sd
        self._fit()

    # ---- learning

    def observe(self, score: Score) -> None:
        """Queues one score; O(1)."""
        self._pending.append(score)
        if len(self._pending) >= MAX_PENDING:
            self.digest()

    @property
    def waiting(self) -> int:
        """Scores that are queued."""
        return len(self._pending)

    def digest(self) -> None:
        """Learns what is queued, in order."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        if self.sums:
            self._add_up(pending)
            return
        for begin in range(0, len(pending), FIT_EVERY):
            for score in pending[begin : begin + FIT_EVERY]:
                self._learn(score)
            self._fit()

    def _add_up(self, pending: Sequence[Score]) -> None:
        found: dict[tuple[str, int], list[float]] = {}
        for one in pending:
            place, weight = (one.task, one.arm), one.weight
            sums = found.get(place)
            if sums is None:
                sums = found[place] = [0.0, 0.0]
            sums[0] += weight * one.score
            sums[1] += weight
            if one.previous is None:
                self.learnt += 1
            else:
                before, counted = one.previous
                sums[0] -= counted * before
                sums[1] -= counted
        for (task, arm), (total, weight) in found.items():
            self._add(self._row(task), arm, total, weight)
        self._fit()

    def _learn(self, one: Score) -> None:
        gone = one.previous is not None and one.task not in self.tasks and REST in self.tasks
        arm, row = one.arm, self._row(REST if gone else one.task)
        if one.previous is not None:  # the same answer, judged anew
            score, weight = one.previous
            if one.weight < SURER * weight:
                self._add(row, arm, one.weight * one.score - weight * score, one.weight - weight)
                return
            self._add(row, arm, -weight * score, -weight)  # a guess gives way to a judgement, which is new
        error = one.score - self.mean.item(row, arm)
        spread = self.variance.item(row, arm)
        if one.text is not None:
            error, spread = self._learn_text(one, one.text, error, spread)
        self._add(row, arm, one.weight * one.score, one.weight)
        self.learnt += one.previous is None
        if one.weight >= SURE:
            self._surely[arm] += 1
        elif self._surely[arm] >= _MIN_SCORES:  # a guess is no measure of judgements: it would look like a change
            return
        self.residual += one.weight * (error * error - self.residual) / min(_RESIDUAL_SCORES, self.learnt + 20.0)
        self.bias += one.weight * (error - self.bias) / min(_BIAS_SCORES, self.learnt + _RESIDUAL_SCORES)
        if self._weights[arm] >= _MIN_SCORES:
            self._watch(one, error, spread)

    def _add(self, row: int, arm: int, total: float, weight: float) -> None:
        """What a score replaces may be forgotten by now (another model, a restart): no sum is below 0 or above its count."""
        before = self.counts.item(row, arm)
        count = max(0.0, before + weight)
        self.asked[row] = max(0.0, self.asked.item(row) + weight)
        self.counts[row, arm] = count
        self.totals[row, arm] = min(count, max(0.0, self.totals.item(row, arm) + total))
        self._weights[arm] += count - before

    def _learn_text(self, one: Score, text: Features, error: float, spread: float) -> tuple[float, float]:
        """What is left of the error after the text's part, and its variance; the weights move."""
        self.textual = True
        noise = self.noise / one.weight
        text = text.astype(np.float64)  # once, and not in each product
        told = text * text  # precision that this score adds
        told /= noise
        for weights, precisions in (self.shared, (self.weights[one.arm], self.precisions[one.arm])):
            gain = text / precisions
            error -= float(weights.dot(text))
            own = float(gain.dot(text))
            gain *= error / (noise + own)
            weights += gain
            precisions += told
            spread += own
        return error, spread

    def _row(self, task: str) -> int:
        """The task's row; it becomes the youngest."""
        row = self.tasks.pop(task, None)
        if row is None:
            if len(self.tasks) >= MAX_TASKS:
                row = self._gather()
            else:
                row = len(self.tasks)
                self.counts, self.totals = (np.vstack([one, np.zeros(self.arms)]) for one in (self.counts, self.totals))
                self.asked = np.append(self.asked, 0.0)
                self.mean = np.vstack([self.mean, self.overall[0]])
                self.variance = np.vstack([self.variance, self.overall[1] + TASK_SD**2])
        self.tasks[task] = row
        return row

    def _gather(self) -> int:
        """The task seen longest ago goes over to REST; answers its row, which is free."""
        tasks = self.tasks
        rest = tasks.pop(REST, None)
        if rest is None:
            rest = tasks.pop(next(iter(tasks)))
        row = tasks.pop(next(iter(tasks)))
        tasks[REST] = rest
        for sums in (self.counts, self.totals, self.asked):
            sums[rest] += sums[row]
            sums[row] = 0.0
        self.mean[row], self.variance[row] = self.overall[0], self.overall[1] + TASK_SD**2
        return row

    def _fit(self) -> None:
        """All means and variances from counts and sums."""
        counts, totals = self.counts, self.totals
        scores = counts.sum(axis=0)
        self._weights = scores.tolist()
        if max(self._weights, default=0.0) > MAX_WEIGHT:
            for arm in np.flatnonzero(scores > MAX_WEIGHT):
                self._discount(int(arm), 0.5, 0.0)
            scores = counts.sum(axis=0)
            self._weights = scores.tolist()
        if self.asked.sum() > MAX_ASKED:
            self.asked /= 2
        sums, noise = totals.sum(axis=0), self.noise
        common = (sum(sums.tolist()) + PRIOR_SCORES * PRIOR_MEAN) / (sum(self._weights) + PRIOR_SCORES)
        begin = np.where(np.isnan(self.prior_mean), common, self.prior_mean)
        prior = noise / self.prior_sd**2
        known, weight = scores + prior, noise / TASK_SD**2
        means, variances = (sums + prior * begin) / known, noise / known
        self.overall, self._begin = (means, variances), (begin, prior)
        by_task = counts + weight
        share = weight / by_task
        self.mean = (totals + weight * means) / by_task
        self.variance = noise / by_task + share * share * variances

    # ---- change

    def _watch(self, one: Score, error: float, spread: float) -> None:
        """Takes one residual in, whose expectation has the variance `spread`: a doubtful expectation is no evidence.

        A score that counts a tenth is a tenth of a step: ten weak signals say as much as one label.
        """
        arm, weight = one.arm, one.weight
        z = min(CLIP, max(-CLIP, error / (self.residual + spread) ** 0.5))
        slack = SLACK + min(SLACK, (spread / self.residual) ** 0.5)
        for way, sign in ((0, -1.0), (1, 1.0)):
            sums, runs = self._sums[arm], self._runs[arm][way]
            sums[way] = max(0.0, sums[way] + weight * (sign * z - slack))
            if sums[way] == 0.0:
                runs[0] = runs[1] = 0.0
                continue
            runs[0] += weight
            runs[1] += weight * error
            if sums[way] >= (RETURN if way and self.on_probation(arm) else ALARM):
                self._change(arm, runs[1] / runs[0], runs[0])
                return

    def _change(self, arm: int, by: float, scores: float) -> None:
        count, total = self.scores(arm)
        before = self._before.pop(arm, None) if self.on_probation(arm) else None
        if (
            before is not None
            and by > 0
            and abs(total / count + by - before[1] / before[0]) < 2 * (self.noise / scores) ** 0.5
        ):
            self._rescale(arm, *before)
        else:
            if by < 0:
                self._before[arm] = (count, total)
            self._discount(arm, min(1.0, scores / count), by)
        self._sums[arm] = [0.0, 0.0]
        self._runs[arm] = [[0.0, 0.0], [0.0, 0.0]]
        self.probation[arm] = self.learnt + PROBATION if by < 0 else 0
        self.changes.append((arm, by))
        self._fit()

    def _rescale(self, arm: int, count: float, total: float) -> None:
        """What is known of an arm weighs `count` and sums up to about `total` again."""
        now, have = self.scores(arm)
        self._discount(arm, count / now, total / count - have / now)

    def _discount(self, arm: int, weight: float, by: float) -> None:
        """What is known of an arm weighs `weight` of what it did, and all its means move by `by`."""
        counts, totals = self.counts[:, arm], self.totals[:, arm]
        means = np.clip(totals / np.maximum(counts, 1e-9) + by, 0.0, 1.0)
        counts *= weight
        totals[:] = counts * means

    def put_on_probation(self, arm: int, scores: int) -> None:
        """The arm may have changed unseen: it is probed for as many of the route's scores, and a rise is believed sooner."""
        self.probation[arm] = self.learnt + scores

    def on_probation(self, arm: int) -> bool:
        """Whether the arm fell not long ago."""
        return bool(self.probation[arm] > self.learnt)

    # ---- beliefs

    def moments(self, task: str) -> tuple[Floats, Floats]:
        """Means and variances of the arms' scores on a task, (K,) each, without what a text adds."""
        row = self.tasks.get(task)
        if row is not None:
            return self.mean[row], self.variance[row]
        rest = self.tasks.get(REST)
        mean, variance = self.overall if rest is None else (self.mean[rest], self.variance[rest])
        return mean, variance + TASK_SD**2

    def scores(self, arm: int) -> tuple[float, float]:
        """Weight and sum of the arm's scores."""
        return float(self.counts[:, arm].sum()), float(self.totals[:, arm].sum())

    def expected(self, arm: int) -> tuple[float, float]:
        """What is expected of an arm before any score of its own, and the weight of that in scores."""
        begin, prior = self._begin
        return float(begin[arm]), float(prior[arm])

    def known(self, arm: int) -> dict[str, tuple[float, float, float]]:
        """By task: weight of all scores as they were asked; weight and sum of the arm's."""
        self.digest()
        counts, totals = self.counts[:, arm].tolist(), self.totals[:, arm].tolist()
        return {task: (self.asked.item(row), counts[row], totals[row]) for task, row in self.tasks.items()}

    def typical(self) -> tuple[Floats, Floats]:
        """Means and variances of the arms' scores over the tasks as they were asked, (K,) each: being given the easy
        ones is no merit. What was forgotten of an arm was asked all the same: weighing by what is still known of all arms
        would make the tasks of a forgotten arm rare."""
        if not self.asked.any():
            return self.overall
        made: Floats = self.asked @ self.mean / self.asked.sum()
        return made, self.overall[1]

    # ---- from one policy to the next, and over a restart

    def adopt(self, other: "QualityModel", pairs: Sequence[tuple[int, int]]) -> None:
        """Takes over (own arm, other's arm) pairs of another model; also its tasks, residuals and counter."""
        other.digest()
        own, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        for task, row in other.tasks.items():
            mine = self._row(task)
            self.counts[mine, own] = other.counts[row, theirs]
            self.totals[mine, own] = other.totals[row, theirs]
            self.asked[mine] = other.asked[row]
        for name in ("weights", "precisions", "probation"):
            getattr(self, name)[own] = getattr(other, name)[theirs]
        for arm, its in pairs:
            self._sums[arm] = list(other._sums[its])
            self._runs[arm] = [list(run) for run in other._runs[its]]
        for name in ("shared", "textual", "residual", "bias", "learnt"):
            setattr(self, name, getattr(other, name))
        self._fit()

    def to_state(self, arm: int) -> dict[str, object]:
        """JSON values of one arm; call `digest` before."""
        tasks = {
            task: [float(self.counts[row, arm]), float(self.totals[row, arm])]
            for task, row in self.tasks.items()
            if self.counts[row, arm]
        }
        text = [self.weights[arm].tolist(), self.variances[arm].tolist()] if self.textual else None
        shared = [self.shared[0].tolist(), (1.0 / self.shared[1]).tolist()] if self.textual else None
        left = max(0, int(self.probation[arm]) - self.learnt)
        return {"tasks": tasks, "text": text, "shared": shared, "probation": left, "residual": self.residual}

    def restore(self, arm: int, state: Mapping[str, Any]) -> None:
        """Takes over one arm from what `to_state` gave.

        Raises ValueError, TypeError, KeyError or IndexError when it cannot be read; the arm is then half filled.
        """
        self.asked = np.maximum(0.0, self.asked - self.counts[:, arm])  # what was asked is not stored: what is known is
        self.counts[:, arm] = self.totals[:, arm] = 0.0
        for task, (count, total) in state["tasks"].items():
            row = self._row(str(task))
            self.asked[row] += float(count)
            self.counts[row, arm], self.totals[row, arm] = float(count), float(total)
        if state["text"] is not None:
            weights, shared = (np.array(state[name], dtype=np.float64) for name in ("text", "shared"))
            if weights.shape != (2, FEATURES) or shared.shape != weights.shape:
                raise ValueError("the weights of texts are of another version")
            told = np.concatenate((weights, shared))
            if not (np.isfinite(told).all() and (told[1::2] > 0).all()):
                raise ValueError("no weights of texts, or no variances of them")
            weights[1], shared[1] = 1.0 / weights[1], 1.0 / shared[1]
            self.weights[arm], self.precisions[arm] = weights
            self.shared, self.textual = shared, True
        self.probation[arm] = self.learnt + int(state["probation"])
        self.residual = float(state["residual"])
        self._fit()
