"""The rows of the goal table: what each family reads off its streams."""

from pathlib import Path

import numpy as np
import pytest

from bench import day, router_arms, router_ceilings, router_curve, router_drop, router_promise
from bench.matrices import aiq, load_all
from bench.replay import Trail
from bench.tape import tape
from tests.fixtures.matrices import matrix


def test_the_curve_is_read_as_the_zero_router_is() -> None:
    """Runs that sit on the models themselves give the zero router's AIQ and the static mix's saving."""
    made = matrix(1000, means=(0.5, 0.9), costs=(1.0, 3.0))
    (_, low), (_, high) = made.points
    results = {str(place): [(3.0, high, 1.0), (3.0, high, 1.0)] for place in range(len(router_curve.RATIOS) + 1)}
    found = router_curve.FAMILY.figures(made, results)
    assert found["aiq"]["mean"] == pytest.approx(found["aiq"]["reference"])
    assert found["saving_at_5_percent_loss"]["mean"] == pytest.approx(found["saving_at_5_percent_loss"]["reference"])
    assert found["apgr"]["mean"] == pytest.approx(0.5)
    assert found["regret"]["mean"] == pytest.approx(0.0)
    assert found["curve_00_quality"]["reference"] == pytest.approx(found["curve_00_quality"]["mean"])
    assert low < high


def test_a_curve_that_does_not_reach_the_quality_saves_nothing() -> None:
    """10 % below the best model: no seed reaches 95 %, which counts as no saving and is told."""
    made = matrix(1000, means=(0.5, 0.9), costs=(1.0, 3.0))
    best = made.points[1][1]
    results = {str(place): [(2.0, 0.9 * best, 0.5)] for place in range(len(router_curve.RATIOS) + 1)}
    found = router_curve.FAMILY.figures(made, results)
    assert found["saving_at_5_percent_loss"]["mean"] == 0.0
    assert found["seeds_that_reach_5_percent_loss"]["mean"] == 0.0


def test_only_regret_needs_one_run_a_seed() -> None:
    """`--only regret` does not pay for the sweep; with all metrics there is one run for each weight, and quality alone."""
    made = matrix(10)
    assert router_curve.FAMILY.settings(made, frozenset({"regret"})) == {"0": 10}
    assert len(router_curve.FAMILY.settings(made, frozenset())) == len(router_curve.RATIOS) + 1
    assert set(router_drop.FAMILY.settings(made, frozenset({"detector_costs"}))) == {"with", "without"}


def test_worst_and_median_regret_are_over_matrices() -> None:
    """Of 10 %, 2 % and 0 %: the worst is 10 %, the median 2 %."""
    matrices, results = [], {}
    for name, loss in (("a", 0.1), ("b", 0.02), ("c", 0.0)):
        made = matrix(50)
        object.__setattr__(made, "name", name)
        matrices.append(made)
        results[name] = {"0": [(1.0, (1 - loss) * made.points[made.best][1], 1.0)] * 2}
    found = router_curve.FAMILY.overall(matrices, results)
    assert found["regret_worst"]["mean"] == pytest.approx(0.1)
    assert found["regret_median"]["mean"] == pytest.approx(0.02)


def test_a_promise_is_kept_or_not() -> None:
    """Losses of 4 % and 6 %: one stream of two keeps 5 %; the saving stands beside the static mix's."""
    made = matrix(1000, means=(0.5, 0.9), costs=(1.0, 3.0))
    best = made.points[1][1]
    results = {"told": [(2.4, 0.96 * best), (2.4, 0.94 * best)]}
    found = router_promise.PROMISE.figures(made, results)
    assert found["told_5_percent_kept"]["mean"] == 0.5
    assert found["told_5_percent_saving"]["mean"] == pytest.approx(0.2)
    overall = router_promise.PROMISE.overall([made], {"m": results})
    ratio = 0.2 / router_curve.hindsight_saving(made)
    assert overall["told_5_percent_saving_ratio"]["mean"] == pytest.approx(ratio)


def test_the_peak_of_the_mean_begins_at_request_300() -> None:
    """Dear first calls are forgiven until then: 100 at 4, the rest at 1 have a mean of (400 + 201) / 301 at the 301st."""
    costs = np.array([4.0] * 100 + [1.0] * 900)
    assert router_ceilings.peak(costs) == pytest.approx(601 / 301)


def test_the_worst_ceiling_speaks_for_all() -> None:
    """Gaps of -1 %, then above: six of seven above, the worst is the first, and so is its cost."""
    made = matrix(50)
    results = {
        str(place): [(-0.01 if place == 0 else 0.01, 1.0 - place / 10, 1.1 - place / 10, 0.9, 0.0)]
        for place in range(7)
    }
    found = router_ceilings.FAMILY.figures(made, results)
    assert found["ceilings_worst_quality_gap"]["mean"] == -0.01
    assert found["ceilings_above_static_mix"]["mean"] == 6.0
    assert found["ceilings_worst_cost_peak"]["mean"] == 1.1
    assert "ceiling_1_refused" not in found
    assert router_ceilings.FAMILY.figures(made, {}) == {}


def test_shares_roll_and_waits_are_counted_from_one() -> None:
    """The share of the last two; the first request counts as 1, and never counts as all."""
    used = np.array([True, True, False, False])
    assert router_drop.rolling(used, 2).tolist() == [1.0, 1.0, 0.5, 0.0]
    assert router_drop.until(np.array([True, False])) == 1.0
    assert router_drop.until(np.array([False, False])) == 2.0


