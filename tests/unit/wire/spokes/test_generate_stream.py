"""Streams of Gemini's format: pieces that arrive and pieces that are said, each as soon as the format allows."""

import base64
from typing import Any

import orjson
import pytest

from sidecar.core.types import Usage
from sidecar.wire.neutral import (
    Close,
    Delta,
    Done,
    Event,
    Failed,
    Format,
    Mark,
    Media,
    Message,
    Opaque,
    Open,
    Ping,
    Problem,
    Refusal,
    Report,
    Request,
    Start,
    Stopped,
    Text,
    Thinking,
    TokenLogprob,
    Told,
    ToolCall,
)
from sidecar.wire.spokes.generate.stream_reader import GenerateReader
from sidecar.wire.spokes.generate.stream_writer import GenerateWriter
from sidecar.wire.sse import SseEvent, SseParser
from tests.fixtures.grammar_generate import check

Json = dict[str, Any]
ASKED = Request(format="generate", model="m", messages=[Message(role="user", parts=[Text(text="hi")])])
BEGUN = Start(id="r", model="m", format="generate")


def read(*chunks: Any) -> list[Event]:
    """The events of a stream whose first chunk names answer and model, up to its end."""
    reader = GenerateReader()
    events = list(reader.feed(SseEvent(b"", b'{"candidates":[],"responseId":"r","modelVersion":"m"}')))
    assert events == [BEGUN]
    told = [event for chunk in chunks for event in reader.feed(SseEvent(b"", orjson.dumps(chunk)))]
    return [*told, *reader.end()]


def said(*parts: Json, index: int = 0, **more: Any) -> Json:
    return {"candidates": [{"content": {"parts": list(parts), "role": "model"}, "index": index, **more}]}


def written(*events: Event, source: Format = "messages") -> tuple[list[Json], Report]:
    """The chunks for the events of another model's stream."""
    report = Report()
    writer = GenerateWriter(ASKED, report)
    out = writer.feed(Start(id="msg_1", model="claude", format=source))
    out += b"".join(writer.feed(event) for event in events)
    parsed = SseParser().feed(out)
    check(parsed, whole=any(isinstance(event, Done) for event in events))
    return [orjson.loads(event.data) for event in parsed], report


# ---- reading


def test_texts_thoughts_and_calls_in_pieces() -> None:
    call = {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "QQ"}
    events = read(
        said({"text": "h", "thought": True}), said({"text": "m", "thought": True}, {"text": "a"}), said({"text": "b"}),
        said(call, call), said({"text": "", "thoughtSignature": "Qg"}, finishReason="STOP"),
    )  # fmt: skip
    made = [ToolCall(id=f"call_r_{number}", name="f", signature="QQ") for number in (0, 1)]
    assert events == [
        Open(choice=0, index=0, part=Thinking()), Delta(choice=0, index=0, text="h"), Delta(choice=0, index=0, text="m"),
        Close(choice=0, index=0),
        Open(choice=0, index=1, part=Text(text="")), Delta(choice=0, index=1, text="a"), Delta(choice=0, index=1, text="b"),
        Close(choice=0, index=1),
        Open(choice=0, index=2, part=made[0]), Delta(choice=0, index=2, text='{"a":1}'), Close(choice=0, index=2),
        Open(choice=0, index=3, part=made[1]), Delta(choice=0, index=3, text='{"a":1}'), Close(choice=0, index=3),
        Open(choice=0, index=4, part=Thinking()), Mark(choice=0, index=4, signature="Qg"), Close(choice=0, index=4),
        Stopped(choice=0, stop="tool_calls"), Done(),
    ]  # fmt: skip


def test_a_signature_ends_the_thought_before_it() -> None:
    events = read(
        said({"text": "h", "thought": True}), said({"text": "", "thoughtSignature": "QQ"}), said({"text": "a"})
    )
    assert events[2:4] == [Mark(choice=0, index=0, signature="QQ"), Close(choice=0, index=0)]
    assert events[4] == Open(choice=0, index=1, part=Text(text=""))


