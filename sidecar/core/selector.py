"""Contextual Thompson sampling inside a quality constraint and a dollar ceiling, with exact propensities.

**Choice.** Each arm has a worth for this request (`core.quality` scores, `core.constraint` prices):

    u = quality(task, text) - price (w_c cost + w_l slowness) - money cost

cost is the arm's expected cost as a multiple of the baseline's, known from prices; slowness is 1 - the latency score.
`core.draws` takes one from DRAWS joint draws of all quality and latency posteriors, which are made off the request, every
REFRESH scores. SPREAD scales the draws' sd: 1 would be plain Thompson sampling, whose regret bound pays for the worst case
with exploration that streams of some thousand requests cannot afford (Chapelle and Li, NIPS 2011, find 0.25..0.5 best).

An arm whose calls are shown to take longer than the objective's limits (more than LATE of them) gets its floor only,
unless all do. What it costs to explore is what the prices say. That arms without quality evidence stay at their canary
step is the rollout's promise: they are not in the pool.

**Quality** is the label (feedback, judge) times the probability of an answer; before the first label of the route it
is what validators and failures say. The first label begins the model anew: the two are not the same scale.

References: those of `core.draws` and `core.constraint`.
What it does not know: what other pods learn, and prompts beyond `core.features`.
"""

from collections.abc import Sequence
from math import inf, isfinite, log
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sidecar.core.asked import Asked
from sidecar.core.constraint import Floats, Promise, money_price, quality_price
from sidecar.core.draws import DRAWS, Pick, View, Why, floors
from sidecar.core.features import FEATURES
from sidecar.core.normal import ndtr
from sidecar.core.policy import Objective
from sidecar.core.posterior import ArmBelief
from sidecar.core.quality import QualityModel, Score
from sidecar.core.reward import (
    STREAM_FAST_S,
    STREAM_SLOW_S,
    WHOLE_FAST_S,
    WHOLE_SLOW_S,
    Signal,
    weights,
)
from sidecar.core.types import Facts, Feedback

UNHEARD: Final = 512  # 64..4,096 requests until prices are solved anew without a score; more keep old ones longer
REFRESH: Final = 16  # 1..64 new scores before new draws; fewer cost time, more choose with stale beliefs
SPREAD: Final = 0.4  # 0.1..1 of the posterior's sd
LATE: Final = 0.05  # of calls: the limits are 95th percentiles
MAX_PRICE: Final = 30.0  # the largest price where the policy gives quality no weight
NEWS: Final = 0.005  # 0..0.05; a smaller change of a cost is no news: what is drawn stays
JUMP: Final = 0.2  # 0.05..1; a larger one acts on the very next request
MAX_VIEWS: Final = 64  # cached pools; more subsets of arms only cost recomputation
READY: Final = 16  # 0..64 tasks made ready behind the answers; fewer make requests wait 15 us, more work for nobody
MIN_SD: Final = 1e-4
_SHOWN: Final = 2.0  # standard errors beyond LATE
_SHARES_OF: Final = 64  # recent requests over which `propensities` averages


