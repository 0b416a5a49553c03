"""What a meter learns of one response: the values that the dialects fill and the meter gathers."""

import re
from typing import Annotated, Any, TypeVar

import msgspec
import orjson
from msgspec import Meta, Struct

from sidecar.core.types import Usage

_T = TypeVar("_T")
Count = Annotated[int, Meta(ge=0, lt=1 << 53)]  # of tokens; what is beyond counts as absent where `read_as` decodes
MOST_CHOICES = 127  # of one answer that are told apart
_NUMBERS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|(NaN|-?Infinity)', re.DOTALL)  # strings, so that none is looked into
_MAX_REPAIRS = 8  # members of a wrong type mended in one event before it counts as unreadable


class Piece(Struct, gc=False):
    """What one event, or one whole body, says. Only what it says: the rest stays at its default."""

    text_bytes: int = 0  # UTF-8 bytes of generated text: answer, reasoning, refusal, tool arguments
    answer: bool = False  # some of them are not reasoning
    called: bool = False  # a tool call began: no token yet, but no empty answer either
    refused: bool = False
    terminal: bool = False
    ends: int = 0  # a bit for each choice whose end it says, where an end is a choice's own
    choices: int = 0  # a bit for each choice in it
    partial_usage: bool = False  # the output count is provisional and a later event gives the total
    usage: Usage | None = None
    completion_id: str | None = None
    model: str | None = None
    finish: str | None = None
    error: str | None = None


class Reading(Struct, frozen=True, gc=False, kw_only=True):
    """The whole response. Times have the zero of the `t_s` that were fed; None means unknown or not applicable."""

    usage: Usage | None = None
    completion_id: str | None = None
    model: str | None = None
    finish: str | None = None
    empty: bool | None = None  # ended well without any token; None when it cannot be told
    refused: bool = False
    error: str | None = None  # type or code of an error event or error body, never its message
    terminal: bool = False  # ended well-formed: the dialect's last event, or a whole body that could be read
    events: int = 0
    ttfe_s: float | None = None
    ttft_s: float | None = None
    ttfa_s: float | None = None
    last_token_s: float | None = None
    gap_p50_s: float | None = None
    gap_p95_s: float | None = None
    output_bytes: int = 0
    token_events: int = 0


def tokens(value: object) -> int | None:
    """A count as it may be stored: not negative and within 53 bits, else unknown. 3.0 is a count, too."""
    number = whole(value)
    return number if type(number) is int and 0 <= number < 1 << 53 else None


def whole(value: object) -> object:
    """The value itself; a whole number where it is one that was written as a fraction."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def text_bytes(text: str) -> int:
    """The length of the text in UTF-8; lone surrogates, which JSON can spell, count three bytes each."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def label(*candidates: object) -> str:
    """The first candidate that is a short identifier, else "error": a server's message must never pass for a code."""
    for candidate in candidates:
        if isinstance(candidate, int) and not isinstance(candidate, bool):
            return str(candidate)[:64]
        if isinstance(candidate, str) and 0 < len(candidate) <= 64 and candidate.replace(".", "_").isidentifier():
            return candidate
    return "error"


def read_as(decoder: "msgspec.json.Decoder[_T]", data: bytes) -> _T | None:
    """Decodes `data`; members of a wrong type count as absent, but 3.0 is a whole number. None when it is not JSON (but for
    its numbers: `finite`) or not of this shape at all."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError:
        return _repaired(decoder, finite(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        plain = finite(data)
        return None if plain == data else read_as(decoder, plain)


def loads(data: bytes) -> Any:  # noqa: ANN401 - whatever JSON holds
    """The JSON value of what a server said, `finite` where that is needed. Raises orjson.JSONDecodeError."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return orjson.loads(finite(data))


def finite(data: bytes) -> bytes:
    """The text with `null` in the place of NaN, Infinity and -Infinity: JSON has no such numbers, servers in Python write
    them (log probabilities)."""
    if b"NaN" not in data and b"Infinity" not in data:
        return data
    return _NUMBERS.sub(lambda found: b"null" if found[1] else found[0], data)


def _repaired(decoder: "msgspec.json.Decoder[_T]", data: bytes) -> _T | None:
    try:
        tree = msgspec.json.decode(data)
        for _ in range(_MAX_REPAIRS):
            try:
                return msgspec.convert(tree, decoder.type)
            except msgspec.ValidationError as error:
                if not _mend(tree, str(error)):
                    return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None


def _mend(tree: object, message: str) -> bool:
    """Takes out the member that msgspec's message names (`... - at `$.choices[0].delta.content``). Where that is a whole
    number but for its spelling, it is spelled as one, and so are those beside it: who writes one so writes all so."""
    _, named, path = message.rpartition("`$")
    steps = [step for step in path.rstrip("`").replace("[", ".[").split(".") if step]
    if not named:
        return False  # the whole is of another type
    at: Any = tree
    keys = [int(step[1:-1]) if step.startswith("[") else step for step in steps]
    for key in keys[:-1]:
        at = at[key]
    last = keys[-1]
    if whole(at[last]) is at[last]:
        del at[last]
    else:
        for key, value in list(at.items() if isinstance(at, dict) else enumerate(at)):
            at[key] = whole(value)
    return True
