"""What a spoke is: how one format is read into the neutral form, and written from it.

A reader raises TranslationError on what the format itself does not allow; a writer never raises on what a reader gave, but
reports what it could not say. Both are pure. A stream has state: make one reader and one writer for each answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from sidecar.wire.neutral import Event, Format, Json, Problem, Report, Request, Response
from sidecar.wire.sse import SseEvent

Kind = Literal[
    "invalid", "authentication", "billing", "permission", "not_found", "rate_limit", "overloaded", "timeout", "server"
]
_KINDS: Final[dict[int, Kind]] = {
    400: "invalid", 401: "authentication", 402: "billing", 403: "permission", 404: "not_found", 408: "timeout",
    413: "invalid", 422: "invalid", 429: "rate_limit", 503: "overloaded", 504: "timeout", 529: "overloaded",
}  # fmt: skip
_NEUTRAL: Final = {
    "n": 1, "frequency_penalty": 0, "presence_penalty": 0, "verbosity": "medium", "cache_retention": "in_memory",
}  # fmt: skip  # values that ask for what there is anyway
MAX_MESSAGE_CHARS: Final = 2000  # of an error that is told to a client
MAX_CALLS: Final = 1024  # of one streamed answer that are told apart; more is no answer: providers allow 128 tools
TOO_MANY_CALLS: Final = "the provider's stream has too many calls"


def kind_of(status: int) -> Kind:
    """Whose fault an error with this HTTP status is."""
    return _KINDS.get(status, "invalid" if status < 500 else "server")


def problem_of(status: int, message: str = "", code: str | None = None, param: str | None = None) -> Problem:
    """The Problem of a status (500 where it is none of 400..599), its message cut; without one it names the status."""
    status = status if 400 <= status <= 599 else 500
    text = message[:MAX_MESSAGE_CHARS] or f"the provider answered with status {status}"
    return Problem(status=status, kind=kind_of(status), message=text, code=code, param=param)


def says(value: Any) -> bool:  # noqa: ANN401 - whatever JSON holds
    """Whether leaving out a member with this value changes anything: null, false and what is empty say nothing."""
    return value is not None and value is not False and value != "" and value != [] and value != {}


def lose_all(report: Report, where: str, members: Json) -> None:
    """Reports members of a node at the path `where` ("" for the body itself) as lost, each that says something."""
    for name, value in members.items():
        if says(value):
            report.lose(f"{where}.{name}" if where else name)


def asks(request: Request, name: str) -> bool:
    """Whether a member of the neutral request asks for anything."""
    value = getattr(request, name)
    return says(value) and value != _NEUTRAL.get(name)


def lose_asked(report: Report, request: Request, names: Sequence[str]) -> None:
    """Reports these members of a request as lost, each that asks for something."""
    for name in names:
        if asks(request, name):
            report.lose(name)


class StreamReader(Protocol):
    """Reads one streamed answer. What it cannot read is no event: the stream then ends without Done."""

    def feed(self, event: SseEvent) -> Sequence[Event]: ...

    def end(self) -> Sequence[Event]:
        """What shows only when the stream is over."""
        return ()


class StreamWriter(Protocol):
    """Writes one streamed answer: the bytes of each event, at once. b"": the format has nothing to say about it."""

    def feed(self, event: Event) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Spoke:
    """One format. `None`: the format is only spoken by upstreams, never by clients."""

    format: Format
    framing: Literal["sse", "eventstream"]
    write_request: Callable[[Request, Report], Json]
    read_response: Callable[[Json], Response]
    stream_reader: Callable[[], StreamReader]
    read_problem: Callable[[int, bytes], Problem]  # status and body of an answer of 400 or more
    read_request: Callable[[Json], Request] | None = None
    write_response: Callable[[Response, Request, Report], Json] | None = None
    stream_writer: Callable[[Request, Report], StreamWriter] | None = None
    write_problem: Callable[[Problem], Json] | None = None


class Distinct:
    """Names that are never given twice: one that is taken gets a number behind it. However many are alike, each is made in
    about the same time."""

    def __init__(self, joint: str, max_chars: int) -> None:
        """`joint` stands before the number; longer names are cut."""
        self._joint, self._max_chars = joint, max_chars
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}  # the last one behind this name

    def make(self, said: str) -> str:
        """The name itself where it is free."""
        base = made = said[: self._max_chars]
        number = self._numbers.get(base, 1)
        while made in self._taken:
            number += 1
            end = f"{self._joint}{number}"
            made = base[: self._max_chars - len(end)] + end
        self._numbers[base] = number
        self._taken.add(made)
        return made
