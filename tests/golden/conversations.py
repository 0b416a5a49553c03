"""The recorded conversations: each scenario once in each dialect, as that provider's own client and server speak.

What they promise: `request` is the JSON that the SDK puts on the wire for the whole answer; `answer` and `stream` are the
provider's. `streamed_request` is the same call that asks for a stream. See README.md for where they come from.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from sidecar.wire.eventstream import EventStreamParser, frame
from sidecar.wire.providers import PROVIDERS, Provider
from tests.golden import form
from tests.golden.names import Format

HERE: Final = Path(__file__).parent
OWNERS: Final[dict[Format, tuple[str, str]]] = {
    "chat": ("openai", "openai"),
    "responses": ("openai", "openai"),
    "messages": ("anthropic", "anthropic"),
    "generate": ("gemini", "google"),
    "cohere": ("cohere", "cohere"),
    "converse": ("bedrock", "bedrock"),
}  # the dialect that a policy names, and the provider
_STREAMS: Final[dict[Format, dict[str, Any]]] = {
    "chat": {"stream": True, "stream_options": {"include_usage": True}},
    "responses": {"stream": True},
    "messages": {"stream": True},
    "cohere": {"stream": True},
}  # what a body says more; the others ask at another path


@dataclass(frozen=True, slots=True)
class Conversation:
    """One scenario in one dialect."""

    scenario: str
    dialect: Format
    path: str
    request: dict[str, Any]
    status: int  # of the whole answer
    answer: dict[str, Any]
    stream: bytes

    @property
    def streamed_request(self) -> dict[str, Any]:
        return self.request | _STREAMS.get(self.dialect, {})

    @property
    def streamed_path(self) -> str:
        return (
            self.path.replace(":generateContent", ":streamGenerateContent?alt=sse")
            if self.dialect == "generate"
            else self.path.replace("/converse", "/converse-stream")
        )

    def body(self, *, streamed: bool) -> bytes:
        """The provider's answer to the whole or the streamed call."""
        return self.stream if streamed else json.dumps(self.answer).encode()


@cache
def conversation(scenario: str, dialect: Format) -> Conversation:
    """One recording."""
    sections = form.read(HERE / "native" / scenario / f"{dialect}.txt")
    method, _, path = sections["request"][0].partition(" ")
    assert method == "POST"
    stream = sections["stream"][1]
    return Conversation(
        scenario,
        dialect,
        path,
        json.loads(sections["request"][1]),
        int(sections["answer"][0]),
        json.loads(sections["answer"][1]),
        framed(stream) if dialect == "converse" else f"{stream}\n\n".encode(),
    )


def owner_of(client: Format, arm: Format) -> tuple[str, str]:
    """The dialect and the provider of an upstream that makes the sidecar translate: OpenAI itself speaks both of its
    formats, so a client of Responses is served by a server that has chat only."""
    return ("openai", "azure-deployments") if (client, arm) == ("responses", "chat") else OWNERS[arm]


def provider_at(client: Format, arm: Format) -> Provider:
    """The server that is asked in the arm's format."""
    return PROVIDERS[owner_of(client, arm)[1]]


def framed(lines: str) -> bytes:
    """A binary event stream, from its readable lines."""
    said = b""
    for line in lines.splitlines():
        kind, _, payload = line.partition(" ")
        name = ":exception-type" if kind.startswith("!") else ":event-type"
        message = "exception" if kind.startswith("!") else "event"
        headers = {name: kind.removeprefix("!"), ":content-type": "application/json", ":message-type": message}
        said += frame(headers, payload.encode())
    return said


def unframed(data: bytes) -> str:
    """The readable lines of a binary event stream."""
    return "\n".join(f"{one.name.decode()} {one.data.decode()}" for one in EventStreamParser(1 << 20).feed(data))
