"""`python -m bench.translation [--out FILE.json]`: what translation costs, in process time, pair by pair.

Streams: 1,000 chunks of text through the real Reply and its meter as they are, and the same bytes through the real
TranslatedReply for a client of another format; each read of the upstream is one event. Requests: a call of 200 kB, read from
the client's bytes and written for the arm. Rounds of all kinds take turns, so that a noisy moment hits them alike; a figure
is the median of its rounds. Goals: a translated stream costs at most 3 x the same one untranslated, a request 3 ms.

What it does not know: sockets, TLS, the decision. `bench.proxy` measures whole calls.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

from bench.machine import description
from sidecar.core.types import Dialect, Endpoint, Usage
from sidecar.proxy.gate import Way
from sidecar.proxy.reply import Reply
from sidecar.proxy.translated import Translated, TranslatedReply
from sidecar.wire import translate
from sidecar.wire.framing import LAST_CHUNK, chunk
from sidecar.wire.http1 import RequestHead, ResponseHead
from sidecar.wire.neutral import (
    Close,
    Delta,
    Done,
    Event,
    Format,
    Message,
    Open,
    Report,
    Request,
    Start,
    Stopped,
    Text,
    Told,
    Tool,
    ToolCall,
    ToolResult,
)
from sidecar.wire.providers import BY_DIALECT
from sidecar.wire.spokes import SPOKES
from sidecar.wire.sse import SseParser

CHUNKS: Final = 1000
REQUEST_BYTES: Final = 200_000
LONG: Final = 40  # rounds of a user's text, a call and its result: an agent that reads files
SHORT: Final = 200  # the same bytes in many small messages: the dearest way to say them
STREAM_GOAL: Final = 3.0
REQUEST_GOAL_MS: Final = 3.0
FORMATS: Final[Mapping[Format, tuple[Endpoint, Dialect, str]]] = {
    "chat": ("chat", "openai", "openai"),
    "responses": ("responses", "openai", "openai"),
    "messages": ("messages", "anthropic", "anthropic"),
    "generate": ("generate", "gemini", "gemini"),
}  # endpoint, dialect, and whose server it is
PAIRS: Final = [(client, arm) for client in FORMATS for arm in FORMATS if client != arm]
_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_ASK: Final = b"POST / HTTP/1.1\r\nhost: a\r\n\r\n"


@dataclass(slots=True)
class Call:
    """What a TranslatedReply wants to know of its call."""

    request: Request
    form: Format
    report: Report = field(default_factory=Report)
    named: translate.Named = field(default_factory=translate.Named)
    unheard: bytes = b""


def asking(form: Format) -> Request:
    """A client of this format waits for a stream."""
    return Request(format=form, model="m", messages=[Message(role="user", parts=[Text(text="Hi")])], stream=True)


def stream(form: Format) -> list[bytes]:
    """The reads of an upstream of this format: CHUNKS deltas of text, each in a chunk of its own, and what is around."""
    events: list[Event] = [
        Start(id="answer-1", model="m", created=1763000000),
        Open(choice=0, index=0, part=Text(text="")),
    ]
    events += [Delta(choice=0, index=0, text=f" word{number % 97}") for number in range(CHUNKS)]
    usage = Usage(input_tokens=20, output_tokens=CHUNKS)
    events += [Close(choice=0, index=0), Stopped(choice=0, stop="stop"), Told(usage=usage), Done()]
    make = SPOKES[form].stream_writer
    assert make is not None, "clients speak it"
    writer = make(asking(form), Report())
    said = [data for event in events if (data := writer.feed(event))]
    return [chunk(data) for data in said[:-1]] + [chunk(said[-1]) + LAST_CHUNK]


def conversation(form: Format, rounds: int) -> Request:
    """A long talk with tools, of about REQUEST_BYTES as JSON: the fewer rounds the longer are the tools' results."""
    result = "found it there " * ((REQUEST_BYTES // rounds - 720) // 15)
    messages = [Message(role="system", parts=[Text(text="Be brief. " * 50)])]
    for number in range(rounds):
        call = ToolCall(id=f"call_{number}", name="search", arguments='{"query":"' + "words " * 12 + '"}')
        messages += [
            Message(role="user", parts=[Text(text="What of this is so, and why is it? " * 12)]),
            Message(role="assistant", parts=[Text(text="I look it up."), call]),
            Message(role="tool", parts=[ToolResult(call_id=call.id, parts=[Text(text=result)])]),
        ]
    schema = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
    tools = [Tool(name="search", description="Finds pages.", parameters=schema)]
    return Request(format=form, model="m", messages=messages, tools=tools, max_tokens=500)


def body(form: Format, rounds: int) -> bytes:
    return translate.say(conversation(form, rounds), form, BY_DIALECT[FORMATS[form][2]], "m", Report())


def _heads() -> tuple[ResponseHead, RequestHead]:
    line = {b"content-type": b"text/event-stream"}
    response = ResponseHead(
        raw=_HEAD,
        status=200,
        block=_HEAD.index(b"\n") + 1,
        minor=1,
        length=None,
        chunked=True,
        keep_alive=True,
        fields=line,
    )
    request = RequestHead(
        raw=_ASK, method=b"POST", target=b"/", block=_ASK.index(b"\n") + 1, minor=1, length=0, length_span=(0, 0),
        chunked=False, keep_alive=True, fields={}, spans=[],
    )  # fmt: skip
    return response, request


def run_reply(reply: Reply, reads: Sequence[bytes]) -> bytes:
    """All reads through one reply, as an exchange does it."""
    out = []
    for number, data in enumerate(reads):
        told, payload = reply.feed(data)
        reply.measure(payload, number * 0.01, _no_bug)
        out.append(told)
    assert reply.done, "the stream is whole"
    assert reply.meter is not None, "it is metered"
    reply.meter.finish()
    return b"".join(out)


def _no_bug(where: str, error: BaseException) -> None:
    raise AssertionError(where) from error


def untranslated(form: Format, reads: Sequence[bytes]) -> Callable[[], object]:
    endpoint, dialect, _ = FORMATS[form]
    way = Way(endpoint=endpoint, dialect=dialect, path="/")

    def once() -> object:
        response, request = _heads()
        return run_reply(Reply(response, request, way, asked=False, meter_max_bytes=1 << 20), reads)

    return once


def translated(client: Format, arm: Format, reads: Sequence[bytes]) -> Callable[[], object]:
    endpoint, dialect, _ = FORMATS[client]
    way = Way(endpoint=endpoint, dialect=dialect, path="/")

    def once() -> object:
        response, request = _heads()
        call = cast("Translated", Call(asking(client), arm))
        return run_reply(TranslatedReply(call, response, request, way, 1 << 20, None), reads)

    return once


def asked(client: Format, arm: Format, said: bytes) -> Callable[[], object]:
    provider = BY_DIALECT[FORMATS[arm][2]]

    def once() -> object:
        request = translate.read(said, client, "m", stream=False)
        return translate.say(request, arm, provider, "m", Report())

    return once


def measure(rounds: int) -> dict[str, object]:
    """Every figure: medians over `rounds`, each of which runs all kinds one after the other."""
    reads = {form: stream(form) for form in FORMATS}
    bodies = {form: body(form, LONG) for form in FORMATS}
    small = {form: body(form, SHORT) for form in FORMATS}
    kinds: dict[tuple[str, ...], Callable[[], object]] = {
        ("own", form): untranslated(form, reads[form]) for form in FORMATS
    }
    kinds |= {("stream", client, arm): translated(client, arm, reads[arm]) for client, arm in PAIRS}
    kinds |= {("request", client, arm): asked(client, arm, bodies[client]) for client, arm in PAIRS}
    kinds |= {("small", client, arm): asked(client, arm, small[client]) for client, arm in PAIRS}
    taken: dict[tuple[str, ...], list[float]] = {kind: [] for kind in kinds}
    for number in range(rounds + 1):
        for kind, once in kinds.items():
            begun = time.process_time_ns()
            once()
            if number:  # the first round warms up
                taken[kind].append((time.process_time_ns() - begun) / 1e6)
    ms = {kind: statistics.median(values) for kind, values in taken.items()}
    pairs = [
        {
            "client": client, "arm": arm,
            "untranslated_ms": round(ms["own", arm], 2), "translated_ms": round(ms["stream", client, arm], 2),
            "ratio": round(ms["stream", client, arm] / ms["own", arm], 2),
            "request_ms": round(ms["request", client, arm], 2), "request_bytes": len(bodies[client]),
            "small_parts_ms": round(ms["small", client, arm], 2), "small_parts_bytes": len(small[client]),
        }
        for client, arm in PAIRS
    ]  # fmt: skip
    return {"machine": dict(description()), "chunks": CHUNKS, "rounds": rounds, "pairs": pairs}


def table(figures: Mapping[str, object]) -> str:
    """The figures as a page shows them."""
    pairs = cast("list[dict[str, object]]", figures["pairs"])
    lines = [
        "| client | arm | stream as it is, ms | translated, ms | ratio | 200 kB in 120 messages, ms | in 600, ms |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    names = ("client", "arm", "untranslated_ms", "translated_ms", "ratio", "request_ms", "small_parts_ms")
    lines += ["| " + " | ".join(str(pair[name]) for name in names) + " |" for pair in pairs]
    return "\n".join(lines)


def words(form: Format) -> int:
    """How many events the stream of a format has: for a test that all of it is measured."""
    data = b"".join(part.partition(b"\r\n")[2].removesuffix(LAST_CHUNK).removesuffix(b"\r\n") for part in stream(form))
    return len(list(SseParser(1 << 20).feed(data)))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.translation", description="What translation costs.")
    parser.add_argument("--out", type=Path, help="where the figures go, as JSON")
    parser.add_argument("--rounds", type=int, default=15)
    chosen = parser.parse_args(arguments)
    figures = measure(chosen.rounds)
    print(table(figures))
    pairs = cast("list[dict[str, float]]", figures["pairs"])
    missed = [pair for pair in pairs if pair["ratio"] > STREAM_GOAL or pair["request_ms"] > REQUEST_GOAL_MS]
    print(
        f"{len(pairs) - len(missed)} of {len(pairs)} pairs meet both goals (<= {STREAM_GOAL} x, <= {REQUEST_GOAL_MS} ms)."
    )
    if chosen.out is not None:
        chosen.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
