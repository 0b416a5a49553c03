"""Logs: one canonical JSON line per exchange, and events of our own through structlog.

The line's keys are the columns of the store (`core.record`) that are not null, behind `"event":"request"`. It holds no
prompt, completion, header or credential, because a record has none. Text of others (model names, paths) cannot break a
line or a terminal: JSON escapes the C0 controls, and we escape DEL, the C1 controls, U+2028 and U+2029, which JSON would
let through.
"""

import re
import sys
from collections.abc import Callable, MutableMapping, Sequence
from typing import TypeAlias

import msgspec
import orjson
import structlog

from sidecar.core.record import COLUMNS, Row
from sidecar.errors import ConfigError
from sidecar.secrecy import HIDDEN, hidden
from sidecar.telemetry.sink import Sink

LEVELS = ("debug", "info", "warning", "error", "critical")

_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029]")
_UNSAFE_LEADS = (b"\x7f", b"\xc2", b"\xe2\x80")  # the UTF-8 bytes that such a character begins with
_RAW_JSON = frozenset({"eligible", "context"})  # columns that hold JSON text and stand in the line as JSON
_SECRET_NAME = re.compile(r"key$|token$|secret|password|authorization|credential|cookie", re.IGNORECASE)

EventDict: TypeAlias = MutableMapping[str, object]

_RAW_AT = tuple(at for at, name in enumerate(COLUMNS) if name in _RAW_JSON)
# A Struct and not a dict: its keys are encoded once, which halves the price of a line. What is null is left out: a call
# that is not streamed has twenty such columns, half of its line.
_Line = msgspec.defstruct(
    "_Line", [("event", str), *((name, object, None) for name in COLUMNS)], omit_defaults=True, gc=False
)
_encode_lines: Callable[[Sequence[object]], bytes] = msgspec.json.Encoder().encode_lines


def lines(rows: Sequence[Row]) -> bytes:
    """One line for each exchange's row (`core.record`), newlines included."""
    made = []
    for row in rows:
        values: list[object] = list(row)
        for at in _RAW_AT:
            values[at] = msgspec.Raw(str(values[at]))
        made.append(_Line("request", *values))
    return _safe(_encode_lines(made))


def _safe(text: bytes) -> bytes:
    """Escapes what JSON leaves alone although lines or terminals would act on it."""
    if text.isascii():  # nearly always, and found ten times as fast as the leads
        if b"\x7f" not in text:
            return text
    elif not any(lead in text for lead in _UNSAFE_LEADS):
        return text
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text.decode()).encode()


class RequestLog:
    """Writes the lines of a batch with one write. `target`: `-` (standard output), a path, or `off`."""

    def __init__(self, target: str) -> None:
        self.sink: Sink | None = None if target == "off" else Sink(target)

    @property
    def dropped(self) -> int:
        """Lines that were given up."""
        return self.sink.dropped if self.sink is not None else 0

    def notes(self) -> list[str]:
        """What keeps the lines from their file."""
        sink = self.sink
        if sink is None or not sink.trouble:
            return []
        return [f"request log: {sink.target} {sink.trouble}; {sink.waiting_bytes} bytes wait"]

    def observe(self, rows: Sequence[Row]) -> None:
        """Writes one line per row; never blocks and never raises."""
        if self.sink is not None and rows:
            self.sink.put(lines(rows), len(rows))

    def reopen(self) -> None:
        """Opens the file again now; nothing to do for streams. Never raises."""
        if self.sink is not None:
            self.sink.reopen()

    def close(self) -> None:
        """Writes what waits and lets the target go."""
        if self.sink is not None:
            self.sink.close()


def configure(level: str = "info", target: str = "stderr", *, terminal: bool | None = None) -> Sink:
    """Sets structlog up for the process: JSON lines, or readable ones on a terminal. Raises ConfigError on the level.

    Returns the sink, whose owner closes it. Values that look like secrets, by name or by shape, are replaced.
    """
    if level not in LEVELS:
        raise ConfigError(f"SIDECAR_LOG_LEVEL: {level!r} is no level; use one of {', '.join(LEVELS)}")
    sink = Sink(target)
    readable = sys.stderr.isatty() if terminal is None else terminal
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            structlog.processors.format_exc_info,
            _hide_secrets,
            *(_readable() if readable else [_as_json]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(sink),  # type: ignore[arg-type]  # it needs write and flush only
        cache_logger_on_first_use=False,
    )
    return sink


def _hide_secrets(_logger: object, _method: str, event: EventDict) -> EventDict:
    return {
        name: HIDDEN if _SECRET_NAME.search(name) and value is not None else _without_secrets(value)
        for name, value in event.items()
    }


def _without_secrets(value: object) -> object:
    if isinstance(value, str):
        return hidden(value)
    if isinstance(value, bytes):
        return hidden(value.decode("utf-8", "replace"))
    if isinstance(value, dict):
        return dict(_hide_secrets(None, "", value))
    if isinstance(value, list | tuple):
        return [_without_secrets(item) for item in value]
    return value


def _as_json(_logger: object, _method: str, event: EventDict) -> bytes:
    return _safe(orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS))


def _readable() -> list[structlog.typing.Processor]:
    console = structlog.dev.ConsoleRenderer(timestamp_key="at", pad_event_to=0)

    def escape(_logger: object, _method: str, event: EventDict) -> EventDict:
        return {
            name: value if name == "exception" or not isinstance(value, str) else _printable(value)
            for name, value in event.items()
        }

    def render(logger: object, method: str, event: EventDict) -> bytes:
        return str(console(logger, method, event)).encode("utf-8", "replace")

    return [escape, render]


def _printable(text: str) -> str:
    """Control characters as escapes: a model name must not move the cursor."""
    return re.sub("[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: f"\\x{ord(found[0]):02x}", text)
