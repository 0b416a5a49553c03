"""The selector inside its limits: promises of quality, ceilings of money, floors, calls that are late."""

import pytest

from sidecar.core.draws import BASELINE, FLOOR, FLOORS, GATE, MOST, PROBE, SHORT
from sidecar.core.policy import Objective
from sidecar.core.quality import PROBATION
from sidecar.core.reward import STREAM_FAST_S, STREAM_SLOW_S
from sidecar.core.selector import Selector
from tests.unit.core.selectors import ARMS, COSTS, FREE, answered, ask, label, made, ready, rng, teach, vector

# ---- the promise


@pytest.mark.parametrize(("loss", "favourite"), [(0.0, "big"), (0.05, "mid"), (0.5, "small")])
def test_the_promise_decides_how_cheap_it_gets(loss: float, favourite: str) -> None:
    """Three known arms of 0.8, 0.78 and 0.67 that cost 1, 0.3 and 0.05: the cheapest mix within the loss."""
    one = made(Objective(max_quality_loss=loss))
    teach(one, {"big": 0.8}, 600)
    teach(one, {"mid": 0.78, "small": 0.67}, 20)
    teach(one, {"mid": 0.78}, 600)
    shares = vector(ready(one))
    assert max(shares, key=lambda arm: shares[arm]) == favourite
    assert (one.price > 0) is (loss > 0)


def test_what_is_chosen_keeps_the_promise() -> None:
    """By the beliefs themselves: the shares' expected quality is at least what the next calls have to bring, but for
    the draws that chance left out of the 64 requests (a tenth of the loss)."""
    one = ready(teach(teach(made(Objective(max_quality_loss=0.1)), {"big": 0.8}, 600), {"mid": 0.76, "small": 0.4}, 60))
    shares, quality = vector(one), one.quality()[0]
    expected = sum(shares[arm] * quality[place] for place, arm in enumerate(ARMS))
    assert expected >= (1 - 1.1 * 0.1) * quality[0]
    assert sum(shares[arm] * cost for arm, cost in zip(ARMS, COSTS, strict=True)) < 0.8 * COSTS[0]


def test_where_no_price_keeps_the_promise_half_of_the_traffic_goes_to_the_baseline() -> None:
    """500 labels of 0.3 beside as many of the baseline's 0.9 have broken it: quality alone counts, and the baseline is
    measured with SHORT of the traffic, even if another arm seems better."""
    one = made(Objective(max_quality_loss=0.05))
    teach(one, {"big": 0.9, "small": 0.1}, 400)
    teach(one, {"mid": 0.95}, 40)
    ready(one)
    assert one.short
    assert one.price == 0.0
    assert vector(one)["big"] >= SHORT
    assert vector(one)["small"] == pytest.approx(FLOOR)


# ---- floors


def test_no_arm_is_forgotten_and_the_baseline_is_measured_while_it_is_a_reference() -> None:
    """A known loser has FLOOR exactly; the baseline BASELINE where a promise is measured against it, else FLOOR too."""
    means = {"big": 0.5, "mid": 0.9, "small": 0.1}
    promised = ready(teach(made(Objective(max_quality_loss=0.05)), means))
    assert vector(promised)["small"] == pytest.approx(FLOOR)
    assert vector(promised)["big"] == pytest.approx(BASELINE)
    for loss in (0.0, 1.0):
        free = ready(teach(made(Objective(max_quality_loss=loss)), means))
        assert vector(free)["big"] == pytest.approx(FLOOR)


def test_the_floors_of_many_arms_stay_small_together() -> None:
    names = tuple(f"a{number}" for number in range(100))
    many = Selector(names, FREE)
    for name in names:
        for at in range(20):
            many.label(label(name, 0.1 * (at % 2) + (0.9 if name == "a7" else 0.0)))
    shares = vector(ready(many, 8))
    assert shares["a7"] >= 1 - FLOORS
    assert shares["a3"] == pytest.approx(min(FLOOR, FLOORS / 100))


