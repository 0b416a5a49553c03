"""What a shadow showed: pairs of one call's two outcomes, the served one and the shadow's.

Model. Each pair is one unit of the canary (the shadow) and one of the control (what served) in the guardrails of a
rollout, drawn with probability 1/2 each. If the shadow makes no difference, then of the pairs in which exactly one side
is bad either side is equally likely to be it, so the betting tests of `core.sequential` keep their promise: with all
guardrails together a harmless shadow is called harmful with probability <= `false_rollback`, however often one looks.
Pairs in which both sides are bad come as one bad unit each and only cost the tests wealth: the test is conservative.
Harm ends the tests (a verdict is given once); means go on.

A shadow serves nobody, so nothing acts on its verdict: it is told, and a person promotes. Means are over pairs in which
that side completed; a cost that is unknown is left out. It lives in memory only: a restart begins anew.

Reference: `core.rollout` and `core.guardrails`. What it does not know: waiting clients (a shadow has none), and what the
copy cost the provider in other ways (rate limits, cache writes).
"""

from dataclasses import dataclass
from typing import Final

from sidecar.core.policy import RolloutSpec
from sidecar.core.rollout import Phase, Rollout
from sidecar.core.types import Event, Outcome
from sidecar.core.verdict import GuardStatus, Verdict, is_failure

EVEN: Final = 50  # percent: of a pair's two units one is the shadow's


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the pairs: counts, and means over those that completed. None: never known."""

    failed: int
    ttft_s: float | None
    latency_s: float | None
    cost_nusd: float | None
    output_tokens: float | None
    quality: float | None


@dataclass(frozen=True, slots=True)
class PairedStatus:
    """What the pairs of one shadow show until now."""

    route: str
    arm: str
    pairs: int
    served: Side
    shadow: Side
    verdict: Verdict
    cause: str  # of a `fail`
    guards: tuple[GuardStatus, ...]

    def explain(self) -> str:
        """One English sentence."""
        if not self.pairs:
            return f"route {self.route}: the shadow {self.arm} has no copied call yet"
        worse = f"is worse: {self.cause}" if self.verdict == "fail" else f"verdict {self.verdict}"
        figures = [
            f"{name} {_shown(mine, scale)}{unit} against {_shown(theirs, scale)}{unit}"
            for name, mine, theirs, scale, unit in (
                ("cost", self.shadow.cost_nusd, self.served.cost_nusd, 1e-9, " $"),
                ("time", self.shadow.latency_s, self.served.latency_s, 1.0, " s"),
                ("quality", self.shadow.quality, self.served.quality, 1.0, ""),
            )
            if mine is not None and theirs is not None
        ]
        return "; ".join([f"route {self.route}: the shadow {self.arm}, {self.pairs} pairs, {worse}", *figures])


def _shown(value: float, scale: float) -> str:
    return f"{value * scale:.3g}"


class _Sums:
    """Sums and counts of one side."""

    def __init__(self) -> None:
        self.failed = 0
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, outcome: Outcome, quality: float | None) -> None:
        """Counts one outcome: as a failure, or with what it shows; what is unknown is left out of its mean."""
        if is_failure(outcome):
            self.failed += 1
            return
        clocks, usage = outcome.clocks, outcome.usage
        values = {
            "ttft_s": clocks.first_token_latency_s,
            "latency_s": clocks.latency_s,
            "cost_nusd": outcome.cost_nusd,
            "output_tokens": None if usage is None else usage.output_tokens,
            "quality": quality,
        }
        for name, value in values.items():
            if value is not None:
                total, count = self._sums.get(name, (0.0, 0))
                self._sums[name] = (total + value, count + 1)

    def side(self) -> Side:
        """The means so far; None where nothing was seen."""
        means = {name: total / count for name, (total, count) in self._sums.items()}
        return Side(
            self.failed,
            means.get("ttft_s"),
            means.get("latency_s"),
            means.get("cost_nusd"),
            means.get("output_tokens"),
            means.get("quality"),
        )


class Pairs:
    """The pairs of one shadow arm on one route."""

    def __init__(self, route: str, arm: str, spec: RolloutSpec, now: float) -> None:
        """`spec` gives the guardrails and `false_rollback`."""
        self.route = route
        self.arm = arm
        self.pairs = 0
        self._served, self._shadow = _Sums(), _Sums()
        self._test = Rollout(f"shadow:{route}:{arm}", route, arm, spec, paired=True)
        self._test.start(now)

    def add(
        self, served: tuple[Outcome, float | None], shadow: tuple[Outcome, float | None], now: float
    ) -> list[Event]:
        """One pair: each side's outcome and what validators say of it. The event of a verdict, at most once."""
        self.pairs += 1
        self._served.add(*served)
        self._shadow.add(*shadow)
        told = self._test.observe("control", served[0], now=now, quality=served[1], step=EVEN)
        told += self._test.observe("canary", shadow[0], now=now, quality=shadow[1], step=EVEN)
        if not any(event.kind == "rollout.rolled_back" for event in told):
            return []
        message = f"the shadow is worse than what serves: {self._test.cause}"
        return [Event(kind="shadow.harm", severity="high", route=self.route, arm=self.arm, message=message)]

    def status(self, now: float) -> PairedStatus:
        """Means and guardrails; changes nothing."""
        seen = self._test.status(now)
        failed = self._test.phase is Phase.ROLLED_BACK
        return PairedStatus(
            route=self.route,
            arm=self.arm,
            pairs=self.pairs,
            served=self._served.side(),
            shadow=self._shadow.side(),
            verdict="fail" if failed else seen.verdict,
            cause=self._test.cause if failed else "",
            guards=seen.guards,
        )
