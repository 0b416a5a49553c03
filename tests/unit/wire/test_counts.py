"""Counts of tokens in odd shapes: what is not told, contradicts itself or cannot be stored is unknown, never 0."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from sidecar.core.types import Usage
from sidecar.wire.anthropic import read_message
from sidecar.wire.gemini import read_body, read_embedding
from sidecar.wire.meter import make_meter
from sidecar.wire.neutral import Format, Json, Start, Told
from sidecar.wire.openai import read_chunk, read_completion, read_response
from sidecar.wire.reading import Piece
from sidecar.wire.spokes import SPOKES
from sidecar.wire.told import Listener


def usage(piece: Piece | None) -> Usage | None:
    assert piece is not None
    return piece.usage


def openai(**counts: Any) -> Usage | None:
    return usage(read_completion(orjson.dumps({"usage": counts})))


def anthropic(**counts: Any) -> Usage | None:
    return usage(read_message(orjson.dumps({"usage": counts})))


def gemini(**counts: Any) -> Usage | None:
    return usage(read_body(orjson.dumps({"usageMetadata": counts})))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"prompt_cache_hit_tokens": 3, "prompt_cache_miss_tokens": 4, "completion_tokens": 1}, (7, 1, None)),
        ({"prompt_cache_miss_tokens": 4, "completion_tokens": 1}, (4, 1, None)),
        ({"completion_tokens": 4, "total_tokens": 9}, (None, 4, None)),  # what is not told is not worked out
        ({"total_tokens": 9}, (9, None, None)),
        ({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 9}, (1, 8, 6)),
        ({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 9, "reasoning_tokens": 6}, (1, 8, 6)),
        ({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 9, "reasoning_tokens": 2}, (1, 2, 2)),
        ({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 9, "cached_tokens": 6}, (1, 2, None)),
        ({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 9, "prompt_audio_seconds": 1}, (1, 2, None)),
        ({"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 3}, (5, 2, None)),
        ({"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": -3}, (5, 2, None)),
    ],
)
def test_totals_of_openais_format(counts: dict[str, Any], expected: tuple[int | None, ...]) -> None:
    """xAI and Gemini's compatible endpoint leave the reasoning to the total; other gaps are not taken for it."""
    found = openai(**counts)
    assert found is not None
    assert (found.input_tokens, found.output_tokens, found.reasoning_tokens) == expected


def test_media_of_openais_format() -> None:
    into = {
        "cached_tokens": 9,
        "cached_tokens_details": {"audio_tokens": 4, "image_tokens": 5},
        "audio_tokens": 6,
        "image_tokens": 7,
    }
    out = {"image_tokens": 8}
    assert openai(input_tokens=30, output_tokens=9, input_token_details=into, output_token_details=out) == Usage(
        input_tokens=30,
        output_tokens=9,
        cached_input_tokens=9,
        input_audio_tokens=6,
        cached_audio_tokens=4,
        input_image_tokens=7,
        cached_image_tokens=5,
        output_image_tokens=8,
    )
    assert openai(seconds=-1) == openai(seconds=1e9) == Usage()


@pytest.mark.parametrize(
    ("counts", "nusd"),
    [
        ({"cost": 0}, 0),
        ({"cost": -1}, None),
        ({"cost": {"total_cost": 0.5}}, 500_000_000),
        ({"cost": {}}, None),
        ({"cost": 0.1, "is_byok": True}, 100_000_000),
        ({"cost": 0.1, "is_byok": True, "cost_details": {}}, 100_000_000),
        ({"cost": 0.1, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.2}}, 300_000_000),
        ({"cost": 0.1, "cost_details": {"upstream_inference_cost": 0.2}}, 100_000_000),
        ({"cost_in_usd_ticks": 37_756_000}, 3_775_600),
        ({"cost_in_usd_ticks": -1}, None),
        ({"cost": "NaN"}, None),
        ({"cost": {"total_cost": "sNaN"}}, None),
        ({"cost": "-Infinity", "is_byok": True, "cost_details": {"upstream_inference_cost": "Infinity"}}, None),
        ({"cost": 1, "is_byok": True, "cost_details": {"upstream_inference_cost": "1e999999999999999999"}}, None),
        ({"cost_in_usd_ticks": 10**16}, None),
    ],
)
def test_costs_that_the_provider_states(counts: dict[str, Any], nusd: int | None) -> None:
    found = openai(**counts)
    assert found is not None
    assert found.reported_cost_nusd == nusd


