"""The policy file as written: one class for each map of the file, one field for each key, with its kind and meaning.

The reference in docs/policies.md is made from these classes. Values are parsed, but nothing is checked against anything
else yet: `build` does that. Defaults are those of `sidecar.core.policy`, where they are stated once; a None means that
the key was not written. `node` is the map itself, so that a later check can name line and key path.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sidecar.config import kinds
from sidecar.config.document import Node, Problems
from sidecar.config.kinds import Kind, Wrong, choice, key, list_of, map_of, struct, within
from sidecar.core import policy as core

_MATCH, _OBJECTIVE, _ROLLOUT, _BUDGET, _QUALITY = (
    core.Match(),
    core.Objective(),
    core.RolloutSpec(),
    core.Budget(),
    core.Quality(),
)
METRICS = ("latency_p95", "ttft_p95", "error_rate", "cost_per_request", "quality")
VALIDATORS = ("json_schema", "tool_arguments", "finish_reason", "refusal", "empty")
DIALECTS = ("openai", "anthropic", "gemini")
_NAMES = list_of(kinds.NAME)
_PERCENT = within(kinds.INTEGER, 1, 100)
_WEIGHT = within(kinds.NUMBER, 0.0, 1e6)


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
class Price:
    """Prices of your own, in US dollars per million tokens; they replace the price list."""

    node: Node
    input_mtok: int = field(metadata=key(kinds.LIST_PRICE, "Input tokens."))
    output_mtok: int = field(metadata=key(kinds.LIST_PRICE, "Output tokens, with reasoning."))
    cache_read_mtok: int | None = field(
        default=None, metadata=key(kinds.LIST_PRICE, "Input tokens read from a cache; without it the input price.")
    )
    cache_write_mtok: int | None = field(
        default=None, metadata=key(kinds.LIST_PRICE, "Input tokens written to a cache; without it the input price.")
    )
    cache_write_1h_mtok: int | None = field(
        default=None,
        metadata=key(kinds.LIST_PRICE, "The same, kept for an hour; without it the price of cache writes."),
    )


def _read_price(node: Node, problems: Problems) -> core.FlatPrice:
    if node.kind == "scalar" and node.text == "free":
        return core.FlatPrice(0, 0)
    if node.kind != "map":
        problems.add(node, "is neither `free` nor prices", "write free, or {input_mtok: 2.5, output_mtok: 10}")
        raise Wrong
    price = struct(Price, "prices").read(node, problems)
    return core.FlatPrice(
        price.input_mtok, price.output_mtok, price.cache_read_mtok, price.cache_write_mtok, price.cache_write_1h_mtok
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
        default=None, metadata=key(Kind("`free` or prices", _read_price), "Replaces the price list.")
    )
    usage: str = field(
        default="ask",
        metadata=key(choice("ask", "never"), "Whether streamed calls ask for token counts (the app does not see it)."),
    )
    ca_file: str | None = field(default=None, metadata=key(kinds.TEXT, "Certificate authority of a private server."))


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
class Weights:
    """How much each goal counts in the reward that is logged; only their proportion matters."""

    node: Node
    quality: float = field(default=_OBJECTIVE.quality_weight, metadata=key(_WEIGHT, "Quality."))
    cost: float = field(default=_OBJECTIVE.cost_weight, metadata=key(_WEIGHT, "Money."))
    latency: float = field(default=_OBJECTIVE.latency_weight, metadata=key(_WEIGHT, "Time to the first token."))


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What to make small, and how much quality it may cost."""

    node: Node
    minimize: str = field(default=_OBJECTIVE.minimize, metadata=key(choice("cost", "latency"), "What is made small."))
    max_quality_loss: float = field(
        default=_OBJECTIVE.max_quality_loss,
        metadata=key(kinds.FRACTION, "Quality that may be lost, relative to the baseline."),
    )
    weights: Weights | None = field(
        default=None, metadata=key(struct(Weights, "weights"), "Proportions of the logged reward.")
    )


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
    margin: float = field(default=_ROLLOUT.margin, metadata=key(kinds.FRACTION, "For `non_inferior`."))


