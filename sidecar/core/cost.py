"""What one exchange cost: rates times tokens and seconds, as exact integers, rounded once.

Theory. A price list states dollars per million tokens; one dollar per million tokens is 1e9 femto-dollars (1e-15 USD)
per token, so every list price is a whole number of femto-dollars and a cost is a sum of integer products. Only the
total is rounded, to nano-dollars, half to even. There is no float anywhere.

Usage is inclusive (types.Usage): input contains cached reads, cache writes and media; output contains reasoning and
media. `cost` takes the total apart into disjoint buckets, so that no token is paid twice and the buckets add up to the
provider's bill. Where a card states no rate of its own for a bucket, the bucket's parent applies: cached and written
tokens cost what input costs, one-hour writes what other writes cost, reasoning what output costs, a picture what text
costs. Sound that is paid by its length is counted in whole milliseconds, beside the tokens or alone.

Size tiers are cliffs, as providers bill them: when the input is LARGER than a tier's start, the whole request pays that
tier's rates. Service tiers (flex, priority, batch, fast) replace single rates of the standard card. A surcharge for the
place where a call ran is per cent on every listed rate; a price that the policy states is the whole price.

A machine of one's own costs time, not tokens: a card with a rate per second bills the call's own seconds, counted in
whole microseconds, beside its tokens or alone. (A machine that serves n calls at once is stated at 1/n of its price.)
Where time alone is paid, usage is not needed.

What is unknown stays unknown: no usage, no card, no duration where time is paid, or a missing count that would have
been paid gives None, never 0.
`kind` says how far the figure can be trusted: `exact`; `estimate` (token counts estimated, inconsistent, of a service
tier without a listed price, or of a model that also bills pages, searches or time that usage does not show);
`lower_bound` (aborted or truncated, or other models had a part in it: what was seen is paid, more may be). Tool fees (web
search) are not in it.

Reference: providers' price pages as collected by genai-prices, whose arithmetic the tests compare this with.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec import Struct

from sidecar.core.policy import FlatPrice
from sidecar.core.types import CostKind, Usage

FEMTO_PER_NANO = 1_000_000
# billed at list price
STANDARD_TIERS = frozenset({None, "", "default", "standard", "auto", "on_demand", "ON_DEMAND", "unspecified"})
REPORTED = "provider"  # price_version of a cost that the provider itself stated
STATED = "policy"  # price_version of a price that the policy states

# bucket, tokens, rate (femto-dollars per token), femto-dollars; "time" counts microseconds and "audio_time" milliseconds,
# both at a rate per second
Part = tuple[str, int, int, int]
MICROS = 1_000_000
MILLIS = 1000
# 9 million dollars: no call costs so much, and what has more digits no row or message can hold
MOST_NUSD = (1 << 53) - 1


class Rates(NamedTuple):
    """Femto-dollars per token of every bucket, fallbacks filled in; `request` is per call, `second` per second of it.

    A None among the pictures and films is the rate of the bucket around it. `audio_second` is per second of sound heard."""

    input: int
    cached: int
    write: int
    write_1h: int
    output: int
    reasoning: int
    audio_in: int
    audio_cached: int
    audio_out: int
    request: int = 0
    second: int = 0
    image_in: int | None = None
    image_cached: int | None = None
    image_out: int | None = None
    video_in: int | None = None
    video_out: int | None = None
    audio_second: int = 0


Sizes = tuple[tuple[int, Rates], ...]  # (start, rates) with falling start; the last start is -1


@dataclass(frozen=True, slots=True)
class RateCard:
    """The rates of one model on one day. `tiers` holds the sizes of each service tier that is priced apart; `peaks`
    are (from, to, card) in seconds of the UTC day, the first that contains the moment applies, `to` < `from` wraps."""

    version: str
    sizes: Sizes
    tiers: dict[str, Sizes] = field(default_factory=dict)
    peaks: tuple[tuple[int, int, "RateCard"], ...] = ()
    partial: bool = False  # the model also bills what Usage does not count: costs are estimates
    label: str = ""  # the list's own name of the model

    @property
    def time_alone(self) -> bool:
        """Whether time is paid and tokens are not: then a cost needs no usage."""
        rates = self.sizes[-1][1]
        return rates.second > 0 and not (rates.input or rates.output)

    @property
    def free(self) -> bool:
        """Whether nothing that this card prices can ever cost anything."""
        sizes = [self.sizes, *self.tiers.values()]
        return not any(any(rates) for steps in sizes for _, rates in steps) and all(c.free for _, _, c in self.peaks)

    def at(self, second_of_day: int) -> "RateCard":
        """The card that applies at this second of the UTC day."""
        for start, end, card in self.peaks:
            inside = start <= second_of_day < end if start <= end else not end <= second_of_day < start
            if inside:
                return card
        return self


_NO_USAGE = Usage()


class Cost(Struct, frozen=True, gc=False):
    """One cost. `parts` are exact and disjoint; `total_nusd` is their sum, rounded once."""

    total_nusd: int
    kind: CostKind
    version: str
    usage: Usage | None = None
    rates: Rates | None = None
    micros: int = 0  # of the call's time, where time is paid

    @property
    def parts(self) -> tuple[Part, ...]:
        """What the total is made of; empty when the provider stated the cost. Made when asked for: few ask."""
        if self.usage is None or self.rates is None:
            return ()
        parts = _parts(self.usage, self.rates)
        if self.micros:
            parts.append(("time", self.micros, self.rates.second, _time(self.micros, self.rates)))
        return tuple(parts)


def flat_card(price: FlatPrice) -> RateCard:
    """The card of a price that the policy itself states."""
    cached = price.input_fusd if price.cached_fusd is None else price.cached_fusd
    write = price.input_fusd if price.cache_write_fusd is None else price.cache_write_fusd
    hour = write if price.cache_write_1h_fusd is None else price.cache_write_1h_fusd
    out = price.output_fusd
    rates = Rates(
        price.input_fusd, cached, write, hour, out, out, price.input_fusd, cached, out, second=price.second_fusd
    )
    return RateCard(STATED, ((-1, rates),))


def round_nusd(femto: int) -> int:
    """Femto-dollars as nano-dollars, half to even."""
    nano, rest = divmod(femto, FEMTO_PER_NANO)
    if rest * 2 > FEMTO_PER_NANO or (rest * 2 == FEMTO_PER_NANO and nano & 1):
        return nano + 1
    return nano


def cost(
    usage: Usage | None,
    card: RateCard | None,
    *,
    kind: CostKind = "exact",
    tier: str | None = None,
    second_of_day: int | None = None,
    seconds: float | None = None,
) -> Cost | None:
    """What this usage costs by this card; None when it cannot be known (see the head of this file).

    `kind` is what the caller knows of the counts: provider's own, estimated, or cut short. `tier` is the service tier
    when the usage does not carry one. `second_of_day` (UTC) selects a time-of-day price where the card has one.
    `seconds` is how long the call took, for cards that price time.
    """
    if usage is None:
        if card is None or not card.time_alone:
            return None
        usage = _NO_USAGE
    if usage.reported_cost_nusd is not None:
        return Cost(usage.reported_cost_nusd, "exact", REPORTED)
    if card is None:
        return None
    if card.peaks and second_of_day is not None:
        card = card.at(second_of_day)
    rates, listed = _rates_of(usage, card, usage.service_tier or tier)
    micros = _micros(seconds, rates)
    if micros is None or _unpaid(usage, rates, kind):
        return None
    femto = _femto(usage, rates)
    if femto is None:
        femto = sum(part[3] for part in _parts(usage, rates))
        listed = listed and _consistent(usage)
    if usage.more:
        kind = "lower_bound"
    elif kind == "exact" and (card.partial or not listed):
        kind = "estimate"
    total = min(round_nusd(femto + _time(micros, rates)), MOST_NUSD)
    return Cost(total, kind, card.version, usage, rates, micros)


def _rates_of(usage: Usage, card: RateCard, tier: str | None) -> tuple[Rates, bool]:
    """The rates of this usage, and whether its service tier is one that the card knows."""
    sizes, listed = card.sizes, True
    if tier is not None:
        own = card.tiers.get(tier)
        listed = own is not None or tier in STANDARD_TIERS
        sizes = sizes if own is None else own
    rates = _sized(sizes, usage.input_tokens or 0)
    if usage.surcharge_pct and card.version != STATED:
        rates = _raised(rates, usage.surcharge_pct)
    return rates, listed


def _raised(rates: Rates, surcharge_pct: int) -> Rates:
    """Every rate so many per cent higher; what is below a femto-dollar is cut off."""
    raised = {name: rate * (100 + surcharge_pct) // 100 for name, rate in rates._asdict().items() if rate is not None}
    return rates._replace(**raised)


def _micros(seconds: float | None, rates: Rates) -> int | None:
    """The microseconds that are paid; None where they would be and are not known."""
    if not rates.second:
        return 0
    return None if seconds is None else max(0, round(seconds * MICROS))


def _time(micros: int, rates: Rates) -> int:
    """Femto-dollars of a call's time; what is below one is cut off."""
    return micros * rates.second // MICROS


