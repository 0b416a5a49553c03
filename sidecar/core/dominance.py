"""Whether an arm can be spared: another one is worth more than it wherever the selector could send a request.

**Model.** The selector's worth of an arm is u = quality - p load (`core.selector`), with some price p between 0 and its
`max_price`, and perhaps a price on cost besides. Arm b dominates arm a when b is not dearer and

    P(u_b - u_a > 0) = Phi(D / sd),   D = (q_b - q_a) + p (load_a - load_b)

is high at p = 0 AND at p = max_price (D is linear in p, so then between them too), on EVERY task but the rarest, which have
a share of RARE of the scores together, and where texts count on all but a share of RARE of the texts of late. `sure` is the
least of these probabilities. Quality and latency are the selector's posteriors, independent given the rest; where residuals
are wider than the noise that the posterior reckons with (yes-or-no scores of hard tasks), its variance is widened by as
much.

An arm that was tried seldom has a wide posterior, also on a task that it never saw (prior sd `quality.TASK_SD`): it is
not dominated, however bad its few scores were, until the difference is beyond that doubt. Below MIN_SCORES scores of
either arm there is no answer, nor for an arm that is on probation: its trial is not over.

What it does not know: tasks that come later. They have wide posteriors when they do, and `sure` falls by itself.

Reference: stochastic dominance of posterior means; action elimination (Even-Dar, Mannor and Mansour, JMLR 7, 2006) drops
arms for good by confidence bounds, here they only rest (`core.resting`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from sidecar.core.constraint import Floats
from sidecar.core.normal import ndtr
from sidecar.core.selector import Selector

MIN_SCORES: Final = 30.0  # 10..500 of each of the two; fewer trust noise that is not yet learnt, more spare nothing
# 0..0.1 of what is asked; at 0 one odd task spares every arm, larger overlooks what an arm is good at
RARE: Final = 0.01
MIN_SD: Final = 1e-4


@dataclass(frozen=True, slots=True)
class Dominance:
    """The arm that dominates another one most surely. `sure` is a probability."""

    by: str
    sure: float
    tasks: int  # on which they were compared


def dominance(selector: Selector, arm: str, pool: Iterable[str]) -> Dominance | None:
    """The arm of `pool` that most surely dominates `arm`; None when none is known well enough to be compared."""
    selector.digest()
    model, places = selector.model, {name: place for place, name in enumerate(selector.arms)}
    at = places[arm]
    if model.scores(at)[0] < MIN_SCORES or model.on_probation(at):
        return None
    others = [one for one in pool if one != arm and model.scores(places[one])[0] >= MIN_SCORES]
    sure = _sure(selector, at, [places[one] for one in others])
    tasks = len(_common(selector))
    found = (Dominance(one, value, tasks) for one, value in zip(others, sure.tolist(), strict=True) if value > 0.0)
    return max(found, key=lambda one: one.sure, default=None)


def _sure(selector: Selector, arm: int, others: list[int]) -> Floats:
    """The least probability that each of `others` is worth more, (O,); 0 for one that is dearer, or late."""
    means, variances, tasks = _quality(selector)
    gain = means[:, others] - means[:, [arm]]
    spread = variances[:, others] + variances[:, [arm]]
    z = gain / np.sqrt(np.maximum(spread, MIN_SD**2))
    max_price, w_latency, barred = selector.max_price, selector.weights[2], np.zeros(len(others), dtype=np.bool_)
    for stream in {stream for _, stream in selector.asked[0]} or {False, True}:
        cost, load, late = selector.standing(stream)
        speed = np.array([selector.beliefs[one].speed(stream).moments()[1] for one in selector.arms])
        doubt = (max_price * w_latency) ** 2 * (speed[others] + speed[arm])
        more = gain + max_price * (load[arm] - load[others])
        z = np.minimum(z, more / np.sqrt(np.maximum(spread + doubt, MIN_SD**2)))
        barred |= (cost[others] > cost[arm]) | (late[others] & ~late[arm])
    least = z[:tasks].min(axis=0)
    if len(z) > tasks:
        least = np.minimum(least, np.sort(z[tasks:], axis=0)[int(RARE * (len(z) - tasks))])
    return np.where(barred, 0.0, ndtr(least))


def _common(selector: Selector) -> list[str]:
    """All tasks but the rarest that have RARE of the scores together; not empty once there are scores."""
    model = selector.model
    asked = model.counts.sum(axis=1)
    tasks = sorted(model.tasks, key=lambda task: float(asked[model.tasks[task]]))
    so_far = np.cumsum([asked[model.tasks[task]] for task in tasks])
    return [task for task, share in zip(tasks, so_far.tolist(), strict=True) if share > RARE * asked.sum()]


def _quality(selector: Selector) -> tuple[Floats, Floats, int]:
    """Means and variances of all arms' quality on the tasks, then on the texts of late, (B, K) each, and how many of B are
    tasks."""
    model = selector.model
    known = {task: model.moments(task) for task in _common(selector)}
    asked, texts = selector.asked
    rows, tasks = list(known.values()), len(known)
    parts = np.zeros((2, tasks, model.arms))
    if model.textual and asked:
        rows += [known.get(task) or model.moments(task) for task, _ in asked]
        of_texts = np.array([texts @ (model.weights + model.shared[0]).T, np.square(texts) @ model.variances.T])
        parts = np.concatenate([parts, of_texts], axis=1)
    wider = max(1.0, model.residual / model.noise)
    means = np.array([row[0] for row in rows]) + parts[0]
    variances = wider * (np.array([row[1] for row in rows]) + parts[1])
    if not selector.labelled:
        return means, variances, tasks
    share, doubt = np.array([selector.beliefs[one].answered.moments() for one in selector.arms]).T
    return means * share, variances * share**2 + means**2 * doubt, tasks
