"""Costs: golden bills of every provider's accounting, exact parts, one rounding, and unknown that stays unknown."""

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import genai_prices
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.cost import MOST_NUSD, Cost, RateCard, Rates, cost, flat_card, round_nusd
from sidecar.core.policy import FlatPrice
from sidecar.core.pricebook import PriceBook
from sidecar.core.types import Usage

ROOT = Path(__file__).resolve().parents[3]
DAY = (date(2026, 11, 21) - date(1970, 1, 1)).days
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
RATES = Rates(1000, 100, 1250, 2000, 5000, 6000, 40000, 2500, 80000)


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return PriceBook((ROOT / "policies/prices/genai-prices.json").read_bytes())


def parts_of(found: Cost | None) -> dict[str, tuple[int, int]]:
    assert found is not None
    return {name: (tokens, femto) for name, tokens, _, femto in found.parts}


def theirs(usage: Usage, provider: str, model: str, context: dict[str, str] | None = None) -> Decimal:
    """The same bill by genai-prices' own decimal arithmetic, in dollars."""
    hour = usage.cache_write_1h_tokens
    return genai_prices.calc_price(
        genai_prices.Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cached_input_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            cache_write_1h_tokens=hour,
            input_audio_tokens=usage.input_audio_tokens,
            cache_audio_read_tokens=usage.cached_audio_tokens,
            output_audio_tokens=usage.output_audio_tokens,
            output_reasoning_tokens=usage.reasoning_tokens,
        ),
        model,
        provider_id=provider,
        genai_request_timestamp=NOON,
        price_context=context,
    ).total_price


GOLDEN: list[tuple[str, str, Usage, dict[str, str] | None, dict[str, tuple[int, int]]]] = [
    (
        "openai",
        "gpt-4o",
        Usage(input_tokens=2006, output_tokens=300, cached_input_tokens=1920, reasoning_tokens=0),
        None,
        {"cached_input": (1920, 2400 * 10**9), "input": (86, 215 * 10**9), "output": (300, 3000 * 10**9)},
    ),
    (
        "openai",
        "gpt-5",
        Usage(input_tokens=1000, output_tokens=900, cached_input_tokens=600, reasoning_tokens=832),
        None,
        {
            "cached_input": (600, 75 * 10**9),
            "reasoning": (832, 8320 * 10**9),
            "input": (400, 500 * 10**9),
            "output": (68, 680 * 10**9),
        },
    ),
    (
        "openai",
        "gpt-5",
        Usage(input_tokens=1000, output_tokens=100, cached_input_tokens=600, service_tier="flex"),
        {"service_tier": "flex"},
        {"cached_input": (600, 375 * 10**8), "input": (400, 250 * 10**9), "output": (100, 500 * 10**9)},
    ),
    (
        "openai",
        "gpt-4o",
        Usage(input_tokens=1000, output_tokens=100, service_tier="priority"),
        {"service_tier": "priority"},
        {"input": (1000, 4250 * 10**9), "output": (100, 1700 * 10**9)},
    ),
    (
        "openai",
        "gpt-4o",
        Usage(input_tokens=1000, output_tokens=100, cached_input_tokens=200, service_tier="batch"),
        {"processing": "batch"},
        {"cached_input": (200, 250 * 10**9), "input": (800, 1000 * 10**9), "output": (100, 500 * 10**9)},
    ),
    (
        "openai",
        "gpt-5.4",
        Usage(input_tokens=272_001, output_tokens=10),
        None,
        {"input": (272_001, 272_001 * 5 * 10**9), "output": (10, 225 * 10**9)},
    ),
    (
        "openai",
        "gpt-5.4",
        Usage(input_tokens=272_000, output_tokens=10),
        None,
        {"input": (272_000, 680_000 * 10**9), "output": (10, 150 * 10**9)},
    ),
    (
        "anthropic",
        "claude-haiku-4-5-20251001",
        Usage(
            input_tokens=10_000,
            output_tokens=500,
            cached_input_tokens=6000,
            cache_write_tokens=3000,
            cache_write_1h_tokens=1000,
        ),
        None,
        {
            "cached_input": (6000, 600 * 10**9),
            "cache_write": (2000, 2500 * 10**9),
            "cache_write_1h": (1000, 2000 * 10**9),
            "input": (1000, 1000 * 10**9),
            "output": (500, 2500 * 10**9),
        },
    ),
    (
        "google",
        "gemini-2.5-pro",
        Usage(input_tokens=200_001, output_tokens=1500, reasoning_tokens=1000, cached_input_tokens=100_000),
        None,
        {
            "cached_input": (100_000, 25_000 * 10**9),
            "reasoning": (1000, 15_000 * 10**9),
            "input": (100_001, 250_002_500 * 10**6),
            "output": (500, 7500 * 10**9),
        },
    ),
    (
        "openai",
        "gpt-4o-realtime-preview",
        Usage(
            input_tokens=1000,
            output_tokens=300,
            cached_input_tokens=700,
            input_audio_tokens=800,
            cached_audio_tokens=600,
            output_audio_tokens=200,
        ),
        None,
        {
            "audio_input": (200, 8000 * 10**9),
            "cached_audio": (600, 1500 * 10**9),
            "cached_input": (100, 250 * 10**9),
            "audio_output": (200, 16_000 * 10**9),
            "input": (100, 500 * 10**9),
            "output": (100, 2000 * 10**9),
        },
    ),
    (
        "openai",
        "text-embedding-3-small",
        Usage(input_tokens=8191),
        None,
        {"input": (8191, 8191 * 20_000_000)},
    ),
]


