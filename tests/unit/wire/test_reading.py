"""Numbers that JSON does not have, as servers in Python write them, cost no text and no usage."""

import time

import orjson
import pytest

from sidecar.wire.meter import make_meter
from sidecar.wire.neutral import Delta, Event, Format, Report, Request
from sidecar.wire.reading import finite
from sidecar.wire.spokes import SPOKES
from sidecar.wire.sse import SseEvent
from sidecar.wire.translate import WholeAnswer


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (b'{"a": [NaN, -Infinity,Infinity], "b": 1}', b'{"a": [null, null,null], "b": 1}'),
        (rb'{"a": "NaN", "Infinity": "\" NaN \\", "b": NaN}', rb'{"a": "NaN", "Infinity": "\" NaN \\", "b": null}'),
        (b'{"a": "NaN without an end', b'{"a": "NaN without an end'),
        (b'{"a": 1}', b'{"a": 1}'),
    ],
)
def test_what_is_no_number_is_null(text: bytes, plain: bytes) -> None:
    assert finite(text) == plain


def test_a_string_without_an_end_is_read_once() -> None:
    """Whoever writes it: the time grows with the text, not with its square."""
    begin = time.process_time()
    assert finite(b'NaN"' + b'\\"' * 500_000)[:5] == b'null"'
    assert time.process_time() - begin < 1.0


STREAMS: dict[Format, list[bytes]] = {
    "chat": [
        b'{"id":"c","model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}',
        b'{"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"lost"},"logprobs":{"content":[{"token":"lost",'
        b'"logprob":-0.5,"bytes":null,"top_logprobs":[{"token":"x","logprob":-Infinity}]}]}}]}',
    ],
    "responses": [
        b'{"type":"response.created","response":{"id":"r","model":"m"}}',
        b'{"type":"response.output_item.added","output_index":0,"item":{"type":"message","id":"i","role":"assistant"}}',
        b'{"type":"response.content_part.added","output_index":0,"content_index":0,"part":{"type":"output_text","text":""}}',
        b'{"type":"response.output_text.delta","output_index":0,"content_index":0,"delta":"lost","odd":NaN}',
    ],
    "messages": [
        b'{"type":"message_start","message":{"id":"m","model":"m","odd":Infinity}}',
        b'{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
        b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"lost"},"odd":NaN}',
    ],
    "generate": [b'{"candidates":[{"content":{"parts":[{"text":"lost"}]},"avgLogprobs":NaN}]}'],
}


@pytest.mark.parametrize("form", STREAMS)
def test_an_event_with_such_a_number_keeps_its_text(form: Format) -> None:
    reader = SPOKES[form].stream_reader()
    events: list[Event] = []
    for data in STREAMS[form]:
        events += reader.feed(SseEvent(b"", data))
    assert "".join(event.text for event in events if isinstance(event, Delta)) == "lost"


def test_a_whole_answer_with_such_a_number_is_metered() -> None:
    """Also where another member is of a wrong type."""
    for model in (b'"m"', b"7"):
        meter = make_meter("chat", "openai", event_stream=False, max_bytes=1000)
        meter.feed(
            b'{"id":"c","model":%b,"choices":[{"index":0,"message":{"content":"x"},"logprobs":{"content":[{"logprob":NaN}]},'
            b'"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}' % model,
            0.1,
        )
        usage = meter.finish().usage
        assert usage is not None
        assert (usage.input_tokens, usage.output_tokens) == (3, 1)


def test_what_is_no_json_stays_unread() -> None:
    for data in (b'{"a": NaN', b"NaN NaN", b'"NaN', b'{"a": NaN, "b": "\xff"}'):
        assert not SPOKES["chat"].stream_reader().feed(SseEvent(b"", data))
        meter = make_meter("chat", "openai", event_stream=False, max_bytes=1000)
        meter.feed(data, 0.1)
        assert meter.finish().usage is None


def test_a_whole_answer_with_such_a_number_is_translated() -> None:
    answer = WholeAnswer(Request(format="messages", model="m", messages=[]), "chat", 200, Report())
    answer.feed(b'{"id":"c","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"lost"},')
    answer.feed(b'"logprobs":{"content":[{"token":"lost","logprob":NaN}]},"finish_reason":"stop"}]}')
    assert orjson.loads(answer.end())["content"] == [{"type": "text", "text": "lost"}]
