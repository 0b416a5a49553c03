"""One route, from as written to as loaded: the checks of its arms, rollout, fallback, budget, quality and limits."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, cast

from sidecar.config import build_errands, build_experiment, build_goals, build_quality, build_watch, written
from sidecar.config.build_catalogue import capabilities_of, warn_of_gaps
from sidecar.config.document import Node, Problems, nearest, quoted
from sidecar.core import policy as core
from sidecar.core.catalogue import EMPTY, Catalogue
from sidecar.core.types import Mode, Unit

CHOOSING = ("canary", "optimize")  # the modes in which the engine changes the arm of a call
_RATIO = re.compile(r"([0-9]{1,4}(?:\.[0-9]{1,4})?)x", re.ASCII)
_GUARDED: Final = ("error_rate", "gave_up", "ttft_p95", "latency_p95", "cost", "quality")
_LOSS = re.compile(r"-([0-9]{1,2}(?:\.[0-9]{1,4})?)%", re.ASCII)
_FAILURE = re.compile(r"connect|timeout|5xx|4[0-9]{2}|5[0-9]{2}", re.ASCII)
_TAKEN = {"model": "`model` of the arm", "stream": "the app", "stream_options": "`usage` of the upstream"}


def once(items: Iterable[object], key: str, label: str, problems: Problems) -> None:
    """A problem for each written item whose `key` an earlier one has."""
    seen: dict[str, Node] = {}
    for item in items:
        node, name = cast("Node", getattr(item, "node")), str(getattr(item, key))  # noqa: B009  typed as object
        first = seen.setdefault(name, node)
        if first is not node:
            what = f"{label} {name!r} exists already (line {first.line})"
            problems.add(node.find(key), what, f"give each {label} its own {key}")


@dataclass(frozen=True, slots=True)
class RouteBuilder:
    """Builds one route of a file; `upstreams` are those that could be built."""

    one: written.Route
    upstreams: Mapping[str, core.Upstream]
    file: written.PolicyFile
    problems: Problems
    catalogue: Catalogue = EMPTY

    def route(self) -> core.Route | None:
        """The route, or None when it has no usable baseline. Valid only when there are no errors afterwards."""
        one = self.one
        baseline = self._baseline()
        if baseline is None:
            return None
        arms = tuple(arm for arm in one.arms if arm.id != baseline.id or isinstance(one.baseline, written.Arm))
        written_arms = (baseline, *arms)
        once(written_arms, "id", "arm", self.problems)
        for arm in written_arms:
            self._check_upstream(arm, baseline)
        self._check_match()
        self._check_virtual(written_arms)
        self._check_mode(arms)
        known = [arm.id for arm in written_arms]
        built = [self._arm(arm) for arm in written_arms]
        warn_of_gaps(written_arms, built, self.problems)
        once(one.thresholds, "name", "threshold", self.problems)
        made = core.Route(
            name=one.name,
            match=_match(one.match),
            mode=cast("Mode", one.mode),
            baseline=built[0],
            arms=tuple(built[1:]),
            virtual=one.virtual,
            allow_loss=one.allow_loss,
            objective=build_goals.objective(one.objective, self.problems),
            context=build_goals.context(one.context),
            sticky=cast("Unit", one.sticky),
            rollout=self._rollout(),
            fallback=self._fallback(known),
            budget=build_goals.budget(one.budget, self.file.replicas, self.problems),
            quality=build_quality.quality(one.quality, self.problems),
            thresholds=tuple(
                filter(None, (build_watch.threshold(each, known, one.tuning, self.problems) for each in one.thresholds))
            ),
            drift=build_watch.drift(one.drift),
            anomalies=build_watch.anomalies(one.anomalies),
            tuning=build_watch.tuning(
                one.tuning, {arm.id: tuple(arm.params) for arm in written_arms}, one.mode in CHOOSING, self.problems
            ),
        )
        if one.changes is not None:
            made = replace(made, changes=core.Changes(one.changes.hold, one.changes.retire))
        made = build_experiment.with_experiment(made, one, self.file.replicas, self.problems)
        return build_errands.with_errands(made, one, self.upstreams, self.file, self.problems)

    def _baseline(self) -> written.Arm | None:
        baseline = self.one.baseline
        if isinstance(baseline, written.Arm):
            return baseline
        arms = {arm.id: arm for arm in self.one.arms}
        if baseline not in arms:
            node = self.one.node.find("baseline")
            self.problems.add(node, f"arm {baseline!r} is not in `arms`", nearest(baseline, arms))
        return arms.get(baseline)

    def _check_upstream(self, arm: written.Arm, baseline: written.Arm) -> None:
        node = arm.node.find("upstream")
        if arm.upstream not in self.file.upstreams:
            fix = nearest(arm.upstream, self.file.upstreams) if self.file.upstreams else "add it to `upstreams`"
            self.problems.add(node, f"upstream {arm.upstream!r} is not in `upstreams`", fix)
        here, there = self.upstreams.get(arm.upstream), self.upstreams.get(baseline.upstream)
        if here is None or there is None:
            return
        if here.key == "client" and _place(here) != _place(there):
            what = f"the client's key would go to {_shown(here)}, another origin than the baseline's ({_shown(there)})"
            self.problems.add(node, what, f"give `upstreams.{arm.upstream}` an api_key of its own: {{file: PATH}}")

    def _check_match(self) -> None:
        for node in self.one.match.node.entries.values() if self.one.match is not None else ():
            if node.kind != "scalar" and not (node.items or node.entries):  # of a template that had nothing to write
                what = "is empty, and what is not written matches all"
                self.problems.add(node, what, "say what it matches, or remove it")

    def _check_virtual(self, arms: Iterable[written.Arm]) -> None:
        match = _match(self.one.match)
        models = {arm.model: arm.id for arm in arms}
        for index, name in enumerate(self.one.virtual):
            node = self.one.node.find("virtual", index)
            if name in models:
                fix = "virtual names are those that no upstream knows; remove it here, or name the arm's real model"
                self.problems.add(node, f"{name!r} is also the model of arm {models[name]}", fix)
            if match.models and not any(_covers(pattern, name) for pattern in match.models):
                self.problems.warn(node, f"{name!r} is not in match.models", "add it there, else it never comes here")

    def _check_mode(self, arms: tuple[written.Arm, ...]) -> None:
        one, warn = self.one, self.problems.warn
        if one.mode in CHOOSING and not arms:
            warn(one.node.find("mode"), f"mode {one.mode} has nothing to choose from", "add `arms`, or use observe")
        for key in ("objective", "context", "changes"):
            if getattr(one, key) is not None and one.mode != "optimize":
                warn(one.node.find(key), f"means nothing in mode {one.mode}", "use mode optimize")
        if one.mode in CHOOSING:
            return
        for key in ("rollout", "fallback"):
            meant = (key, one.mode) in (("rollout", "shadow"), ("fallback", "ab"))
            if getattr(one, key) is not None and not meant:  # its guardrails are the shadow's
                warn(one.node.find(key), f"means nothing in mode {one.mode}", "use mode canary or optimize")
        for limit in one.thresholds if one.mode != "ab" else ():
            if limit.action != "log" and (limit.action or limit.severity != "low"):
                what = f"its action means nothing in mode {one.mode}: it only makes an event"
                warn(limit.node, what, "use mode canary or optimize, or action log")

    def _arm(self, arm: written.Arm) -> core.Arm:
        for name in sorted(_TAKEN.keys() & arm.params.keys()):
            self.problems.add(arm.node.find("params", name), f"is decided by {_TAKEN[name]}", "remove it")
        for name, value in arm.facts.items():
            if not isinstance(value, str | int | float | bool):
                self.problems.add(arm.node.find("facts", name), "is no plain value", "write text, a number or true")
        params = tuple((name, json.dumps(value, separators=(",", ":")).encode()) for name, value in arm.params.items())
        can = capabilities_of(arm, self.upstreams.get(arm.upstream), self.catalogue)
        facts = {**can.facts(), **cast("Mapping[str, str | float | bool]", arm.facts)}
        prior = None if arm.prior is None else (arm.prior.quality, arm.prior.scores)
        return core.Arm(arm.id, arm.upstream, arm.model, params, facts, prior, can)

    def _rollout(self) -> core.RolloutSpec | None:
        one, replicas = self.one.rollout, self.file.replicas
        if one is None:
            return core.RolloutSpec(replicas=replicas) if self.one.mode in CHOOSING else None
        if list(one.steps) != sorted(set(one.steps)) or not one.steps:
            self.problems.add(one.node.find("steps"), f"{list(one.steps)} do not rise", "write [5, 25, 50, 100]")
        elif one.steps[-1] != 100:
            self.problems.warn(one.node.find("steps"), "do not end at 100", "the arm joins after the last step anyway")
        if one.max_wait < one.interval:
            self.problems.add(one.node.find("max_wait"), "is shorter than `interval`", "make it longer")
        promote = one.promote
        spec = core.RolloutSpec()
        return core.RolloutSpec(
            strategy=cast("Literal['canary', 'blue_green', 'shadow']", one.strategy),
            steps=one.steps,
            min_requests=one.min_requests,
            interval_s=one.interval,
            max_wait_s=one.max_wait,
            false_rollback=one.false_rollback,
            on_inconclusive=cast("Literal['wait', 'rollback', 'promote']", one.on_inconclusive),
            require=cast("Literal['no_harm', 'non_inferior']", promote.require) if promote else spec.require,
            margin=promote.margin if promote else spec.margin,
            guardrails=self._guardrails(one.guardrails),
            replicas=replicas,
        )

    def _guardrails(self, one: written.Guardrails | None) -> tuple[core.Guardrail, ...]:
        made = []
        for metric in _GUARDED if one is not None else ():
            text = cast("str | None", getattr(one, metric))
            pattern, like = (_LOSS, "-5%") if metric == "quality" else (_RATIO, "1.5x")
            found = pattern.fullmatch(text) if text is not None else None
            value = float(found[1]) if found else 0.0
            if (metric, text) == ("gave_up", "off"):
                made.append(core.Guardrail("gave_up", off=True))
            elif text is not None and (not value if metric == "quality" else value < 1.0):
                node = cast("written.Guardrails", one).node.find(metric)
                self.problems.add(node, f"{quoted(text)} is not a limit for {metric}", f"write it like {like}")
            elif text is not None and metric == "quality":
                made.append(core.Guardrail("quality", loss=value / 100))
            elif text is not None:
                made.append(core.Guardrail(metric, ratio=value))
        return tuple(made)

    def _fallback(self, known: list[str]) -> core.Fallback | None:
        one = self.one.fallback
        if one is None:
            return None
        for index, arm in enumerate(one.arms):
            self._known(arm, known, one.node.find("arms", index))
        for index, failure in enumerate(one.on):
            if not _FAILURE.fullmatch(failure):
                fix = "use connect, timeout, 429, 5xx, or a status code of 400..599"
                self.problems.add(one.node.find("on", index), f"{quoted(failure)} is not a failure", fix)
        if not one.arms or not one.on:
            self.problems.add(one.node, "never happens: `arms` or `on` is empty", "fill both, or remove `fallback`")
        return core.Fallback(one.arms, one.on, one.max)

    def _known(self, arm: str, known: list[str], node: Node) -> None:
        if arm not in known:
            self.problems.add(node, f"arm {arm!r} is not in this route", nearest(arm, known))


def _match(one: written.Match | None) -> core.Match:
    if one is None:
        return core.Match()
    tags = {**one.tags, **({"tenant": one.tenant} if one.tenant is not None else {})}
    return core.Match(one.models, one.paths, tags)


def _covers(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def _shown(upstream: core.Upstream) -> str:
    return f"{upstream.scheme}://{upstream.host}:{upstream.port}"


def _place(upstream: core.Upstream) -> tuple[str, str, int]:
    return (upstream.scheme, upstream.host, upstream.port)
