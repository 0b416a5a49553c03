"""What is fuzzed of the translation: every reader and writer, whole and streamed, and what must hold whatever the bytes are.

The first byte chooses the client's format and the second the arm's. As in `bench.fuzz_wire`, a function raises when a
promise is broken.
"""

from collections.abc import Callable
from typing import Any, Final

import orjson

from bench.fuzz_seeds import ARMS, CLIENTS
from bench.fuzz_wire import pieces, problem_bodies
from sidecar.errors import TranslationError
from sidecar.wire.neutral import Format, Message, Report, Request, Text
from sidecar.wire.providers import PROVIDERS, Provider
from sidecar.wire.spokes import SPOKES
from sidecar.wire.sse import SseParser
from sidecar.wire.translate import (
    StreamedAnswer,
    WholeAnswer,
    WrongAnswer,
    changes,
    losses,
    problem_body,
    read,
    say,
)

_CLIENTS: Final[tuple[Format, ...]] = CLIENTS
_ARMS: Final[tuple[Format, ...]] = ARMS
_PROVIDERS: Final[tuple[Provider, ...]] = tuple(PROVIDERS.values())


def _chosen(data: bytes) -> tuple[Format, Format, bytes]:
    client = _CLIENTS[data[0] % len(_CLIENTS)] if data else "chat"
    return client, _ARMS[data[1] % len(_ARMS)] if len(data) > 1 else "chat", data[2:]


def _asking(form: Format) -> Request:
    """A call whose answer is to be told in this format."""
    return Request(format=form, model="m", messages=[Message(role="user", parts=[Text(text="Hi")])], stream=True)


def request(data: bytes) -> None:
    """A call is read or refused with a path; what is read is written in every format, and can be read again there."""
    client = _CLIENTS[data[0] % len(_CLIENTS)] if data else "chat"
    try:
        said = read(data[1:], client, "m", stream=bool(len(data) % 2))
    except TranslationError:
        return
    for number, arm in enumerate(_ARMS):
        provider = next(one for one in _PROVIDERS[number % 5 :] + _PROVIDERS if arm in one.paths)
        told, report = losses(said, arm, provider), Report()
        assert all(isinstance(one, str) for one in told)
        try:
            written = say(said, arm, provider, "model-x", report, ask_usage=bool(len(data) % 3))
        except TranslationError:
            assert told == ("the body",)
            continue
        changes(report).encode("ascii")
        again = SPOKES[arm].read_request
        value = orjson.loads(written)
        if again is not None:
            again(value)


def answer(data: bytes) -> None:
    """A whole answer is told in the client's format, where its own reader takes it, or is a WrongAnswer."""
    client, arm, body = _chosen(data)
    whole = WholeAnswer(_asking(client), arm, 200, Report())
    try:
        whole.feed(body)
        told = orjson.loads(whole.end())
    except WrongAnswer:
        return
    if whole.problem is None:
        SPOKES[client].read_response(told)


def _streamed(client: Format, arm: Format, reads: list[bytes]) -> tuple[bytes, bool, bool]:
    """What the client is told, whether that is a whole stream, and whether the arm was found wrong."""
    made, out = StreamedAnswer(_asking(client), arm, Report()), b""
    try:
        for one in reads:
            out += made.feed(one)
        out += made.end()
        return out, made.done, False
    except WrongAnswer:
        return out, False, True


def stream(data: bytes) -> None:
    """A streamed answer is told in events of JSON, and does not depend on how it was read. (That a sound stream of an arm
    gives a sound one of the client's format is shown by the tests of each spoke.)"""
    client, arm, body = _chosen(data)
    told, done, wrong = _streamed(client, arm, list(pieces(body)))
    for event in SseParser().feed(told):
        assert event.data == b"[DONE]" or isinstance(orjson.loads(event.data), dict)
    other, other_done, other_wrong = _streamed(client, arm, [body])
    assert other_wrong == wrong
    if not wrong:
        assert (other, other_done) == (told, done)
    else:
        assert told.startswith(other)


def problem(data: bytes) -> None:
    """An error of any shape is a Problem, and is told in the client's format."""
    client, arm, body = _chosen(data)
    found = SPOKES[arm].read_problem(400 + len(data) % 200, problem_bodies(body))
    assert 400 <= found.status <= 599
    value: Any = orjson.loads(problem_body(found, client))
    assert "error" in value


SPOKEN: Final[dict[str, Callable[[bytes], None]]] = {
    "request": request, "answer": answer, "stream": stream, "problem": problem,
}  # fmt: skip