@pytest.mark.parametrize(("provider", "model", "usage", "context", "expected"), GOLDEN)
def test_golden_bills(
    book: PriceBook,
    provider: str,
    model: str,
    usage: Usage,
    context: dict[str, str] | None,
    expected: dict[str, tuple[int, int]],
) -> None:
    """GW-13, GW-14, GW-16: every bucket is exact and the total is genai-prices' total, rounded once."""
    found = cost(usage, book.lookup(provider, model, DAY))
    assert parts_of(found) == expected
    assert found is not None
    assert found.kind == "exact"
    assert found.version == book.version
    dollars = theirs(usage, provider, model, context)
    assert found.total_nusd == int((dollars * 10**9).to_integral_value("ROUND_HALF_EVEN"))


def test_cache_tokens_are_paid_once() -> None:
    """GW-13: the buckets add up to the inclusive totals, whichever provider counted them."""
    usage = Usage(input_tokens=100, output_tokens=50, cached_input_tokens=30, cache_write_tokens=20, reasoning_tokens=5)
    tokens = {name: count for name, (count, _) in parts_of(cost(usage, RateCard("v", ((-1, RATES),)))).items()}
    assert tokens == {"cached_input": 30, "cache_write": 20, "reasoning": 5, "input": 50, "output": 45}


def test_hour_writes_keep_their_own_bucket() -> None:
    """GW-14: one-hour cache writes cost their own rate and five-minute writes theirs."""
    usage = Usage(input_tokens=30, output_tokens=0, cache_write_tokens=30, cache_write_1h_tokens=10)
    assert parts_of(cost(usage, RateCard("v", ((-1, RATES),)))) == {
        "cache_write": (20, 25_000),
        "cache_write_1h": (10, 20_000),
    }


def test_cumulative_usage_merged_field_by_field_is_priced_like_one_report() -> None:
    """GW-15: it does not matter in which event the cache counts came; the merged usage has one price."""
    start = Usage(input_tokens=100, output_tokens=1, cached_input_tokens=80)
    end = Usage(input_tokens=100, output_tokens=40, cached_input_tokens=80)
    card = RateCard("v", ((-1, RATES),))
    merged = Usage(
        input_tokens=max(start.input_tokens or 0, end.input_tokens or 0),
        output_tokens=max(start.output_tokens or 0, end.output_tokens or 0),
        cached_input_tokens=80,
    )
    assert cost(merged, card) == cost(end, card)