def test_usage_is_told_when_it_changes() -> None:
    usage = {"usageMetadata": {"promptTokenCount": 3}}
    events = read({**said({"text": "a"}), **usage}, {**said({"text": "b"}), **usage}, {"usageMetadata": 3}, usage)
    told = Told(usage=Usage(input_tokens=3), said={"promptTokenCount": 3})
    assert events == [
        told, Open(choice=0, index=0, part=Text(text="")), Delta(choice=0, index=0, text="a"),
        Delta(choice=0, index=0, text="b"), told,
    ]  # fmt: skip


def test_a_blocked_prompt_ends_at_once() -> None:
    feedback = {"blockReason": "SAFETY"}
    stopped = Stopped(choice=0, stop="content_filter", extra={"promptFeedback": feedback})
    assert read({"promptFeedback": feedback}) == [stopped, Done()]
    assert read({"promptFeedback": feedback, "modelStatus": "x"})[0] == Ping(extra={"modelStatus": "x"})
    first = GenerateReader().feed(SseEvent(b"", orjson.dumps({"promptFeedback": feedback})))
    assert list(first) == [Start(id="", model="", format="generate"), stopped, Done()]


def test_all_candidates_must_stop() -> None:
    both = {"candidates": [{"index": 0, "finishReason": "STOP"}, {"index": 1, "content": {"parts": [{"text": "a"}]}}]}
    assert read(both)[-1] == Delta(choice=1, index=0, text="a")
    stops = [Stopped(choice=0, stop="stop"), Close(choice=1, index=0), Stopped(choice=1, stop="length"), Done()]
    assert read(both, {"candidates": [{"index": 1, "finishReason": "MAX_TOKENS"}]})[-4:] == stops


