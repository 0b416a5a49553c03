"""The prices of features: paired rounds only."""

import pytest

from bench.features import BARE, CANARY, LINE, OBSERVE, SAMPLED, prices
from bench.fuzz import whole_s


def rounds(*cpu_us: float) -> dict[str, object]:
    return {"rounds": [{"cpu_us": one} for one in cpu_us]}


def test_a_price_is_the_median_of_paired_differences() -> None:
    """Not the difference of medians, and nothing where a variant did not run."""
    cells = {
        BARE: rounds(50, 90, 60),
        LINE: rounds(55, 92, 90),
        OBSERVE: {"failed": "it ended"},
        CANARY: rounds(1, 2, 3),
    }
    assert prices({"16 connections": cells}) == {"16 connections": {"log line": 5}}


def test_a_lost_round_has_no_partner() -> None:
    """Which of the rounds was lost is not known, so the others must not be paired by their place."""
    cells = {OBSERVE: rounds(100, 200, 300), SAMPLED: rounds(250, 350), CANARY: rounds(130, 230, 330)}
    assert prices({"64 connections": cells}) == {"64 connections": {"canary": 30}}


@pytest.mark.parametrize(("seconds", "said"), [(0.2, 1), (0.6, 1), (3.4, 3), (211.7, 212)])
def test_a_short_time_is_not_for_ever(seconds: float, said: int) -> None:
    """libFuzzer takes 0 seconds for no limit, and each of 17 targets gets its share of what is asked for."""
    assert whole_s(seconds) == said
