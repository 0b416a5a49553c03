"""The values that cross the border of the core: what the shell tells it (Facts, Outcome, Feedback) and what it answers
(Decision, Event).

They are `msgspec.Struct`s and not dataclasses because the shell builds four of them for every request: a frozen slotted
dataclass of twenty fields costs 3 us to build, a frozen Struct 0.3 us; as arrays they pass between workers in half the
time. All are immutable. Durations are seconds, zero is the read that completed the request's head. Money is integer
nano-dollars (`_nusd`); None always means "unknown" and never 0.
"""

from collections.abc import Mapping
from typing import Final, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from sidecar.core.abilities import Capabilities
from sidecar.core.variants import Edit

Features = NDArray[np.float32]  # `core.features`: numbers of a text from which it cannot be read back
Dialect = Literal["openai", "anthropic", "gemini"]  # that clients speak
Spoken = Literal["openai", "anthropic", "gemini", "cohere", "bedrock"]  # that upstreams speak
Endpoint = Literal[
    "chat", "completions", "responses", "messages", "generate", "embeddings", "count_tokens", "other"
]  # "other": passes byte for byte, metered where usage is recognisable
# of costs in nano-dollars, or of tokens: sums end here, a thousand million dollars, so that a snapshot can hold them
MOST_SUM: Final = 10**18
LABEL: Final = 0.5  # what a score counts at least to be a label, and no weak signal
SELECTABLE: frozenset[Endpoint] = frozenset({"chat", "completions", "responses", "messages", "generate"})

Mode = Literal["observe", "shadow", "ab", "canary", "optimize"]
Unit = Literal["request", "conversation", "session"]
Reason = Literal[
    "passthrough",  # nothing to decide: the app's own model at the app's own upstream
    "baseline",
    "canary",
    "sampled",
    "sticky",
    "pinned",
    "threshold",
    "budget",
    "policy",
    "fallback",
    "fail-open",
]
OutcomeKind = Literal["completed", "failed", "aborted"]
UsageSource = Literal["provider", "estimate"]
CostKind = Literal["exact", "estimate", "lower_bound"]
Severity = Literal["critical", "high", "medium", "low"]


class Facts(Struct, frozen=True, gc=False, array_like=True, kw_only=True):
    """What the engine may know of one request. It holds no text of the prompt and no credential."""

    endpoint: Endpoint
    dialect: Dialect
    path: str  # without the query, at most 256 characters
    model: str | None  # as the app asked; None when the body names none or could not be read
    stream: bool
    key: int  # sticky key: 64-bit keyed hash, 0 when there is none (then the unit is the request)
    key_source: Unit = "request"  # where the key came from: a session header, the conversation itself, or nothing
    draw: int = 0  # 64 random bits of this request: what a request-unit split hashes, never reused
    tags: Mapping[str, str] = {}
    pinned: str | None = None  # id of the arm whose server-side state this call carries, if known
    stateful: bool = False  # carries state of some arm (previous_response_id, conversation, store, ...)
    off: bool = False  # x-sidecar-off: 1 (skips selection, never rules)
    input_bytes: int = 0
    max_tokens: int | None = None
    limit_key: str = "max_tokens"  # the member of the body that says so
    tools: bool = False
    task: str = ""  # what kind of request it is, as the tag that the route's `context` names says
    text: Features | None = None  # of the last user message, where the route's `context` asks for it
    needs: int = 0  # bits of `core.abilities`; like the next two 0 where no arm of the policy is limited
    context_tokens: int = 0  # of the input, estimated
    output_tokens: int = 0  # that the answer may have at most, as the request asks; 0 where it says nothing
    lost: Mapping[str, tuple[str, ...]] = {}  # upstream where it must be translated: members that cannot be said there;
    # upstream, line feed, model: the same where it depends on the model


class Refusal(Struct, frozen=True, gc=False, array_like=True):
    """Why a request is not forwarded: answered in the client's own dialect, fails closed."""

    status: Literal[400, 403, 429]
    code: str  # stable: "rule" | "budget" | "translation" | ...
    message: str


