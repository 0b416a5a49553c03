"""What a meter learns of a translated answer, whole and streamed."""

import pytest

from sidecar.core.types import Usage
from sidecar.wire.neutral import (
    AnyPart,
    Choice,
    Close,
    Delta,
    Done,
    Event,
    Failed,
    Mark,
    Media,
    Opaque,
    Open,
    Ping,
    Problem,
    Refusal,
    Response,
    Start,
    Stopped,
    Text,
    Thinking,
    TokenLogprob,
    Told,
    ToolCall,
)
from sidecar.wire.reading import Piece, Reading
from sidecar.wire.told import Listener, ToldMeter, piece_of_whole

CALL = ToolCall(id="a", name="f", arguments='{"a":"é"}')
USAGE = Usage(input_tokens=3, output_tokens=2)


def response(*parts: AnyPart, stop: str | None = "stop") -> Response:
    choice = Choice(index=0, parts=list(parts), stop=stop)  # type: ignore[arg-type]  # the test names one
    return Response(format="chat", id="r1", model="m", choices=[choice], usage=USAGE)


def metered(*reads: tuple[float, list[Event]]) -> Reading:
    """The reading of a stream whose reads came at these times."""
    meter, listener = ToldMeter(1 << 20), Listener()
    for at, events in reads:
        meter.feed(b"whatever", at)
        meter.take(listener.pieces(events), at, streamed=True)
    return meter.finish()


@pytest.mark.parametrize(
    ("event", "piece"),
    [
        (Start(id="c1", model="m"), Piece(completion_id="c1", model="m")),
        (Start(id="", model=""), Piece()),
        (Start(id="c1", model="", usage=USAGE), Piece(completion_id="c1", usage=Usage(input_tokens=3))),
        (Open(choice=0, index=0, part=Text(text="")), Piece()),
        (Open(choice=0, index=0, part=CALL), Piece(called=True)),
        (Open(choice=0, index=0, part=Refusal(text="")), Piece(refused=True)),
        (Delta(choice=0, index=0, text="é"), Piece(text_bytes=2, answer=True)),
        (Delta(choice=0, index=0, text="", logprobs=[TokenLogprob(token="", logprob=0.0)]), Piece()),
        (Stopped(choice=0, stop="length"), Piece(finish="length")),
        (Stopped(choice=0, stop="refusal"), Piece(finish="refusal", refused=True)),
        (Told(usage=USAGE), Piece(usage=USAGE)),
        (Done(), Piece(terminal=True)),
        (Failed(problem=Problem(status=429, kind="rate_limit", message="secret")), Piece(error="rate_limit")),
        (Failed(problem=Problem(status=429, kind="rate_limit", message="s", code="slow")), Piece(error="slow")),
    ],
)
def test_an_event_is_a_piece(event: Event, piece: Piece) -> None:
    assert Listener().pieces([event]) == [piece]


def test_some_events_say_nothing_to_a_meter() -> None:
    events = [Ping(), Close(choice=0, index=0), Mark(choice=0, index=0, signature="s")]
    assert Listener().pieces(events) == []


def test_thoughts_are_no_answer() -> None:
    """By choice and part: the same index of another choice may be an answer."""
    events = [
        Open(choice=0, index=0, part=Thinking()),
        Open(choice=1, index=0, part=Text(text="")),
        Delta(choice=0, index=0, text="hm"),
        Delta(choice=1, index=0, text="hi"),
    ]
    assert [(piece.text_bytes, piece.answer) for piece in Listener().pieces(events)] == [
        (0, False),
        (0, False),
        (2, False),
        (2, True),
    ]


