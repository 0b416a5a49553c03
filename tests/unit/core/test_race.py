"""Tests, intervals and allocations of two to five variants that are looked at all the time."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.race import EXPLORE, Lines, Race, fastest_mix, thresholds

ALPHA = 0.05


def run(race: Race, means: Sequence[float], values: int, seed: int, *, adaptive: bool = False) -> int:
    """Plays until somebody wins or `values` are over; how many there were."""
    rng = np.random.default_rng(seed)
    shares: tuple[float, ...] = tuple(1.0 / len(means) for _ in means)
    for at in range(1, values + 1):
        drawn = int((rng.random() > np.cumsum(shares)[:-1]).sum())
        race.observe(drawn, float(rng.random() < means[drawn]), shares)
        if race.winner() is not None:
            return at
        if adaptive and at % 20 == 0:
            shares = race.allocation()
    return values


@pytest.mark.parametrize("variants", [2, 3, 4, 5])
def test_the_thresholds_spend_alpha(variants: int) -> None:
    """2/c_1 + 1/c_2 + ... = alpha, and no set is easier than a pair: what the proof in the module needs."""
    c = np.exp(thresholds(variants, ALPHA))
    assert len(c) == variants - 1
    assert 2 / c[0] + (1 / c[1:]).sum() == pytest.approx(ALPHA)
    assert all(c >= c[0])


def test_every_set_is_compared() -> None:
    """One line for each variant and each non-empty set of others, none twice."""
    lines = Lines(4)
    seen = {(one.argmax(), *np.flatnonzero(other)) for one, other in zip(lines.one, lines.other, strict=True)}
    assert len(seen) == len(lines.size) == 4 * 7
    assert not (lines.one * lines.other).any()
    assert [len(lines.sees[one]) for one in range(4)] == [7 + 3 * 4] * 4


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.floats(0.0, 1.0)), max_size=30),
    st.tuples(*[st.floats(0.05, 1.0)] * 3),
    st.floats(0.0, 1.0),
)
def test_a_bet_is_fair(past: list[tuple[int, float]], weights: tuple[float, ...], mean: float) -> None:
    """Whatever came before: where all means are equal, wealth stays the same on average over the next draw.

    Exactly so, by the sum over the draws and values 0 and 1: this is what Ville's inequality needs. Wealth stays positive.
    """
    shares = tuple(weight / sum(weights) for weight in weights)
    race = Race(3, ALPHA)
    for variant, value in past:
        race.observe(variant, value, shares)
    before = wealth(race)
    expected = np.zeros_like(before)
    for variant, share in enumerate(shares):
        for value, chance in ((0.0, 1.0 - mean), (1.0, mean)):
            after = Race(3, ALPHA)
            after.restore(race.to_state())
            after.observe(variant, value, shares)
            assert (wealth(after) > 0.0).all()
            expected += share * chance * wealth(after)
    assert expected == pytest.approx(before, rel=1e-9)


def wealth(race: Race) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    parts = race.to_state()["parts"]
    assert isinstance(parts, list)
    return np.exp(np.array(parts[0]))


@pytest.mark.parametrize("variants", [2, 5])
def test_the_best_one_wins(variants: int) -> None:
    """.9 against .5, both allocations: another winner has probability <= .05 each (the module's proof), no winner within
    4,000 values is 30 standard deviations away; three seeds each."""
    means = [0.5] * (variants - 1) + [0.9]
    for seed in range(3):
        for adaptive in (False, True):
            race = Race(variants, ALPHA)
            assert run(race, means, 4000, seed, adaptive=adaptive) < 4000
            assert race.winner() == variants - 1


def test_equal_ones_have_no_winner() -> None:
    """Three equal variants, 40 experiments of 600 values looked at after each: false winners are Binomial(40, <= .05),
    so more than 8 have probability < 1e-3."""
    found = 0
    for seed in range(40):
        race = Race(3, ALPHA)
        run(race, [0.7] * 3, 600, seed, adaptive=seed % 2 == 0)
        found += race.winner() is not None
    assert found <= 8


def test_the_interval_holds_the_difference() -> None:
    """Over 30 experiments of up to 400 values, looked at ten times each, an interval ever misses the true difference with
    probability <= .05 each: Binomial(30, .05), more than 7 have probability < 1e-3. It gets narrower."""
    missed = 0
    for seed in range(30):
        race = Race(2, ALPHA)
        widths, wrong = [], False
        for part in range(10):
            run(race, [0.6, 0.5], 40, 100 * seed + part)
            low, high = race.difference(0, 1)
            wrong = wrong or not low <= 0.1 <= high
            widths.append(high - low)
            assert race.difference(1, 0) == pytest.approx((-high, -low))
        missed += wrong
        assert widths[-1] < widths[0] <= 2.0
    assert missed <= 7


def test_a_winner_beats_by_more_than_nothing() -> None:
    """With two variants the test and the interval are one: at the moment of a win the interval lies above 0."""
    race = Race(2, ALPHA)
    run(race, [0.5, 0.7], 5000, 5)
    low, high = race.difference(1, 0)
    assert race.winner() == 1
    assert race.beaten(1, 0)
    assert not race.beaten(0, 1)
    assert 0.0 < low < high


def test_what_is_equal_is_shown_to_be() -> None:
    """Equal halves come to lie within .2 of each other, and not within .02 so soon: after 1,500 values the interval has
    a half width of about 3 sqrt(4 * .25 / 1500) = .08."""
    race = Race(2, 0.5)
    run(race, [0.5, 0.5], 1500, 4)
    assert race.within(0, 1, 0.2)
    assert race.within(1, 0, 0.2)
    assert not race.within(0, 1, 0.02)


def test_no_data_no_claim() -> None:
    """At the start everything is open, and the shares are even."""
    race = Race(3, ALPHA)
    assert race.winner() is None
    assert race.difference(0, 1) == (-1.0, 1.0)
    assert not race.within(0, 1, 0.5)
    assert sum(race.allocation()) == pytest.approx(1.0)


def test_who_is_out_need_not_be_beaten() -> None:
    """A variant that was taken out gets no share and stops nobody; the last one left wins nothing."""
    race = Race(3, ALPHA)
    run(race, [0.9, 0.5, 0.9], 1500, 2)
    assert race.winner() is None
    race.out.add(2)
    assert race.winner() == 0
    assert race.allocation()[2] == 0.0
    assert sum(race.allocation()) == pytest.approx(1.0)
    race.out.add(1)
    assert race.winner() is None


def test_the_last_one_gets_all() -> None:
    race = Race(3, 0.05)
    race.out = {0, 2}
    assert race.allocation() == (0.0, 1.0, 0.0)


def test_the_mix_is_the_best_one() -> None:
    """For one leader of .8 and known gaps, no mix on a grid needs fewer values than the one that is given.

    With evidence 0, needed 1: pair j needs a_j = 2 v / gap_j^2 harmonic values; a mix w needs max_j a_j (1/w_0 + 1/w_j).
    """
    counts = np.full((1, 3), 1e7)  # standard errors are nothing: the gaps are as known
    totals = counts * np.array([[0.8, 0.7, 0.6]])
    mix = fastest_mix(counts, totals, np.zeros((1, 3)), np.array([0]), 1.0)[0]
    pure = (mix - EXPLORE / 3) / (1 - EXPLORE)
    needs = 2 * 0.7 * 0.3 / np.array([0.1, 0.2]) ** 2

    def taken(shares: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> float:
        return float((needs * (1 / shares[0] + 1 / shares[1:])).max())

    grid = [(i / 50, j / 50, 1 - i / 50 - j / 50) for i in range(1, 49) for j in range(1, 50 - i)]
    assert taken(pure) <= min(taken(np.array(shares)) for shares in grid)
    assert mix.sum() == pytest.approx(1.0)


def test_what_is_shown_gets_no_more() -> None:
    """A pair with enough evidence gets the even part alone; when all have it, the leader is compared with all alike."""
    counts, totals = np.full((1, 3), 100.0), np.array([[80.0, 70.0, 60.0]])
    mix = fastest_mix(counts, totals, np.array([[0.0, 0.0, 9.0]]), np.array([0]), 4.0)[0]
    assert mix[2] == pytest.approx(EXPLORE / 3)
    both = fastest_mix(counts, totals, np.array([[0.0, 9.0, 9.0]]), np.array([0]), 4.0)[0]
    assert both[1] == pytest.approx(both[2])


def test_two_get_about_the_same() -> None:
    """With one challenger the fastest mix is half and half."""
    mix = fastest_mix(np.full((1, 2), 50.0), np.array([[40.0, 30.0]]), np.zeros((1, 2)), np.array([0]), 4.0)[0]
    assert mix == pytest.approx([0.5, 0.5])


def test_a_state_goes_on() -> None:
    """What was restored decides as what was stored; what is of another shape is refused and changes nothing."""
    race = Race(3, ALPHA)
    run(race, [0.6, 0.5, 0.5], 200, 1)
    race.out.add(2)
    state = race.to_state()
    again = Race(3, ALPHA)
    again.restore(state)
    assert again.to_state() == state
    for wrong in (Race(2, ALPHA).to_state(), {}, {**state, "parts": [[float("nan")]] * 8}, {**state, "out": "x"}):
        with pytest.raises(ValueError, match=r".+"):
            again.restore(wrong)
        assert again.to_state() == state
    bad = Race(3, ALPHA).to_state()
    assert isinstance(bad["parts"], list)
    bad["parts"][2] = [float("nan")] * len(bad["parts"][2])
    with pytest.raises(ValueError, match="finite"):
        again.restore(bad)


def test_a_long_clear_case_stays_finite() -> None:
    """Wealth beyond every double: logs hold it."""
    race = Race(2, ALPHA)
    for _ in range(4000):
        race.observe(0, 1.0, (0.5, 0.5))
        race.observe(1, 0.0, (0.5, 0.5))
    low, high = race.difference(0, 1)
    assert 0.5 < low <= high == 1.0
    assert race.leader() == 0