def test_the_model_that_drops_is_worse_than_the_cheapest() -> None:
    """Five percent, in the mean of 4,000 answers (sd of either mean .008); the others keep their scores."""
    made = matrix(4000, means=(0.6, 0.9, 0.95), costs=(1.0, 2.0, 9.0))
    bad = router_drop.dropped(made, 1, 0)
    assert bad[:, 1].mean() == pytest.approx(0.95 * 0.6, abs=0.04)
    assert (bad[:, [0, 2]] == made.quality[:, [0, 2]]).all()


def test_the_engines_favourite_drops_but_never_the_cheapest() -> None:
    """The cheapest serves most and is left out; of the others the one that served more; refusals are nobody's."""
    made = matrix(50, costs=(1.0, 2.0, 9.0))
    assert router_drop.favourite(made, np.array([0, 0, 0, 0, 2, 2, 1, -1])) == 2


def test_a_stream_that_never_left_has_not_come_back() -> None:
    """Of two streams one leaves after 40 and is back after 90; the other stays, 608, and a third hardly used the arm."""
    streams = [(0.5, 40.0, 90.0, 0.8, 0.8), (0.5, 608.0, 1.0, 0.8, 0.8), (0.05, 1.0, 1.0, 0.8, 0.4)]
    found = router_drop.FAMILY.figures(matrix(50), {"tight": streams})
    assert found["drop_tight_until_left"]["mean"] == (40 + 608) / 2
    assert found["drop_tight_until_back"]["mean"] == 90.0
    assert found["drop_tight_streams"]["mean"] == pytest.approx(2 / 3)
    assert found["drop_tight_reward"]["mean"] == pytest.approx(2.5 / 3)


def test_the_detector_is_taken_out_for_one_stream_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its threshold is infinite while the stream without it runs, and as before afterwards."""
    seen = []
    kept = router_drop.quality_model.ALARM

    def replay(*_: object) -> Trail:
        seen.append(router_drop.quality_model.ALARM)
        return Trail(np.zeros(1, dtype=np.intp), np.ones(1), np.ones(1))

    monkeypatch.setattr(router_drop, "replay", replay)
    made = tape(matrix(5))
    assert router_drop.FAMILY.run(made, "without", 0) == router_drop.FAMILY.run(made, "with", 0) == (1.0,)
    assert seen == [float("inf"), kept]
    assert kept == router_drop.quality_model.ALARM


def test_an_adoption_is_told_by_its_last_fifty() -> None:
    """An arm that takes all from call 101 on is adopted when 40 of the last 50 are its own, at call 140."""
    used = np.array([False] * 100 + [True] * 1116)
    assert router_arms._adoption(used) == (1.0, 140.0)


def test_a_rejection_counts_the_calls_before_it() -> None:
    """Ten calls at once, then one in a hundred: out after the ten have left the last fifty (5 are too many)."""
    used = np.zeros(1216, dtype=np.bool_)
    used[:10] = True
    used[200::100] = True
    assert router_arms._rejection(used) == (10.0, 21.0)


def test_the_bad_copy_costs_the_same_and_is_half_as_good() -> None:
    """One model more; prices are fitted to it too, and texts are not read again."""
    made = tape(matrix(2000))
    wider = router_arms.with_bad_copy(made, 1, 0)
    assert wider.matrix.models[-1] == "bad copy"
    assert wider.texts is made.texts
    assert (wider.matrix.cost_usd[:, 3] == made.matrix.cost_usd[:, 1]).all()
    assert wider.prices[3] == made.prices[1]
    assert wider.matrix.quality[:, 3].mean() == pytest.approx(0.45, abs=0.06)  # 2,000 answers, sd .011, five of them


def test_a_day_is_compared_with_the_apps_own_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """All on a model that is right where the baseline is, and costs a tenth: all benefit, 90 % saved, nothing lost."""
    made = matrix(200, means=(1.0, 1.0), costs=(1.0, 10.0))
    object.__setattr__(made, "quality", np.ones((200, 2)))
    monkeypatch.setattr(type(made), "best", property(lambda _: 1))
    monkeypatch.setattr(day, "_beside", lambda _: {"t": np.linspace(0, 86_000, 200)})
    monkeypatch.setattr(day, "replay", lambda *_: Trail(np.zeros(200, dtype=np.intp), np.full(200, 1.0), np.ones(200)))
    values = day.FAMILY.run(tape(made), "t", 0)
    assert values == pytest.approx((1.0, 0.9, 0.0, 0.9, 0.9, 0.0))
    found = day.FAMILY.figures(made, {"t": [values, values]})
    assert found["day_t_saving"]["mean"] == pytest.approx(0.9)
    assert day.FAMILY.overall([made], {"m": {"t": [values, values]}})["day_benefit"]["mean"] == pytest.approx(1.0)
    assert day.FAMILY.overall([made], {"m": {}}) == {}


def test_references_are_the_published_ones(shared: Path) -> None:
    """The zero router's AIQ and the best static mix's saving at 5 % loss, as they stand beside the data (rounded there)."""
    found = {}
    for made in load_all(shared / "data" / "quality"):
        low, high = min(made.points)[0], max(made.points)[0]
        found[made.name] = (aiq(made.points, low, high), router_curve.hindsight_saving(made))
    published = {
        "bfcl_fc": (0.852, 0.941),
        "mmlupro_a": (0.589, 0.127),
        "routellm_mmlu": (0.743, 0.303),
        "routerbench_slices": (0.820, 0.387),
    }
    for name, (area, saved) in published.items():
        assert found[name] == (pytest.approx(area, abs=6e-4), pytest.approx(saved, abs=6e-4)), name
    assert found["paretobandit_val"][1] == pytest.approx(0.975, abs=6e-4)