def test_groq_has_its_usage_beside() -> None:
    beside = {"choices": [], "x_groq": {"usage": {"prompt_tokens": 1, "completion_tokens": 2}}}
    assert usage(read_chunk(b"", orjson.dumps(beside))) == Usage(input_tokens=1, output_tokens=2)
    both = beside | {"usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    assert usage(read_chunk(b"", orjson.dumps(both))) == Usage(input_tokens=3, output_tokens=4)
    assert usage(read_chunk(b"", b'{"choices":[],"x_groq":{"id":"r"}}')) is None


def test_moonshot_has_its_usage_in_a_choice() -> None:
    counts = {"prompt_tokens": 1, "completion_tokens": 2}
    beside = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": counts}]}
    assert usage(read_chunk(b"", orjson.dumps(beside))) == Usage(input_tokens=1, output_tokens=2)
    both = beside | {"usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    assert usage(read_chunk(b"", orjson.dumps(both))) == Usage(input_tokens=3, output_tokens=4)


def test_anthropic_counts_in_odd_shapes() -> None:
    """A split that says more than the sum holds; a compaction is added as far as it is told; others are not counted."""
    assert anthropic(
        input_tokens=1, cache_creation_input_tokens=5, cache_creation={"ephemeral_1h_input_tokens": 9}
    ) == Usage(input_tokens=10, cache_write_tokens=9, cache_write_1h_tokens=9)
    assert anthropic(input_tokens=1, output_tokens=2, iterations=[{"type": "compaction"}, {}]) == Usage(
        input_tokens=1, output_tokens=2
    )
    whole = {"type": "compaction", "input_tokens": 10, "output_tokens": 20, "cache_read_input_tokens": 30}
    whole["cache_creation"] = {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 5}
    assert anthropic(output_tokens=2, iterations=[whole, {"type": "fallback_message"}]) == Usage(
        input_tokens=49,
        output_tokens=22,
        cached_input_tokens=30,
        cache_write_tokens=9,
        cache_write_1h_tokens=5,
        more=True,
    )
    assert anthropic(inference_geo="global", speed="standard", service_tier="priority") == Usage(
        service_tier="priority"
    )


def test_reports_of_one_message_are_merged_field_by_field() -> None:
    """GW-15: in both directions, also inside the split and the details."""
    meter = make_meter("messages", "anthropic", event_stream=True, max_bytes=10_000)
    start = {"input_tokens": 1, "cache_creation": {"ephemeral_5m_input_tokens": 7, "ephemeral_1h_input_tokens": 0}}
    delta = {
        "output_tokens": 9,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 3},
        "output_tokens_details": {"thinking_tokens": 4},
    }
    events = (
        {"type": "message_start", "message": {"usage": start | {"output_tokens_details": {"thinking_tokens": 1}}}},
        {"type": "message_delta", "delta": {}, "usage": delta},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
    )
    for event in events:
        meter.feed(b"data: %b\n\n" % orjson.dumps(event), 1.0)
    assert meter.finish().usage == Usage(
        input_tokens=11, output_tokens=9, cache_write_tokens=10, cache_write_1h_tokens=3, reasoning_tokens=4
    )


def test_gemini_counts_in_odd_shapes() -> None:
    """Counts that cannot be stored are unknown; one kind told twice is added up; a total tells what has no count."""
    assert gemini(promptTokenCount=-1, candidatesTokenCount=2**60, cachedContentTokenCount=-5) == Usage()
    kinds = [
        {"modality": "AUDIO", "tokenCount": 1},
        {"modality": "AUDIO", "tokenCount": 2},
        {"modality": "VIDEO", "tokenCount": -1},
        {"tokenCount": 3},
    ]
    assert gemini(promptTokenCount=9, promptTokensDetails=kinds, totalTokenCount=12, serviceTier="FLEX") == Usage(
        input_tokens=9, output_tokens=3, input_audio_tokens=3, service_tier="flex"
    )
    assert gemini(promptTokenCount=9, totalTokenCount=5) == Usage(input_tokens=9, output_tokens=0)
    assert gemini(totalTokenCount=5) == Usage()
    assert gemini(trafficType="ON_DEMAND_FLEX") == Usage(service_tier="flex")
    assert gemini(trafficType="TRAFFIC_TYPE_UNSPECIFIED") == Usage()


def test_embeddings_of_gemini() -> None:
    """Without usage the cost is unknown; an error body is one; what is no JSON says nothing."""
    assert usage(read_embedding(b'{"embedding":{"values":[1]}}')) is None
    failed = read_embedding(b'{"error":{"code":400,"status":"INVALID_ARGUMENT"}}')
    assert failed is not None
    assert (failed.error, failed.terminal) == ("INVALID_ARGUMENT", True)
    assert read_embedding(b"{") is None
    meter = make_meter("embeddings", "gemini", event_stream=False, max_bytes=1000)
    meter.feed(b'{"embedding":{},"usageMetadata":{"promptTokenCount":5}}', 1.0)
    assert meter.finish().usage == Usage(input_tokens=5, output_tokens=0)


def counted(**counts: Any) -> Usage | None:
    meter = make_meter("chat", "openai", event_stream=False, max_bytes=10_000)
    meter.feed(orjson.dumps({"choices": [{"message": {"content": "Hi"}}], "usage": counts}), 1.0)
    return meter.finish().usage


def test_zero_beside_a_text_was_not_counted() -> None:
    """GW-04: also where only the output is zero; a cost that the provider states is kept."""
    assert counted(prompt_tokens=0, completion_tokens=0) is None
    assert counted(prompt_tokens=7, completion_tokens=0) == Usage(input_tokens=7)
    assert counted(prompt_tokens=0, completion_tokens=0, cost=0.5) == Usage(reported_cost_nusd=500_000_000)
    assert counted(prompt_tokens=0, completion_tokens=3) == Usage(output_tokens=3)


def test_the_start_of_a_translated_stream_knows_its_input() -> None:
    """A stream that is cut after its beginning is billed for its input at least; the output's first guess is no count."""
    first = Start(format="messages", id="m", model="x", usage=Usage(input_tokens=90, output_tokens=1))
    last = Told(usage=Usage(input_tokens=90, output_tokens=12))
    assert [piece.usage for piece in Listener().pieces([first, last])] == [Usage(input_tokens=90), last.usage]
    (bare,) = Listener().pieces([Start(format="chat", id="m", model="x")])
    assert bare.usage is None


_WRITTEN: dict[Format, Json] = {
    "chat": {
        "choices": [{"index": 0.0, "message": {"content": "hi"}, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 7.0,
            "completion_tokens": 3.0,
            "total_tokens": 10.0,
            "prompt_tokens_details": {"cached_tokens": 2.0, "audio_tokens": 0.0, "image_tokens": 0.0},
            "completion_tokens_details": {"reasoning_tokens": 1.0, "audio_tokens": 0.0},
            "cost": 2.0,
        },
    },
    "responses": {
        "status": "completed",
        "output": [],
        "usage": {"input_tokens": 7.0, "output_tokens": 3e0, "input_tokens_details": {"cached_tokens": 2.0}},
    },
    "messages": {"content": [], "usage": {"input_tokens": 5.0, "output_tokens": 3.0, "cache_read_input_tokens": 2.0}},
    "generate": {
        "candidates": [{"finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 7.0, "candidatesTokenCount": 3.0, "cachedContentTokenCount": 2.0},
    },
    "cohere": {
        "message": {"content": []},
        "usage": {"tokens": {"input_tokens": 7.0, "output_tokens": 3.0}, "cached_tokens": 2.0},
    },
    "converse": {
        "output": {"message": {"content": []}},
        "usage": {"inputTokens": 5.0, "outputTokens": 3.0, "cacheReadInputTokens": 2.0},
    },
}
_READERS: dict[Format, Callable[[bytes], Piece | None]] = {
    "chat": read_completion,
    "responses": read_response,
    "messages": read_message,
    "generate": read_body,
}


@pytest.mark.parametrize("form", SPOKES)
def test_whole_numbers_written_as_fractions_are_counts(form: Format) -> None:
    """Where a call is translated, too; and no other member is lost for them."""
    body = _WRITTEN[form]
    found = [SPOKES[form].read_response(orjson.loads(orjson.dumps(body))).usage]
    if form in _READERS:
        piece = _READERS[form](orjson.dumps(body))
        assert piece is not None
        assert (piece.finish is None) is (form == "messages")
        found.append(piece.usage)
    for one in found:
        assert one is not None
        assert (one.input_tokens, one.output_tokens, one.cached_input_tokens) == (7, 3, 2)


@pytest.mark.parametrize("value", [-7.0, 7.5, 1e30, 2.0**53, True, "7", [], None])
def test_what_is_no_count_stays_unknown(value: Any) -> None:
    """And costs nothing but itself."""
    for found in (
        openai(prompt_tokens=value, completion_tokens=3.0),
        anthropic(input_tokens=value, output_tokens=3.0),
        gemini(promptTokenCount=value, candidatesTokenCount=3.0),
        SPOKES["converse"]
        .read_response(_WRITTEN["converse"] | {"usage": {"inputTokens": value, "outputTokens": 3.0}})
        .usage,
        SPOKES["generate"]
        .read_response({"usageMetadata": {"promptTokenCount": value, "candidatesTokenCount": 3.0}})
        .usage,
    ):
        assert found == Usage(output_tokens=3)


def test_counts_that_cannot_be_written_again_are_unknown() -> None:
    deep: Json = {}
    for _ in range(300):
        deep = {"x": deep}
    assert SPOKES["generate"].read_response({"usageMetadata": {"promptTokenCount": 7, "x": deep}}).usage is None
