"""Pairs of a call's two outcomes: means, verdict, and the promise about harmless shadows."""

import numpy as np

from sidecar.core.paired import Pairs
from sidecar.core.policy import Guardrail, RolloutSpec
from sidecar.core.types import Clocks, Outcome, Usage

SPEC = RolloutSpec(strategy="shadow", guardrails=(Guardrail("cost", ratio=1.5),))


def outcome(*, failed: bool = False, cost: int | None = 100, seconds: float = 1.0, stream: bool = False) -> Outcome:
    clocks = Clocks(sent_s=0.1, ttft_s=0.3 if stream else None, duration_s=0.1 + seconds)
    return Outcome(
        kind="failed" if failed else "completed",
        status=500 if failed else 200,
        clocks=clocks,
        stream=stream,
        usage=None if failed else Usage(output_tokens=7),
        cost_nusd=cost,
    )


def test_nothing_yet() -> None:
    """No pair, no mean, and a sentence that says so."""
    status = Pairs("chat", "new", SPEC, 0.0).status(1.0)
    assert (status.pairs, status.shadow.latency_s, status.cause) == (0, None, "")
    assert status.explain() == "route chat: the shadow new has no copied call yet"


def test_means_are_of_those_that_completed() -> None:
    """Failures are counted apart, unknown figures are left out."""
    pairs = Pairs("chat", "new", SPEC, 0.0)
    pairs.add((outcome(stream=True), 1.0), (outcome(failed=True), None), 1.0)
    pairs.add((outcome(cost=300, seconds=3.0), None), (outcome(cost=None, seconds=2.0), 0.5), 2.0)
    status = pairs.status(3.0)
    served, shadow = status.served, status.shadow
    assert (served.failed, served.cost_nusd, served.latency_s, served.output_tokens, served.quality) == (
        0, 200.0, 2.0, 7.0, 1.0,
    )  # fmt: skip
    assert served.ttft_s is not None
    assert abs(served.ttft_s - 0.2) < 1e-12
    assert (shadow.failed, shadow.cost_nusd, shadow.latency_s, shadow.quality, shadow.ttft_s) == (
        1, None, 2.0, 0.5, None,
    )  # fmt: skip
    text = status.explain()
    assert text.startswith("route chat: the shadow new, 2 pairs, verdict ")
    assert "time 2 s against 2 s; quality 0.5 against 1" in text
    assert "cost" not in text


def test_harm_is_told_once_and_stays() -> None:
    """A shadow that always fails is called harmful; pairs and means go on, the event does not come again."""
    pairs = Pairs("chat", "new", SPEC, 0.0)
    told = [event for n in range(60) for event in pairs.add((outcome(), None), (outcome(failed=True), None), float(n))]
    assert [(event.kind, event.route, event.arm) for event in told] == [("shadow.harm", "chat", "new")]
    assert "error_rate" in told[0].message
    status = pairs.status(99.0)
    assert (status.verdict, status.pairs, status.shadow.failed) == ("fail", 60, 60)
    assert "is worse: error_rate" in status.explain()


def test_a_harmless_shadow_is_left_alone() -> None:
    """Both sides fail with the same 10 %, independently; looked at after every pair of 150, in 40 runs.

    Each run calls harm with probability <= false_rollback = 0.02, so the number of runs that do is at most
    binomial(40, 0.02): P(more than 6) < 3e-5. The seed is fixed.
    """
    rng, called = np.random.default_rng(7), 0
    for _ in range(40):
        pairs = Pairs("chat", "new", RolloutSpec(strategy="shadow"), 0.0)
        bad = rng.random((150, 2)) < 0.1
        for n, (served, shadow) in enumerate(bad.tolist()):
            if pairs.add((outcome(failed=served), None), (outcome(failed=shadow), None), float(n)):
                called += 1
                break
    assert called <= 6