def test_an_arm_that_fell_is_probed_until_its_probation_is_over() -> None:
    """PROBE of the traffic while it is on probation, then a floor like every other."""
    one = ready(teach(made(Objective(max_quality_loss=0.05)), {"big": 0.9, "mid": 0.9, "small": 0.9}, 100))
    before = vector(one)["small"]
    for at in range(60):
        one.label(label("small", 0.2 + (0.1 if at % 2 else -0.1)))
        one.model.digest()
    ready(one)
    assert before > 0.9
    assert one.model.on_probation(2)
    assert vector(one)["small"] == pytest.approx(PROBE)
    one.model.learnt += PROBATION
    ready(one)
    assert vector(one)["small"] == pytest.approx(FLOOR)


def test_floors_never_take_all_of_the_traffic() -> None:
    """Twelve arms that all fell are probed with MOST of the traffic together."""
    names = tuple(f"a{number}" for number in range(12))
    many = Selector(names, FREE)
    many.model.probation[:] = 1_000
    many.refresh(rng())
    shares = vector(many)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert min(shares.values()) >= MOST / 12 - 1e-9


# ---- ceilings


def test_the_price_of_money_keeps_the_mean_cost_under_what_is_left() -> None:
    """Told that the next calls may cost 200 on average, between arms of 1,000, 300 and 50 of which the dearest is best:
    the shares' expected cost is that, within the floors' GATE an arm and a tenth for the draws."""
    one = ready(teach(made(Objective(max_quality_loss=0.0)), {"big": 0.9, "mid": 0.7, "small": 0.6}))
    assert vector(one)["big"] > 0.9
    one.refresh(rng(), 200.0)
    cost = sum(share * cost for share, cost in zip(vector(one).values(), COSTS, strict=True))
    assert one.money > 0.0
    assert cost <= 200.0 * (1.1 + 3 * GATE)
    one.refresh(rng())
    assert one.money == 0.0


def test_no_floor_costs_more_than_its_gate() -> None:
    """An arm of a million under a ceiling of ten is tried with GATE of the ceiling, one that fell with PROBE of it."""
    one = teach(made(FREE, (1.0, 1e6)), {"big": 0.5, "mid": 0.5})
    ready(one)
    one.refresh(rng(), 10.0)
    assert vector(one)["mid"] == pytest.approx(GATE * 10.0 / 1e6)
    one.model.probation[1] = one.model.learnt + 10
    one.refresh(rng(), 10.0)
    assert vector(one)["mid"] == pytest.approx(PROBE * 10.0 / 1e6)
    one.refresh(rng(), 0.0)
    assert vector(one)["mid"] == 0.0


def test_an_arm_that_the_next_call_cannot_pay_is_out_and_the_cheapest_always_may() -> None:
    """With certainty: no draw reaches it, and the propensity is of what is left."""
    one = ready(teach(made(Objective(max_quality_loss=0.0)), {"big": 0.9, "mid": 0.5, "small": 0.1}))
    chance = rng(6)
    picks = [one.choose(ARMS, ask(), chance, 400.0) for _ in range(300)]
    assert {pick.arm for pick in picks} <= {"mid", "small"}
    assert sum({pick.arm: pick.propensity for pick in picks}.values()) <= 1.0 + 1e-9
    for left in (10.0, -5.0):
        alone = one.choose(ARMS, ask(), chance, left)
        assert (alone.arm, alone.propensity) == ("small", 1.0)
    assert one.choose(("big", "mid"), ask(), chance, 0.0).arm == "mid"


def test_a_draw_names_the_arms_that_it_was_made_among() -> None:
    """What each arm was worth stands beside its name, also where a ceiling left some out."""
    one = ready(teach(made(Objective(max_quality_loss=0.0)), {"big": 0.9, "mid": 0.5, "small": 0.1}))
    for left, arms in ((1e9, ARMS), (400.0, ("mid", "small")), (0.0, ("small",))):
        pick = one.choose(ARMS, ask(), rng(6), left)
        assert pick.arms == arms
        assert len(pick.worth) == len(arms)
        assert list(pick.worth) == sorted(pick.worth, reverse=True)


# ---- a warm cache