class Selector:
    """Beliefs about the arms of one route, the prices of its promises, and the choice among any subset of arms."""

    def __init__(self, arms: Sequence[str], objective: Objective, *, chooses: bool = True) -> None:
        """`arms[0]` is the baseline, the reference of the quality constraint and the unit of costs. One that never
        `chooses` adds up what it hears, and no more."""
        self.arms = tuple(arms)
        self.baseline = self.arms[0]
        self.objective = objective
        self.weights = weights(objective)
        self.max_price = 1.0 / self.weights[0] if self.weights[0] > 0 else MAX_PRICE  # what the weights alone give
        self.beliefs = {arm: ArmBelief() for arm in arms}
        self.model = QualityModel(len(self.arms), sums=not chooses)
        self.promise = Promise()
        self.labelled = False
        self.price = self.max_price  # in quality, of one unit of `_load`; 0..max_price
        self.short = False  # no price above 0 keeps the promise of quality now
        self.money = 0.0  # a further price of one unit of cost alone, where the ceiling asks for it
        self.expected_nusd = np.ones(len(self.arms))
        self._allowance = inf  # of the ceiling: mean cost of the next calls
        self._places = {arm: place for place, arm in enumerate(self.arms)}
        self._slow = [_late_scores(objective, stream) for stream in (False, True)]
        self._noise: Floats | None = None  # (2, K, DRAWS): of quality, of latency
        self._text = np.zeros((len(self.arms), DRAWS, FEATURES), dtype=np.float32)
        self._unheard = 0  # requests since the last refresh
        self._stale = True  # something else than scores has changed: a refresh is due
        self._jumped = True  # ... by so much that the next request waits for the refresh
        self._enough = 1  # new scores that make a refresh due, while that is fewer than REFRESH
        self._views: dict[tuple[tuple[str, ...], bool], View] = {}
        self._pool = self.arms  # what prices are solved for: the last pool with the baseline, else the last of all
        self._anchored = False  # it has the baseline
        self._asked = Asked()

    # ---- learning

    def expect(self, arm: str, quality: float, scores: float) -> None:
        """States what to expect of an arm before any score; it has the weight of `scores` of them (above 0)."""
        self.model.expect(self._places[arm], quality, scores)
        self.touch()

    def partial_fit(self, arm: str, signal: Signal, facts: Facts) -> None:
        """Learns one exchange's signal."""
        if signal.answered is None:
            return
        belief = self.beliefs[arm]
        belief.answered.add(signal.answered)
        if signal.latency is not None:
            stream = facts.stream
            belief.speed(stream).add(signal.latency)
            slow = self._slow[stream]
            if slow is not None:
                belief.late[stream].add(float(signal.latency < slow))
        if not self.labelled:
            self.model.observe(Score(self._places[arm], facts.task, facts.text, signal.answered))
            self.promise.add(signal.answered, task=facts.task, baseline=arm == self.baseline)

    def label(self, feedback: Feedback) -> None:
        """Learns one feedback score in [0, 1]; where it replaces an earlier one of the same answer, that is taken out."""
        if feedback.weight <= 0.0 or not (self.labelled or feedback.is_label):  # a weak signal alone is no scale
            return
        if not self.labelled:
            self.begin_labels()
        place, score, weight = self._places[feedback.arm], feedback.score, feedback.weight
        previous = None if feedback.previous is None else (feedback.previous, feedback.previous_weight)
        self.model.observe(Score(place, feedback.task, feedback.text, score, weight, previous))
        own = feedback.arm == self.baseline
        self.promise.add(score, weight, previous, task=feedback.task, baseline=own)
        if feedback.is_label:
            self.beliefs[feedback.arm].samples += 1

    def begin_labels(self) -> None:
        """From now on labels say what quality is; what validators said is another scale, and forgotten."""
        self.labelled = True
        fresh = QualityModel(len(self.arms), sums=self.model.sums)
        fresh.share_priors(self.model)
        self.model, self.promise = fresh, Promise()

    def price_in(self, expected_nusd: Sequence[float | None]) -> None:
        """Takes expected costs of a call, by arm; an unknown one counts as the baseline's. Acts at once."""
        known = [cost for cost in expected_nusd if cost is not None]
        base = expected_nusd[0] if expected_nusd[0] is not None else max(known, default=1.0)
        costs = np.array([base if cost is None else cost for cost in expected_nusd])
        change = np.abs(costs - self.expected_nusd) / np.maximum(np.maximum(costs, self.expected_nusd), 1e-9)
        if change.max() > NEWS:
            self.expected_nusd = costs
            self.touch()
            self._jumped = self._jumped or bool(change.max() > JUMP)

    def touch(self) -> None:
        """Something else than scores has changed: a refresh is due at once, and no cached view is used."""
        self._stale = True
        self._views.clear()

    # ---- off the request

    @property
    def due(self) -> bool:
        """Whether a refresh would change much: by a few new scores while little is known, by REFRESH later on."""
        return self._stale or self.model.waiting >= min(REFRESH, self._enough) or self._unheard >= UNHEARD

    def refresh(self, rng: np.random.Generator, allowance_nusd: float = inf) -> None:
        """Digests new scores, draws anew and solves the prices; `allowance_nusd` is what the next calls may cost on
        average."""
        self._learn()
        self._enough = 1 + self.model.learnt // 8
        self._allowance = allowance_nusd
        self._draw(rng)
        self._solve(rng)
        self._views.clear()
        self._get_ready()
        self._stale, self._jumped, self._unheard = False, False, 0

    def digest(self, least: int = 1) -> None:
        """Learns what is queued, if `least` are, for who only reads; it is news to the next refresh all the same."""
        if self.model.waiting >= least:
            self._stale = True
            self._learn()

    def _learn(self) -> None:
        self.model.digest()
        changed, self.model.changes = self.model.changes, []
        if any(arm == self._places[self.baseline] for arm, _ in changed):
            self.promise.doubt()
        self.promise.follow(self.model.residual)

    def _draw(self, rng: np.random.Generator) -> None:
        model = self.model
        self._noise = SPREAD * rng.standard_normal((2, len(self.arms), DRAWS))
        if model.textual:
            noise = rng.standard_normal((len(self.arms), DRAWS, FEATURES), dtype=np.float32)
            deviations = (SPREAD * np.sqrt(model.variances)).astype(np.float32)
            self._text = model.weights.astype(np.float32)[:, None, :] + deviations[:, None, :] * noise

    def _solve(self, rng: np.random.Generator) -> None:
        loss, asked = self.objective.max_quality_loss, self._asked
        if not asked:
            self.price = self.max_price if loss >= 1.0 else 0.0
            return
        assert self._noise is not None
        model = self.model
        places = np.array([self._places[arm] for arm in self._pool])
        tasks, at = asked.by_task()
        known = np.array([model.moments(task) for task in tasks])
        means, deviations = known[at, 0], np.sqrt(known[at, 1])
        row = rng.integers(DRAWS, size=len(asked))
        draws = means + deviations * self._noise[0].T[row]
        if model.textual:
            texts = asked.texts
            means = means + texts @ (model.weights + model.shared[0]).T
            draws = draws + np.einsum("kbf,bf->bk", self._text[:, row], texts)
        draws = (draws * self._answered())[:, places]
        means = means[:, places]
        cost = self._costs()[places]
        load = self._load(asked.mostly_streams())[places]
        self.price = self.max_price
        if loss < 1.0:
            given = np.array(self._floors(self._pool))
            rest = 1.0 - given.sum()
            need = (self._need(loss) - float(means.mean(axis=0) @ given)) / rest - min(0.0, model.bias)
            self.price = quality_price(draws, means, load, need, self.max_price)
            self.short = self.price == 0.0
        self.money = 0.0
        if isfinite(self._allowance):
            allowance = self._allowance / self._unit()
            self.money = money_price(draws, self.price * load, cost, allowance, MAX_PRICE / max(allowance, 1e-9))

    def _get_ready(self) -> None:
        """Makes what the next requests will ask for, if they are like those of late."""
        for stream in {stream for _, stream in self._asked.kinds}:
            view = self._view(self._pool, stream)
            for task in self._asked.usual(stream, READY):
                view.draw(task, *self.model.moments(task))

    def _need(self, loss: float) -> float:
        baseline, scores = self.promise.reference(*self.model.expected(self._places[self.baseline]))
        return self.promise.need(loss, baseline, self.model.residual, scores)

    def _answered(self) -> Floats:
        """How often each arm answers at all, where labels do not say it, (K,). Shrunk to all arms' share."""
        if not self.labelled:
            return np.ones(len(self.arms))
        return np.array([belief.answered.moments()[0] for belief in self.beliefs.values()])

    def _unit(self) -> float:
        """The cost that counts as one: the baseline's, or where that is free the dearest arm's."""
        return float(self.expected_nusd[0] or self.expected_nusd.max() or 1.0)

    def _costs(self) -> Floats:
        """Expected costs of a call with the penalty for being late, as multiples of the unit, (K,)."""
        costs = self.expected_nusd
        if self.objective.late_nusd:
            late = [max(one.moments()[0] for one in self.beliefs[arm].late) for arm in self.arms]
            costs = costs + self.objective.late_nusd * np.array(late)
        made: Floats = costs / self._unit()
        return made

    def _load(self, stream: bool) -> Floats:
        """What is minimised, (K,)."""
        _, w_cost, w_latency = self.weights
        slow = [1.0 - self.beliefs[arm].speed(stream).moments()[0] for arm in self.arms]
        made: Floats = w_cost * self._costs() + w_latency * np.array(slow)
        return made

    # ---- one request

    def choose(
        self,
        pool: tuple[str, ...],
        facts: Facts,
        rng: np.random.Generator,
        balance_nusd: float = inf,
        warm: tuple[str, float] | None = None,
    ) -> Pick:
        """One arm of `pool` (not empty) for this request; it may cost at most `balance_nusd`, the cheapest always may.

        `warm` is an arm that this call is cheaper on, and by how many nano-dollars: leaving it costs that much.
        """
        if self._noise is None or self._jumped:
            self.refresh(rng, self._allowance)
        self.remember(pool, facts)
        if balance_nusd < inf:
            pool = self._affordable(pool, balance_nusd)
        stream = facts.stream
        view = self._views.get((pool, stream)) or self._view(pool, stream)
        drawn = view.bases.get(facts.task) or view.draw(facts.task, *self.model.moments(facts.task))
        drawn = view.with_text(drawn, facts.text)
        if warm is not None:
            saved = (self.price * self.weights[1] + self.money) * warm[1] / self._unit()
            drawn = view.favour(drawn, warm[0], saved)
        return view.pick(drawn, rng.random())

    def remember(self, pool: tuple[str, ...], facts: Facts) -> None:
        """Counts a request that chooses among `pool`, here or in another process, as one of those that prices are solved
        for."""
        if self.baseline in pool or not self._anchored:
            self._anchored = self.baseline in pool
            self._pool = pool
            self._asked.remember(facts)
            self._unheard += 1

    def _affordable(self, pool: tuple[str, ...], balance_nusd: float) -> tuple[str, ...]:
        costs = self.expected_nusd
        left = tuple(arm for arm in pool if costs[self._places[arm]] <= balance_nusd)
        return left or (min(pool, key=lambda arm: float(costs[self._places[arm]])),)

    def _view(self, pool: tuple[str, ...], stream: bool) -> View:
        """Prices, floors and limits of a pool, made once a refresh."""
        assert self._noise is not None
        places = np.array([self._places[arm] for arm in pool])
        w_latency = self.weights[2]
        spread = [self.beliefs[arm].speed(stream).moments()[1] ** 0.5 for arm in pool]
        base = -(self.price * self._load(stream) + self.money * self._costs())[places][:, None]
        base = base + self.price * w_latency * np.array(spread)[:, None] * self._noise[1][places]
        late = np.array([self._is_late(arm, stream) for arm in pool])
        if not late.all():
            base[late] = -inf
        if len(self._views) >= MAX_VIEWS:
            self._views.clear()
        view = self._views[pool, stream] = View(pool, places, base, self._floors(pool))
        view.noise, view.answered = self._noise[0][places], self._answered()[places, None]
        if self.model.textual:
            view.text = np.ascontiguousarray(self._text[places].swapaxes(0, 1)).reshape(-1, FEATURES)
        return view

    def _floors(self, pool: tuple[str, ...]) -> list[float]:
        costs = [float(self.expected_nusd[self._places[arm]]) for arm in pool]
        return floors([self._why(arm) for arm in pool], costs, self._allowance)

    def _why(self, arm: str) -> Why:
        if self.model.on_probation(self._places[arm]):
            return "probe"
        if arm == self.baseline and 0.0 < self.objective.max_quality_loss < 1.0:
            return "short" if self.short else "baseline"
        return "usual"

    def _is_late(self, arm: str, stream: bool) -> bool:
        if self._slow[stream] is None or self.objective.late_nusd:
            return False
        mean, variance = self.beliefs[arm].late[stream].moments()
        return bool(mean - _SHOWN * variance**0.5 > LATE)

    # ---- for people

    def propensities(self, pool: Sequence[str], stream: bool = True) -> Floats:
        """Choice probabilities of `pool` in its order, on average over the requests of late; they sum to 1."""
        pool = tuple(pool)
        if self._noise is None:
            alone = self.baseline in pool
            return np.array([float(arm == self.baseline) if alone else 1.0 / len(pool) for arm in pool])
        view = self._views.get((pool, stream)) or self._view(pool, stream)
        wins = np.zeros(len(pool))
        recent = list(zip(self._asked.kinds, self._asked.texts, strict=True))[-_SHARES_OF:] or [(("", stream), None)]
        for (task, _), text in recent:
            drawn = view.bases.get(task) or view.draw(task, *self.model.moments(task))
            wins += np.bincount(view.with_text(drawn, text)[1], minlength=len(pool))
        made: Floats = np.array(view.floors) + view.rest * wins / wins.sum()
        return made

    def quality(self) -> tuple[Floats, Floats]:
        """Means and variances of the arms' quality over what was asked so far, (K,)."""
        self.digest()
        mean, variance = self.model.typical()
        answered = self._answered()
        return mean * answered, variance * answered**2

    @property
    def asked(self) -> tuple[list[tuple[str, bool]], NDArray[np.float32]]:
        """Task and kind (stream or not) of the requests of late, and their texts, (B, FEATURES)."""
        return self._asked.kinds, self._asked.texts

    def standing(self, stream: bool) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Costs of a call as multiples of the unit, all that is minimised, and who is late, (K,) each."""
        late = np.array([self._is_late(arm, stream) for arm in self.arms])
        return self._costs(), self._load(stream), late

    def feasible(self) -> Floats:
        """P(quality >= (1 - max_quality_loss) x the baseline's) of each arm alone, (K,); 1 for the baseline."""
        mean, variance = self.quality()
        keep = 1.0 - self.objective.max_quality_loss
        sd = np.maximum(np.sqrt(variance + keep**2 * variance[0]), MIN_SD)
        made = np.asarray(ndtr((mean - keep * mean[0]) / sd))
        made[0] = 1.0
        return made

    # ---- from one policy to the next

    def adopt(self, other: "Selector", arms: Sequence[str]) -> None:
        """Takes over what another selector knows of `arms`, which both have."""
        self.model.adopt(other.model, [(self._places[arm], other._places[arm]) for arm in arms])
        for arm in arms:
            self.beliefs[arm] = other.beliefs[arm]
        self.labelled, self.promise = other.labelled, other.promise
        self._asked = other._asked
        if self.baseline not in arms or self.baseline != other.baseline:
            self.measure_baseline()
        self.touch()

    def measure_baseline(self) -> None:
        """Begins the promise's reference with what the model knows of the baseline: another one, or one whose scores
        were not kept."""
        self.promise.measure(self.model.known(self._places[self.baseline]))


def _late_scores(objective: Objective, stream: bool) -> float | None:
    """The latency score below which a call is late; None without a limit."""
    limit_s = objective.ttft_s if stream else objective.latency_s
    if limit_s is None:
        return None
    fast, slow = (STREAM_FAST_S, STREAM_SLOW_S) if stream else (WHOLE_FAST_S, WHOLE_SLOW_S)
    return min(1.0, max(0.0, 1.0 - log(limit_s / fast) / log(slow / fast)))
