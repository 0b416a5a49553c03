"""What one dialect says and another one carries: A -> neutral -> B -> neutral -> A keeps all that B can say.

`fixtures.kept` has the rule. That A -> neutral -> A is the identity is shown by the tests of each spoke.
"""

from collections.abc import Callable
from typing import Any, Final

import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sidecar.wire.eventstream import EventStreamParser
from sidecar.wire.neutral import Done, Event, Format, Message, Report, Request, Response, Text, ToolCall
from sidecar.wire.spokes import SPOKES
from sidecar.wire.sse import SseEvent, SseParser
from tests.fixtures import (
    grammar_chat,
    grammar_generate,
    grammar_messages,
    grammar_responses,
    kept,
    said_chat,
    said_cohere,
    said_converse,
    said_generate,
    said_messages,
    said_otherwise,
    said_responses,
)
from tests.fixtures.arms_only import READERS
from tests.fixtures.told import answer_of

SPOKEN: Final[dict[Format, Any]] = {
    "chat": said_chat, "responses": said_responses, "messages": said_messages, "generate": said_generate,
}  # fmt: skip
ANSWERED: Final[dict[Format, Any]] = {**SPOKEN, "cohere": said_cohere, "converse": said_converse}
GRAMMARS: Final[dict[Format, Callable[[list[SseEvent]], None]]] = {
    "chat": grammar_chat.check, "responses": grammar_responses.check,
    "messages": grammar_messages.check, "generate": grammar_generate.check,
}  # fmt: skip
PAIRS: Final = [(a, b) for a in SPOKEN for b in SPOKEN if a != b]
ARMS: Final = [(arm, client) for arm in ANSWERED for client in SPOKEN if arm != client]
ONLY: Final[list[tuple[Format, Format]]] = [(asked, arm) for arm in READERS for asked in SPOKEN]
MODELS: Final = (
    "gpt-x", "claude-haiku-4-5", "anthropic.claude-opus-4-7", "gemini-2.5-flash", "gemini-3-pro", "amazon.nova-pro-v1:0",
)  # fmt: skip  # what writers ask of a model, they ask of its name
OTHERWISE: Final = {"chat": said_otherwise.old_chat, "generate": said_otherwise.sdk_generate}
EXAMPLES: Final = 50
MAX: Final = 1 << 20


def kept_all(missing: list[str], report: Report) -> None:
    assert missing == [], f"{missing} is neither there nor in {report.lost} or {report.mapped}"


def requests(form: Format) -> st.SearchStrategy[Any]:
    """All that clients of a format may send, in old words too."""
    usual = SPOKEN[form].requests()
    return st.one_of(usual, usual, OTHERWISE[form]()) if form in OTHERWISE else usual


def asking(form: Format) -> Request:
    """A client of this format waits for the answer."""
    return Request(format=form, model="m", messages=[Message(role="user", parts=[Text(text="Hi")])], stream=True)


def carried(request: Request, form: Format) -> tuple[Request, Report]:
    """The request, written in a format and read again."""
    report = Report()
    body = SPOKES[form].write_request(request, report)
    read = SPOKES[form].read_request
    assert read is not None
    again = read(body)
    again.model, again.stream = request.model, request.stream  # Gemini's are in the path
    return again, report


@pytest.mark.parametrize(("asked", "arm"), PAIRS)
def test_requests_keep_what_the_other_can_say(asked: Format, arm: Format) -> None:
    """There, and back again."""

    @settings(max_examples=EXAMPLES)
    @given(requests(asked), st.sampled_from(MODELS))
    def check(body: Any, model: str) -> None:
        read = SPOKES[asked].read_request
        assert read is not None
        said = read(body)
        said.model = model
        there, report = carried(said, arm)
        kept_all(kept.missing_of_request(said, there, report), report)
        back, report = carried(there, asked)
        kept_all(kept.missing_of_request(there, back, report), report)

    check()


@pytest.mark.parametrize(("asked", "arm"), ONLY)
def test_requests_keep_what_formats_of_arms_can_say(asked: Format, arm: Format) -> None:
    """Formats that no client speaks, read as their provider would; equal calls give equal bodies."""

    @settings(max_examples=EXAMPLES)
    @given(requests(asked), st.sampled_from(MODELS))
    def check(body: Any, model: str) -> None:
        read, report = SPOKES[asked].read_request, Report()
        assert read is not None
        said, again = read(body), read(body)
        said.model = again.model = model
        written = SPOKES[arm].write_request(said, report)
        assert written == SPOKES[arm].write_request(again, Report())
        there = READERS[arm](written, model)
        there.model, there.stream = said.model, said.stream  # Converse's are in the path
        kept_all(kept.missing_of_request(said, there, report), report)
        back, report = carried(there, asked)
        kept_all(kept.missing_of_request(there, back, report), report)

    check()


