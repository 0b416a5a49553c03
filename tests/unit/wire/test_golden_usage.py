"""The golden table of money: what providers report, the buckets that it is, and what it costs by their published prices.

Each row of golden_usage.json is a whole body, or the events of a stream, in a provider's own shape. `buckets` are (tokens,
list price) typed from the price pages, in dollars per million tokens unless another unit is named, and `usd` is their sum:
neither was made by this project's code. Where genai-prices can reckon the same usage, its sum is compared, too.
"""

import json
from collections import Counter
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import genai_prices
import orjson
import pytest

from sidecar.core.cost import REPORTED, RateCard, cost, round_nusd
from sidecar.core.pricebook import PriceBook
from sidecar.core.types import Usage
from sidecar.wire.meter import make_meter
from sidecar.wire.providers import provider_of
from sidecar.wire.reading import Reading
from sidecar.wire.spokes import SPOKES
from sidecar.wire.sse import SseEvent
from sidecar.wire.told import Listener, ToldMeter, piece_of_whole

ROOT = Path(__file__).resolve().parents[3]
ROWS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("golden_usage.json").read_text("utf-8"))
DAY = (date(2026, 11, 21) - date(1970, 1, 1)).days
DIALECTS = {"messages": "anthropic", "generate": "gemini"}
THEIR_NAMES = {
    "vertex": "google",
    "moonshot": "moonshotai",
    "voyage": "voyageai",
    "bedrock": "aws",
    "azure-deployments": "azure",
}
PER = {"mtok": Decimal(10**6), "hour": Decimal(3_600_000), "kcount": Decimal(1000)}


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return PriceBook((ROOT / "policies/prices/genai-prices.json").read_bytes())


def metered(row: dict[str, Any]) -> Reading:
    """What the meter reads of the answer as it passes."""
    dialect: Any = DIALECTS.get(row["endpoint"], "gemini" if "gemini-embedding" in row["model"] else "openai")
    meter = make_meter(row["endpoint"], dialect, event_stream="events" in row, max_bytes=1 << 20)
    for piece in _bytes(row):
        meter.feed(piece, 1.0)
    return meter.finish()


def _bytes(row: dict[str, Any]) -> list[bytes]:
    if "body" in row:
        return [orjson.dumps(row["body"])]
    return [b"event: %b\ndata: %b\n\n" % (name.encode(), _data(data)) for name, data in row["events"]]


def _data(data: object) -> bytes:
    return data.encode() if isinstance(data, str) else orjson.dumps(data)


def told(row: dict[str, Any]) -> Reading:
    """What the meter is told when the answer is translated."""
    spoke: Any = SPOKES[row["endpoint"]]
    meter = ToldMeter(1 << 20)
    if "body" in row:
        meter.take([piece_of_whole(spoke.read_response(row["body"]))], 1.0, streamed=False)
        return meter.finish()
    reader, listener = spoke.stream_reader(), Listener()
    for name, data in row["events"]:
        meter.take(listener.pieces(reader.feed(SseEvent(name.encode(), _data(data)))), 1.0, streamed=True)
    return meter.finish()


def usage_of(row: dict[str, Any]) -> tuple[Usage, str | None]:
    reading = told(row) if row["endpoint"] in ("cohere", "converse") else metered(row)
    assert reading.usage is not None, row["name"]
    return reading.usage, reading.model


def card_of(book: PriceBook, row: dict[str, Any], served: str | None) -> RateCard | None:
    named = served if provider_of(row["provider"], "openai").deployments else row["model"]
    return book.lookup(row["provider"], named, DAY)


def second_of(row: dict[str, Any]) -> int:
    return int(row.get("hour", 12)) * 3600


def test_the_table_covers_every_dialect_and_its_sums_are_right() -> None:
    kinds = Counter(row["endpoint"] for row in ROWS)
    assert len(ROWS) >= 60
    assert kinds.keys() >= {
        "chat", "completions", "embeddings", "responses", "messages", "generate", "cohere", "converse", "other"
    }  # fmt: skip
    assert len({row["provider"] for row in ROWS}) >= 15
    for row in ROWS:
        if not row.get("reported"):
            sums = (Decimal(n) * Decimal(rate) / PER[[*unit, "mtok"][0]] for n, rate, *unit in row["buckets"].values())
            assert sum(sums) == Decimal(row["usd"]), row["name"]


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_golden_usages(book: PriceBook, row: dict[str, Any]) -> None:
    """GW-01, GW-03, GW-05, GW-06, GW-13, GW-14, GW-15, GW-16: within 0.1 % of the bill; parts are the total to the nano."""
    usage, served = usage_of(row)
    found = cost(usage, card_of(book, row, served), second_of_day=second_of(row))
    assert found is not None
    assert found.kind == row["kind"]
    bill = Decimal(row["usd"]) * 10**9
    assert abs(found.total_nusd - bill) <= min(Decimal(1), bill / 1000)
    if row.get("reported"):
        assert (found.version, found.parts) == (REPORTED, ())
        return
    assert {name: tokens for name, tokens, _, _ in found.parts} == {
        name: tokens for name, (tokens, *_) in row["buckets"].items()
    }
    assert round_nusd(sum(femto for *_, femto in found.parts)) == found.total_nusd
    assert found.version == book.version


TRANSLATED = [row for row in ROWS if row["endpoint"] in SPOKES and row["endpoint"] not in ("cohere", "converse")]


@pytest.mark.parametrize("row", TRANSLATED, ids=[row["name"] for row in TRANSLATED])
def test_a_translated_answer_is_counted_as_one_that_passes(row: dict[str, Any]) -> None:
    """The spokes and the meters read the same usage, so that an arm of another format is billed alike."""
    assert told(row).usage == metered(row).usage


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_genai_prices_comes_to_the_same_sum(book: PriceBook, row: dict[str, Any]) -> None:
    usage, served = usage_of(row)
    card = card_of(book, row, served)
    beyond = usage.surcharge_pct or usage.input_audio_s
    if usage.reported_cost_nusd is not None or beyond or card is None:
        assert usage.reported_cost_nusd is not None or beyond
        return
    tier, batch = usage.service_tier, usage.service_tier == "batch"
    word = "processing" if batch else "speed" if row["provider"] == "anthropic" else "service_tier"
    theirs = genai_prices.calc_price(
        genai_prices.Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cached_input_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            cache_write_1h_tokens=usage.cache_write_1h_tokens,
            input_audio_tokens=usage.input_audio_tokens,
            cache_audio_read_tokens=usage.cached_audio_tokens,
            output_audio_tokens=usage.output_audio_tokens,
            input_image_tokens=usage.input_image_tokens,
            output_image_tokens=usage.output_image_tokens,
            input_video_tokens=usage.input_video_tokens,
            output_reasoning_tokens=usage.reasoning_tokens,
        ),
        served or row["model"] if provider_of(row["provider"], "openai").deployments else row["model"],
        provider_id=THEIR_NAMES.get(row["provider"], row["provider"]),
        genai_request_timestamp=datetime(2026, 11, 21, second_of(row) // 3600, tzinfo=UTC),
        price_context={word: tier} if tier in card.tiers and tier is not None else None,
    ).total_price
    assert abs(theirs - Decimal(row["usd"])) <= Decimal(row["usd"]) / 1000