def test_where_a_prompt_is_cached_the_call_is_cheaper_by_that() -> None:
    """Three equal arms: the warm one gets more the more it saves, all but the floors where that is much; its propensity
    is its frequency (4,000 choices, 4.5 sd). An arm that is not in the pool saves nothing, and nothing is kept."""
    one = teach(made(FREE, (100.0, 99.0, 98.0)), {"big": 0.7, "mid": 0.7, "small": 0.7}, 30)
    ready(one)
    before = vector(one)
    shares = []
    for saved in (0.0, 10.0, 80.0):
        chance, found, told = rng(8), 0, 0.0
        for _ in range(4_000):
            pick = one.choose(ARMS, ask(), chance, warm=("mid", saved))
            if pick.arm == "mid":
                found, told = found + 1, pick.propensity
        assert abs(found - 4_000 * told) < 4.5 * (4_000 * told * (1 - told)) ** 0.5 + 1e-6
        shares.append(told)
    assert shares == sorted(shares)
    assert shares[0] == pytest.approx(before["mid"])
    assert shares[-1] == pytest.approx(1 - 2 * FLOOR)
    assert one.choose(("big", "small"), ask(), rng(8), warm=("mid", 80.0)) == one.choose(
        ("big", "small"), ask(), rng(8)
    )
    assert vector(one) == before


# ---- latency


def timed(objective: Objective, latencies: dict[str, float], *, stream: bool = True) -> Selector:
    """Equal arms whose calls have these latency scores (1 is fast, 0 slow)."""
    one = teach(made(objective), {"big": 0.8, "mid": 0.8, "small": 0.8})
    for _ in range(200):
        for arm, score in latencies.items():
            one.partial_fit(arm, answered(score), ask(stream=stream))
    return ready(one)


def test_an_arm_whose_calls_are_late_gets_its_floor_only() -> None:
    """The cheap arm's first tokens take longer than allowed; its whole answers are judged by themselves."""
    limit_s = (STREAM_FAST_S * STREAM_SLOW_S) ** 0.5  # the score 0.5
    one = timed(Objective(max_quality_loss=0.5, ttft_s=limit_s), {"big": 0.9, "mid": 0.9, "small": 0.4})
    assert vector(one)["small"] == pytest.approx(FLOOR)
    assert max(one.choose(ARMS, ask(), rng(2)).worth) > -1e9
    assert one.choose(ARMS, ask(), rng(2)).worth[2] == float("-inf")
    assert one.choose(ARMS, ask(stream=False), rng(2)).arm == "small"


def test_where_all_are_late_nobody_is_out_for_it() -> None:
    one = timed(Objective(max_quality_loss=0.5, ttft_s=STREAM_FAST_S), {"big": 0.5, "mid": 0.5, "small": 0.5})
    assert vector(one)["small"] > 0.5


def test_a_few_late_calls_are_what_a_percentile_allows() -> None:
    """One of forty is less than LATE."""
    one = timed(Objective(max_quality_loss=0.5, latency_s=1.0), {"big": 0.9, "mid": 0.9, "small": 0.9}, stream=False)
    for at in range(400):
        one.partial_fit("small", answered(0.0 if at % 40 == 0 else 0.9), ask(stream=False))
    ready(one)
    assert one.choose(ARMS, ask(stream=False), rng(2)).worth[2] > float("-inf")


def test_where_being_late_has_a_price_it_is_a_cost_and_no_bar() -> None:
    """A late call is `late_nusd` dearer: the cheap arm is late always, and becomes the dearest."""
    objective = Objective(max_quality_loss=0.5, ttft_s=1.0)
    prompt = timed(objective, {"big": 0.9, "mid": 0.9, "small": 0.9})
    assert vector(prompt)["small"] > 0.8
    priced = Objective(max_quality_loss=0.5, ttft_s=1.0, late_nusd=5_000)
    one = timed(priced, {"big": 0.9, "mid": 0.9, "small": 0.1})
    assert one.choose(ARMS, ask(), rng(2)).worth[2] > float("-inf")
    assert vector(one)["small"] < 0.05
    assert vector(one)["mid"] > 0.8


def test_told_to_minimise_latency_it_prefers_the_fast_one() -> None:
    one = timed(Objective(minimize="latency", max_quality_loss=0.5), {"big": 0.95, "mid": 0.5, "small": 0.05})
    assert vector(one)["big"] > 0.8
