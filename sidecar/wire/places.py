"""Paths at which clients of Azure OpenAI, Vertex AI, Cohere and Bedrock ask: what they say, and where they go upstream.

Such a path passes where the policy has an upstream of that provider (`wire.providers`: `prefixes`). Chat completions,
Responses and generateContent among them are calls like any other, so that arms may serve them; the rest goes to that
upstream as it came. Of several spellings of one place (project and location of Vertex, the root of an Azure resource) the
upstream's own holds: its `base_url` says which account pays.

What it does not know: which upstreams there are.
"""

import re
from typing import Final
from urllib.parse import unquote

from msgspec import Struct

from sidecar.core.types import Dialect, Endpoint, Spoken
from sidecar.errors import ProtocolError
from sidecar.wire.neutral import Format
from sidecar.wire.target import has_dot_segment, join_target

_PLACE: Final = r"/v1(?:beta1)?/projects/[^/?#]+/locations/[^/?#]+"  # a query is no part of it, whatever it looks like
_AZURE: Final = re.compile(r"/openai/(?:deployments/([^/]{1,512})/|v1/)?([a-z/]{1,64})")
_VERTEX: Final = re.compile(
    r"/v1(?:beta1)?/(?:projects/[^/]+/locations/[^/]+/)?publishers/([^/]{1,64})/models/([^/:]{1,512}):([A-Za-z]{1,64})"
)
_BEDROCK: Final = re.compile(r"/model/([^/]{1,512})/([a-z-]{1,64})")
_VERTEX_BASE: Final = re.compile(rf"(.*{_PLACE})(?:/.*)?")
_VERTEX_REST: Final = re.compile(rf"{_PLACE}(/.*)".encode(), re.DOTALL)
_AZURE_BASE: Final = re.compile(r"(.*?)/openai(?:/.*)?")

_AZURE_ENDPOINTS: Final[dict[str, Endpoint]] = {
    "chat/completions": "chat",
    "responses": "responses",
    "embeddings": "embeddings",
}
_GEMINI_VERBS: Final[dict[str, Endpoint]] = {
    "generateContent": "generate",
    "streamGenerateContent": "generate",
    "embedContent": "embeddings",
    "countTokens": "count_tokens",
}
_STREAM_VERBS: Final = frozenset({"streamRawPredict", "converse-stream", "invoke-with-response-stream"})
_CONVERSE: Final = frozenset({"converse", "converse-stream"})
_WANTS: Final = {  # what a path begins with: whose it is, and which upstream has it
    "/openai/": ("Azure OpenAI's", "`dialect: openai` and `provider: azure`"),
    "/v1/projects/": ("Vertex AI's", "`dialect: gemini` and `provider: vertex`"),
    "/v1/publishers/": ("Vertex AI's", "`dialect: gemini` and `provider: vertex`"),
    "/v1beta1/": ("Vertex AI's", "`dialect: gemini` and `provider: vertex`"),
    "/v2/": ("Cohere's", "`dialect: cohere`"),
    "/model/": ("Bedrock's", "`dialect: bedrock`"),
}


class Place(Struct, frozen=True, gc=False):
    """What such a path says. `form`: the answer can be metered as that format, where the endpoint is "other"."""

    prefix: str  # that the upstream's provider must have
    endpoint: Endpoint = "other"
    dialect: Dialect = "openai"  # of the body, as near as there is one
    spoken: Spoken | None = None  # the client's, where it is none that is translated
    form: Format | None = None
    model: str = ""  # "": the body says it
    streams: bool = False
    reads: bool = False  # its body is JSON that says more

    @property
    def missing(self) -> str:
        """What a client is told where no upstream has this place."""
        whose, wanted = _WANTS[self.prefix]
        return f"This path is {whose}, and no upstream has it: give the policy an upstream with {wanted}."


def place_of(path: str) -> Place | None:
    """What a path (without its query) says; None where it is of none of these providers."""
    prefix = next((one for one in _WANTS if path.startswith(one)), None)
    if prefix is None:
        return None
    if prefix == "/openai/":
        return _azure(path)
    if prefix == "/model/":
        return _bedrock(path)
    if prefix == "/v2/":
        return Place(prefix, spoken="cohere", form="cohere", reads=True)
    return _vertex(prefix, path)


def _azure(path: str) -> Place:
    found = _AZURE.fullmatch(path)
    if found is None:
        return Place("/openai/")
    endpoint = _AZURE_ENDPOINTS.get(found[2], "other")
    return Place("/openai/", endpoint, model=unquote(found[1] or ""))


def _vertex(prefix: str, path: str) -> Place:
    found = _VERTEX.fullmatch(path)
    if found is None:
        return Place(prefix, dialect="openai" if path.endswith("/chat/completions") else "gemini")
    publisher, model, verb = found[1], unquote(found[2]), found[3]
    streams = verb in _STREAM_VERBS
    if publisher == "google":
        return Place(prefix, _GEMINI_VERBS.get(verb, "other"), "gemini", model=model, reads=True)
    dialect: Dialect = "anthropic" if publisher == "anthropic" else "openai"
    return Place(prefix, "other", dialect, model=model, streams=streams, reads=True)


def _bedrock(path: str) -> Place:
    found = _BEDROCK.fullmatch(path)
    if found is None:
        return Place("/model/", spoken="bedrock", reads=True)
    model, verb = unquote(found[1]), found[2]
    dialect: Dialect = "anthropic" if "anthropic." in model else "openai"
    form: Format | None = "converse" if verb in _CONVERSE else None
    streams = verb in _STREAM_VERBS
    return Place("/model/", "other", dialect, "bedrock", form, model, streams, reads=True)


def generates(path: str) -> bool:
    """Whether a model answers there in words, though the endpoint is "other": chats of Cohere and Bedrock."""
    place = place_of(path)
    return path == "/v2/chat" or (place is not None and place.form == "converse")


def place_under(prefix: str, target: bytes) -> bytes:
    """A client's target under an upstream's path prefix ("" or "/x"): what both say is said once, as the upstream says it.

    Raises:
        ProtocolError: 400, dot segments behind a prefix.
    """
    base = _VERTEX_BASE.fullmatch(prefix)
    if base is not None:
        rest = _VERTEX_REST.fullmatch(target)
        if has_dot_segment(target):
            raise ProtocolError("dot segments are not allowed in the path to this upstream")
        return base[1].encode("ascii") + (rest[1] if rest is not None else b"/" + target.split(b"/", 2)[2])
    azure = _AZURE_BASE.fullmatch(prefix) if target.startswith(b"/openai/") else None
    if azure is None:
        return join_target(prefix, target)
    if has_dot_segment(target):  # said once, it is a fence all the same
        raise ProtocolError("dot segments are not allowed in the path to this upstream")
    return join_target(azure[1], target)