def test_a_stream_is_metered() -> None:
    """Thoughts are tokens, but no answer; the last counts hold."""
    reading = metered(
        (1.0, [Start(id="c1", model="m", usage=Usage(input_tokens=3, output_tokens=1))]),
        (2.0, [Open(choice=0, index=0, part=Thinking()), Delta(choice=0, index=0, text="hm")]),
        (3.0, [Open(choice=0, index=1, part=Text(text="")), Delta(choice=0, index=1, text="hi")]),
        (5.0, [Stopped(choice=0, stop="stop"), Told(usage=USAGE), Done()]),
    )
    assert (reading.completion_id, reading.model, reading.finish) == ("c1", "m", "stop")
    assert (reading.ttfe_s, reading.ttft_s, reading.ttfa_s, reading.last_token_s) == (1.0, 2.0, 3.0, 3.0)
    assert (reading.token_events, reading.output_bytes, reading.events) == (2, 4, 8)
    assert reading.gap_p50_s == pytest.approx(1.0, rel=0.02)
    assert (reading.usage, reading.terminal, reading.empty) == (USAGE, True, False)


def test_a_cut_stream_knows_its_input() -> None:
    reading = metered((1.0, [Start(id="c1", model="m", usage=Usage(input_tokens=3, output_tokens=1))]))
    assert (reading.usage, reading.terminal, reading.empty) == (Usage(input_tokens=3), False, None)


def test_the_first_chunk_of_gemini_may_be_all_of_an_answer() -> None:
    """Of a short one it is, with all of its usage; Anthropic's first event knows only the beginning."""
    said = [Open(choice=0, index=0, part=Text(text="")), Delta(choice=0, index=0, text="hi"), Done()]
    for form, usage in (("generate", USAGE), ("messages", Usage(input_tokens=3))):
        start = Start(id="c1", model="m", usage=USAGE, format=form)  # type: ignore[arg-type]  # it is one
        assert metered((1.0, [start, *said])).usage == usage


def test_a_drawn_picture_is_an_answer() -> None:
    reading = metered(
        (1.0, [Start(id="c1", model="m"), Open(choice=0, index=0, part=Media(kind="image", data="A")), Done()])
    )
    assert (reading.empty, reading.output_bytes, reading.ttfa_s) == (False, 1, 1.0)


def test_a_stream_without_a_model_has_none() -> None:
    reading = metered((1.0, [Start(id="", model=""), Done()]))
    assert (reading.completion_id, reading.model, reading.empty) == (None, None, True)


@pytest.mark.parametrize(
    ("parts", "piece"),
    [
        ([Text(text="é")], Piece(text_bytes=2, answer=True)),
        ([Text(text="")], Piece()),
        ([Thinking(text="hm")], Piece(text_bytes=2)),
        ([CALL], Piece(text_bytes=10, answer=True, called=True)),
        ([Refusal(text="no"), Text(text="a")], Piece(text_bytes=3, answer=True, refused=True)),
        ([Media(kind="image", url="u")], Piece(text_bytes=1, answer=True)),
        ([Opaque(value={}), Text(text="a")], Piece(text_bytes=1, answer=True)),
    ],
)
def test_a_whole_answer_is_one_piece(parts: list[AnyPart], piece: Piece) -> None:
    piece.completion_id, piece.model, piece.usage, piece.finish, piece.terminal = "r1", "m", USAGE, "stop", True
    assert piece_of_whole(response(*parts)) == piece


def test_a_whole_answer_that_names_nothing() -> None:
    answer = Response(format="converse", id="", model="", choices=[])
    assert piece_of_whole(answer) == Piece(terminal=True)
    refused = piece_of_whole(response(Text(text="a"), stop="refusal"))
    assert (refused.finish, refused.refused) == ("refusal", True)
    assert piece_of_whole(response(stop=None)).finish is None


def test_a_whole_answer_has_no_token_times() -> None:
    meter = ToldMeter(1 << 20)
    meter.take([piece_of_whole(response(CALL))], 1.0, streamed=False)
    reading = meter.finish()
    assert (reading.ttfe_s, reading.ttft_s, reading.token_events) == (None, None, 0)
    assert (reading.usage, reading.finish, reading.terminal, reading.empty) == (USAGE, "stop", True, False)
