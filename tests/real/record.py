"""Records real exchanges with the two models byte by byte, for tests that replay them.

    python -m tests.real.record [NAME...]      all, or those whose name contains one of the words

NAME.http holds the response as it came from the socket: head, chunk framing and all. NAME.json holds the request (its
body as exact text), the model, and `reads`: [milliseconds since the request was sent, offset in NAME.http, length] of
each read, so that a replay can keep the timing.
"""

import json
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.real import models

OUT = Path(__file__).resolve().parents[1] / "fixtures" / "recorded"
TIMEOUT_S = 60.0

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
SAME_EVERY_TIME = {"temperature": 0, "seed": 1, "cache_prompt": False}
ASK = {"messages": [{"role": "user", "content": "What is the capital of Sweden?"}], "max_tokens": 12}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "The weather", "parameters": CITY}}
TOOL_ASK = {"messages": [{"role": "user", "content": "What is the weather in Oslo?"}], "max_tokens": 48}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
LONG = {"messages": [{"role": "user", "content": "long " * 4000}], "max_tokens": 4}


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    model: str
    path: str
    body: dict[str, Any]
    hang_up_after: int | None = None  # kill the server after so many bytes


CASES = (
    Case("chat", "smollm2", CHAT, ASK),
    Case("chat_stream", "smollm2", CHAT, ASK | {"stream": True}),
    Case("chat_stream_usage", "gemma3", CHAT, ASK | USAGE),
    Case("chat_tools_stream", "smollm2", CHAT, TOOL_ASK | USAGE | {"tools": [TOOL], "tool_choice": "required"}),
    Case("completions_stream", "gemma3", "/v1/completions", {"prompt": "The sea is", "max_tokens": 8} | USAGE),
    Case("messages", "gemma3", MESSAGES, ASK),
    Case("messages_stream", "smollm2", MESSAGES, ASK | {"stream": True}),
    Case(
        "messages_tools_stream",
        "smollm2",
        MESSAGES,
        TOOL_ASK
        | {"stream": True, "tools": [{"name": "get_weather", "input_schema": CITY}], "tool_choice": {"type": "any"}},
    ),
    Case("responses", "smollm2", RESPONSES, {"input": "What is the capital of Sweden?", "max_output_tokens": 12}),
    Case(
        "responses_stream",
        "gemma3",
        RESPONSES,
        {"input": "What is the capital of Sweden?", "max_output_tokens": 12, "stream": True},
    ),
    Case("embeddings_base64", "smollm2", "/v1/embeddings", {"input": "a red house", "encoding_format": "base64"}),
    Case("error_too_long_stream", "smollm2", CHAT, LONG | {"stream": True}),
    Case("error_messages_too_long", "smollm2", MESSAGES, LONG),
    # the last one of its model: there is no server afterwards
    Case(
        "chat_stream_killed",
        "smollm2",
        CHAT,
        {"messages": ASK["messages"], "max_tokens": 200, "ignore_eos": True, "stream": True},
        hang_up_after=2000,
    ),
)


def record(case: Case, server: models.ModelServer) -> None:
    """One exchange on a connection of its own, written as a pair of files."""
    body = json.dumps({"model": server.model, **case.body, **SAME_EVERY_TIME})
    headers = {
        "Host": "127.0.0.1",
        "Accept": "*/*",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    received, reads = b"", []
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT_S) as connection:
        connection.sendall(f"POST {case.path} HTTP/1.1\r\n{head}\r\n{body}".encode())
        sent = time.perf_counter()
        while data := _read(connection):
            reads.append([round((time.perf_counter() - sent) * 1000, 2), len(received), len(data)])
            received += data
            if case.hang_up_after is not None and len(received) >= case.hang_up_after:
                server.kill()
    request = {"method": "POST", "path": case.path, "headers": headers, "body": body}
    facts = {"name": case.name, "server": case.model, "request": request, "status": int(received[9:12])}
    (OUT / f"{case.name}.http").write_bytes(received)
    lines = json.dumps(facts, indent=1)[:-2] + f',\n "reads": {json.dumps(reads)}\n}}\n'
    (OUT / f"{case.name}.json").write_text(lines)
    print(f"{case.name}: {facts['status']}, {len(received)} bytes in {len(reads)} reads")


def _read(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionResetError:  # how the end of a killed server looks
        return b""


def main(words: list[str]) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    with models.running() as servers:
        for case in CASES:
            if not words or any(word in case.name for word in words):
                record(case, servers[case.model])


if __name__ == "__main__":
    main(sys.argv[1:])
