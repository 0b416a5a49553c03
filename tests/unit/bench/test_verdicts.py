"""The bench of verdicts counts what the whole rollout would count, and its bound is the one it defines."""

import math
from pathlib import Path

import numpy as np
import pytest

from bench import verdicts
from bench.verdicts import BASE, bound, error_guard, kl, stage, until_rollback
from sidecar.core.policy import RolloutSpec
from sidecar.core.rollout import Phase, Rollout
from sidecar.core.types import Clocks, Outcome

GOOD = Outcome(kind="completed", status=200, clocks=Clocks(duration_s=1.0), finish="stop")
BAD = Outcome(kind="failed", status=500, error="upstream_status", clocks=Clocks(duration_s=1.0))


def one_by_one(stages: list[verdicts.Stage]) -> int | None:
    """The whole rollout, one request at a time, each with the step it was decided at."""
    rollout = Rollout("0123456789abcdef", "r", "mini", RolloutSpec(interval_s=1e9))
    rollout.start(0.0)
    seen = 0
    for share, canary, failed in stages:
        for is_canary, is_bad in zip(canary.tolist(), failed.tolist(), strict=True):
            seen += is_canary
            outcome = BAD if is_bad else GOOD
            rollout.observe("canary" if is_canary else "control", outcome, now=1.0, step=round(100 * share))
            if rollout.phase is Phase.ROLLED_BACK:
                return seen
    return None


@pytest.mark.parametrize("bad", [0.01, 0.03, 0.05, 0.1, 1.0])
def test_skipping_what_does_no_harm_is_exact(bad: float) -> None:
    """Same requests, same verdict at the same canary request, with the real rollout and its three guardrails."""
    rng = np.random.default_rng(5)
    for _ in range(4):
        stages = [stage(rng, share, (BASE, bad), 700) for share in verdicts.STEPS]
        assert until_rollback(error_guard(), stages) == one_by_one(stages)


def test_the_limit_may_be_broken_by_a_request_without_harm() -> None:
    """Evidence first, the estimate beyond its limit later, as harmless control requests bring the control's rate down. All
    of 420 control and 196 canary requests fail: the labels of 14 where 10 were due are evidence of harm, within the limit of
    1.5, and the rates are equal. Behind 210 harmless ones of the control its rate is two thirds, and the next decides."""
    canary = np.array([at * 14 % 44 < 14 for at in range(44 * 14)] + [False] * 300 + [True])
    failed = np.array([True] * 44 * 14 + [False] * 301)
    stages = [(0.25, canary, failed)]
    guard = error_guard()
    found = until_rollback(guard, stages)
    assert found == one_by_one(stages) == 196
    assert guard.status().control_n == 420 + 211


def test_the_bound_is_what_the_known_rates_give() -> None:
    assert kl(0.03, 0.01) == pytest.approx(0.03 * math.log(3) + 0.97 * math.log(0.97 / 0.99))
    assert kl(1.0, 0.01) == pytest.approx(math.log(100))
    assert kl(0.01, 0.01) == 0.0
    assert bound(0.1, 0.01, 0.01) == pytest.approx(math.log(100) / kl(0.1, 0.01))


def test_a_rate_that_swings_stays_a_rate() -> None:
    rates = verdicts.swinging(5000)
    assert rates.min() >= 0.002
    assert rates.max() == 0.6
    assert 0.03 < np.median(rates[rates < 0.6]) * 5 < 0.1


def test_the_figures_of_a_few_runs(shared: Path) -> None:
    """Every figure is there and in its range; 3x and 10x are caught by all. `shared` is skipped where it is absent."""
    said: list[str] = []
    found = verdicts.figures(40, shared / "data" / "quality", said.append)
    assert set(found) == {"canary", "latency_canary"}
    canary, latency = found["canary"], found["latency_canary"]
    assert canary["alpha_errors"]["mean"] == pytest.approx(0.02 / 1.5)
    for name in ("caught_3x", "caught_10x"):
        assert canary[name]["mean"] == 1.0
    for name in ("identical_rolled_back", "identical_drifting_rolled_back"):
        assert (canary[name]["mean"] or 0.0) <= 0.1
    assert canary["always_failing_at_5%"]["mean"] == 3.0
    assert 0.3 < (canary["ratio_10x"]["mean"] or 0.0) < 4.0
    assert latency["caught_2x"]["mean"] == 1.0
    assert said


def test_without_matrices_there_is_no_latency(tmp_path: Path) -> None:
    for data in (None, tmp_path):
        assert set(verdicts.figures(1, data, lambda _: None)) == {"canary"}
