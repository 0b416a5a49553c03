"""What a worker and its leader say to each other, as bytes.

A worker sends `Report`s, the leader one `Hello` and then `Orders`. Each is msgpack behind its length (four bytes, big
endian). Both ends are one program of one version, so nothing here is kept compatible. No prompt, completion or credential
is in them but those that settings hold: what a variant does to prompts (`Decision.system`) is left out.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from sidecar.config.policy import Written
from sidecar.config.settings import Settings
from sidecar.core.following import Bound, Lesson
from sidecar.core.types import Decision, Event, Settled
from sidecar.proxy.plane import Books

Gauge = float | list[tuple[tuple[str, ...], float]]  # a number, or label values and their number

DRAIN: Final = 1
CUT: Final = 2
LENGTH_BYTES: Final = 4
MAX_BYTES: Final = 256 * 1024 * 1024  # of one message; more is a fault of ours


class Exchange(Struct, frozen=True, gc=False, array_like=True):
    """One call that has ended: what is recorded of it (None: nothing), and lessons, also of calls before it. `taught`: the
    last lesson is its own; `same`: that one says exactly what is recorded, and is not sent."""

    settled: Settled | None
    lessons: list[Lesson]
    taught: bool = False
    same: bool = False


class Counted(Struct, frozen=True, gc=False):
    """What a worker holds and has counted, once a second."""

    gauges: dict[str, Gauge] = {}
    load: dict[str, Any] = {}
    notes: list[str] = []
    told: dict[str, list[dict[str, Any]]] = {}  # what `/ready` lists: breakers, errands


class Report(Struct, gc=False, omit_defaults=True, array_like=True):
    """A worker to its leader: what happened since the last one."""

    turn: int  # the newest orders with a turn that it has obeyed
    books: Books
    spending: dict[str, tuple[int, int]]  # by route: spent, and total in force
    exchanges: list[Exchange] = []
    charges: dict[str, tuple[int, float]] = {}  # by route: what cost without a lesson, and when
    bound: list[Bound] = []
    events: list[Event] = []
    errands: list[Event] = []
    scores: list[tuple[str, str, float]] = []  # decision id, source, score: of a judge, or of what the proxy saw
    asked: list[tuple[int, bytes, str]] = []  # feedback that a client sent, under a number, and its tenant
    counted: Counted | None = None
    lost: int = 0  # exchanges without a row so far, because the leader was too slow
    serving: bool = False


Left = tuple[str, str, str, int]  # where state is: tenant, response id, the arm that holds it, sticky key


class Orders(Struct, gc=False, omit_defaults=True, array_like=True):
    """The leader to a worker. Those with a `turn` are answered by a report that names it."""

    turn: int = 0
    policy: str = ""  # the version in force
    written: Written | None = None  # it; None: as before, and at first that there is no policy
    stand: bytes = b""  # `Leader.stand`; empty: as before
    unbound: list[str] = []
    bound: list[Bound] = []
    leases: dict[str, tuple[int, float]] = {}
    kept: list[Left] = []
    answers: list[tuple[int, int, bytes]] = []  # to feedback: number, status, body
    stop: int = 0  # DRAIN or CUT


class Hello(Struct, frozen=True):
    """The first message of all: what the worker runs with; settings are already divided."""

    index: int
    workers: int
    settings: Settings
    offset_s: float  # of the leader's clock
    prices: bytes | None = None  # the mounted list in force


def _write(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, Path):
        return os.fsencode(value)  # its name need not be text
    raise TypeError(f"{type(value).__name__} does not pass between processes")


def _read(kind: type, value: Any) -> object:  # noqa: ANN401 (msgspec's hook)
    if kind is Path:
        return Path(os.fsdecode(value))
    return value if kind is object else np.frombuffer(value, np.float32)


_encoder: Final = msgspec.msgpack.Encoder(enc_hook=_write)
read_hello: Final = msgspec.msgpack.Decoder(Hello, dec_hook=_read).decode
read_orders: Final = msgspec.msgpack.Decoder(Orders, dec_hook=_read).decode
read_report: Final = msgspec.msgpack.Decoder(Report, dec_hook=_read).decode


def written(exchange: Exchange) -> bytes:
    """One call as it stands in a report. Raises when it has what no message can hold, as an integer beyond 64 bits."""
    return _encoder.encode(exchange)


def frame(message: Hello | Orders | Report) -> bytes:
    """The message as it is sent."""
    body = _encoder.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def exchange_of(settled: Settled, lessons: list[Lesson]) -> Exchange:
    """What is sent of one call. `lessons` are those since the last call."""
    last = lessons[-1] if lessons else None
    taught = last is not None and last.call and last.facts is settled.facts
    same = taught and last is not None and last.decision is settled.decision and last.outcome is settled.outcome
    told = lessons[:-1] if same else lessons
    return Exchange(_plain(settled), [_without_texts(one) for one in told], taught, same)


def lessons_alone(lessons: list[Lesson]) -> Exchange:
    """What is sent of lessons that no call came after."""
    return Exchange(None, [_without_texts(one) for one in lessons])


def lessons_of(exchange: Exchange) -> list[Lesson]:
    """All lessons of a call, in order."""
    settled = exchange.settled
    if settled is None or not exchange.same:
        return exchange.lessons
    return [*exchange.lessons, Lesson(settled.facts, settled.decision, settled.outcome)]


def _plain(settled: Settled) -> Settled:
    return settled if not settled.decision.system else replace(settled, decision=_silent(settled.decision))


def _without_texts(lesson: Lesson) -> Lesson:
    return lesson if not lesson.decision.system else replace(lesson, decision=_silent(lesson.decision))


def _silent(decision: Decision) -> Decision:
    return replace(decision, system=())


def add(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested tables of numbers as one, added."""
    made = dict(left)
    for name, value in right.items():
        old = made.get(name)
        if isinstance(value, Mapping):
            made[name] = add(old if isinstance(old, Mapping) else {}, value)
        else:
            made[name] = value + (old or 0)
    return made