@pytest.mark.parametrize(("arm", "client"), ARMS)
def test_answers_keep_what_the_client_can_be_told(arm: Format, client: Format) -> None:
    """A whole answer, told in the client's format, read, and told again."""

    @settings(max_examples=EXAMPLES)
    @given(ANSWERED[arm].responses())
    def check(body: Any) -> None:
        said = SPOKES[arm].read_response(body)
        there, report = retold(said, client)
        kept_all(kept.missing_of_answer(said, there, report), report)
        if arm in SPOKEN:
            back, report = retold(there, arm)
            kept_all(kept.missing_of_answer(there, back, report), report)

    check()


def retold(answer: Response, form: Format) -> tuple[Response, Report]:
    """The answer, written in a format and read again."""
    write, report = SPOKES[form].write_response, Report()
    assert write is not None
    return SPOKES[form].read_response(write(answer, asking(form), report)), report


HOLDS = ("chat", "generate")
"""Formats in which something waits for what a stream that fails never tells: chat's reader for the end of the choice with
text that came after a call, Gemini's writer for the end of a call's arguments."""


@pytest.mark.parametrize(("arm", "client"), ARMS)
def test_streams_keep_what_the_client_can_be_told(arm: Format, client: Format) -> None:
    """GW-28, GW-29: each written stream has the grammar of its format, and says what the arm said."""

    @settings(max_examples=EXAMPLES)
    @given(ANSWERED[arm].streams())
    def check(chunks: list[bytes]) -> None:
        said = events_of(b"".join(chunks), arm)
        assume(client != "messages" or _objects(answer_of(said)))
        report = Report()
        there = events_of(written(said, client, report), client)
        whole = isinstance(said[-1], Done)
        if client in HOLDS and not whole:
            return
        kept_all(streamed_missing(said, there, report, whole=whole), report)
        if arm in SPOKEN:
            assume(arm != "messages" or _objects(answer_of(there)))
            report = Report()
            back = events_of(written(there, arm, report), arm)
            whole = isinstance(there[-1], Done)
            if arm in HOLDS and not whole:
                return
            kept_all(streamed_missing(there, back, report, whole=whole), report)

    check()


def streamed_missing(said: list[Event], read: list[Event], report: Report, *, whole: bool) -> list[str]:
    return kept.missing_of_answer(answer_of(said), answer_of(read), report, whole=whole, streamed=True)


def _objects(answer: Response) -> bool:
    """Whether all arguments are JSON objects: Anthropic's streams pass on what comes, at once."""
    calls = [part for choice in answer.choices for part in choice.parts if isinstance(part, ToolCall)]
    return all(isinstance(_json(call.arguments), dict) for call in calls if call.arguments or call.custom)


def _json(text: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def events_of(data: bytes, form: Format) -> list[Event]:
    parser = SseParser(MAX) if SPOKES[form].framing == "sse" else EventStreamParser(MAX)
    reader = SPOKES[form].stream_reader()
    return [*(event for one in parser.feed(data) for event in reader.feed(one)), *reader.end()]


def written(events: list[Event], form: Format, report: Report) -> bytes:
    """The stream in a format, checked against its grammar."""
    make = SPOKES[form].stream_writer
    assert make is not None
    writer = make(asking(form), report)
    data = b"".join([writer.feed(event) for event in events])
    GRAMMARS[form](list(SseParser(MAX).feed(data)))
    return data


@pytest.mark.parametrize(("arm", "client"), ARMS)
def test_cuts_change_nothing(arm: Format, client: Format) -> None:
    """GW-28: cut at every byte, or at any one, it is the same; one that ends anywhere is told up to there."""

    @settings(max_examples=EXAMPLES // 4)
    @given(ANSWERED[arm].streams(), st.integers(0, 4096))
    def check(chunks: list[bytes], cut: int) -> None:
        data = b"".join(chunks)
        cut = cut % (len(data) + 1)
        make = SPOKES[client].stream_writer
        assert make is not None
        outs = []
        every = [data[at : at + 1] for at in range(len(data))]
        for pieces in ([data], every, [data[:cut], data[cut:]], [data[:cut]]):
            parser = SseParser(MAX) if SPOKES[arm].framing == "sse" else EventStreamParser(MAX)
            reader, writer = SPOKES[arm].stream_reader(), make(asking(client), Report())
            events = [event for piece in pieces for one in parser.feed(piece) for event in reader.feed(one)]
            outs.append(b"".join([writer.feed(event) for event in events]))
        whole, bytewise, in_two, begun = outs
        assert whole == bytewise
        assert whole == in_two
        assert whole.startswith(begun)

    check()