def _sized(sizes: Sizes, input_tokens: int) -> Rates:
    """The rates of the highest size tier that the input exceeds."""
    for start, rates in sizes:
        if input_tokens > start:
            return rates
    return sizes[-1][1]


def _unpaid(usage: Usage, rates: Rates, kind: CostKind) -> bool:
    """Whether a count is missing that would have cost something. A lower bound needs only one of the two."""
    missing_in = usage.input_tokens is None
    missing_out = usage.output_tokens is None
    if rates.audio_second and not (rates.input or rates.output):
        return usage.input_audio_s is None
    if kind == "lower_bound" and (rates.input or rates.output or not rates.second):
        return missing_in and missing_out
    return (missing_in and rates.input != 0) or (missing_out and rates.output != 0)


def _femto(usage: Usage, rates: Rates) -> int | None:
    """The sum of the parts of ordinary text usage, without making them; None when it is not ordinary."""
    if _has_media(usage):
        return None
    plain = usage.input_tokens or 0
    answer = usage.output_tokens or 0
    femto = rates.request
    cached, writes, reasoning = usage.cached_input_tokens, usage.cache_write_tokens, usage.reasoning_tokens
    if cached:
        plain -= cached
        femto += cached * rates.cached
    if writes:
        plain -= writes
        hour = usage.cache_write_1h_tokens or 0
        if hour > writes:
            return None
        femto += (writes - hour) * rates.write + hour * rates.write_1h
    if reasoning:
        answer -= reasoning
        femto += reasoning * rates.reasoning
    if plain < 0 or answer < 0:
        return None
    return femto + plain * rates.input + answer * rates.output


