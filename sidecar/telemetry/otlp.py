"""OTLP's protobuf messages as bytes: attributes, spans, histograms, counters, and the requests that carry them.

Why by hand: a span of opentelemetry's SDK costs 80 us, a dozen pieces that lie ready and are joined cost 4. The
numbers below are field numbers of opentelemetry-proto 1.x, which never change; the tests read every message back with
opentelemetry's own classes. Values are not judged here: what must not leave the process is the caller's to leave out.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct

_DOUBLE = Struct("<d")
_TIMES = Struct("<BQBQ")
_SPAN_ATTRIBUTE, _POINT_ATTRIBUTE, _COUNT_ATTRIBUTE = 9, 9, 7  # where attributes stand in Span and in both data points
_CLIENT = b"\x30\x03"  # kind
_ERROR = b"\x7a\x02\x18\x02"  # status {code: ERROR}
_LOCAL, _REMOTE = b"\x85\x01\x01\x01\x00\x00", b"\x85\x01\x01\x03\x00\x00"  # flags: sampled, and whether the parent is
DELTA, CUMULATIVE = 1, 2

Scalar = str | int | float | bool


@lru_cache(maxsize=4096)  # token counts and sizes repeat
def varint(value: int) -> bytes:
    """A whole number >= 0 in seven bits a byte, the lowest first."""
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def delimited(field: int, body: bytes) -> bytes:
    """A field that holds bytes: text, a message, or packed numbers."""
    return varint(field << 3 | 2) + varint(len(body)) + body


def any_value(value: Scalar | Sequence[str]) -> bytes:
    """AnyValue: text, a truth value, a whole number, a double, or a list of texts."""
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + varint(value & 0xFFFFFFFFFFFFFFFF)
    if isinstance(value, float):
        return b"\x21" + _DOUBLE.pack(value)
    if isinstance(value, str):
        return delimited(1, value.encode("utf-8", "replace"))
    return delimited(5, b"".join([delimited(1, any_value(one)) for one in value]))


def key_value(name: str, value: Scalar | Sequence[str]) -> bytes:
    """KeyValue, without the field that it stands in."""
    return delimited(1, name.encode("utf-8", "replace")) + delimited(2, any_value(value))


def attributes(found: dict[str, Scalar | Sequence[str]], field: int = _SPAN_ATTRIBUTE) -> bytes:
    """All of them, as they stand in a span or, as `field` says, elsewhere."""
    return b"".join([delimited(field, key_value(name, value)) for name, value in found.items()])


class Texts:
    """One text attribute of a span whose values seldom repeat: all but the value lies ready, by its length."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._heads: dict[int, bytes] = {}

    def of(self, value: str) -> bytes:
        text = value.encode("utf-8", "replace")
        head = self._heads.get(len(text))
        return head + text if head is not None else self._new(text)

    def _new(self, text: bytes) -> bytes:
        whole = attributes({self._name: text.decode("utf-8", "replace")})
        if len(text) < 256:
            self._heads[len(text)] = whole[: len(whole) - len(text)]
        return whole


class Doubles:
    """One floating-point attribute of a span: all but the value lies ready."""

    def __init__(self, name: str) -> None:
        self._head = attributes({name: 0.0})[:-8]

    def of(self, value: float) -> bytes:
        return self._head + _DOUBLE.pack(value)


