"""The policy file as written: one class for each map of the file, one field for each key, with its kind and meaning.

The reference in docs/policies.md is made from these classes. Values are parsed, but nothing is checked against anything
else yet: `build` does that. Defaults are those of `sidecar.core.policy`, where they are stated once; a None means that
the key was not written. `node` is the map itself, so that a later check can name line and key path.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sidecar.config import kinds
from sidecar.config.document import Node, Problems
from sidecar.config.kinds import Kind, choice, key, list_of, map_of, struct, within
from sidecar.config.written_catalogue import Capabilities
from sidecar.config.written_errands import JUDGE, Cascade, Judge, Shadow
from sidecar.config.written_experiment import Experiment, System, Variant
from sidecar.config.written_goals import Budget, Context, Objective, Price, Weights, read_price
from sidecar.config.written_quality import (
    IMPLICIT,
    LANGUAGE,
    PATTERNS,
    SCHEMA,
    SOURCES,
    Implicit,
    Source,
)
from sidecar.config.written_quality import (
    VALIDATORS as VALIDATORS,
)
from sidecar.config.written_watch import Anomalies, Changes, Drift, Knob, Threshold, Tuning
from sidecar.core import policy as core

_MATCH, _ROLLOUT, _QUALITY = core.Match(), core.RolloutSpec(), core.Quality()
DIALECTS = ("openai", "anthropic", "gemini", "cohere", "bedrock")
_NAMES = list_of(kinds.NAME)
_PERCENT = within(kinds.INTEGER, 1, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """Where the key of an upstream comes from; exactly one of the three."""

    node: Node
    from_: str | None = field(default=None, metadata=key(choice("client"), "The key that the app sent is passed on."))
    file: str | None = field(
        default=None, metadata=key(kinds.TEXT, "Path of a file that holds the key; read again when it changes.")
    )
    env: str | None = field(
        default=None, metadata=key(kinds.NAME, "Name of an environment variable that holds the key.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """A server that speaks one dialect. Its name is the key in `upstreams`."""

    node: Node
    dialect: str = field(metadata=key(choice(*DIALECTS), "The protocol that this server speaks."))
    base_url: str = field(metadata=key(kinds.TEXT, "Origin and optional path; a trailing /v1 is not repeated."))
    api_key: ApiKey | None = field(
        default=None,
        metadata=key(struct(ApiKey, "an API key"), "Where its key comes from; without it `{from: client}`."),
    )
    provider: str | None = field(
        default=None, metadata=key(kinds.NAME, "Whose price list applies; known for the providers' own hosts.")
    )
    price: core.FlatPrice | None = field(
        default=None, metadata=key(Kind("`free` or prices", read_price), "Replaces the price list.")
    )
    usage: str = field(
        default="ask",
        metadata=key(choice("ask", "never"), "Whether streamed calls ask for token counts (the app does not see it)."),
    )
    ca_file: str | None = field(default=None, metadata=key(kinds.TEXT, "Certificate authority of a private server."))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What is expected of a model before any score, as a catalogue or an evaluation of your own says."""

    node: Node
    quality: float = field(metadata=key(kinds.FRACTION, "Mean score on this route, 0 to 1."))
    scores: float = field(
        default=10.0, metadata=key(within(kinds.NUMBER, 0.1, 1e4), "How many scores it has the weight of.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A model at an upstream that this policy may choose."""

    node: Node
    id: str = field(metadata=key(kinds.NAME, "Its name in this route, in headers, logs and the CLI."))
    upstream: str = field(metadata=key(kinds.NAME, "One of `upstreams`."))
    model: str = field(metadata=key(kinds.TEXT, "The model name that the upstream knows."))
    params: Mapping[str, object] = field(
        default_factory=dict,
        metadata=key(
            map_of(kinds.JSON, "JSON values"), "Members to set in the body when this arm serves, like `temperature`."
        ),
    )
    facts: Mapping[str, object] = field(
        default_factory=dict,
        metadata=key(map_of(kinds.JSON, "values"), "What rules may ask as `model.<name>`, like `region`."),
    )
    capabilities: Capabilities | None = field(
        default=None,
        metadata=key(
            struct(Capabilities, "capabilities"), "What it can do, where the catalogue does not say or differs."
        ),
    )
    prior: Prior | None = field(
        default=None,
        metadata=key(struct(Prior, "a prior"), "What to expect of it; without it a new arm begins as an average one."),
    )


def _read_baseline(node: Node, problems: Problems) -> Arm | str:
    return kinds.NAME.read(node, problems) if node.kind == "scalar" else struct(Arm, "an arm").read(node, problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Which requests a route serves. What is not written matches all; all that is written must match."""

    node: Node
    models: tuple[str, ...] = field(
        default=_MATCH.models,
        metadata=key(list_of(kinds.TEXT), "Model names as the app asks for them; `*` at the end matches any ending."),
    )
    paths: tuple[str, ...] = field(
        default=_MATCH.paths, metadata=key(list_of(kinds.TEXT), "Request paths; `*` at the end matches any ending.")
    )
    tags: Mapping[str, str] = field(
        default_factory=dict,
        metadata=key(map_of(kinds.TEXT, "text"), "Tags that the request carries in `x-sidecar-tags`."),
    )
    tenant: str | None = field(default=None, metadata=key(kinds.TEXT, "Short for `tags: {tenant: ...}`."))


@dataclass(frozen=True, slots=True, kw_only=True)
class Promote:
    """What an arm must show before it goes to the next step."""

    node: Node
    require: str = field(
        default=_ROLLOUT.require,
        metadata=key(
            choice("no_harm", "non_inferior"),
            "`no_harm`: no guardrail was broken. `non_inferior`: shown to be no worse than `margin`.",
        ),
    )
    margin: float = field(
        default=_ROLLOUT.margin, metadata=key(within(kinds.FRACTION, 0.0, 0.9), "For `non_inferior`.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Guardrails:
    """Hard limits against the traffic that stayed, at the same time: `1.5x` is 1.5 times its value, `-5%` 5 % less."""

    node: Node
    error_rate: str | None = field(default=None, metadata=key(kinds.TEXT, "Share of failed calls, like `1.5x`."))
    gave_up: str | None = field(
        default=None,
        metadata=key(
            kinds.TEXT, "Share of clients that left unanswered after a long wait: `2x` if not said, or `off`."
        ),
    )
    ttft_p95: str | None = field(
        default=None, metadata=key(kinds.TEXT, "Time to the first token of streams, like `1.2x`.")
    )
    latency_p95: str | None = field(default=None, metadata=key(kinds.TEXT, "Duration of whole calls, like `1.2x`."))
    cost: str | None = field(default=None, metadata=key(kinds.TEXT, "Money per call, like `1.2x`."))
    quality: str | None = field(default=None, metadata=key(kinds.TEXT, "Quality, like `-5%`."))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """How a new arm comes in, and what takes it out again."""

    node: Node
    strategy: str = field(
        default=_ROLLOUT.strategy,
        metadata=key(choice("canary", "blue_green", "shadow"), "In steps, at once, or as a copy that nobody sees."),
    )
    steps: tuple[int, ...] = field(
        default=_ROLLOUT.steps, metadata=key(list_of(_PERCENT), "Percent of new conversations, rising.")
    )
    min_requests: int = field(
        default=_ROLLOUT.min_requests,
        metadata=key(within(kinds.INTEGER, 1, 10**9), "Calls on the new arm before a step can end."),
    )
    interval: float = field(default=_ROLLOUT.interval_s, metadata=key(kinds.DURATION, "Shortest time in a step."))
    max_wait: float = field(
        default=_ROLLOUT.max_wait_s, metadata=key(kinds.DURATION, "Longest time in a step without a verdict.")
    )
    false_rollback: float = field(
        default=_ROLLOUT.false_rollback,
        metadata=key(
            within(kinds.FRACTION, 0.0001, 0.5),
            "Probability, over the whole rollout, that a harmless arm is taken out.",
        ),
    )
    on_inconclusive: str = field(
        default=_ROLLOUT.on_inconclusive,
        metadata=key(
            choice("wait", "rollback", "promote"),
            "After `max_wait`: pause and wait for a person, or act. "
            "An arm that failed most of its calls is not promoted so: it pauses.",
        ),
    )
    promote: Promote | None = field(
        default=None, metadata=key(struct(Promote, "a promotion rule"), "What the next step requires.")
    )
    guardrails: Guardrails | None = field(default=None, metadata=key(struct(Guardrails, "guardrails"), "Hard limits."))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """Other arms to try when the chosen one fails before its first byte."""

    node: Node
    arms: tuple[str, ...] = field(metadata=key(_NAMES, "Ids of arms, in the order to try."))
    on: tuple[str, ...] = field(
        metadata=key(list_of(kinds.TEXT), "Which failures: `connect`, `timeout`, `429`, `5xx`, or a status code.")
    )
    max: int = field(default=1, metadata=key(within(kinds.INTEGER, 1, 5), "Most further tries for one call."))


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Where the judgement of an answer comes from."""

    node: Node
    validators: tuple[str, ...] = field(
        default=_QUALITY.validators,
        metadata=key(list_of(choice(*VALIDATORS)), "Automatic checks of each answer's form."),
    )
    judge: Judge | str | None = field(
        default=None, metadata=key(JUDGE, "A model that grades a sample of the answers; an arm's id, or its own map.")
    )
    feedback: bool = field(default=_QUALITY.feedback, metadata=key(kinds.FLAG, "Whether scores sent by the app count."))
    min_samples: int = field(
        default=_QUALITY.min_samples,
        metadata=key(
            within(kinds.INTEGER, 0, 10**9), "Scores beyond validators before an arm may exceed its canary step."
        ),
    )
    output_schema: str | Mapping[str, object] | None = field(
        default=None,
        metadata=key(
            SCHEMA, "For `json_schema`: what every answer must satisfy, instead of what its request asks for."
        ),
    )
    language: tuple[str, ...] = field(
        default=("prompt",),
        metadata=key(LANGUAGE, "For `language`: `prompt` (that of the prompt), or the languages that are fine."),
    )
    must_match: tuple[str, ...] = field(
        default=(), metadata=key(PATTERNS, "For `regex`: expressions that are all found in a good answer.")
    )
    must_not_match: tuple[str, ...] = field(
        default=(), metadata=key(PATTERNS, "For `regex`: expressions of which none is.")
    )
    sources: Mapping[str, Source] = field(
        default_factory=dict,
        metadata=key(SOURCES, "What scores mean, by the name of their source; `other` for the rest."),
    )
    implicit: Implicit | bool = field(
        default=False, metadata=key(IMPLICIT, "Whether repeated prompts and abandoned streams count a little.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What happens to some of the requests. Routes are tried in order; the first match serves."""

    node: Node
    name: str = field(metadata=key(kinds.NAME, "Its name in logs, metrics and the CLI."))
    baseline: Arm | str = field(
        metadata=key(
            Kind("arm or id", _read_baseline), "The model that you trust today: an arm, or the id of one of `arms`."
        )
    )
    match: Match | None = field(default=None, metadata=key(struct(Match, "a match"), "Which requests; without it all."))
    virtual: tuple[str, ...] = field(
        default=(),
        metadata=key(
            list_of(kinds.TEXT), "Names of `match.models` that no upstream knows; failing open goes to the baseline."
        ),
    )
    mode: str = field(
        default="observe",
        metadata=key(choice("observe", "shadow", "ab", "canary", "optimize"), "How much the sidecar may change."),
    )
    arms: tuple[Arm, ...] = field(
        default=(), metadata=key(list_of(struct(Arm, "an arm")), "The other models that may serve.")
    )
    allow_loss: bool = field(
        default=False,
        metadata=key(
            kinds.FLAG,
            "Whether an arm of another dialect may serve a call that it cannot be told in full; what was left out is in "
            "`x-sidecar-changed`.",
        ),
    )
    objective: Objective | None = field(
        default=None, metadata=key(struct(Objective, "an objective"), "For `optimize`.")
    )
    context: Context | None = field(
        default=None, metadata=key(struct(Context, "a context"), "What tells calls apart, for `optimize`.")
    )
    sticky: str = field(
        default="conversation", metadata=key(choice("request", "conversation", "session"), "What stays on one arm.")
    )
    rollout: Rollout | None = field(
        default=None,
        metadata=key(struct(Rollout, "a rollout"), "How new arms come in; `canary` and `optimize` have the defaults."),
    )
    fallback: Fallback | None = field(
        default=None, metadata=key(struct(Fallback, "a fallback"), "Without it a failure goes to the app as it came.")
    )
    budget: Budget | None = field(
        default=None, metadata=key(struct(Budget, "a budget"), "Without it spending has no ceiling.")
    )
    quality: Quality | None = field(
        default=None, metadata=key(struct(Quality, "a quality source"), "How good answers are known.")
    )
    shadow: Shadow | None = field(
        default=None,
        metadata=key(struct(Shadow, "a shadow"), "For mode `shadow`, and for `rollout: {strategy: shadow}`."),
    )
    cascade: Cascade | None = field(
        default=None, metadata=key(struct(Cascade, "a cascade"), "Without it no answer is asked for twice.")
    )
    experiment: Experiment | None = field(
        default=None, metadata=key(struct(Experiment, "an experiment"), "What mode `ab` compares.")
    )
    thresholds: tuple[Threshold, ...] = field(
        default=(), metadata=key(list_of(struct(Threshold, "a threshold")), "Limits that act within seconds.")
    )
    drift: Drift | None = field(
        default=None, metadata=key(struct(Drift, "drift"), "Tells when calls are no longer what they were.")
    )
    anomalies: Anomalies | None = field(
        default=None, metadata=key(struct(Anomalies, "anomalies"), "Tells of single calls and windows far off.")
    )
    tuning: Tuning | None = field(
        default=None, metadata=key(struct(Tuning, "tuning"), "Parameters that move a few percent a day, on evidence.")
    )
    changes: Changes | None = field(
        default=None,
        metadata=key(struct(Changes, "changes"), "What the control loop may do by itself, for `optimize`."),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Governance: an expression over facts that is asked for every request."""

    node: Node
    id: str = field(metadata=key(kinds.NAME, "Its name in refusals and events."))
    when: str = field(metadata=key(kinds.TEXT, "The condition, like `daily_cost > 1000`."))
    action: str = field(
        metadata=key(
            choice("deny", "filter", "log"), "Refuse the call, take the arm out of the choice, or only note it."
        )
    )
    message: str | None = field(default=None, metadata=key(kinds.TEXT, "What the app is told."))


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFile:
    """The whole file."""

    node: Node
    version: int = field(metadata=key(within(kinds.INTEGER, 1, 1), "Version of this format: 1."))
    service: str = field(
        default="*", metadata=key(kinds.NAME, "The service that it is for; an exact name wins over `*`.")
    )
    upstreams: Mapping[str, Upstream] = field(
        default_factory=dict, metadata=key(map_of(struct(Upstream, "an upstream"), "upstreams"), "Servers by name.")
    )
    routes: tuple[Route, ...] = field(  # required: a file that was cut off above them must not take them away
        metadata=key(list_of(struct(Route, "a route")), "Tried in order; the first match serves; `[]` for none.")
    )
    rules: tuple[Rule, ...] = field(default=(), metadata=key(list_of(struct(Rule, "a rule")), "Governance."))
    replicas: int = field(
        default=1,
        metadata=key(
            within(kinds.INTEGER, 1, 10_000),
            "Pods that run this policy: budgets and `false_rollback` are divided by it.",
        ),
    )


POLICY_FILE = struct(PolicyFile, "a policy")
SECTIONS = (
    PolicyFile,
    Upstream,
    ApiKey,
    Price,
    Route,
    Match,
    Arm,
    Capabilities,
    Prior,
    Context,
    Objective,
    Weights,
    Rollout,
    Promote,
    Guardrails,
    Fallback,
    Budget,
    Quality,
    Source,
    Implicit,
    Judge,
    Shadow,
    Cascade,
    Experiment,
    Variant,
    System,
    Threshold,
    Drift,
    Anomalies,
    Tuning,
    Knob,
    Changes,
    Rule,
)
