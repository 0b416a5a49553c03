"""Calls beside and behind a call, from as written to as loaded: a route's judge, its shadow and its cascade."""

from collections.abc import Mapping
from dataclasses import replace

from sidecar.config import written
from sidecar.config.document import Node, Problems, nearest
from sidecar.config.written_quality import VALIDATORS
from sidecar.core import policy as core
from sidecar.core.fitting import CLIENTS

CHOOSING = ("canary", "optimize")  # the modes in which the engine changes the arm of a call


def with_errands(
    route: core.Route,
    one: written.Route,
    upstreams: Mapping[str, core.Upstream],
    file: written.PolicyFile,
    problems: Problems,
) -> core.Route:
    """`route` with its judge, shadow and cascade; `upstreams` are those that could be built."""
    made = _Builder(route, one, upstreams, file, problems)
    cascade = made.cascade()
    quality = route.quality
    if cascade is not None:  # an arm is taught by the checks that its answers have to pass
        more = tuple(name for name in cascade.on if name not in quality.validators)
        quality = replace(quality, validators=(*quality.validators, *more))
    return replace(route, quality=replace(quality, judge=made.judge()), shadow=made.shadow(), cascade=cascade)


class _Builder:
    def __init__(
        self,
        route: core.Route,
        one: written.Route,
        upstreams: Mapping[str, core.Upstream],
        file: written.PolicyFile,
        problems: Problems,
    ) -> None:
        self.route = route
        self.one = one
        self.upstreams = upstreams
        self.file = file
        self.problems = problems

    # ---- the judge

    def judge(self) -> core.Judge | None:
        """The judge, or None when there is none or it cannot be used."""
        one = None if self.one.quality is None else self.one.quality.judge
        if one is None or self.one.quality is None:
            return None
        if isinstance(one, str):
            return self._judge_arm(one, self.one.quality.node.find("judge"))
        node = one.node.find("upstream")
        if one.upstream not in self.file.upstreams:
            fix = nearest(one.upstream, self.file.upstreams) if self.file.upstreams else "add it to `upstreams`"
            self.problems.add(node, f"upstream {one.upstream!r} is not in `upstreams`", fix)
            return None
        self._check_judge(one.upstream, node)
        return core.Judge(
            upstream=one.upstream,
            model=one.model,
            sample=one.sample,
            daily_nusd=one.daily_usd // self.file.replicas,
            per_minute=one.per_minute,
            criteria=one.criteria or "",
        )

    def _check_judge(self, name: str, node: Node) -> None:
        self._check_key(name, node)
        self._check_price(name, node, "nothing is graded")
        found = self.upstreams.get(name)
        if found is not None and found.dialect not in CLIENTS:
            what = f"a judge is asked in openai, anthropic or gemini, and {name} speaks {found.dialect}"
            self.problems.add(node, what, "name an upstream that speaks one of them")

    def _judge_arm(self, name: str, node: Node) -> core.Judge | None:
        arms = {arm.id: arm for arm in self.route.all_arms}
        if name not in arms:
            fix = f"{nearest(name, arms)}, or write {{upstream: NAME, model: NAME}}"
            self.problems.add(node, f"arm {name!r} is not in this route", fix)
            return None
        self._check_judge(arms[name].upstream, node)
        judge = core.Judge(arms[name].upstream, arms[name].model)
        return replace(judge, daily_nusd=judge.daily_nusd // self.file.replicas)

    def _check_key(self, name: str, node: Node) -> None:
        """The app's key goes where the app's own calls go, and nowhere else."""
        here, there = self.upstreams.get(name), self.upstreams.get(self.route.baseline.upstream)
        if here is None or there is None or here.key != "client":
            return
        if (here.scheme, here.host, here.port) != (there.scheme, there.host, there.port) or there.key != "client":
            what = f"{name} has no key of its own, and the app's key goes to the baseline's upstream only"
            self.problems.add(node, what, f"give `upstreams.{name}` an api_key: {{file: PATH}}")

    def _check_price(self, name: str, node: Node, so: str) -> None:
        upstream = self.upstreams.get(name)
        if upstream is not None and upstream.price is None and upstream.provider is None:
            what = f"the prices of {name} are not known, so its cost cannot be bounded and {so}"
            self.problems.warn(node, what, f"write `price` or `provider` on `upstreams.{name}`")

    # ---- the shadow

    def shadow(self) -> core.Shadow | None:
        """The shadow of a route in mode shadow, or with `strategy: shadow`; else None."""
        one, route = self.one.shadow, self.route
        by_rollout = route.rollout is not None and route.rollout.strategy == "shadow" and route.mode in CHOOSING
        if route.mode != "shadow" and not by_rollout:
            if one is not None:
                what = f"means nothing in mode {route.mode}"
                self.problems.warn(one.node, what, "use mode shadow, or `rollout: {strategy: shadow}`")
            return None
        if one is None:
            return self._usual_shadow()
        known = [arm.id for arm in route.arms]
        if one.arm not in known:
            what = f"arm {one.arm!r} is not in `arms`" if one.arm != route.baseline.id else "is the baseline itself"
            fix = nearest(one.arm, known) if known else "add the arm to `arms`"
            self.problems.add(one.node.find("arm"), what, fix)
            return None
        made = core.Shadow(one.arm, one.sample, one.daily_usd // self.file.replicas, one.per_minute)
        self._check_shadow(made, one.node)
        return made

    def _usual_shadow(self) -> core.Shadow | None:
        arms = self.route.arms
        if not arms:
            node = self.one.node.find("mode")
            self.problems.warn(node, "there is no arm that calls could be copied to", "add `arms`, or use observe")
            return None
        usual = core.Shadow(arms[0].id)
        made = replace(usual, daily_nusd=usual.daily_nusd // self.file.replicas)
        self._check_shadow(made, self.one.node)
        return made

    def _check_shadow(self, made: core.Shadow, node: Node) -> None:
        arm = next(arm for arm in self.route.arms if arm.id == made.arm)
        self._check_key(arm.upstream, node)
        self._check_price(arm.upstream, node, "no call is copied")

    # ---- the cascade

    def cascade(self) -> core.Cascade | None:
        """The cascade, or None when there is none or it cannot be used."""
        one, route = self.one.cascade, self.route
        if one is None:
            return None
        known = [arm.id for arm in route.all_arms]
        for index, name in enumerate(one.arms):
            if name not in known:
                node = one.node.find("arms", index)
                self.problems.add(node, f"arm {name!r} is not in this route", nearest(name, known))
        for index, name in enumerate(one.on):
            if name not in VALIDATORS:
                what = f"{name!r} is not one of {', '.join(VALIDATORS)}"
                self.problems.add(one.node.find("on", index), what, nearest(name, VALIDATORS))
        if "regex" in one.on and not route.quality.must + route.quality.must_not:
            fix = "add must_match or must_not_match to `quality`"
            self.problems.add(one.node.find("on"), "regex has nothing to look for", fix)
        if len(set(one.arms)) < max(2, len(one.arms)):
            fix = "write them from weakest to strongest, like [mini, gpt-4o]"
            self.problems.add(one.node.find("arms"), "must be two different arms at least", fix)
        if not one.on and one.min_confidence is None:
            fix = "add `on: [empty, finish_reason]`, or `min_confidence`"
            self.problems.add(one.node, "checks nothing", fix, key="on")
        if route.mode not in CHOOSING:
            what = f"means nothing in mode {route.mode}"
            self.problems.warn(one.node, what, "use mode canary or optimize")
            return None
        return core.Cascade(one.arms, one.on, one.min_confidence)
