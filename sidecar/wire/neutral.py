"""The neutral form of a call: what all dialects say, in one set of values. Each dialect is read into it and written from it.

    chat | responses | messages | generate  ->  Request  ->  chat | responses | messages | generate | cohere | converse
    their answers and streams               <-  Response, Event  <-

A `Format` is one provider's spelling of one endpoint. The hub knows no format: a spoke (`wire.spokes`) reads its format
into these values and writes them again, so a new provider is one file.

**Nothing is dropped in silence.** A member that has no place here is kept in `extra` of the node where it stood (or whole,
as `Opaque`), under its own name. A spoke that writes its own format puts extras back; a spoke that writes another one
reports each of them as lost. What a target cannot say is lost, what it says in other words is mapped (`Report`).

**Texts stay texts.** Arguments of tools travel as JSON text, and equal input gives equal bytes, so that a provider's prompt
cache holds.

Values are plain and mutable while a spoke builds them; nobody else changes them. None means "not said", never a default.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec import Struct, field

from sidecar.core.types import Usage

Format = Literal["chat", "responses", "messages", "generate", "cohere", "converse"]
Json = dict[str, Any]  # an object of a body, as decoded

Role = Literal["system", "developer", "user", "assistant", "tool"]
Stop = Literal[
    "stop",  # the model had said all
    "stop_sequence",  # one of the request's own stop texts came
    "length",  # max_tokens
    "context",  # the context window is full
    "tool_calls",
    "content_filter",  # the provider's filter cut it
    "refusal",  # the model declined
    "pause",  # a long turn of server-side tools: to be continued by the client
    "error",
]
MediaKind = Literal["image", "document", "audio", "video"]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
EFFORT_TOKENS: Final[Mapping[Effort, int]] = {
    "none": 0, "minimal": 512, "low": 1024, "medium": 4096, "high": 16384, "xhigh": 32768, "max": 32768,
}  # fmt: skip  # what an effort is worth where a format wants a number of tokens


# Members of a request that no answer depends on: who asks, labels, a wish of price and pace, what to cache or expect.
HINTS: Final = frozenset(
    {
        "user", "safety_identifier", "metadata", "client_metadata", "labels", "service_tier", "speed", "cache_key",
        "cache_retention", "cache_control", "prediction",
    }
)  # fmt: skip


class Report:
    """What a translation had to change. `where` is a member's path, such as `messages[2].content[0].image_url.detail`.

    A hint that cannot be said is no reason to refuse a call: it is left out, and told as what is mapped.
    """

    def __init__(self) -> None:
        self.mapped: list[str] = []  # said in other words: the nearest that the target has
        self.lost: list[str] = []  # cannot be said: refused, or dropped and told where the policy allows loss

    def map(self, where: str) -> None:
        self.mapped.append(where)

    def lose(self, where: str) -> None:
        hint = where in HINTS or where.startswith("metadata.") or where.endswith(".cache_control")  # a mark of any kind
        (self.mapped if hint else self.lost).append(where)


# ---- parts of a message


class Part(Struct, tag=True, kw_only=True):
    """What a message is made of. `cache`: the prompt up to here is to be cached so long (Anthropic's cache_control).

    `frame`, here and elsewhere: what only its own format needs to say the same again, and nobody misses in another one: ids
    and states of the items that parts stand in, and an answer's echo of its request (Responses).
    """

    cache: Literal["5m", "1h"] | None = None
    extra: Json = field(default_factory=dict)
    frame: Json | None = None


class Text(Part):
    text: str


class Media(Part):
    """An image, a document, a sound or a film: exactly one of data (base64), url, file_id and text is set."""

    kind: MediaKind
    media_type: str | None = None  # RFC 6838, such as image/png; None where only a url is known
    data: str | None = None
    url: str | None = None
    file_id: str | None = None  # of the provider that holds it: no other one can read it
    text: str | None = None  # a document that is plain text
    name: str | None = None
    detail: str | None = None  # low | high | auto


class Thinking(Part):
    """Reasoning that the model showed. `signature` proves its origin to the provider that made it."""

    text: str = ""
    signature: str | None = None
    redacted: str | None = None  # reasoning that only its provider can read, instead of text
    origin: Format | None = None  # of the signature, or of what is redacted; None: the format that this was read from


class ToolCall(Part):
    """The model wants a tool called. `arguments` is JSON text, or free text for a custom tool."""

    id: str
    name: str
    arguments: str = ""
    custom: bool = False
    signature: str | None = None  # Gemini's thoughtSignature


class ToolResult(Part):
    """What a tool answered. `name` is known where the format says it, else found through the call's id."""

    call_id: str
    parts: list["AnyPart"]
    name: str | None = None
    failed: bool = False


class Refusal(Part):
    text: str


class Opaque(Part):
    """Something that only its own format understands, whole: a server-side tool's call or result, a citation block."""

    value: Json


AnyPart = Text | Media | Thinking | ToolCall | ToolResult | Refusal | Opaque


class Message(Struct, kw_only=True):
    """One turn. Results of tools stand in a message of role `tool`, or among a user's parts where the format does so."""

    role: Role
    parts: list[AnyPart]
    name: str | None = None
    extra: Json = field(default_factory=dict)


# ---- the request


class Tool(Struct, kw_only=True):
    """A function that the client runs. `opaque`: a tool of the provider's own, whole; then only `name` is set besides.

    `custom`: it takes free text instead of JSON; `grammar` ({"syntax": "lark" | "regex", "definition": text}) bounds it.
    """

    name: str
    description: str | None = None
    parameters: Json | None = None  # JSON schema; None: takes nothing
    strict: bool | None = None
    custom: bool = False
    grammar: Json | None = None
    cache: Literal["5m", "1h"] | None = None
    opaque: Json | None = None
    extra: Json = field(default_factory=dict)


class ToolChoice(Struct, kw_only=True):
    """`tools` names those that may be called: one with `required` is a forced tool."""

    mode: Literal["auto", "none", "required"]
    tools: list[str] = field(default_factory=list)
    extra: Json = field(default_factory=dict)


class Output(Struct, kw_only=True):
    """The form that the answer must have: any JSON object, or JSON that fits `schema`."""

    schema: Json | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    extra: Json = field(default_factory=dict)


class Reasoning(Struct, kw_only=True):
    """How much to think. `budget_tokens` and `effort` are two ways to say it; a format keeps the one that it has.

    `adaptive`: the model decides (Anthropic). `show`: whether thoughts are shown; None: not said.
    """

    effort: Effort | None = None
    budget_tokens: int | None = None  # 0: off
    adaptive: bool = False
    show: bool | None = None
    summary: str | None = None  # auto | concise | detailed (Responses)


class Request(Struct, kw_only=True):
    """One call for a model's answer. Numbers are as the client wrote them; a target's ranges are its spoke's matter."""

    format: Format  # that it was written in: extras belong to it
    model: str
    messages: list[Message]
    stream: bool = False
    tools: list[Tool] = field(default_factory=list)
    tool_choice: ToolChoice | None = None
    parallel_tools: bool | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: list[str] = field(default_factory=list)
    seed: int | None = None
    n: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logprobs: int | None = None  # how many alternatives; 0: only the chosen tokens; None: not asked for
    logit_bias: dict[str, float] | None = None
    output: Output | None = None
    reasoning: Reasoning | None = None
    user: str | None = None  # who the end user is, for the provider's abuse checks
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    cache_key: str | None = None  # prompt_cache_key
    cache_retention: str | None = None  # prompt_cache_retention: in_memory | 24h
    safety_identifier: str | None = None  # who the end user is, hashed
    store: bool | None = None  # whether the provider keeps the answer
    verbosity: str | None = None  # low | medium | high
    include_usage: bool = True  # of a stream: whether the client wants to be told (chat: stream_options)
    spelling: dict[str, str] = field(default_factory=dict)  # where its format has two names for one thing: the one used
    extra: Json = field(default_factory=dict)


# ---- the answer


class TokenLogprob(Struct, kw_only=True):
    """One token and how likely it was (natural logarithm); `top` holds its rivals."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    number: int | None = None  # in the model's vocabulary (Gemini's tokenId)
    top: list["TokenLogprob"] = field(default_factory=list)


class Choice(Struct, kw_only=True):
    index: int
    parts: list[AnyPart]
    stop: Stop | None = None
    stop_sequence: str | None = None
    logprobs: list[TokenLogprob] | None = None
    extra: Json = field(default_factory=dict)


class Response(Struct, kw_only=True):
    """A whole answer. `usage` has inclusive totals; `usage_said` is what the provider wrote, for its own format."""

    format: Format
    id: str
    model: str
    choices: list[Choice]
    created: int | None = None  # seconds since the epoch
    usage: Usage | None = None
    usage_said: Json | None = None
    service_tier: str | None = None
    problem: "Problem | None" = None  # what the provider says of its failure
    extra: Json = field(default_factory=dict)
    frame: Json | None = None


class Problem(Struct, kw_only=True):
    """An error of the provider, or ours: `kind` says whose fault, the rest is told to the client in its own dialect."""

    status: int  # HTTP, 400..599; of an error inside a stream the one it would have had
    kind: Literal[
        "invalid",  # 400, 413, 422
        "authentication",  # 401
        "billing",  # 402
        "permission",  # 403
        "not_found",  # 404
        "rate_limit",  # 429
        "overloaded",  # 503, 529
        "timeout",  # 408, 504
        "server",  # any other
    ]
    message: str
    code: str | None = None
    param: str | None = None


# ---- the stream


class Event(Struct, tag=True, kw_only=True):
    """One thing that happened in a streamed answer; the order is Start, (Open Delta* Close | Told | Ping)*, Stopped per
    choice, Done; or Failed at any place. Parts of one choice are open one at a time, except tool calls, which may overlap.
    """


class Start(Event):
    id: str
    model: str
    created: int | None = None
    usage: Usage | None = None  # what is known of the input already (Anthropic)
    said: Json | None = None  # that usage as the provider wrote it, for its own format
    service_tier: str | None = None
    format: Format | None = None  # that is read: extras and signatures of the stream belong to it
    extra: Json = field(default_factory=dict)
    frame: Json | None = None


class Open(Event):
    """A part begins; its text, arguments or thoughts are empty and follow as Deltas. `index` counts a choice's parts."""

    choice: int
    index: int
    part: AnyPart


class Delta(Event):
    """More of an open part: of a Text, Refusal or Thinking, or the arguments of a ToolCall. Never empty without logprobs."""

    choice: int
    index: int
    text: str
    logprobs: list[TokenLogprob] | None = None


class Mark(Event):
    """What an open part turns out to have besides text: the signature of its thoughts, or an extra (citations)."""

    choice: int
    index: int
    signature: str | None = None
    origin: Format | None = None  # of the signature, as in Thinking
    extra: Json = field(default_factory=dict)


class Close(Event):
    choice: int
    index: int


class Stopped(Event):
    """A choice is complete."""

    choice: int
    stop: Stop
    stop_sequence: str | None = None
    extra: Json = field(default_factory=dict)
    frame: Json | None = None


class Told(Event):
    """Usage so far; the last one of a stream holds, field by field."""

    usage: Usage
    said: Json | None = None


class Ping(Event):
    """A sign of life without content. `extra`: what a chunk says besides, that has no place in another event."""

    extra: Json = field(default_factory=dict)


class Done(Event):
    """The provider's own end of the stream."""


class Failed(Event):
    """The stream ends with an error instead."""

    problem: Problem


# ---- what all spokes agree on


def effort_of(budget_tokens: int) -> Effort:
    """The largest effort that is worth no more than the budget; a budget of one token is minimal thinking, not none."""
    if budget_tokens <= 0:
        return "none"
    efforts: tuple[Effort, ...] = ("xhigh", "high", "medium", "low")
    return next((effort for effort in efforts if EFFORT_TOKENS[effort] <= budget_tokens), "minimal")