@pytest.mark.parametrize("early", ["STOP", "", "FINISH_REASON_UNSPECIFIED"])
def test_a_reason_is_no_end(early: str) -> None:
    """Servers write one into each chunk, or into empty ones at the beginning, or tell their usage behind it."""
    usage = {"usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2}}
    pieces = [
        said(finishReason=early),
        said({"text": "a"}, finishReason=early),
        said({"text": "b"}, finishReason="STOP"),
    ]
    events = read(*pieces, usage)
    assert [event.text for event in events if isinstance(event, Delta)] == ["a", "b"]
    told = Told(usage=Usage(input_tokens=3, output_tokens=2), said=usage["usageMetadata"])
    assert events[-4:] == [told, Close(choice=0, index=0), Stopped(choice=0, stop="stop"), Done()]
    assert [type(event) for event in read(said({"text": "a"}, finishReason=""))] == [Open, Delta]  # it was cut


def test_what_a_candidate_says_besides() -> None:
    events = read(
        said({"text": "a"}, citationMetadata={"citations": []}),
        said({"executableCode": {"code": "1"}}, avgLogprobs=-1),
        {"candidates": [{"finishReason": "RECITATION", "safetyRatings": []}], "promptFeedback": {"safetyRatings": []}},
    )
    assert events[2] == Mark(choice=0, index=0, extra={"citationMetadata": {"citations": []}})
    assert Ping(extra={"promptFeedback": {"safetyRatings": []}}) in events
    assert events[-2].extra == {"avgLogprobs": -1, "safetyRatings": [], "finishReason": "RECITATION"}


def test_log_probabilities_go_with_the_text() -> None:
    tokens = {"chosenCandidates": [{"token": "a", "logProbability": -1}], "logProbabilitySum": -1}
    events = read(said({"text": "a"}, {"text": "b"}, logprobsResult=tokens), said(logprobsResult={}))
    assert events[1].logprobs == [TokenLogprob(token="a", logprob=-1)]
    assert events[2].logprobs is None
    assert events[3] == Mark(choice=0, index=0, extra={"logprobsResult": {"logProbabilitySum": -1}})
    alone = read(said(logprobsResult=tokens))
    assert alone[0] == Open(choice=0, index=0, part=Text(text=""))
    assert alone[1] == Delta(choice=0, index=0, text="", logprobs=[TokenLogprob(token="a", logprob=-1)])


def test_what_a_part_says_besides_text() -> None:
    """It is a part of its own, and comes back as it was."""
    first = said({"text": "a", "x": 1}, {"text": "", "x": 2})
    second = said(
        {"text": "b", "thought": True, "x": 3, "thoughtSignature": "QQ"}, {"text": "", "thought": True, "x": 4}
    )
    wrapped = base64.b64encode(b"llm-sidecar:messages:redacted:zz").decode()
    third = said({"text": "", "thoughtSignature": wrapped})
    tokens = {"chosenCandidates": [{"token": "a", "logProbability": -1}]}
    fourth = said({"text": "c"}), said({"text": "", "x": 5}), said({"text": "d"}), said(logprobsResult=tokens)
    events = read(first, second, third, *fourth)
    assert events[:5] == [
        Open(choice=0, index=0, part=Text(text="", extra={"x": 1})), Delta(choice=0, index=0, text="a"),
        Close(choice=0, index=0),
        Open(choice=0, index=1, part=Text(text="", extra={"x": 2})), Close(choice=0, index=1),
    ]  # fmt: skip
    assert Open(choice=0, index=5, part=Thinking(redacted="zz", origin="messages")) in events
    writer = GenerateWriter(ASKED, Report())
    writer.feed(BEGUN)
    out = b"".join(writer.feed(event) for event in events)
    assert read(*(orjson.loads(event.data) for event in SseParser().feed(out))) == events


def test_a_blocked_prompt_comes_back_as_it_was() -> None:
    feedback = {"blockReason": "SAFETY"}
    writer = GenerateWriter(ASKED, Report())
    out = b"".join(writer.feed(event) for event in [BEGUN, *read({"promptFeedback": feedback})])
    assert orjson.loads(out[6:]) == {"promptFeedback": feedback, "responseId": "r", "modelVersion": "m"}
    check(SseParser().feed(out))


def piece(path: str, more: bool = True, **value: Any) -> Json:
    return said({"functionCall": {"partialArgs": [{"jsonPath": path, **value}], "willContinue": more}})


def test_arguments_that_are_streamed() -> None:
    events = read(
        said({"functionCall": {"name": "f", "id": "i", "willContinue": True}, "thoughtSignature": "QQ"}),
        piece("$.a.b", stringValue="x", willContinue=True), piece("$.a.b", stringValue="y"), piece("$.n[0]", numberValue=1),
        piece("$.n[1]", boolValue=False), piece("$.n[1].x", boolValue=True),
        piece("$['it''s']", stringValue="ignored"), piece("$['k k']", nullValue="NULL_VALUE"),
        piece('$["q\\"q"]', stringValue="z"), piece("$.n[7]", numberValue=9), piece("$.n.x", numberValue=9),
        piece("$.a.b.c", numberValue=9), piece("$.n[9].x", numberValue=9), piece("nothing", numberValue=9),
        piece("$.v"), said({"functionCall": {"partial_args": []}}), said({"text": "t"}),
    )  # fmt: skip
    assert events[:3] == [
        Open(choice=0, index=0, part=ToolCall(id="i", name="f", signature="QQ")),
        Delta(choice=0, index=0, text='{"a":{"b":"xy"},"n":[1,false],"k k":null,"q\\"q":"z"}'),
        Close(choice=0, index=0),
    ]
    assert events[3] == Open(choice=0, index=1, part=Text(text=""))


def test_streamed_arguments_end_with_the_next_call_or_the_answer() -> None:
    events = read(
        piece("$.a", numberValue=1), said({"functionCall": {"name": "g", "willContinue": True}}),
        said({"functionCall": {"args": {"b": 2}, "willContinue": True}}, finishReason="STOP"),
    )  # fmt: skip
    assert [event.text for event in events if isinstance(event, Delta)] == ['{"a":1}', '{"b":2}']
    assert [event.part.name for event in events if isinstance(event, Open)] == ["", "g"]
    assert events[-2] == Stopped(choice=0, stop="tool_calls")


def test_an_error_ends_the_stream() -> None:
    error = {"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}
    failed = Failed(problem=Problem(status=503, kind="overloaded", message="busy", code="UNAVAILABLE"))
    assert read(said({"text": "a"}), error, said({"text": "b"}))[2:] == [failed]
    assert read([error]) == [failed]
    assert read({"error": "x"})[0].problem.status == 500


@pytest.mark.parametrize(
    "chunk", [3, said(3), {"candidates": [3]}, said({"text": 3}), {"candidates": [{"finishReason": 3}]}]
)
def test_members_of_wrong_types_are_no_events(chunk: Any) -> None:
    assert read(chunk) == []
    assert list(GenerateReader().feed(SseEvent(b"", b'{"candidates":[],"responseId":3}'))) == []


# ---- writing


def test_every_piece_is_said_at_once() -> None:
    chunks, report = written(
        Told(usage=Usage(input_tokens=9)),
        Open(choice=0, index=0, part=Thinking()), Delta(choice=0, index=0, text="hm"),
        Mark(choice=0, index=0, signature="ab+/"), Close(choice=0, index=0),
        Open(choice=0, index=1, part=Text(text="")), Delta(choice=0, index=1, text="a\u2028"), Ping(),
        Delta(choice=0, index=1, text="b"), Close(choice=0, index=1),
        Stopped(choice=0, stop="stop"), Told(usage=Usage(output_tokens=5)), Done(),
    )  # fmt: skip
    parts = [chunk["candidates"][0]["content"]["parts"][0] for chunk in chunks]
    wrapped = base64.b64encode(b"llm-sidecar:messages:signature:ab+/").decode()
    assert parts == [
        {"text": "hm", "thought": True}, {"text": "", "thoughtSignature": wrapped, "thought": True},
        {"text": "a\u2028"}, {"text": "b"}, {"text": ""},
    ]  # fmt: skip
    assert chunks[0]["usageMetadata"] == {"promptTokenCount": 9}
    assert "usageMetadata" not in chunks[1]
    assert chunks[-1]["usageMetadata"] == {"promptTokenCount": 9, "candidatesTokenCount": 5, "totalTokenCount": 14}
    assert chunks[-1]["candidates"][0]["finishReason"] == "STOP"
    assert {(chunk["responseId"], chunk["modelVersion"]) for chunk in chunks} == {("msg_1", "claude")}
    assert report.lost == report.mapped == []


def test_calls_wait_for_their_arguments() -> None:
    chunks, report = written(
        Open(choice=0, index=0, part=ToolCall(id="a", name="f")), Open(choice=0, index=1, part=ToolCall(id="b", name="g")),
        Delta(choice=0, index=0, text='{"a"'), Delta(choice=0, index=1, text="free"),
        Delta(choice=0, index=0, text=":1}", logprobs=[TokenLogprob(token="1", logprob=-1.0)]),
        Mark(choice=0, index=0, signature="QQ"), Close(choice=0, index=0), Close(choice=0, index=1),
    )  # fmt: skip
    assert [chunk["candidates"][0]["content"]["parts"] for chunk in chunks] == [
        [{"functionCall": {"id": "a", "name": "f", "args": {"a": 1}}, "thoughtSignature": "QQ"}],
        [{"functionCall": {"id": "b", "name": "g", "args": {"arguments": "free"}}}],
    ]
    assert "logprobsResult" in chunks[0]["candidates"][0]
    assert report.mapped == ["choices[0].parts[1].arguments"]


def test_parts_that_come_whole() -> None:
    chunks, report = written(
        Open(choice=1, index=0, part=Thinking(redacted="zz")), Close(choice=1, index=0),
        Open(choice=1, index=1, part=Media(kind="image", media_type="image/png", data="QQ==")), Close(choice=1, index=1),
        Open(choice=1, index=2, part=Opaque(value={"type": "x"})), Mark(choice=1, index=2, extra={"y": 1}),
        Close(choice=1, index=2),
        Open(choice=1, index=3, part=Refusal(text="")), Delta(choice=1, index=3, text="no"), Close(choice=1, index=3),
        Open(choice=1, index=4, part=Text(text="", extra={"citations": [1]})), Close(choice=1, index=4),
        Open(choice=1, index=5, part=Thinking(extra={"citations": [1]})), Close(choice=1, index=5),
        Open(choice=1, index=6, part=Thinking()),
        Delta(choice=1, index=6, text="", logprobs=[TokenLogprob(token="", logprob=0.0)]), Close(choice=1, index=6),
        Ping(extra={"x": 1}),
    )  # fmt: skip
    parts = [part for chunk in chunks for part in chunk["candidates"][0]["content"]["parts"]]
    assert "thoughtSignature" in parts[0]
    assert parts[1:] == [
        {"inlineData": {"mimeType": "image/png", "data": "QQ=="}}, {"text": "no"}, {"text": ""}, {"text": ""},
    ]  # fmt: skip
    where = "choices[1].parts"
    assert report.lost == [f"{where}[2]", f"{where}[2].y", f"{where}[4].citations", "x"]
    assert report.mapped == [f"{where}[3]"]


def test_usage_that_nothing_follows_is_said_before_the_next() -> None:
    chunks, _ = written(
        Told(usage=Usage(input_tokens=1)), Told(usage=Usage(input_tokens=2)), Stopped(choice=0, stop="stop"), Done()
    )
    assert [chunk["usageMetadata"]["promptTokenCount"] for chunk in chunks] == [1, 2]


def test_usage_that_tells_nothing_is_none() -> None:
    chunks, _ = written(
        Told(usage=Usage()), Open(choice=0, index=0, part=Text(text="")), Delta(choice=0, index=0, text="a"),
        Close(choice=0, index=0), Stopped(choice=0, stop="stop"), Done(),
    )  # fmt: skip
    assert ["usageMetadata" in chunk for chunk in chunks] == [False, False]


def test_an_end_without_a_reason_or_a_name() -> None:
    writer = GenerateWriter(ASKED, Report())
    writer.feed(Start(id="", model="", usage=Usage(input_tokens=3)))
    assert writer.feed(Done()) == b'data: {"usageMetadata":{"promptTokenCount":3}}\n\n'
    bare = GenerateWriter(ASKED, Report())
    bare.feed(Start(id="r", model=""))
    assert bare.feed(Done()) == b'data: {"responseId":"r"}\n\n'


def test_what_only_its_own_format_says_is_reported() -> None:
    report = Report()
    writer = GenerateWriter(ASKED, report)
    writer.feed(Start(id="c", model="m", format="chat", extra={"system_fingerprint": "fp"}))
    writer.feed(Stopped(choice=0, stop="stop_sequence", stop_sequence="#", extra={"x": 1}))
    writer.feed(Done())
    assert report.lost == ["system_fingerprint", "choices[0].x"]
    assert report.mapped == ["choices[0].stop_sequence"]


def test_an_error_in_the_middle() -> None:
    failed = Failed(problem=Problem(status=529, kind="overloaded", message="busy", code="overloaded_error"))
    chunks, _ = written(failed)
    assert chunks[0]["error"]["status"] == "UNAVAILABLE"
    raw = GenerateWriter(ASKED, Report()).feed(failed)
    assert raw.startswith(b'data: {"error":')  # where the SDK looks for it
    assert list(GenerateReader().feed(SseParser().feed(raw)[0])) == [failed]


def test_a_text_that_is_no_unicode() -> None:
    writer = GenerateWriter(ASKED, Report())
    writer.feed(BEGUN)
    writer.feed(Open(choice=0, index=0, part=Text(text="")))
    assert b"\\ud800" in writer.feed(Delta(choice=0, index=0, text="\ud800"))


@pytest.mark.parametrize(
    ("chunks", "wrong"),
    [
        ([], "no event"),
        ([said({"text": "a"})], "no reason to stop"),
        ([said({"text": "a"}, finishReason="STOP"), said({"text": "a"})], "goes on after"),
        ([said({"text": "a", "functionCall": {}}, finishReason="STOP")], "one is allowed"),
        ([{"error": {"code": 500, "message": "", "status": ""}}, said()], "after the error"),
        ([{**said(), "usageMetadata": {}}, said(finishReason="STOP")], "no usage"),
        ([{**said(), "responseId": "a"}, said(finishReason="STOP")], "another answer"),
    ],
)
def test_the_checker_sees_what_is_wrong(chunks: list[Json], wrong: str) -> None:
    with pytest.raises(AssertionError, match=wrong):
        check([SseEvent(b"", orjson.dumps(chunk)) for chunk in chunks])
