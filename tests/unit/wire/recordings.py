"""Reads the recorded responses of real servers for the wire tests."""

import json
from pathlib import Path
from typing import Any

import msgspec

ENDPOINTS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/messages": "messages",
    "/v1/responses": "responses",
    "/v1/embeddings": "embeddings",
}


class Recording(msgspec.Struct):
    name: str
    endpoint: str
    request: bytes
    status: int
    stream: bool
    body: bytes
    reads: list[bytes]

    @property
    def dialect(self) -> str:
        return "anthropic" if self.endpoint == "messages" else "openai"


def load(shared: Path, name: str) -> Recording:
    folder = shared / "fixtures" / "llama_server"
    raw = (folder / f"{name}.http").read_bytes()
    note: Any = json.loads((folder / f"{name}.json").read_text())
    head, _, body = raw.partition(b"\r\n\r\n")
    chunks = _chunks(body) if b"chunked" in head.lower() else [body]
    return Recording(
        name=name,
        endpoint=ENDPOINTS.get(note["request"]["path"], "other"),
        request=(note["request"].get("body") or "").encode(),
        status=note["status"] or 0,
        stream=b"text/event-stream" in head,
        body=b"".join(chunks),
        reads=chunks,
    )


def names(shared: Path) -> list[str]:
    return sorted(path.stem for path in (shared / "fixtures" / "llama_server").glob("*.http"))


def _chunks(body: bytes) -> list[bytes]:
    chunks, at = [], 0
    while (end := body.find(b"\r\n", at)) >= 0:
        size = int(body[at:end], 16)
        if size == 0:
            break
        chunks.append(body[end + 2 : end + 2 + size])
        at = end + 4 + size
    return chunks