class Drawn(Struct, frozen=True, gc=False, array_like=True):
    """The selector's draw for one request: what each arm was worth in it, and the prices that it was reckoned with."""

    arms: tuple[str, ...]
    worth: tuple[float, ...]  # in the order of `arms`; -inf: kept out by a limit
    price: float  # of what is minimised: what the promise of quality lets it weigh
    money: float  # of cost beside it: what the ceiling adds


class Decision(Struct, frozen=True, gc=False, array_like=True, kw_only=True):
    """Which arm serves, why, and with what probability it was chosen.

    `upstream` is None for the default upstream of the request's dialect. `model` None leaves the body's model as it is.
    `params` are members to set in the body: (key, JSON text of the value). Equal situations may share one Decision object.
    """

    route: str
    mode: Mode
    arm: str | None  # None: what the app asked for is no arm of the policy
    upstream: str | None
    model: str | None
    reason: Reason
    propensity: float  # of this assignment, in (0, 1]
    unit: Unit = "request"
    eligible: tuple[str, ...] = ()
    params: tuple[tuple[str, bytes], ...] = ()
    system: tuple[Edit, ...] = ()  # what happens to the system prompt; their texts are told nowhere
    rollout_id: str | None = None  # of a rollout, with `.2` behind it in its second attempt; or `experiment:variant`
    rollout_step: int | None = None  # percent; of an experiment the number of the shares in force
    policy_version: str = ""
    fallbacks: tuple[str, ...] = ()  # arm ids to try in this order, only before the first byte
    refusal: Refusal | None = None
    rules: tuple[str, ...] = ()  # ids of the policy's rules that took arms out, or denied it
    reserved_nusd: int = 0  # what admission reserved in the budgets; settle gives it back
    drawn: Drawn | None = None  # what the selector drew, where it chose
    can: Capabilities | None = None  # what is known of the arm that serves
    left_out: tuple[tuple[str, str], ...] = ()  # arms that could not serve this request, and why


class Usage(Struct, frozen=True, gc=False, array_like=True, kw_only=True):
    """Token counts normalised to inclusive totals and subsets of them (MEASURING: rule 1). None = not reported.

    `input_tokens` includes cached reads, cache writes and all media, `output_tokens` includes reasoning and all media;
    the cached media are in `cached_input_tokens` and in the input of their kind. Heard seconds are beside the tokens.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None  # all of them; those of one hour are also counted below
    cache_write_1h_tokens: int | None = None
    reasoning_tokens: int | None = None
    input_audio_tokens: int | None = None
    cached_audio_tokens: int | None = None
    output_audio_tokens: int | None = None
    input_image_tokens: int | None = None  # with pages of documents, where a provider counts them apart
    cached_image_tokens: int | None = None
    output_image_tokens: int | None = None
    input_video_tokens: int | None = None
    cached_video_tokens: int | None = None
    output_video_tokens: int | None = None
    input_audio_s: float | None = None  # Mistral, and whatever transcribes: sound that is paid by its length
    more: bool = False  # other models worked on it, too, and are billed beside these counts
    surcharge_pct: int = 0  # added to every listed rate for where the call ran (Anthropic: inference in one country)
    service_tier: str | None = None  # as the provider reports it: "default", "flex", "priority", "batch", ...
    reported_cost_nusd: int | None = None  # a cost that the provider itself states (OpenRouter)


class Clocks(Struct, frozen=True, gc=False, array_like=True, kw_only=True):
    """When things happened, seconds after the request's head was complete. Non-streaming has no ttfe, ttft, ttfa."""

    sent_s: float | None = None  # last byte given to the upstream socket
    ttfb_s: float | None = None  # first byte of the response
    ttfe_s: float | None = None  # first SSE event
    ttft_s: float | None = None  # first generated token: text, reasoning, refusal, tool arguments, audio
    ttfa_s: float | None = None  # first answer token: not reasoning
    last_token_s: float | None = None
    duration_s: float = 0.0
    itl_s: float | None = None  # (last token - first token) / (output tokens - 1)
    gap_p50_s: float | None = None  # gaps between token chunks: another metric, not ITL
    gap_p95_s: float | None = None

    @property
    def latency_s(self) -> float:
        """From when the request was sent to the end: what an arm is judged by. Of one that was not sent, the whole time."""
        return self.duration_s - (self.sent_s or 0.0)

    @property
    def first_token_latency_s(self) -> float | None:
        """From when the request was sent to its first token; None without one."""
        return None if self.ttft_s is None else self.ttft_s - (self.sent_s or 0.0)


