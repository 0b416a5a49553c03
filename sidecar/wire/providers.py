"""How providers differ in what surrounds a body: paths, where the key goes, which members their servers refuse.

Differences are data. A new OpenAI-compatible provider is one entry here; a provider with a format of its own is a spoke and
an entry. `{model}` in a path is the arm's model, percent-encoded. Paths are joined with the upstream's prefix as
`wire.target` says, so a `base_url` that ends in /v1 and one that does not both work.

Sources: the providers' API references as of 2026-11; `docs/dialects.md` lists them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sidecar.core.types import Endpoint
from sidecar.wire.neutral import Format


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider's spelling. `paths` says which formats its server speaks, and where; `streams` where a stream is asked
    for at another path."""

    paths: Mapping[Format, str]
    streams: Mapping[Format, str] = field(default_factory=dict)
    key_field: bytes = b"authorization"
    key_scheme: bytes = b"Bearer "
    signs: str = ""  # AWS: the service in whose name calls are signed, where the key is a pair
    headers: bytes = b""  # whole lines that the server wants with every call
    deployments: bool = False  # models are asked for by names of the user's own: the answer says which model it was
    limit_key: str = "max_tokens"  # chat: how the limit of the answer is called
    seed_key: str = "seed"  # chat: how the seed is called
    short_ids: bool = False  # chat, Responses: ids of calls are as short as `wire.call_ids` says
    mistral: bool = False  # chat: its server takes messages as `wire.mistral` says them
    asks: tuple[tuple[str, bytes], ...] = ()  # chat: what asks for the usage of a stream besides stream_options
    prefixes: tuple[str, ...] = ()  # of paths that its own clients ask at, where no other provider has them
    lacks: frozenset[str] = frozenset()  # members of the neutral request that its server refuses or ignores
    strict_schemas: bool = True  # chat, Responses: every model that takes a schema takes `strict` with it


_CHAT: Final[Mapping[Format, str]] = {"chat": "/v1/chat/completions"}
_BOTH: Final[Mapping[Format, str]] = {**_CHAT, "responses": "/v1/responses"}
_PLAIN: Final = Provider(_BOTH)
_GEMINI: Final[Mapping[Format, str]] = {"generate": "/v1beta/models/{model}:generateContent"}
_GEMINI_STREAMS: Final[Mapping[Format, str]] = {"generate": "/v1beta/models/{model}:streamGenerateContent?alt=sse"}

PROVIDERS: Final[Mapping[str, Provider]] = {
    "openai": Provider(_BOTH, limit_key="max_completion_tokens", short_ids=True),
    "azure": Provider(
        _BOTH,
        key_field=b"api-key",
        key_scheme=b"",
        deployments=True,
        limit_key="max_completion_tokens",
        short_ids=True,
        prefixes=("/openai/",),
    ),
    "azure-deployments": Provider(
        {"chat": "/openai/deployments/{model}/chat/completions?api-version=2024-10-21"},
        key_field=b"api-key",
        key_scheme=b"",
        deployments=True,
        limit_key="max_completion_tokens",
        short_ids=True,
        prefixes=("/openai/",),
    ),
    "mistral": Provider(
        _CHAT,
        seed_key="random_seed",
        mistral=True,
        lacks=frozenset(
            {
                "logprobs",
                "logit_bias",
                "user",
                "safety_identifier",
                "service_tier",
                "metadata",
                "store",
                "cache_retention",
                "verbosity",
            }
        ),
    ),
    "together": Provider(_CHAT, lacks=frozenset({"service_tier", "metadata", "user"})),
    "groq": Provider(
        _BOTH,
        limit_key="max_completion_tokens",
        lacks=frozenset({"logprobs", "logit_bias", "frequency_penalty", "presence_penalty", "n"}),
        strict_schemas=False,
    ),
    "openrouter": Provider(_CHAT, asks=(("usage", b'{"include":true}'),)),  # with the cost; others refuse the member
    "deepseek": Provider(_CHAT, lacks=frozenset({"n", "seed", "logit_bias", "service_tier", "metadata"})),
    "vllm": Provider(_BOTH, lacks=frozenset({"service_tier", "metadata"})),
    "llama.cpp": Provider(_BOTH, lacks=frozenset({"service_tier", "metadata"})),
    "ollama": Provider(_CHAT, lacks=frozenset({"n", "logit_bias", "logprobs", "service_tier", "metadata", "user"})),
    "anthropic": Provider(
        {"messages": "/v1/messages"},
        key_field=b"x-api-key",
        key_scheme=b"",
        headers=b"anthropic-version: 2023-06-01\r\n",
    ),
    "google": Provider(_GEMINI, _GEMINI_STREAMS, key_field=b"x-goog-api-key", key_scheme=b""),
    "vertex": Provider(
        {"generate": "/models/{model}:generateContent"},
        {"generate": "/models/{model}:streamGenerateContent?alt=sse"},
        prefixes=("/v1/projects/", "/v1/publishers/", "/v1beta1/"),
    ),
    "cohere": Provider({"cohere": "/v2/chat"}, prefixes=("/v2/",)),
    "bedrock": Provider(
        {"converse": "/model/{model}/converse"},
        {"converse": "/model/{model}/converse-stream"},
        signs="bedrock",
        prefixes=("/model/",),
    ),
}
BY_DIALECT: Final[Mapping[str, Provider]] = {
    "openai": _PLAIN,
    "anthropic": PROVIDERS["anthropic"],
    "gemini": PROVIDERS["google"],
    "cohere": PROVIDERS["cohere"],
    "bedrock": PROVIDERS["bedrock"],
}
FORMATS: Final[Mapping[Endpoint, Format]] = {
    "chat": "chat",
    "responses": "responses",
    "messages": "messages",
    "generate": "generate",
}  # of the endpoints whose calls may be translated
STANDARD: Final[Mapping[Format, str]] = {**_BOTH, "messages": "/v1/messages", **_GEMINI}  # where clients ask


def provider_of(name: str | None, dialect: str) -> Provider:
    """What is known of a server: by its provider's name, where it speaks that provider's dialect, else by its dialect."""
    plain = BY_DIALECT[dialect]
    found = PROVIDERS.get(name or "", plain)
    return found if any(one in found.paths for one in plain.paths) else plain


def format_at(provider: Provider, asked: Format) -> Format:
    """The format in which this server is asked what the client asked in another: the same one where it speaks that."""
    return asked if asked in provider.paths else next(iter(provider.paths))
