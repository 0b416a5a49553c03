"""What "the same answer" means: equal types, members and bytes, but for what no two runs share (ids, times)."""

import json
import re
from typing import Any

from pydantic import BaseModel

VARYING = {"id", "created", "created_at", "completed_at", "timings", "item_id", "call_id", "tool_call_id"}


def stable(value: Any) -> Any:
    """`value` without the members that differ between any two runs; typed objects become (type name, members)."""
    if isinstance(value, BaseModel):
        return type(value).__name__, stable(value.model_dump(warnings=False))
    if isinstance(value, dict):
        kept = {key: stable(member) for key, member in value.items() if key not in VARYING}
        if isinstance(cached := kept.get("cache_read_input_tokens"), int):
            # llama.cpp's /v1/messages always caches: how the input splits depends on what it was asked before
            kept |= {"input_tokens": kept["input_tokens"] + cached, "cache_read_input_tokens": 0}
        return kept
    if isinstance(value, list | tuple):
        return [stable(member) for member in value]
    return value


def header_names(head: bytes) -> list[bytes]:
    """Status line and header names in their order, without hop-by-hop ones and those that the sidecar may add."""
    status, *fields = head.split(b"\r\n")
    names = [field.partition(b":")[0] for field in fields]
    return [status] + [
        name
        for name in names
        if name.lower() not in {b"connection", b"keep-alive"} and not name.lower().startswith(b"x-sidecar-")
    ]


def unchunked(body: bytes) -> bytes:
    """The content of a complete chunked body; AssertionError when it does not end as one."""
    content = b""
    while True:
        size, rest = body.split(b"\r\n", 1)
        length = int(size.split(b";")[0], 16)
        assert rest[length : length + 2] == b"\r\n", "a chunk is cut"
        if length == 0:
            assert rest == b"\r\n", "bytes after the last chunk"
            return content
        content, body = content + rest[:length], rest[length + 2 :]


def stable_text(body: bytes) -> list[Any]:
    """An SSE or JSON body as its lines: JSON ones are read and freed of what varies, all others stay bytes."""
    lines: list[Any] = []
    for line in re.split(rb"(?<=\n)", body):
        payload = line.removeprefix(b"data: ")
        if payload.startswith(b"{"):
            lines.append(stable(json.loads(payload)))
        else:
            lines.append(line)
    return lines
