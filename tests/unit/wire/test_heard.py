"""What a meter hears of answers that pass in Cohere's and Bedrock's own formats."""

from typing import Any

import orjson
import pytest

from sidecar.core.types import Usage
from sidecar.wire.heard import HeardMeter
from sidecar.wire.reading import Reading

CHAT = {
    "id": "c1", "finish_reason": "COMPLETE", "message": {"role": "assistant", "content": [{"type": "text", "text": "42"}]},
    "usage": {"billed_units": {"input_tokens": 7, "output_tokens": 3}},
}  # fmt: skip
EVENTS: list[dict[str, Any]] = [
    {"type": "message-start", "id": "c1", "delta": {"message": {"role": "assistant"}}},
    {"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}},
    {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "42"}}}},
    {"type": "content-end", "index": 0},
    {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": CHAT["usage"]}},
]


def heard(body: bytes, **options: Any) -> Reading:
    meter = HeardMeter(options.pop("form", "cohere"), **({"event_stream": False, "max_bytes": 9_999} | options))
    for at in range(0, len(body), 7):
        meter.feed(body[at : at + 7], at / 1000)
    return meter.finish()


def test_a_whole_answer() -> None:
    reading = heard(orjson.dumps(CHAT))
    assert (reading.completion_id, reading.finish, reading.terminal, reading.empty) == ("c1", "stop", True, False)
    assert reading.usage == Usage(input_tokens=7, output_tokens=3)


def test_a_stream_is_heard_event_by_event() -> None:
    data = b"".join(b"event: %b\ndata: %b\n\n" % (one["type"].encode(), orjson.dumps(one)) for one in EVENTS)
    reading = heard(data, event_stream=True)
    assert (reading.finish, reading.terminal, reading.output_bytes, reading.token_events) == ("stop", True, 2, 1)
    assert reading.usage == Usage(input_tokens=7, output_tokens=3)
    assert reading.ttfe_s is not None
    assert reading.ttft_s is not None
    assert reading.ttft_s > reading.ttfe_s


@pytest.mark.parametrize(
    ("meta", "usage"),
    [
        ({"billed_units": {"input_tokens": 5.0}}, Usage(input_tokens=5, output_tokens=0)),
        ({"billed_units": {"search_units": 1}}, None),
        ({}, None),
    ],
)
def test_what_is_billed_beside_chats(meta: dict[str, Any], usage: Usage | None) -> None:
    reading = heard(orjson.dumps({"results": [], "meta": meta}))
    assert (reading.usage, reading.terminal, reading.empty) == (usage, True, None)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'{"message":5}', b'{"a":' + b"[" * 900 + b"]" * 900 + b"}"])
@pytest.mark.parametrize("form", ["cohere", "converse"])
def test_what_cannot_be_read_is_unknown(body: bytes, form: str) -> None:
    assert heard(body, form=form) == Reading()


def test_what_is_too_large_is_unknown() -> None:
    body = orjson.dumps(CHAT)
    assert heard(body, max_bytes=len(body)) != Reading()
    assert heard(body, max_bytes=len(body) - 1) == Reading()


def test_a_broken_frame_ends_the_hearing() -> None:
    """Bedrock's frames have checksums: behind one that is wrong nothing is believed."""
    reading = heard(b"\x00" * 64, form="converse", event_stream=True)
    assert (reading.terminal, reading.usage, reading.events) == (False, None, 0)
