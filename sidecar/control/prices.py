"""The compiler behind `llm-sidecar prices refresh`: the price data of genai-prices as the flat file that serving reads.

genai-prices (its data, its matching rules, its order of precedence) is the source; it is imported here and nowhere
else, and only when the verb runs, because its import costs 30 MiB. Its prices are decimals in dollars per million
tokens and become whole femto-dollars per token. Prices of things that a usage report does not count (pages, characters,
talk by the hour) are left out and the model is marked partial, so that its costs are labelled estimates. Nothing is
fetched from the network unless the caller says so.
"""

import importlib.metadata
from collections.abc import Iterable
from datetime import date, time
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from sidecar.core.pricebook import FORMAT, PriceBook
from sidecar.errors import ConfigError

if TYPE_CHECKING:
    from genai_prices.types import (
        ClauseAnd,
        ConditionalPrice,
        MatchLogic,
        ModelInfo,
        ModelPrice,
        Provider,
        StartDateConstraint,
        TieredPrices,
        TimeOfDateConstraint,
    )
    from genai_prices.update_prices import UpdatePrices

SOURCE = "genai-prices"
FEMTO_PER_MTOK = 10**9  # one dollar per million tokens, in femto-dollars per token
FEMTO_PER_KCOUNT = 10**12  # one dollar per thousand requests, in femto-dollars per request
FEMTO_PER_HOUR = Decimal(10**15) / 3600  # one dollar per hour of sound, in femto-dollars per second
BUCKETS = {
    "input_mtok": "in",
    "output_mtok": "out",
    "cache_read_mtok": "cached",
    "cache_write_mtok": "write",
    "cache_write_5m_mtok": "write",
    "cache_write_1h_mtok": "write_1h",
    "output_reasoning_mtok": "reason",
    "input_audio_mtok": "audio_in",
    "cache_audio_read_mtok": "audio_cached",
    "output_audio_mtok": "audio_out",
    "input_image_mtok": "image_in",
    "cache_image_read_mtok": "image_cached",
    "output_image_mtok": "image_out",
    "input_video_mtok": "video_in",
    "output_video_mtok": "video_out",
    "input_audio_hours": "audio_s",
    "requests_kcount": "request",
}
UNITS: dict[str, int | Decimal] = {"request": FEMTO_PER_KCOUNT, "audio_s": FEMTO_PER_HOUR}
TOOL_FEES = frozenset({"web_searches_kcount", "storage_searches_kcount", "social_searches_kcount"})  # not tokens
TIER_WORDS = frozenset({"service_tier", "processing", "speed"})  # contexts that a response can report as its tier
CLAUSES = {"equals": "equals", "starts_with": "starts", "ends_with": "ends", "contains": "contains", "regex": "regex"}


def compile_prices(target: Path, today: date, *, fetch: bool = False) -> PriceBook:
    """Write the price list to `target` (atomically) and return it as read back.

    `today` is the date that the file states. `fetch` first asks genai-prices to download its newest data; without it
    the installed data are used and no socket is opened. Raises ConfigError when genai-prices is not installed, cannot
    fetch, or `target` cannot be written.
    """
    try:
        from genai_prices.data_snapshot import get_snapshot
        from genai_prices.update_prices import UpdatePrices
    except ImportError as error:
        raise ConfigError("prices: genai-prices is not installed; pip install 'llm-sidecar[prices]'") from error
    version = f"{SOURCE}-{importlib.metadata.version(SOURCE)}"
    providers = get_snapshot().providers
    if fetch:
        providers = _fetched(UpdatePrices())
        version = f"{version}+{today.isoformat()}"
    text = render(providers, version=version, today=today)
    book = PriceBook(text)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_suffix(".new")
        draft.write_bytes(text)
        draft.replace(target)
    except OSError as error:
        raise ConfigError(f"prices: {target}: {error}; choose a folder that can be written") from error
    return book


