"""Whose trace an exchange belongs to, and whether its span is sent: W3C traceparent and OpenTelemetry's samplers.

OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG mean what they mean everywhere: `always_on`, `always_off`,
`traceidratio`, and each with `parentbased_` before it, where the caller's own choice stands and the sampler speaks for
calls without one. A ratio looks at the trace's id, so all who look at the same trace choose alike. Metrics count every
exchange, whatever is sampled.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_ALL = 2**64
_PREFIX = "parentbased_"


@dataclass(frozen=True, slots=True)
class Parent:
    """The caller's span: its trace (16 bytes), itself (8 bytes), and whether it is sent."""

    trace: bytes
    span: bytes
    sampled: bool


def parent_of(traceparent: bytes | None) -> Parent | None:
    """What the header says; None where there is none or it is not well-formed."""
    found = None if traceparent is None else _TRACEPARENT.fullmatch(traceparent)
    if found is None or (found[4] and found[0].startswith(b"00")):  # version 00 ends with its flags
        return None
    return Parent(bytes.fromhex(found[1].decode()), bytes.fromhex(found[2].decode()), bool(int(found[3], 16) & 1))


@dataclass(frozen=True, slots=True)
class Sampler:
    """`bound`: a trace is sent when the last 64 bits of its id are below it, 0 to 2**64."""

    bound: int = _ALL
    by_parent: bool = True

    def takes(self, trace: bytes, parent: Parent | None) -> bool:
        if parent is not None and self.by_parent:
            return parent.sampled
        return self.bound == _ALL or int.from_bytes(trace[8:]) < self.bound


def sampler_of(environ: Mapping[str, str]) -> tuple[Sampler, str | None]:
    """What the environment asks for, and what is wrong with that: then every span is sent, as without it."""
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower() or "parentbased_always_on"
    kind = name.removeprefix(_PREFIX)
    by_parent = name != kind
    if kind in ("always_on", "always_off"):
        return Sampler(_ALL if kind == "always_on" else 0, by_parent), None
    if kind != "traceidratio":
        return Sampler(), "OTEL_TRACES_SAMPLER: no sampler of OpenTelemetry's; every span is sent"
    try:
        ratio = float(environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or 1.0)
    except ValueError:
        ratio = -1.0
    if not 0.0 <= ratio <= 1.0:
        return Sampler(), "OTEL_TRACES_SAMPLER_ARG: no number from 0 to 1; every span is sent"
    return Sampler(round(ratio * _ALL), by_parent), None