def test_cached_audio_has_its_own_rate() -> None:
    """GW-16: cached audio is not paid as fresh audio, and cached text beside it is not paid as audio."""
    usage = Usage(
        input_tokens=100, output_tokens=0, cached_input_tokens=60, input_audio_tokens=50, cached_audio_tokens=40
    )
    assert parts_of(cost(usage, RateCard("v", ((-1, RATES),)))) == {
        "audio_input": (10, 400_000),
        "cached_audio": (40, 100_000),
        "cached_input": (20, 2_000),
        "input": (30, 30_000),
    }


def test_no_count_of_an_upstream_makes_a_cost_that_no_row_can_hold() -> None:
    """A count of 53 bits at a price of dollars a token is more than 64 bits."""
    found = cost(Usage(input_tokens=0, output_tokens=(1 << 53) - 1), flat_card(FlatPrice(10**9, 10**15)))
    assert found is not None
    assert found.total_nusd == MOST_NUSD


def test_unknown_model_is_none(book: PriceBook) -> None:
    """GW-17: an unknown model, provider or usage has no cost; it is not free."""
    usage = Usage(input_tokens=1, output_tokens=1)
    assert cost(usage, book.lookup("openai", "my-own-model", DAY)) is None
    assert cost(usage, book.lookup("nobody", "gpt-4o", DAY)) is None
    assert cost(usage, book.lookup(None, "gpt-4o", DAY)) is None
    assert cost(None, book.lookup("openai", "gpt-4o", DAY)) is None


def test_an_aborted_call_costs_at_least_what_was_seen() -> None:
    """GW-18: a lower bound is what is known; with nothing known there is no cost."""
    card = RateCard("v", ((-1, RATES),))
    bound = cost(Usage(input_tokens=2_000_000), card, kind="lower_bound")
    assert bound is not None
    assert (bound.total_nusd, bound.kind) == (2000, "lower_bound")
    assert cost(Usage(), card, kind="lower_bound") is None
    assert cost(Usage(input_tokens=5), card) is None
    assert cost(Usage(output_tokens=5), card) is None


def test_a_free_local_model_costs_zero_and_says_so() -> None:
    """`price: free` is a known price of zero, also where the server reports only one of the counts."""
    card = flat_card(FlatPrice(0, 0))
    assert card.free
    found = cost(Usage(input_tokens=10), card)
    assert found is not None
    assert (found.total_nusd, found.kind, found.version) == (0, "exact", "policy")
    assert not RateCard("v", ((-1, RATES),)).free


def test_a_policy_price_fills_what_it_does_not_state() -> None:
    """Unstated rates of a policy's price cost what their parent costs; stated ones are used."""
    usage = Usage(
        input_tokens=40,
        output_tokens=10,
        cached_input_tokens=10,
        cache_write_tokens=20,
        cache_write_1h_tokens=10,
        reasoning_tokens=4,
    )
    plain = cost(usage, flat_card(FlatPrice(1_000_000, 3_000_000)))
    assert plain is not None
    assert plain.total_nusd == 70
    stated = cost(usage, flat_card(FlatPrice(1_000_000, 3_000_000, 100_000, 2_000_000, 5_000_000)))
    assert stated is not None
    assert stated.total_nusd == 10 + 1 + 20 + 50 + 30


HOURLY = FlatPrice(0, 0, second_fusd=611_111_111_111)  # 2.20 dollars an hour


@pytest.mark.parametrize(
    ("seconds", "nusd"),
    [
        (3600.0, 2_200_000_000),  # an hour of it, the missing third of a femto-dollar a second rounded away
        (1.0, 611_111),
        (0.25, 152_778),  # 152,777.7
        (0.000_001, 1),  # 0.61 nano-dollars
        (0.000_000_4, 0),  # less than a microsecond
        (0.0, 0),
        (-0.5, 0),  # a clock that went back costs nothing
    ],
)
def test_a_machine_of_ones_own_is_paid_by_the_second(seconds: float, nusd: int) -> None:
    """Golden bills of a GPU at 2.20 dollars an hour: whole microseconds times the rate, rounded once."""
    found = cost(Usage(input_tokens=900, output_tokens=70), flat_card(HOURLY), seconds=seconds)
    assert found is not None
    assert (found.total_nusd, found.kind, found.version) == (nusd, "exact", "policy")
    assert round_nusd(sum(femto for _, femto in parts_of(found).values())) == nusd