class Counts:
    """One whole-number attribute of a span; counts repeat."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.of = lru_cache(maxsize=1024)(self._of)

    def _of(self, value: int) -> bytes:
        return attributes({self._name: value})


def span(
    ids: bytes, parent: bytes, name: bytes, times: tuple[int, int], found: Iterable[bytes], *, failed: bool
) -> bytes:
    """A CLIENT span as it stands in ScopeSpans. `ids` is the trace's 16 bytes and the span's 8, `parent` 8 bytes or none;
    `name` is what `span_name` made; `times` are begin and end, nanoseconds since the epoch; `found` are attributes."""
    body = b"".join((
        b"\x0a\x10", ids[:16], b"\x12\x08", ids[16:],
        b"\x22\x08" + parent if parent else b"",
        name, _CLIENT, _TIMES.pack(0x39, times[0], 0x41, times[1]),
        *found,
        _ERROR if failed else b"",
        _REMOTE if parent else _LOCAL,
    ))  # fmt: skip
    return b"\x12" + varint(len(body)) + body


def span_name(name: str) -> bytes:
    return delimited(5, name.encode("utf-8", "replace"))


@dataclass(frozen=True, slots=True)
class Origin:
    """Who sends: everything that stands once in a request, whatever it carries."""

    resource: bytes
    scope: bytes
    schema: bytes

    @classmethod
    def of(cls, resource: dict[str, Scalar | Sequence[str]], scope: str, version: str, schema_url: str) -> "Origin":
        return cls(
            delimited(1, attributes(resource, 1)),
            delimited(1, delimited(1, scope.encode()) + delimited(2, version.encode())),
            delimited(3, schema_url.encode()),
        )

    def request(self, items: Iterable[bytes]) -> bytes:
        """An ExportTraceServiceRequest of spans, or an ExportMetricsServiceRequest of metrics: they are built alike."""
        scoped = b"".join((self.scope, *items, self.schema))
        return delimited(1, self.resource + delimited(2, scoped))


@dataclass(frozen=True, slots=True)
class Histogram:
    """One histogram's point. `counts` has one place more than `bounds`."""

    attributes: dict[str, Scalar | Sequence[str]]
    counts: Sequence[int]
    bounds: Sequence[float]
    total: float
    least: float
    most: float

    def point(self, times: tuple[int, int]) -> bytes:
        """HistogramDataPoint as a field 1; `times`: since when and when, Unix nanoseconds."""
        counts, bounds = self.counts, self.bounds
        return delimited(1, b"".join((
            _TIMES.pack(0x11, times[0], 0x19, times[1]),
            Struct("<BQBd").pack(0x21, sum(counts), 0x29, self.total),
            delimited(6, Struct(f"<{len(counts)}Q").pack(*counts)),
            delimited(7, Struct(f"<{len(bounds)}d").pack(*bounds)),
            attributes(self.attributes, _POINT_ATTRIBUTE),
            Struct("<BdBd").pack(0x59, self.least, 0x61, self.most),
        )))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Count:
    """One counter's point."""

    attributes: dict[str, Scalar | Sequence[str]]
    total: float

    def point(self, times: tuple[int, int]) -> bytes:
        number = Struct("<Bd").pack(0x21, self.total)
        return delimited(
            1, _TIMES.pack(0x11, times[0], 0x19, times[1]) + number + attributes(self.attributes, _COUNT_ATTRIBUTE)
        )


def metric(
    name: str, unit: str, points: Sequence[Histogram] | Sequence[Count], times: tuple[int, int], temporality: int
) -> bytes:
    """A metric as it stands in ScopeMetrics; its points are all of one kind, one at least. `times`: since when, and when."""
    body = b"".join([point.point(times) for point in points]) + b"\x10" + varint(temporality)
    histogram = isinstance(points[0], Histogram)
    kind = delimited(9, body) if histogram else delimited(7, body + b"\x18\x01")  # a sum that only grows
    return delimited(2, delimited(1, name.encode()) + delimited(3, unit.encode()) + kind)


def rejected(answer: bytes) -> int:
    """How many spans or points an Export...ServiceResponse says were rejected, though the request was taken; 0 where it is
    no such message."""
    try:
        partial = dict(_fields(answer)).get(1, b"")
        count = dict(_fields(partial)).get(1, 0) if isinstance(partial, bytes) else 0
    except (IndexError, ValueError):
        return 0
    return count if isinstance(count, int) else 0


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of a message's fields: whole numbers, texts and messages. Raises IndexError or ValueError on what
    is no message, or has fields of other kinds."""
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        value, at = _read_varint(message, at)
        if key & 7 == 0:
            yield key >> 3, value
        elif key & 7 == 2:
            yield key >> 3, message[at : at + value]
            at += value
        else:
            raise ValueError(key)


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while message[at] > 0x7F:
        value |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if shift > 63:
            raise ValueError(at)
    return value | message[at] << shift, at + 1
