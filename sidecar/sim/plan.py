"""What goes over the connection and when, and how each fault spoils it.

A plan is a list of (seconds after the request, bytes). Faults are functions from plan to plan, so that whatever a
dialect says can go wrong in every way.
"""

from dataclasses import dataclass, replace
from typing import Literal

from sidecar.sim.knobs import Fault

End = Literal["keep", "close", "reset", "hang"]
LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Events:
    """A streamed answer in its dialect: what comes before the first token, one item per token chunk, what ends it."""

    lead: bytes
    tokens: list[bytes]
    tail: bytes


@dataclass(frozen=True, slots=True)
class Manner:
    """How an answer is to be written, beyond what it says."""

    created: int  # seconds since the epoch
    latency_ms: int  # that the service reports for itself
    tokens_per_chunk: int = 1
    tool_pieces: int = 4
    sse: bool = True  # Gemini's alt=sse; else a stream is one JSON array
    vertex: bool = False  # Gemini's models on Vertex


@dataclass(slots=True)
class Plan:
    """`first` is the step of the first generated token, `tail` the step that ends the answer well; -1: it has none."""

    steps: list[tuple[float, bytes]]
    id: str = ""
    first: int = -1
    tail: int = -1
    end: End = "keep"


def chunk(data: bytes) -> bytes:
    """One chunk of the chunked transfer coding; nothing for nothing, as an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def spoil(plan: Plan, fault: Fault, error_event: bytes) -> Plan:
    """The plan with one connection fault in it (`status`, `slow` and `wrong` are not faults of the connection)."""
    match fault.kind:
        case "reset_before":
            return replace(plan, steps=[(0.0, b"")], first=-1, end="reset")
        case "reset_after":
            return _cut_bytes(plan, fault.after_bytes)
        case "stall":
            return _cut_tokens(plan, fault.after_tokens, "hang") if fault.after_tokens else _silent(plan)
        case "truncate":
            return _cut_tokens(plan, fault.after_tokens, "close")
        case "no_done" | "error_event":
            return _ended(plan, fault, error_event if fault.kind == "error_event" else b"")
        case "drip":
            return _drip(plan, fault)
        case "garbage_head":
            return replace(plan, steps=[(0.0, b"\x16\x03\x01 this is not HTTP\r\n\r\n")], first=-1, end="close")
        case "garbage_body":
            return _garbage_body(plan)
        case _:
            return plan


def _silent(plan: Plan) -> Plan:
    return replace(plan, steps=[], first=-1, end="hang")


def _cut_tokens(plan: Plan, after_tokens: int, end: End) -> Plan:
    """Streams end after that many tokens; whole answers after half of their bytes."""
    if plan.first < 0:
        return _cut_bytes(replace(plan, end=end), sum(len(data) for _, data in plan.steps) // 2, end)
    return replace(plan, steps=plan.steps[: min(plan.first + after_tokens, plan.tail)], end=end)


def _cut_bytes(plan: Plan, after_bytes: int, end: End = "reset") -> Plan:
    steps: list[tuple[float, bytes]] = []
    left = after_bytes
    for due, data in plan.steps:
        if left <= 0:
            break
        steps.append((due, data[:left]))
        left -= len(data)
    return replace(plan, steps=steps, first=plan.first if plan.first < len(steps) else -1, end=end)


def _ended(plan: Plan, fault: Fault, event: bytes) -> Plan:
    if plan.first < 0:
        return plan
    steps = plan.steps[: min(plan.first + fault.after_tokens, plan.tail)]
    steps.append((steps[-1][0], chunk(event) + LAST_CHUNK))
    return replace(plan, steps=steps)


def _drip(plan: Plan, fault: Fault) -> Plan:
    """Every byte in its turn; the first token counts as sent when its first byte is."""
    steps: list[tuple[float, bytes]] = []
    first = -1
    due = 0.0
    size = max(1, fault.drip_bytes)
    for index, (planned, data) in enumerate(plan.steps):
        due = max(due, planned)
        if index == plan.first:
            first = len(steps)
        for at in range(0, len(data), size):
            steps.append((due, data[at : at + size]))
            due += fault.interval_s
    return replace(plan, steps=steps, first=first)


def _garbage_body(plan: Plan) -> Plan:
    """The head stays true; JSON braces in what follows become noise of the same length."""
    steps = list(plan.steps)
    for at, (due, data) in enumerate(steps):
        head, gap, body = data.partition(b"\r\n\r\n") if at == 0 else (b"", b"", data)
        steps[at] = (due, head + gap + body.replace(b"{", b"\xff").replace(b'":', b"\x00;"))
    return replace(plan, steps=steps)