class Outcome(Struct, frozen=True, gc=False, array_like=True, kw_only=True):
    """How one exchange ended. Exactly one per decision, at end of stream."""

    kind: OutcomeKind
    status: int = 0  # of the response; 0 when there was none
    # truncated | timeout_connect | timeout_first_byte | timeout_idle | upstream_status | refused | ...
    error: str | None = None
    clocks: Clocks
    stream: bool = False
    usage: Usage | None = None
    usage_source: UsageSource | None = None
    cost_nusd: int | None = None
    cost_kind: CostKind | None = None
    price_version: str | None = None
    completion_id: str | None = None
    finish: str | None = None  # the provider's finish or stop reason, verbatim
    empty: bool | None = None  # completed without any token; None when the body was not readable
    refused: bool = False  # the model refused (refusal field or refusal stop reason)
    checks: tuple[tuple[str, float], ...] = ()  # validators that read the answer, and others that failed: score 0..1
    caller_fault: bool = False  # a 4xx, or a 5xx that the body shows to be the caller's mistake: does not blame the arm
    served_arm: str | None = None  # another arm than decided, when a fallback served
    served_model: str | None = None  # as the response names it, for the record


class Feedback(Struct, frozen=True, gc=False, kw_only=True):
    """A score for one past decision from one source. The last write per source wins."""

    decision_id: str
    route: str
    arm: str
    score: float  # 0..1
    source: str = "user"
    label: str | None = None
    context_key: int = 0  # sticky key of the decision, so that a rollout can count by conversation
    rollout_id: str | None = None
    rollout_step: int | None = None  # of the decision: the share by which its group was drawn
    previous: float | None = None  # what was taught of the same decision before, to be taken back
    weight: float = 1.0  # 0..1, what the score counts: 1 is one whole label
    previous_weight: float = 1.0  # what `previous` counted
    task: str = ""  # as in the decision's Facts, where they are remembered
    text: Features | None = None
    served: tuple[str, str] | None = None  # upstream and model of then, where they are known

    @property
    def is_label(self) -> bool:
        """Whether it is the first score of its answer that counts as much as half a label."""
        return self.weight >= LABEL and (self.previous is None or self.previous_weight < LABEL)


class Event(Struct, frozen=True, gc=False, kw_only=True):
    """Something the engine wants known: stored in `events`, logged, counted. `detail` has JSON values only."""

    kind: str  # e.g. "rollout.promoted", "threshold.breached", "policy.applied"
    severity: Severity = "low"
    route: str = ""
    arm: str | None = None
    message: str = ""
    detail: Mapping[str, object] = {}


class Stage(Struct, frozen=True, gc=False, array_like=True, kw_only=True):
    """An arm that a cascade asked before the one that served, what that cost, and why its answer was not given."""

    arm: str
    why: str  # a validator's name, "confidence", or what failed: a status, "connect", "timeout"
    cost_nusd: int | None = None
    cost_kind: CostKind | None = None
    duration_s: float = 0.0  # from sent to the end of its answer


class Settled(Struct, frozen=True, gc=False, array_like=True, kw_only=True):
    """One finished exchange: what store, metrics, log line and spans are made of, in batches."""

    id: str
    at: float  # wall clock when the head was complete, seconds since the epoch
    facts: Facts
    decision: Decision
    outcome: Outcome
    upstream: str  # name of the upstream that served
    sent_model: str | None  # the model name that went upstream
    reward: float | None = None
    quality: float | None = None
    quality_source: str | None = None
    # of a cascade, before the one that served; `outcome.cost_nusd` has them all
    stages: tuple[Stage, ...] | None = None
    traceparent: bytes | None = None  # W3C, as the request had it: not judged, told to no one but the spans
