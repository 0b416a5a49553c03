"""A route's context, goals and ceilings, from as written to as loaded."""

from typing import Literal, cast

from sidecar.config import written_goals as written
from sidecar.config.document import Problems
from sidecar.core import policy as core

_CEILINGS = ("per_request_usd", "mean_request_usd", "window_usd", "daily_usd", "monthly_usd")


def context(one: written.Context | None) -> core.Context:
    """The context; what is not written is the default."""
    return core.Context() if one is None else core.Context(one.tag, one.text, one.cache)


def objective(one: written.Objective | None, problems: Problems) -> core.Objective:
    """The objective. A price of late calls without a limit says nothing and is an error."""
    if one is None:
        return core.Objective()
    usual, weights = core.Objective(), one.weights
    if weights is not None and not weights.quality + weights.cost + weights.latency:
        problems.add(weights.node, "are all zero", "give at least one weight above 0")
    if one.late_usd is not None and one.ttft is None and one.latency is None:
        what = "does nothing without `ttft` or `latency`"
        problems.add(one.node.find("late_usd"), what, "add the longest time that a call should take, like `ttft: 2s`")
    return core.Objective(
        minimize=cast("Literal['cost', 'latency']", one.minimize),
        max_quality_loss=one.max_quality_loss,
        quality_weight=usual.quality_weight if weights is None else weights.quality,
        cost_weight=usual.cost_weight if weights is None else weights.cost,
        latency_weight=usual.latency_weight if weights is None else weights.latency,
        ttft_s=one.ttft,
        latency_s=one.latency,
        late_nusd=one.late_usd or 0,
    )


def budget(one: written.Budget | None, replicas: int, problems: Problems) -> core.Budget | None:
    """The ceilings; totals are divided by the number of pods, those of one call are not."""
    if one is None:
        return None
    if all(getattr(one, name) is None for name in _CEILINGS):
        problems.add(one.node, "has no ceiling", f"add {', '.join(_CEILINGS[:-1])} or {_CEILINGS[-1]}")
    if one.window is not None and one.window_usd is None:
        problems.add(one.node.find("window"), "does nothing without `window_usd`", "add it, or remove `window`")
    mean, most = one.mean_request_usd, one.per_request_usd
    if mean is not None and most is not None and mean >= most:
        what = "is never reached: no call may cost more than `per_request_usd`"
        problems.warn(one.node.find("mean_request_usd"), what, "make it smaller, or remove it")
    return core.Budget(
        per_request_nusd=most,
        mean_request_nusd=mean,
        window_nusd=_share(one.window_usd, replicas),
        window_s=core.Budget().window_s if one.window is None else one.window,
        daily_nusd=_share(one.daily_usd, replicas),
        monthly_nusd=_share(one.monthly_usd, replicas),
        on_exceeded=cast("Literal['cheapest', 'deny']", one.on_exceeded),
    )


def _share(total_nusd: int | None, replicas: int) -> int | None:
    return None if total_nusd is None else total_nusd // replicas
