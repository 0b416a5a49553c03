"""Writes the event stream of the Messages API.

What it promises: the stream's grammar, whatever the order of the neutral events: message_start first, blocks with increasing
numbers that never overlap, message_delta with the stop reason and all counts, message_stop. Each event is bytes at once.

**Waits.** The format forces two.
- A block that begins while another one is open (overlapping parallel calls of Gemini's or OpenAI's kind) waits with all it
  says until that one closes.
- message_delta has the stop reason and the usage together, so another format's stop reason waits for the end of the stream:
  OpenAI tells its usage after it.

It does not know how the events were read; only the first choice can be said.
"""

from collections import deque
from typing import Final

import orjson
from msgspec import Struct, field, structs

from sidecar.core.types import Usage
from sidecar.wire.neutral import (
    Close,
    Delta,
    Done,
    Event,
    Failed,
    Json,
    Mark,
    Opaque,
    Open,
    Ping,
    Refusal,
    Report,
    Request,
    Start,
    Stopped,
    Told,
    ToolCall,
)
from sidecar.wire.spoke import lose_all, says
from sidecar.wire.spokes.messages.answer import write_counts, write_stop, write_tier
from sidecar.wire.spokes.messages.blocks import Blocks
from sidecar.wire.spokes.messages.problem import write_problem

_PING: Final = b'event: ping\ndata: {"type":"ping"}\n\n'
_STOP: Final = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_END: Final = b"}}\n\n"
_GROWTH: Final = {"text": b'"text_delta","text":', "thinking": b'"thinking_delta","thinking":'}
_ARGUMENTS: Final = b'"input_json_delta","partial_json":'


class _Block(Struct):
    """A block that is open, or waits for its turn."""

    number: int
    grows: bytes  # the bytes of a delta, up to its text; b"": it has none
    text: bool = False  # its arguments are free text, said as a member of an object
    closed: bool = False
    pieces: list[bytes] = field(default_factory=list)  # said while it waits