@dataclass(frozen=True, slots=True, kw_only=True)
class Guardrails:
    """Hard limits against the traffic that stayed, at the same time: `1.5x` is 1.5 times its value, `-5%` 5 % less."""

    node: Node
    error_rate: str | None = field(default=None, metadata=key(kinds.TEXT, "Share of failed calls, like `1.5x`."))
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
        metadata=key(choice("wait", "rollback", "promote"), "After `max_wait`: pause and wait for a person, or act."),
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
class Budget:
    """Hard ceilings on what this route spends; days and months are UTC."""

    node: Node
    per_request_usd: int | None = field(default=None, metadata=key(kinds.MONEY, "Of one call."))
    daily_usd: int | None = field(
        default=None, metadata=key(kinds.MONEY, "Of one day, all pods together (see `replicas`).")
    )
    monthly_usd: int | None = field(default=None, metadata=key(kinds.MONEY, "Of one month, all pods together."))
    on_exceeded: str = field(
        default=_BUDGET.on_exceeded,
        metadata=key(choice("cheapest", "deny"), "`cheapest`: the cheapest arm that fits, then deny."),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Where the judgement of an answer comes from."""

    node: Node
    validators: tuple[str, ...] = field(
        default=_QUALITY.validators,
        metadata=key(list_of(choice(*VALIDATORS)), "Automatic checks of each answer's form."),
    )
    judge: str | None = field(default=None, metadata=key(kinds.NAME, "A model that grades answers."))
    feedback: bool = field(default=_QUALITY.feedback, metadata=key(kinds.FLAG, "Whether scores sent by the app count."))
    min_samples: int = field(
        default=_QUALITY.min_samples,
        metadata=key(
            within(kinds.INTEGER, 0, 10**9), "Scores beyond validators before an arm may exceed its canary step."
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A limit on one metric of the route, and what happens when it is broken. Exactly one of `above` and `below`."""

    node: Node
    name: str = field(metadata=key(kinds.NAME, "Its name in events."))
    metric: str = field(metadata=key(choice(*METRICS), "What is watched."))
    above: str | None = field(
        default=None,
        metadata=key(kinds.TEXT, "Broken above this: a duration, a share, or dollars, as the metric has it."),
    )
    below: str | None = field(default=None, metadata=key(kinds.TEXT, "Broken below this."))
    window: float = field(default=300.0, metadata=key(within(kinds.DURATION, 1.0, 86400.0), "How far back it looks."))
    severity: str = field(
        default="medium",
        metadata=key(
            choice("critical", "high", "medium", "low"), "Gives the default action: rollback, route_to, adjust, log."
        ),
    )
    action: str | None = field(
        default=None,
        metadata=key(choice("rollback", "route_to", "adjust", "log"), "What to do instead of the severity's action."),
    )
    arm: str | None = field(
        default=None, metadata=key(kinds.NAME, "`route_to`: where to; `rollback`: whose metric is watched.")
    )
    min_samples: int = field(
        default=20, metadata=key(within(kinds.INTEGER, 1, 10**6), "Calls in the window before it can break.")
    )
    recover: float = field(
        default=0.9,
        metadata=key(
            within(kinds.FRACTION, 0.1, 1.0), "Recovered when the value is back inside this share of the limit."
        ),
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
    objective: Objective | None = field(
        default=None, metadata=key(struct(Objective, "an objective"), "For `optimize`.")
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
    thresholds: tuple[Threshold, ...] = field(
        default=(), metadata=key(list_of(struct(Threshold, "a threshold")), "Limits that act within seconds.")
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
    Objective,
    Weights,
    Rollout,
    Promote,
    Guardrails,
    Fallback,
    Budget,
    Quality,
    Threshold,
    Rule,
)
