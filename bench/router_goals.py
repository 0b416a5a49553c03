"""The goals of the routing bench, and which of them a report meets."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from bench.figures import Figure
from bench.router_row import ALL

Report = Mapping[str, Mapping[str, Figure]]  # matrix -> metric -> figure


@dataclass(frozen=True, slots=True)
class Goal:
    """What one metric should be. `matrix` "*" means each matrix that has it; a metric with `*` each that fits."""

    text: str
    metric: str
    sign: Literal[">=", "<="]
    target: float
    matrix: str = "*"
    peer: str = ""  # what others reach
    of: Literal["mean", "hi"] = "mean"  # the estimate, or the upper end of its interval

    def met(self, found: Figure) -> bool | None:
        """Whether the estimate (or its upper bound, where that is the goal) meets it; None without one."""
        value = found[self.of]
        if value is None:
            return None
        return value >= self.target if self.sign == ">=" else value <= self.target


GOALS: Final = (
    Goal("online AIQ", "aiq", ">=", 0.825, "routerbench_slices", "LinTS .818"),
    Goal("saving at <= 5 % loss", "saving_at_5_percent_loss", ">=", 0.48, "routerbench_slices", "LinTS .443"),
    Goal("online AIQ", "aiq", ">=", 0.868, "bfcl_fc", "LinUCB .866"),
    Goal("regret against best fixed", "regret", "<=", -0.015, "bfcl_fc", "LinUCB -.018"),
    Goal("APGR", "apgr", ">=", 0.59, "routellm_mmlu", "per-task TS .584"),
    Goal("saving at <= 5 % loss", "saving_at_5_percent_loss", ">=", 0.40, "routellm_mmlu", "per-task TS .391"),
    Goal("regret, worst matrix", "regret_worst", "<=", 0.04, ALL, "TS .040"),
    Goal("regret, median matrix", "regret_median", "<=", 0.004, ALL, "TS .011"),
    Goal("told 5 %: streams that keep it", "told_5_percent_kept", ">=", 0.98, ALL),
    Goal("told 5 %: saving / static mix's", "told_5_percent_saving_ratio", ">=", 0.85, ALL),
    Goal("7 ceilings: worst quality gap", "ceilings_worst_quality_gap", ">=", -0.003, peer="below at 3 of 7"),
    Goal("7 ceilings: above the static mix", "ceilings_above_static_mix", ">=", 4.0),
    Goal("7 ceilings: worst peak of cost", "ceilings_worst_cost_peak", "<=", 1.02, peer="ParetoBandit 1.00"),
    Goal("quality drop: until left", "drop_*_until_left", "<=", 50.0, peer="ParetoBandit 52-192"),
    Goal("quality drop: until back", "drop_*_until_back", "<=", 100.0),
    Goal("quality drop: phase 3 / phase 1", "drop_*_reward", ">=", 0.99, peer="ParetoBandit .948-.986"),
    Goal("detector, nothing changes", "detector_costs", "<=", 0.002),
    Goal("price x1/100 and back: worst third", "price_worst_third", "<=", 1.02, peer="ParetoBandit 1.04"),
    Goal("good arm added: until adopted", "good_arm_*_until", "<=", 120.0, peer="ParetoBandit 121-142"),
    Goal("bad arm added: pulls until out", "bad_arm_*_pulls", "<=", 20.0, peer="ParetoBandit 20"),
    Goal("10 % feedback: regret", "sparse_regret", "<=", 0.07, "routerbench_slices", "TS .117"),
    Goal("identical canary rolled back", "identical_rolled_back", "<=", 0.01, "canary", "e-process .016"),
    Goal("errors x 3: requests / best possible", "ratio_3x", "<=", 1.35, "canary"),
    Goal("errors x 10: requests / best possible", "ratio_10x", "<=", 1.35, "canary"),
    Goal("errors x 3 caught", "caught_3x", ">=", 1.0, "canary"),
    Goal("errors x 10 caught", "caught_10x", ">=", 1.0, "canary"),
    Goal("identical latency canary rolled back", "identical_rolled_back", "<=", 0.01, "latency_canary"),
    Goal("A/B: false winners", "ab_*_false", "<=", 0.05, "experiments"),
    Goal("A/B: fewer values than uniform", "ab_*_fewer", ">=", 0.37, "experiments", "TensorZero .37"),
    Goal("drift alarms a window, upper bound", "false_alarms", "<=", 1e-4, "drift", of="hi"),
    Goal("day: requests that benefit", "day_benefit", ">=", 0.40, ALL),
    Goal("day: saving", "day_saving", ">=", 0.20, ALL),
    Goal("day: quality loss", "day_loss", "<=", 0.05, ALL),
    Goal("decide + settle, 3 arms, p50 us", "decide_settle_k3_p50_us", "<=", 15.0, ALL, "ParetoBandit 43"),
    Goal("decide + settle, 10 arms, p50 us", "decide_settle_k10_p50_us", "<=", 40.0, ALL),
    Goal("decide + settle, 10 arms, p99 us", "decide_settle_k10_p99_us", "<=", 200.0, ALL),
)


def checked(report: Report) -> Iterator[tuple[Goal, str, str, Figure]]:
    """(goal, matrix, metric, figure) of every goal that the report has figures for."""
    for goal in GOALS:
        for matrix, metrics in report.items():
            if goal.matrix not in ("*", matrix):
                continue
            for metric, found in metrics.items():
                if _same(metric, goal.metric):
                    yield goal, matrix, metric, found


def _same(metric: str, pattern: str) -> bool:
    start, star, end = pattern.partition("*")
    return metric.startswith(start) and metric.endswith(end) if star else metric == pattern


def text(value: float | None) -> str:
    """A number for people: four decimals, fewer when it is large, a power of ten when it is tiny."""
    if value is None or not math.isfinite(value):
        return "-"
    if 0 < abs(value) < 1e-3:
        return f"{value:.2e}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