class Writer:
    """One streamed answer for a client. `request` is what the client asked."""

    def __init__(self, request: Request, report: Report) -> None:
        self._request = request
        self._report = report
        self._blocks = Blocks(None, report, answer=True)
        self._open: dict[int, _Block] = {}  # by the neutral index
        self._queue: deque[_Block] = deque()  # the first one is being said
        self._number = 0
        self._called = self._refused = False
        self._stopped: Stopped | None = None
        self._news = True  # message_delta was not said yet, or there are other counts since
        self._usage: Usage | None = None
        self._said: Json = {}
        self._told_loss: set[str] = set()

    def feed(self, event: Event) -> bytes:
        """The bytes of one event; b"" where it waits or has nothing to say."""
        match event:
            case Delta():
                return self._delta(event)
            case Open():
                return self._begin(event) if event.choice == 0 else self._lose(f"choices[{event.choice}]")
            case Mark():
                return self._mark(event)
            case Close():
                block = self._open.pop(event.index, None) if event.choice == 0 else None
                return b"" if block is None else self._close(block)
            case Ping():
                self._lose_all("", event.extra)
                return _PING
            case _:
                return self._frame(event)

    def _frame(self, event: Event) -> bytes:
        """What stands around the blocks."""
        match event:
            case Start():
                return self._start(event)
            case Told():
                self._tell(event)
            case Stopped(choice=0):
                self._stopped = event
                return self._finish() if self._blocks.own else b""
            case Done():
                return (self._finish() if self._news else b"") + _STOP
            case Failed():
                return _event(b"error", write_problem(event.problem))
            case _:
                pass
        return b""

    def _start(self, event: Start) -> bytes:
        self._blocks = Blocks(event.format, self._report, answer=True)
        self._usage = event.usage
        known = event.usage or Usage()  # of the output nothing is told yet, whatever the arm says already
        counts = write_counts(structs.replace(known, output_tokens=None, reasoning_tokens=None))
        if self._blocks.own and event.said is not None:
            wrong = [name for name in ("input_tokens", "output_tokens") if type(event.said.get(name)) is not int]
            usage = event.said | {name: counts[name] for name in wrong}  # clients add them up
        else:
            usage = counts | write_tier(event.service_tier)
        message: Json = {
            "id": event.id,
            "type": "message",
            "role": "assistant",
            "model": event.model or self._request.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        if self._blocks.own:
            message |= event.extra
        else:
            lose_all(self._report, "", event.extra)
        return _event(b"message_start", {"type": "message_start", "message": message})

    def _begin(self, event: Open) -> bytes:
        part = event.part
        said = self._blocks.block(part, f"content[{event.index}]", begins=True)
        if said is None:
            return b""
        self._called = self._called or isinstance(part, ToolCall)
        self._refused = self._refused or isinstance(part, Refusal)
        block = _Block(self._number, b"")
        grows = _ARGUMENTS if isinstance(part, ToolCall) else _GROWTH.get(said["type"], b"")
        if grows and not isinstance(part, Opaque):
            block.grows = b"%b%b" % (_delta_head(block.number), grows)
        self._number += 1
        self._open[event.index] = block
        self._queue.append(block)
        start = {"type": "content_block_start", "index": block.number, "content_block": said}
        out = self._say(block, _event(b"content_block_start", start))
        if isinstance(part, ToolCall) and part.custom:
            block.text = True
            out += self._say(block, block.grows + orjson.dumps('{"arguments":"') + _END)
        return out

    def _delta(self, event: Delta) -> bytes:
        block = self._open.get(event.index) if event.choice == 0 else None
        if event.logprobs is not None:
            self._lose("choices[0].logprobs")
        if block is None or not block.grows or not event.text:
            return b""
        text = orjson.dumps(event.text)
        if block.text:
            text = orjson.dumps(text[1:-1].decode())
        return self._say(block, block.grows + text + _END)

    def _mark(self, event: Mark) -> bytes:
        block = self._open.get(event.index) if event.choice == 0 else None
        if block is None:
            return b""
        out = b""
        if event.signature is not None:
            if block.grows.endswith(_GROWTH["thinking"]):
                signature = self._blocks.signed(event.signature, event.origin)
                out += self._say_delta(block, {"type": "signature_delta", "signature": signature})
            else:
                self._lose(f"content[{event.index}].signature")
        if not self._blocks.own:
            self._lose_all(f"content[{event.index}].", event.extra)
            return out
        for citation in event.extra.get("citations") or ():
            out += self._say_delta(block, {"type": "citations_delta", "citation": citation})
        if "delta" in event.extra:
            out += self._say_delta(block, event.extra["delta"])
        return out

    def _say_delta(self, block: _Block, delta: Json) -> bytes:
        body = {"type": "content_block_delta", "index": block.number, "delta": delta}
        return self._say(block, _event(b"content_block_delta", body))

    def _say(self, block: _Block, data: bytes) -> bytes:
        """Now, if it is this block's turn."""
        if self._queue[0] is block:
            return data
        block.pieces.append(data)
        return b""

    def _close(self, block: _Block) -> bytes:
        """The end of a block, and what has waited for it."""
        out = self._say(block, block.grows + orjson.dumps('"}') + _END) if block.text else b""
        stop = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % block.number
        out += self._say(block, stop)
        block.closed = True
        while self._queue and self._queue[0].closed:
            self._queue.popleft()
            if self._queue:
                out += b"".join(self._queue[0].pieces)
        return out

    def _tell(self, event: Told) -> None:
        """Later counts hold, field by field; the provider's own are joined by the largest of each."""
        old = {} if self._usage is None else structs.asdict(self._usage)
        self._usage = Usage(**(old | _known(structs.asdict(event.usage))))
        for name, value in _known(event.said or {}).items():
            there = self._said.get(name)
            larger = isinstance(there, int) and isinstance(value, int) and there > value
            self._said[name] = there if larger else value
        self._news = True

    def _finish(self) -> bytes:
        """How it ended, and what it cost."""
        out = b"".join([self._close(block) for block in list(self._open.values())])
        self._open.clear()
        self._news = False
        own, stopped = self._blocks.own, self._stopped or Stopped(choice=0, stop="stop")
        extra = dict(stopped.extra) if own else {}
        rest = extra.pop("message_delta", {})
        reason = extra.pop("stop_reason", None)
        if not own:
            lose_all(self._report, "choices[0]", stopped.extra)
        if reason is None:
            reason = write_stop(stopped.stop, self._report, called=self._called, refused=self._refused, own=own)
        counts = write_counts(self._usage or Usage(), split=False)
        output = {"output_tokens": counts["output_tokens"]}
        usage = output | self._said if own else counts
        if type(usage["output_tokens"]) is not int:
            usage |= output  # clients add it up
        delta = {"stop_reason": reason, "stop_sequence": stopped.stop_sequence} | extra
        return out + _event(b"message_delta", {"type": "message_delta", "delta": delta, "usage": usage} | rest)

    def _lose_all(self, where: str, members: Json) -> None:
        """As `spoke.lose_all`, but once for a stream: each chunk may say the same."""
        for name, value in members.items():
            if says(value):
                self._lose(where + name)

    def _lose(self, where: str) -> bytes:
        """Reports it once."""
        if where not in self._told_loss:
            self._told_loss.add(where)
            self._report.lose(where)
        return b""


def _known(members: Json) -> Json:
    return {name: value for name, value in members.items() if value is not None}


def _delta_head(number: int) -> bytes:
    return b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":' % number


def _event(name: bytes, body: Json) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name, orjson.dumps(body))
