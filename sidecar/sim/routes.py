"""Which API a path belongs to: dialect, endpoint, and what the path itself says (model, streaming, key).

A prefix before an API's path is taken, as gateways mount them: `/google/v1beta/models/m:generateContent` is Gemini's.
"""

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qs, unquote

Dialect = Literal["openai", "azure", "mistral", "anthropic", "gemini", "vertex", "cohere", "bedrock"]
Endpoint = Literal[
    "chat",
    "completions",
    "responses",
    "embeddings",
    "messages",
    "count_tokens",
    "generate",
    "gemini_count",
    "gemini_embed",
    "cohere",
    "converse",
]


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes. `stream` None: the body says it; `model` empty: the body says it."""

    dialect: Dialect
    endpoint: Endpoint
    model: str = ""
    stream: bool | None = None
    sse: bool = True  # Gemini only: without `alt=sse` a stream is one JSON array
    many: bool = False  # Gemini only: a batch of embeddings
    key: str | None = None  # a credential in the query
    found: bool = True  # False: the real service would not know this address


_EXACT = {
    "/v1/chat/completions": Route("openai", "chat"),
    "/v1/completions": Route("openai", "completions"),
    "/v1/responses": Route("openai", "responses"),
    "/v1/embeddings": Route("openai", "embeddings"),
    "/v1/messages": Route("anthropic", "messages"),
    "/v1/messages/count_tokens": Route("anthropic", "count_tokens"),
    "/v2/chat": Route("cohere", "cohere"),
}
_GEMINI = re.compile(
    r"/v1(?:alpha|beta\d?)?/((?:projects/[^/]+/locations/[^/]+/)?(?:publishers/[^/]+/)?)models/([^/:]+)"
    r":(generateContent|streamGenerateContent|countTokens|embedContent|batchEmbedContents)$"
)
_AZURE = re.compile(r"/openai/(?:deployments/([^/]+)/|v1/)?(chat/completions|completions|responses|embeddings)$")
_BEDROCK = re.compile(r"/model/([^/]+)/(converse|converse-stream)$")
_AZURE_ENDPOINTS: dict[str, Endpoint] = {
    "chat/completions": "chat",
    "completions": "completions",
    "responses": "responses",
    "embeddings": "embeddings",
}
MISTRAL = Route("mistral", "chat")


def find(target: str) -> Route | None:
    """The route of a request's target; None when no API of ours has it."""
    path, _, query = target.partition("?")
    exact = _EXACT.get(path)
    if exact is not None:
        return exact
    if (match := _GEMINI.search(path)) is not None:
        return _gemini(match, query)
    if (match := _AZURE.search(path)) is not None:
        versioned = "api-version=" in query or "/openai/v1/" in path
        return Route("azure", _AZURE_ENDPOINTS[match[2]], unquote(match[1] or ""), found=versioned)
    if (match := _BEDROCK.search(path)) is not None:
        return Route("bedrock", "converse", unquote(match[1]), stream=match[2] == "converse-stream")
    return next((route for known, route in _EXACT.items() if path.endswith(known)), None)


def _gemini(match: re.Match[str], query: str) -> Route:
    said = parse_qs(query)
    verb = match[3]
    endpoints: dict[str, Endpoint] = {
        "countTokens": "gemini_count",
        "embedContent": "gemini_embed",
        "batchEmbedContents": "gemini_embed",
    }
    return Route(
        "vertex" if match[1] else "gemini",
        endpoints.get(verb, "generate"),
        unquote(match[2]),
        stream=verb == "streamGenerateContent",
        sse=said.get("alt") == ["sse"],
        many=verb == "batchEmbedContents",
        key=said.get("key", [None])[0],
    )