def test_time_is_paid_beside_tokens() -> None:
    """Both parts stand in the bill: 100 and 10 tokens at 1 and 2 nano-dollars, 2 s at 1,000 nano-dollars."""
    card = flat_card(FlatPrice(1_000_000, 2_000_000, second_fusd=10**9))
    found = cost(Usage(input_tokens=100, output_tokens=10), card, seconds=2.0)
    assert found is not None
    assert found.total_nusd == 100 + 20 + 2000
    assert parts_of(found) == {
        "input": (100, 100_000_000),
        "output": (10, 20_000_000),
        "time": (2_000_000, 2_000_000_000),
    }
    assert cost(None, card, seconds=2.0) is None
    assert not card.time_alone


def test_unknown_time_is_an_unknown_cost() -> None:
    """A card that prices time and a call whose duration nobody knows: no cost, never 0."""
    usage = Usage(input_tokens=1, output_tokens=1)
    assert cost(usage, flat_card(HOURLY)) is None
    assert cost(usage, flat_card(FlatPrice(1, 1, second_fusd=1))) is None


def test_time_alone_needs_no_usage() -> None:
    """A server that reports no tokens, or was cut, still cost its seconds; a free one without usage stays unknown."""
    card = flat_card(HOURLY)
    assert (card.time_alone, card.free) == (True, False)
    found = cost(None, card, seconds=1.0)
    assert found is not None
    assert (found.total_nusd, found.kind, parts_of(found)) == (611_111, "exact", {"time": (10**6, 611_111_111_111)})
    cut = cost(Usage(), card, kind="lower_bound", seconds=1.0)
    assert cut is not None
    assert (cut.total_nusd, cut.kind) == (611_111, "lower_bound")
    assert cost(None, flat_card(FlatPrice(0, 0)), seconds=1.0) is None
    assert cost(None, None, seconds=1.0) is None


def test_a_cost_that_the_provider_states_is_taken() -> None:
    """OpenRouter's own figure wins over any list and is labelled as the provider's."""
    found = cost(Usage(input_tokens=1, reported_cost_nusd=777), None)
    assert found == Cost(777, "exact", "provider")
    assert found is not None
    assert found.parts == ()


@pytest.mark.parametrize(
    ("usage", "kind"),
    [
        (Usage(input_tokens=10, output_tokens=5, service_tier="scale"), "estimate"),
        (Usage(input_tokens=10, output_tokens=5, service_tier="default"), "exact"),
        (Usage(input_tokens=10, output_tokens=5, cached_input_tokens=11), "estimate"),
        (Usage(input_tokens=10, output_tokens=5, reasoning_tokens=6), "estimate"),
        (Usage(input_tokens=10, output_tokens=5, cache_write_tokens=2, cache_write_1h_tokens=3), "estimate"),
        (Usage(input_tokens=10, output_tokens=5, input_audio_tokens=3, cached_audio_tokens=4), "estimate"),
        (Usage(input_tokens=10, output_tokens=5, output_audio_tokens=5), "exact"),
    ],
)
def test_what_does_not_add_up_is_an_estimate(usage: Usage, kind: str) -> None:
    """Counts that contradict each other, or a tier without a listed price, are never called exact."""
    found = cost(usage, RateCard("v", ((-1, RATES),)))
    assert found is not None
    assert found.kind == kind
    assert found.total_nusd == round_nusd(sum(part[3] for part in found.parts))