def _has_media(usage: Usage) -> bool:
    """Whether anything but text is counted."""
    return bool(
        usage.input_audio_tokens
        or usage.cached_audio_tokens
        or usage.output_audio_tokens
        or usage.input_image_tokens
        or usage.cached_image_tokens
        or usage.output_image_tokens
        or usage.input_video_tokens
        or usage.cached_video_tokens
        or usage.output_video_tokens
        or usage.input_audio_s
    )


def _heard(usage: Usage) -> tuple[tuple[str, int, int], ...]:
    """(kind, fresh, cached) tokens of each medium in the input."""
    media = (
        ("audio", usage.input_audio_tokens, usage.cached_audio_tokens),
        ("image", usage.input_image_tokens, usage.cached_image_tokens),
        ("video", usage.input_video_tokens, usage.cached_video_tokens),
    )
    return tuple((name, max((all_of or 0) - (cached or 0), 0), cached or 0) for name, all_of, cached in media)


def _told(usage: Usage) -> tuple[tuple[str, int], ...]:
    """(kind, tokens) of what is not text in the output."""
    return (
        ("reasoning", usage.reasoning_tokens or 0),
        ("audio_output", usage.output_audio_tokens or 0),
        ("image_output", usage.output_image_tokens or 0),
        ("video_output", usage.output_video_tokens or 0),
    )


def _consistent(usage: Usage) -> bool:
    """Whether the subsets fit into their totals."""
    heard = _heard(usage)
    inside = (usage.cached_input_tokens or 0) + (usage.cache_write_tokens or 0) + sum(fresh for _, fresh, _ in heard)
    return (
        inside <= (usage.input_tokens or 0)
        and sum(tokens for _, tokens in _told(usage)) <= (usage.output_tokens or 0)
        and (usage.cache_write_1h_tokens or 0) <= (usage.cache_write_tokens or 0)
        and sum(cached for _, _, cached in heard) <= (usage.cached_input_tokens or 0)
    )


def _parts(usage: Usage, rates: Rates) -> list[Part]:
    """The disjoint buckets that hold any token."""
    plain_in, plain_out = usage.input_tokens or 0, usage.output_tokens or 0
    cached, writes = usage.cached_input_tokens or 0, usage.cache_write_tokens or 0
    plain_in -= cached + writes
    parts: list[Part] = []
    if _has_media(usage):
        for name, fresh, held in _heard(usage):
            plain_in -= fresh
            cached -= held
            fresh_rate, held_rate = _media_rates(name, rates)
            _add(parts, f"{name}_input", fresh, fresh_rate)
            _add(parts, f"cached_{name}", held, held_rate)
        millis = round((usage.input_audio_s or 0) * MILLIS)
        if millis and rates.audio_second:
            parts.append(("audio_time", millis, rates.audio_second, millis * rates.audio_second // MILLIS))
    _add(parts, "cached_input", max(cached, 0), rates.cached)
    hour = min(usage.cache_write_1h_tokens or 0, writes)
    _add(parts, "cache_write", writes - hour, rates.write)
    _add(parts, "cache_write_1h", hour, rates.write_1h)
    for name, tokens in _told(usage):
        plain_out -= tokens
        _add(parts, name, tokens, _output_rate(name, rates))
    _add(parts, "input", max(plain_in, 0), rates.input)
    _add(parts, "output", max(plain_out, 0), rates.output)
    if rates.request:
        parts.append(("request", 1, rates.request, rates.request))
    return parts


def _media_rates(name: str, rates: Rates) -> tuple[int, int]:
    """(fresh, cached) rate of a medium in the input."""
    if name == "audio":
        return rates.audio_in, rates.audio_cached
    own, held = (rates.image_in, rates.image_cached) if name == "image" else (rates.video_in, None)
    return rates.input if own is None else own, rates.cached if held is None else held


def _output_rate(name: str, rates: Rates) -> int:
    match name:
        case "reasoning":
            return rates.reasoning
        case "audio_output":
            return rates.audio_out
        case "image_output":
            own = rates.image_out
        case _:
            own = rates.video_out
    return rates.output if own is None else own


def _add(parts: list[Part], name: str, tokens: int, rate: int) -> None:
    if tokens:
        parts.append((name, tokens, rate, tokens * rate))
