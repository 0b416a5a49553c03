"""A route's limits, drift, anomalies and tuning, from as written to as loaded."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, cast

from sidecar.config import units
from sidecar.config import written_watch as written
from sidecar.config.document import Problems, nearest, quoted
from sidecar.core import policy as core
from sidecar.core.types import Severity

# The unit of each metric's limit: seconds, shares of one, nano-dollars.
_UNIT_OF: Mapping[str, Callable[[str], float]] = {
    "latency_p95": units.duration_s,
    "ttft_p95": units.duration_s,
    "error_rate": units.fraction,
    "quality": units.fraction,
    "cost_per_request": units.usd_to_nusd,
}
_HIGHEST: Mapping[str, float] = {"temperature": 2.0, "top_p": 1.0, "max_tokens": 1e7}  # what providers take
_LOWERED = ("cost_per_request", "latency_p95")  # metrics that fewer tokens bring down


def threshold(
    one: written.Threshold, known: Sequence[str], tuned: written.Tuning | None, problems: Problems
) -> core.Threshold | None:
    """The threshold; None when it has not exactly one limit. `known` are the route's arms, `tuned` its `tuning`."""
    if (one.above is None) == (one.below is None):
        problems.add(one.node, "needs exactly one of `above` and `below`", "write one of them")
        return None
    severity = cast("Severity", one.severity)
    action = cast("core.Action", one.action or core.DEFAULT_ACTION[severity])
    if action == "route_to" and one.arm is None:
        what = f"severity {severity} means route_to, which needs an arm"
        what = "route_to does not say where to" if one.action else what
        problems.add(one.node, what, f"add `arm`: one of {', '.join(known)}", key="arm")
    if one.arm is not None and one.arm not in known:
        problems.add(one.node.find("arm"), f"arm {one.arm!r} is not in this route", nearest(one.arm, known))
    auto = _auto(one, problems)
    return core.Threshold(
        name=one.name,
        metric=cast("core.Metric", one.metric),
        above=_limit(one, "above", problems),
        below=_limit(one, "below", problems),
        window_s=one.window,
        severity=severity,
        action=action,
        arm=one.arm,
        min_samples=one.min_samples,
        recover=one.recover,
        auto=auto,
        adjust=_adjust(one, action, tuned, problems),
    )


def _limit(one: written.Threshold, key: Literal["above", "below"], problems: Problems) -> float | None:
    text = one.above if key == "above" else one.below
    if text is None:
        return None
    if text == written.AUTO:
        return math.inf if key == "above" else 0.0
    try:
        return _UNIT_OF[one.metric](text)
    except ValueError as error:
        what, _, fix = str(error).partition("; ")
        problems.add(one.node.find(key), f"{quoted(text)} {what} (the metric is {one.metric})", fix)
        return 0.0


def _auto(one: written.Threshold, problems: Problems) -> core.AutoLimit | None:
    is_auto = written.AUTO in (one.above, one.below)
    given = {name: getattr(one, name) for name in ("sigma", "ratio", "per_day") if getattr(one, name) is not None}
    if not is_auto:
        for name in given:
            problems.add(one.node.find(name), "means nothing with a fixed limit", "write `above: auto`, or remove it")
        return None
    return replace(core.AutoLimit(), **given)


def _adjust(
    one: written.Threshold, action: core.Action, tuned: written.Tuning | None, problems: Problems
) -> tuple[str, Literal["up", "down"]] | None:
    param, _, way = (one.adjust or "max_tokens down").partition(" ")
    is_tuned = tuned is not None and getattr(tuned, param) is not None
    if one.adjust is not None and action != "adjust":
        problems.add(one.node.find("adjust"), f"means nothing with the action {action}", "use `action: adjust`")
    elif one.adjust is not None and not is_tuned:
        fix = f"add `tuning: {{{param}: {{min: ..., max: ..., start: ...}}}}` to the route"
        problems.add(one.node.find("adjust"), f"{param} is not in `tuning`", fix)
    elif action == "adjust" and is_tuned and (one.adjust is not None or (one.metric in _LOWERED and one.above)):
        return param, "up" if way == "up" else "down"
    elif one.action == "adjust":
        what = "adjusts nothing: it only makes an event"
        problems.warn(one.node.find("action"), what, "name a parameter of `tuning`: `adjust: max_tokens down`")
    return None


def drift(one: written.Drift | None) -> core.Drift | None:
    """What is compared; None when the file does not ask for it."""
    if one is None:
        return None
    metrics = cast("tuple[core.WatchedMetric, ...]", tuple(dict.fromkeys(one.metrics)))
    severity = cast("Severity", one.severity)
    return core.Drift(metrics, one.window, one.samples, one.false_alarms_per_10k, severity)


def anomalies(one: written.Anomalies | None) -> core.Anomalies | None:
    """What is watched; None when the file does not ask for it."""
    if one is None:
        return None
    return core.Anomalies(
        metrics=cast("tuple[core.WatchedMetric, ...]", tuple(dict.fromkeys(one.metrics))),
        method=cast("core.Method", one.method),
        sigma=one.sigma,
        window_s=one.window,
        samples=one.samples,
        false_alarms_per_10k=one.false_alarms_per_10k,
        severity=cast("Severity", one.severity),
    )


def tuning(
    one: written.Tuning | None, arms: Mapping[str, Sequence[str]], chooses: bool, problems: Problems
) -> core.Tuning | None:
    """The tuned parameters; `arms` gives the parameters that each arm sets itself, `chooses` whether calls are changed."""
    if one is None:
        return None
    if not chooses:
        problems.warn(one.node, "means nothing in a mode that changes no call", "use mode canary or optimize")
    knobs = []
    for name in written.PARAMS:
        knob = cast("written.Knob | None", getattr(one, name))
        if knob is not None:
            _check_knob(name, knob, problems)
            _check_arms(name, knob, arms, problems)
            knobs.append(core.Knob(name, knob.min, knob.max, knob.start, whole=name == "max_tokens"))
    if not knobs:
        problems.add(one.node, "tunes nothing", f"add one of {', '.join(written.PARAMS)}, or remove it")
        return None
    return core.Tuning(tuple(knobs), one.per_day, one.false_moves, one.max_samples)


def _check_knob(name: str, knob: written.Knob, problems: Problems) -> None:
    if not knob.min <= knob.start <= knob.max:
        what = f"{knob.start:g} is not between min {knob.min:g} and max {knob.max:g}"
        problems.add(knob.node.find("start"), what, "choose a start between them")
    if knob.max > _HIGHEST[name]:
        problems.add(knob.node.find("max"), f"{knob.max:g} is above {_HIGHEST[name]:g}", "no provider takes more")
    for bound in ("min", "max", "start") if name == "max_tokens" else ():
        if getattr(knob, bound) != int(getattr(knob, bound)) or not getattr(knob, bound):
            problems.add(knob.node.find(bound), "is no whole number above 0", "write a number of tokens")


def _check_arms(name: str, knob: written.Knob, arms: Mapping[str, Sequence[str]], problems: Problems) -> None:
    names = ("max_tokens", "max_completion_tokens", "max_output_tokens") if name == "max_tokens" else (name,)
    for arm, own in arms.items():
        if any(each in own for each in names):
            problems.add(knob.node, f"arm {arm!r} sets {name} itself, in `params`", "remove it there or here")
