"""The client of a campaign of faults: writes each request as its shape says, and keeps what it saw to the byte."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from sidecar.clock import monotonic
from tests.e2e.fault_plan import GENERATE, MAX_BODY, MESSAGES, MODELS, RESPONSES, TIMEOUT_S, Plan
from tests.integration.raw import response_end

PATIENCE_S = 4 * TIMEOUT_S  # longer than any timer of the sidecar and any stall
CLIENT_KEY = "sk-of-the-client"
BLIND_S = 1.0  # where the plan lets the answer vanish, there is nothing to wait for
_RESET = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class View:
    """What a client saw: bytes, and how it ended: whole, fin, reset, silent, left."""

    raw: bytes = b""
    end: str = ""
    took_s: float = 0.0  # from its first byte


def requests(plan: Plan) -> bytes:
    """What the client writes: one request, or two."""
    shape = plan.shape
    if not shape.twice:
        return request(plan, "a")
    return request(plan, "a") + request(plan, "b")


def request(plan: Plan, letter: str) -> bytes:
    """One of them."""
    shape = plan.shape
    mark = f"mark-{plan.number:06d}{letter}"
    body = _body(plan, mark)
    lines = [
        f"{'POST' if body else 'GET'} {_target(plan)} HTTP/1.{shape.minor}",
        "Host: localhost",
        f"X-Mark: {mark}",
        "Content-Type: application/json",
        f"x-api-key: {CLIENT_KEY}" if shape.path == MESSAGES else f"Authorization: Bearer {CLIENT_KEY}",
    ]
    if shape.path == MESSAGES:
        lines.append("anthropic-version: 2023-06-01")
    framed = shape.upload == "chunked" or shape.broken in ("chunk", "both")
    if framed:
        lines.append("Transfer-Encoding: chunked")
    if shape.expects:
        lines.append("Expect: 100-continue")
    if shape.broken == "large":
        lines.append(f"Content-Length: {MAX_BODY + 1}")
    elif body and (not framed or shape.broken == "both"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (_chunks(body, shape.broken == "chunk") if framed else body)


def _target(plan: Plan) -> str:
    if plan.shape.path != GENERATE:
        return plan.shape.path
    verb = f"streamGenerateContent{'' if plan.shape.array else '?alt=sse'}" if plan.shape.stream else "generateContent"
    return f"{GENERATE}/{plan.model}:{verb}"


def _body(plan: Plan, mark: str) -> bytes:
    text = f"{mark} what is 2 + 2?" + " word" * (plan.size // 5)
    shape = plan.shape
    if shape.path == MODELS:
        return b""
    if shape.path == GENERATE:
        return json.dumps({"contents": [{"role": "user", "parts": [{"text": text}]}]}).encode()
    body: dict[str, object] = {"model": plan.model}
    if shape.path == RESPONSES:
        body["input"] = text
    else:
        body["messages"] = [{"role": "user", "content": text}]
    if shape.path == MESSAGES:
        body["max_tokens"] = 100
    if shape.stream:
        body["stream"] = True
    if shape.asks_usage:
        body["stream_options"] = {"include_usage": True}
    return json.dumps(body).encode()


def _chunks(body: bytes, bad: bool) -> bytes:
    size = max(1, len(body) // 5)
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    framed = [b"%x\r\n%b\r\n" % (len(part), part) for part in parts]
    if bad:
        framed[1] = b"0x" + framed[1]
    return b"".join(framed) + b"0\r\n\r\n"


class Caller:
    """One client connection, opened when it is needed."""

    def __init__(self, port: int, arrived: Callable[[Plan], bool]) -> None:
        """`arrived` tells whether the relay has seen a call: who leaves at once waits for that, so that somebody leaves."""
        self._port = port
        self._arrived = arrived
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def call(self, plan: Plan) -> View:
        """Sends what the plan says and reads until its answers are whole, the connection ends, or it leaves. A connection
        that lay idle for too long meanwhile, as it may on a busy machine, is not used again."""
        if self._reader is None or self._writer is None or self._reader.at_eof():
            await self.close()
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        view, writer, began = View(), self._writer, monotonic()
        writer.write(requests(plan))
        lost = any(one.direction == "down" and one.kind in ("black_hole", "stall") for one in plan.client)
        try:
            async with asyncio.timeout(BLIND_S if lost else PATIENCE_S):
                await self._read(plan, view, self._reader, writer)
        except TimeoutError:
            view.end = "left" if lost else "silent"
        except OSError:
            view.end = "reset"
        view.took_s = monotonic() - began
        astray = any(one.kind == "garbage" for one in plan.client)  # what it pushed out is the next request's beginning
        if astray or view.end != "whole" or b"\r\nconnection: close" in view.raw.lower():
            await self.close()
        return view

    async def _read(self, plan: Plan, view: View, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        awaited, at, left = 2 if plan.shape.twice else 1, 0, False
        while True:
            if plan.leave and not left and len(view.raw) >= plan.leave_after:
                left = True
                await self._has_arrived(plan)
                if plan.leave != "half":
                    view.end = "left"
                    _leave(writer, plan.leave)
                    return
                writer.write_eof()
            room = plan.leave_after - len(view.raw) if plan.leave and not left else 65536
            piece = await reader.read(room)
            if not piece:
                view.end = "fin"
                return
            view.raw += piece
            while awaited and (end := _end(view.raw[at:])) is not None:
                at, awaited = at + end, awaited - 1
            if not awaited and not left:
                view.end = "whole"
                return

    async def _has_arrived(self, plan: Plan) -> None:
        for _ in range(1000):
            if self._arrived(plan):
                return
            await asyncio.sleep(0.002)

    async def close(self) -> None:
        """Ends the connection; the next call opens a new one."""
        writer, self._reader, self._writer = self._writer, None, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _end(data: bytes) -> int | None:
    """Where the first answer in `data` ends. Bytes that are no HTTP (a toxic may have made them) never end."""
    try:
        return response_end(data, "POST") if data else None
    except (ValueError, IndexError):
        return None


def _leave(writer: asyncio.StreamWriter, how: str) -> None:
    if how == "reset":
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()
    else:
        writer.close()
