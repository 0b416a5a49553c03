"""The limit of concurrency: nothing without a reason, less after refusals, more after successes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.concurrency import BACKOFF, CUT_S, FORGET_S, LEAST, NONE, WINDOW, Limit, Mode


def test_there_is_no_limit_until_the_upstream_says_so() -> None:
    one = Limit("overload")
    for busy in range(1, 500):
        one.served(0.5 * busy, busy)
    assert one.value == NONE


def test_a_refusal_makes_one_of_what_is_under_way() -> None:
    one = Limit("overload")
    one.refused(100, 0.0)
    assert one.value == BACKOFF * 100


def test_a_burst_of_refusals_is_one_message() -> None:
    """Fifty within a second cut once; the next one after it cuts again."""
    one = Limit("overload")
    for turn in range(50):
        one.refused(100 - turn, turn * CUT_S / 100)
    assert one.value == BACKOFF * 100
    one.refused(80, CUT_S)
    assert one.value == BACKOFF * 80
    one.refused(200, 2 * CUT_S)
    assert one.value == pytest.approx(BACKOFF * BACKOFF * 80)


def test_it_never_goes_below_the_least() -> None:
    one = Limit("overload")
    for turn in range(60):
        one.refused(1, turn * CUT_S)
    assert one.value == LEAST


def test_a_round_of_successes_is_one_call_more() -> None:
    """Only while at least half of it is in use: an idle service learns nothing of how much is too much."""
    one = Limit("overload")
    one.refused(20, 0.0)
    assert one.value == 18.0
    for _ in range(18):
        one.served(None, 10)
    assert 18.9 < one.value < 19.0
    for _ in range(100):
        one.served(None, 8)
    assert one.value < 19.0


def test_it_is_forgotten_when_nothing_was_refused_for_long() -> None:
    one = Limit("overload")
    one.refused(20, 0.0)
    one.forget(FORGET_S - 1)
    assert one.value == 18.0
    one.forget(FORGET_S)
    assert one.value == NONE


def windows(one: Limit, seconds: float, busy: int, times: int = 1) -> None:
    for _ in range(times * WINDOW):
        one.served(seconds, busy)


def test_first_bytes_that_stay_what_they_are_make_no_limit() -> None:
    """Prompts whose time to the first byte varies tenfold, at any concurrency: windows of them are alike."""
    rng, one = np.random.default_rng(7), Limit("gradient")
    for busy in range(1, 4000):
        one.served(float(rng.lognormal(0.0, 0.6)), busy % 300)
    assert one.value == NONE
    assert one.usual_s == pytest.approx(1.0, rel=0.2)


def test_first_bytes_that_take_four_times_as_long_make_one() -> None:
    """It begins below what is under way, and goes on shrinking while the calls are as slow."""
    one = Limit("gradient")
    windows(one, 1.0, 50, 20)
    windows(one, 4.0, 100)
    first = one.value
    assert 85 < first < 100
    windows(one, 4.0, 100, 3)
    assert one.value < first


def test_it_grows_again_and_what_is_not_used_does_not_move_it() -> None:
    one = Limit("gradient")
    windows(one, 1.0, 50, 20)
    windows(one, 8.0, 40, 2)
    shrunk = one.value
    windows(one, 1.0, 2, 5)
    assert one.value == shrunk
    windows(one, 1.0, 40, 5)
    assert one.value > shrunk + 3


def test_what_is_usual_follows_a_service_that_gets_faster() -> None:
    """It is pulled down while it is more than twice too long, so that a slow hour does not hide the next overload."""
    one = Limit("gradient")
    windows(one, 30.0, 1, 30)
    windows(one, 1.0, 1, 60)
    assert one.usual_s is not None
    assert one.usual_s < 5.0


def test_calls_that_are_not_streamed_say_nothing_of_the_gradient() -> None:
    one = Limit("gradient")
    for _ in range(10 * WINDOW):
        one.served(None, 50)
    assert (one.usual_s, one.value) == (None, NONE)
    one.refused(50, 0.0)
    one.served(None, 50)
    assert one.value == pytest.approx(45.0 + 1 / 45.0)
    one.forget(2 * FORGET_S)
    assert one.value < 46.0  # what the gradient learnt is not forgotten


@given(
    st.sampled_from(("overload", "gradient")),
    st.lists(st.tuples(st.booleans(), st.floats(1e-4, 1e4), st.integers(1, 5000), st.floats(0, 5)), max_size=300),
)
def test_it_is_always_a_limit(mode: Mode, events: list[tuple[bool, float, int, float]]) -> None:
    """Never below the least, never not a number; a refusal never raises it."""
    assert mode != "off"
    one, now = Limit(mode), 0.0
    for refused, seconds, busy, wait in events:
        now += wait
        before = one.value
        if refused:
            one.refused(busy, now)
            assert one.value <= before
        else:
            one.served(seconds, busy)
        assert one.value >= LEAST
        assert not math.isnan(one.value)
