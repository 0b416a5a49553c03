"""The golden conversations of Google's clients, judged by google-genai: see tests/golden/README.md.

The SDK is answered with the bytes of tests/golden: the native recording, and what the sidecar makes of the answer of an arm
of another dialect. That the real process gives these bytes is tests/integration/test_golden.py's.
"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from google import genai
from google.genai import errors, types

from tests.golden import declared, form
from tests.golden.differences import Case, held
from tests.golden.differing import differing
from tests.golden.names import ARMS, MODELS, SCENARIOS, Format
from tests.golden.typed import typed

GOLDEN = Path(__file__).parents[1] / "golden"
Sections = dict[str, tuple[str, str]]


class Provider(ThreadingHTTPServer):
    """Answers each call with what it is given, and keeps the last call."""

    answer = (200, "application/json", "{}")
    asked: dict[str, Any]


class _Handler(BaseHTTPRequestHandler):
    server: Provider

    def do_POST(self) -> None:
        self.server.asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status, kind, text = self.server.answer
        body = text.encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Nothing: tests are quiet."""


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def client(provider: Provider) -> genai.Client:
    options = types.HttpOptions(
        base_url=f"http://127.0.0.1:{provider.server_port}", retry_options=types.HttpRetryOptions(attempts=1)
    )
    return genai.Client(api_key="k", http_options=options)


def verdict(provider: Provider, client: genai.Client, request: Any, sections: Sections, *, streamed: bool) -> Any:
    """What the SDK makes of an answer, an exception too."""
    if streamed:
        provider.answer = (200, "text/event-stream", sections["stream"][1] + "\n\n")
    else:
        provider.answer = (int(sections["answer"][0]), "application/json", sections["answer"][1])
    config = {name: value for name, value in request.items() if name not in ("contents", "generationConfig")}
    ask = {"model": MODELS["generate"], "contents": request["contents"], "config": config | request["generationConfig"]}
    chunks: list[Any] = []
    try:
        if not streamed:
            return whole(client.models.generate_content(**ask))
        for chunk in client.models.generate_content_stream(**ask):
            chunks.append(whole(chunk))  # noqa: PERF401 - what came before an error counts
    except errors.APIError as error:
        raised = {
            "(raised)": type(error).__name__,
            "code": error.code,
            "status": error.status,
            "message": error.message,
        }
        return raised | {"said": [said(chunks)] if chunks else []}
    return chunks[-1] | {"candidates": [said(chunks)]}


def whole(answer: Any) -> Any:
    """An answer without what the SDK adds of the transport."""
    value = typed(answer)
    for name in ("sdk_http_response", "automatic_function_calling_history"):
        value.pop(name, None)
    return value


def said(chunks: list[Any]) -> Any:
    """The candidate that the chunks add up to; the SDK leaves that to the app."""
    parts: list[Any] = []
    last: dict[str, Any] = {}
    for chunk in chunks:
        for candidate in chunk.get("candidates", []):
            for part in candidate.get("content", {}).get("parts", []):
                joins = parts and "text" in part and "text" in parts[-1]
                if joins and part.get("thought") == parts[-1].get("thought"):
                    parts[-1] |= part | {"text": parts[-1]["text"] + part["text"]}
                elif part.get("text") != "":
                    parts.append(part)
            last = last | candidate
    return last | {"content": {"parts": parts}}


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != "generate"])
def test_the_sdk_sees_the_same(provider: Provider, client: genai.Client, arm: Format) -> None:
    """Equal types and members whatever dialect the arm speaks, but for what is listed with a reason."""
    found: dict[Case, dict[str, str]] = {}
    for scenario in SCENARIOS:
        native = form.read(GOLDEN / "native" / scenario / "generate.txt")
        translated = form.read(GOLDEN / "expected" / f"generate-{arm}" / f"{scenario}.txt")
        request = json.loads(native["request"][1])
        for streamed in (False, True):
            own = verdict(provider, client, request, native, streamed=streamed)
            assert provider.asked == request, "as the SDK puts it on the wire"
            other = verdict(provider, client, request, translated, streamed=streamed)
            found[scenario, "streamed" if streamed else "whole"] = differing(other, own)
    assert held(declared.TOLD, "generate", arm, found) == []


def test_a_stream_adds_up() -> None:
    """Pieces of one text are one part; a thought is another."""
    pieces = [{"text": "a", "thought": True}, {"text": "b"}, {"text": "c"}, {"text": ""}]
    chunks = [{"candidates": [{"content": {"parts": [piece]}}]} for piece in pieces]
    assert said(chunks)["content"]["parts"] == [{"text": "a", "thought": True}, {"text": "bc"}]
