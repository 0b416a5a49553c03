"""The choice among draws: its probability is exact, and each way to change the draws keeps them apart."""

from math import inf, nan

import numpy as np
import pytest

from sidecar.core.draws import BASELINE, DRAWS, FLOOR, GATE, MAX_BASES, MOST, PROBE, SHORT, View, Why, floors
from sidecar.core.features import FEATURES

ARMS = ("big", "small")


def view(*given: float, text: bool = False) -> View:
    """Two arms whose worths are noise alone."""
    rng = np.random.default_rng(3)
    made = View(ARMS, np.array([0, 1]), np.zeros((2, DRAWS)), list(given or (0.1, 0.2)))
    made.noise, made.answered = rng.standard_normal((2, DRAWS)), np.ones((2, 1))
    if text:
        made.text = rng.standard_normal((2 * DRAWS, FEATURES)).astype(np.float32)
    return made


def test_the_probability_is_the_share_of_uniform_numbers() -> None:
    """Over 20,000 numbers, evenly spaced, each arm is taken as often as it says: to 1 / 20,000 for each of at most
    2 + DRAWS pieces of the unit interval."""
    one = view()
    drawn = one.draw("", np.zeros(2), np.ones(2))
    picks = [one.pick(drawn, (number + 0.5) / 20_000) for number in range(20_000)]
    for arm in ARMS:
        told = {pick.propensity for pick in picks if pick.arm == arm}
        assert len(told) == 1
        share = sum(pick.arm == arm for pick in picks) / 20_000
        assert share == pytest.approx(told.pop(), abs=(2 + DRAWS) / 20_000)


def test_a_row_is_one_draw() -> None:
    """The worths that are told are those of the draw that was picked, and the best of them was chosen."""
    one = view()
    worth, best = one.draw("", np.zeros(2), np.ones(2))
    for number in range(DRAWS):
        pick = one.pick((worth, best), 0.3 + 0.7 * (number + 0.5) / DRAWS)
        assert pick.worth == tuple(worth[number].tolist())
        assert pick.arm == ARMS[int(worth[number].argmax())]


def test_a_text_adds_its_part() -> None:
    one, text = view(text=True), np.linspace(0, 1, FEATURES, dtype=np.float32)
    base = one.draw("", np.zeros(2), np.ones(2))
    assert one.text is not None
    worth, best = one.with_text(base, text)
    assert worth == pytest.approx(base[0] + (one.text @ text).reshape(DRAWS, 2), abs=1e-5)
    assert best == worth.argmax(axis=1).tolist()
    assert one.with_text(base, None) is base
    assert view().with_text(base, text) is base


def test_an_arm_may_be_favoured_and_the_draws_stay() -> None:
    one = view()
    base = one.draw("", np.zeros(2), np.ones(2))
    before = base[0].copy()
    assert one.favour(base, "small", 100.0)[1] == [1] * DRAWS
    assert (base[0] == before).all()
    assert one.favour(base, "nobody", 100.0) is base


def test_a_broken_belief_gets_no_draw() -> None:
    worth, best = view().draw("", np.array([0.0, nan]), np.ones(2))
    assert (worth[:, 1] == -inf).all()
    assert best == [0] * DRAWS
    assert view().draw("", np.full(2, nan), np.ones(2))[1] == [0] * DRAWS


def test_tasks_are_bounded() -> None:
    one = view()
    for number in range(MAX_BASES + 1):
        one.draw(str(number), np.zeros(2), np.ones(2))
    assert list(one.bases) == [str(MAX_BASES)]


def test_floors() -> None:
    """Each arm has its own; dear ones are cut by the allowance, all together leave room; one alone needs none."""
    why: tuple[Why, ...] = ("usual", "probe", "baseline", "short")
    assert floors(why, [1.0] * 4, inf) == [FLOOR, PROBE, BASELINE, SHORT]
    assert floors(why, [1.0, 1.0, 1.0, 0.0], 0.01) == [FLOOR and GATE * 0.01, PROBE * 0.01, GATE * 0.01, SHORT]
    assert sum(floors(("short", "short", "probe"), [1.0] * 3, inf)) == pytest.approx(MOST)
    assert floors(("short",), [1.0], 1.0) == [0.0]