def test_estimated_counts_stay_estimates() -> None:
    """The caller's label is kept, and a partial card makes an exact one an estimate."""
    usage = Usage(input_tokens=10, output_tokens=5)
    card = RateCard("v", ((-1, RATES),), partial=True)
    kinds = [found.kind for kind in ("exact", "estimate", "lower_bound") if (found := cost(usage, card, kind=kind))]
    assert kinds == ["estimate", "estimate", "lower_bound"]


def test_the_tier_may_come_from_the_caller() -> None:
    """A batch job knows its tier although the response does not repeat it."""
    half = RATES._replace(input=500, output=2500)
    card = RateCard("v", ((-1, RATES),), tiers={"batch": ((-1, half),)})
    found = cost(Usage(input_tokens=2_000_000, output_tokens=0), card, tier="batch")
    assert found is not None
    assert (found.total_nusd, found.kind) == (1000, "exact")


def test_a_peak_price_applies_in_its_hours() -> None:
    """Time-of-day prices, also across midnight; without a time the standard price applies."""
    peak = RateCard("v", ((-1, RATES._replace(input=2000)),))
    night = RateCard("v", ((-1, RATES._replace(input=4000)),))
    card = replace(RateCard("v", ((-1, RATES),)), peaks=((3600, 7200, peak), (82_800, 1800, night)))
    usage = Usage(input_tokens=1_000_000, output_tokens=0)
    moments = (None, 3600, 7199, 7200, 0, 1800, 86_399)
    assert [cost(usage, card, second_of_day=at).total_nusd for at in moments] == [  # type: ignore[union-attr] # priced
        1000,
        2000,
        2000,
        1000,
        4000,
        1000,
        4000,
    ]
    assert not card.free


def test_a_fee_per_request_is_added_once() -> None:
    """Some providers bill each call beside its tokens."""
    card = RateCard("v", ((-1, RATES._replace(request=5_000_000)),))
    found = cost(Usage(input_tokens=0, output_tokens=0), card)
    assert parts_of(found) == {"request": (1, 5_000_000)}
    assert found is not None
    assert found.total_nusd == 5


def test_sizes_fall_back_to_the_smallest() -> None:
    """A card whose smallest size starts above the input still has a price."""
    found = cost(Usage(input_tokens=0, output_tokens=200), RateCard("v", ((0, RATES),)))
    assert found is not None
    assert found.total_nusd == 1


def test_rounding_is_half_even() -> None:
    """Nano-dollars are rounded once, half to even."""
    assert [round_nusd(x) for x in (499_999, 500_000, 500_001, 1_500_000, 2_500_000, 0)] == [0, 0, 1, 2, 2, 0]


counts = st.none() | st.integers(0, 3_000_000)
MEDIA = ("image_in", "image_cached", "image_out", "video_in", "video_out")


rates = st.integers(0, 10**12)
usages = st.builds(
    Usage,
    input_tokens=st.integers(0, 3_000_000),
    output_tokens=st.integers(0, 3_000_000),
    cached_input_tokens=counts,
    cache_write_tokens=counts,
    cache_write_1h_tokens=counts,
    reasoning_tokens=counts,
    input_audio_tokens=counts,
    cached_audio_tokens=counts,
    output_audio_tokens=counts,
    input_image_tokens=counts,
    cached_image_tokens=counts,
    output_image_tokens=counts,
    input_video_tokens=counts,
    cached_video_tokens=counts,
    output_video_tokens=counts,
    input_audio_s=st.none() | st.floats(0, 10_000),
    surcharge_pct=st.sampled_from([0, 10]),
)
cards = st.builds(
    lambda large, small: RateCard("v", ((200_000, large), (-1, small))),
    *[st.builds(Rates, *[rates] * 10, **dict.fromkeys(MEDIA, st.none() | rates), second=st.just(0), audio_second=rates)]
    * 2,
)