def _fetched(updater: "UpdatePrices") -> "list[Provider]":
    try:
        snapshot = updater.fetch()
    except Exception as error:  # its HTTP client has no base class of its own
        raise ConfigError(f"prices: could not fetch: {error}; without --fetch the installed data are used") from error
    if snapshot is None:
        raise ConfigError("prices: the source sent no data; without --fetch the installed data are used")
    return snapshot.providers


def render(providers: "Iterable[Provider]", *, version: str, today: date) -> bytes:
    """The file's text for these genai-prices providers: one provider a line, so that a change can be read in a diff."""
    entries = {provider.id: _provider(provider) for provider in providers}
    head = {"format": FORMAT, "source": SOURCE, "version": version, "date": today.isoformat()}
    lines = [f"{orjson.dumps(name).decode()}:{orjson.dumps(entry).decode()}" for name, entry in entries.items()]
    text = orjson.dumps(head).decode()[:-1] + ',"providers":{\n' + ",\n".join(lines) + "\n}}\n"
    return text.encode()


def _provider(provider: "Provider") -> dict[str, object]:
    match = None if provider.provider_match is None else _clause(provider.provider_match)
    models = [entry for model in provider.models if (entry := _model(model)) is not None]
    return {"match": match, "fallback": provider.fallback_model_providers or [], "models": models}


def _model(model: "ModelInfo") -> list[object] | None:
    """One model's entry; None when nothing that we count is priced."""
    listed = [(_when(None), model.prices)] if not isinstance(model.prices, list) else _conditional(model.prices)
    counted = [(when, *_rates(prices)) for when, prices in listed]
    if not any(rates for _, rates, _ in counted):
        return None
    tiers: list[object] = []
    for variant in model.price_variants or ():
        rates, _ = _rates(variant.prices)
        (word, name), *more = variant.when.items()
        if rates and not more and word in TIER_WORDS:
            tiers.append([name, _when(variant.constraint), rates])
    partial = any(rest for _, _, rest in counted)
    return [model.id, _clause(model.match), [[when, rates] for when, rates, _ in counted], tiers, partial]


def _conditional(prices: "list[ConditionalPrice]") -> "list[tuple[object, ModelPrice]]":
    return [(_when(item.constraint), item.prices) for item in prices]


def _rates(price: "ModelPrice") -> tuple[dict[str, object], bool]:
    """The rates that we count, and whether the model is also paid by something else."""
    rates: dict[str, object] = {}
    rest = False
    for key, value in vars(price).items():
        if value is None:
            continue
        bucket = BUCKETS.get(key)
        if bucket is None:
            said_twice = key == "audio_hours" and value == price.input_audio_hours
            rest = rest or not (key in TOOL_FEES or said_twice)
            continue
        rates[bucket] = _rate(value, UNITS.get(bucket, FEMTO_PER_MTOK))
    return rates, rest


def _rate(value: "Decimal | TieredPrices", unit: int | Decimal) -> object:
    if isinstance(value, Decimal):
        return _femto(value, unit)
    return [_femto(value.base, unit), *([tier.start, _femto(tier.price, unit)] for tier in value.tiers)]


def _femto(price: Decimal, unit: int | Decimal) -> int:
    """Whole femto-dollars: exact for every price that a provider publishes, half-even for a few computed ones."""
    return int((price * unit).to_integral_value(ROUND_HALF_EVEN))


def _when(constraint: "StartDateConstraint | TimeOfDateConstraint | None") -> object:
    if constraint is None:
        return None
    if hasattr(constraint, "start_date"):
        return constraint.start_date.isoformat()
    return [_second(constraint.start_time), _second(constraint.end_time)]


def _second(moment: time) -> int:
    """Second of the UTC day; genai-prices reads a time without zone as UTC."""
    offset = moment.utcoffset()
    second = moment.hour * 3600 + moment.minute * 60 + moment.second
    return int(second - (0 if offset is None else offset.total_seconds())) % 86400


def _clause(clause: "MatchLogic | ClauseAnd") -> list[object]:
    for word, members in (("or", "or_"), ("and", "and_")):
        if hasattr(clause, members):
            return [word, [_clause(part) for part in getattr(clause, members)]]
    (name, text), *_ = vars(clause).items()
    return [CLAUSES[name], text]