@given(usages, cards)
def test_the_total_is_the_sum_of_the_parts(usage: Usage, card: RateCard) -> None:
    """To the nano-dollar, whatever is counted and priced: fast sum and parts are the same arithmetic, rounded once."""
    found = cost(usage, card)
    if found is None:  # what is paid by the second of sound alone costs what nobody counted
        assert usage.input_audio_s is None
        return
    assert found.total_nusd == round_nusd(sum(part[3] for part in found.parts))
    assert all(tokens > 0 and femto >= 0 for _, tokens, _, femto in found.parts)
    assert all(femto == tokens * rate for name, tokens, rate, femto in found.parts if name != "audio_time")
    if found.kind == "exact":  # then no token is counted twice, and none is left out
        into = sum(part[1] for part in found.parts if part[0] in INPUT)
        out = sum(part[1] for part in found.parts if part[0] in OUTPUT)
        assert (into, out) == (usage.input_tokens, usage.output_tokens)


INPUT = {"input", "cached_input", "cache_write", "cache_write_1h", "audio_input", "cached_audio", "image_input"}
INPUT |= {"cached_image", "video_input", "cached_video"}
OUTPUT = {"output", "reasoning", "audio_output", "image_output", "video_output"}


def test_pictures_and_films_cost_what_is_around_them_unless_listed() -> None:
    usage = Usage(
        input_tokens=100,
        cached_input_tokens=30,
        input_image_tokens=50,
        cached_image_tokens=20,
        input_video_tokens=25,
        cached_video_tokens=5,
        output_tokens=40,
        output_image_tokens=30,
        output_video_tokens=7,
    )
    plain = parts_of(cost(usage, RateCard("v", ((-1, RATES),))))
    assert plain == {
        "image_input": (30, 30_000),
        "cached_image": (20, 2_000),
        "video_input": (20, 20_000),
        "cached_video": (5, 500),
        "cached_input": (5, 500),
        "input": (20, 20_000),
        "image_output": (30, 150_000),
        "video_output": (7, 35_000),
        "output": (3, 15_000),
    }
    own = RATES._replace(image_in=1, image_cached=2, image_out=3, video_in=4, video_out=5)
    listed = parts_of(cost(usage, RateCard("v", ((-1, own),))))
    kinds = ("image_input", "cached_image", "video_input", "image_output", "video_output")
    assert [listed[name][1] for name in kinds] == [30, 40, 80, 90, 35]


def test_sound_is_paid_by_its_length() -> None:
    """Alone, then its length must be known; or beside tokens. A card that does not price it leaves it out."""
    alone = RateCard("v", ((-1, Rates(0, 0, 0, 0, 0, 0, 0, 0, 0, audio_second=10**11)),))  # 0.36 dollars an hour
    found = cost(Usage(input_audio_s=63.0), alone)
    assert found is not None
    assert (found.total_nusd, parts_of(found)) == (6_300_000, {"audio_time": (63_000, 63 * 10**11)})
    assert cost(Usage(input_tokens=5, output_tokens=5), alone) is None
    beside = RateCard("v", ((-1, RATES._replace(audio_second=10)),))
    assert parts_of(cost(Usage(input_tokens=1, output_tokens=0, input_audio_s=0.5), beside)) == {
        "audio_time": (500, 5),
        "input": (1, 1000),
    }
    assert parts_of(cost(Usage(input_tokens=1, output_tokens=0, input_audio_s=0.5), RateCard("v", ((-1, RATES),)))) == {
        "input": (1, 1000)
    }


def test_a_surcharge_is_on_every_listed_rate_and_on_no_price_of_ones_own() -> None:
    usage = Usage(input_tokens=10, output_tokens=10, surcharge_pct=10)
    assert parts_of(cost(usage, RateCard("v", ((-1, RATES),)))) == {"input": (10, 11_000), "output": (10, 55_000)}
    own = cost(usage, flat_card(FlatPrice(1000, 5000)))
    assert parts_of(own) == {"input": (10, 10_000), "output": (10, 50_000)}


def test_what_other_models_did_beside_makes_a_lower_bound() -> None:
    found = cost(Usage(input_tokens=1, output_tokens=1, more=True, service_tier="odd"), RateCard("v", ((-1, RATES),)))
    assert found is not None
    assert found.kind == "lower_bound"
