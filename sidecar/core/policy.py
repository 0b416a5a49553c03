"""A policy as loaded: validated, defaults filled in, frozen. `config.policy` makes it from a file; the engine obeys it.

Nothing here checks anything: a value of these types is valid by construction (`config` refuses the rest with file and key
path). Percentages are whole numbers 0..100 where named `steps`, fractions everywhere else; durations are seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sidecar.core.types import Dialect, Mode, Severity, Unit

Metric = Literal["latency_p95", "ttft_p95", "error_rate", "cost_per_request", "quality"]
Action = Literal["rollback", "route_to", "adjust", "log"]
DEFAULT_ACTION: Mapping[Severity, Action] = {
    "critical": "rollback",
    "high": "route_to",
    "medium": "adjust",
    "low": "log",
}


@dataclass(frozen=True, slots=True)
class FlatPrice:
    """Prices stated in the policy itself, in femto-dollars (1e-15 USD) per token, so that any list price is an integer.

    None means the price of input (cached, cache writes) or output (reasoning) applies.
    """

    input_fusd: int
    output_fusd: int
    cached_fusd: int | None = None
    cache_write_fusd: int | None = None
    cache_write_1h_fusd: int | None = None
    second_fusd: int = 0  # per second that a call takes: what a machine of one's own costs


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where an arm lives. `prefix` is the path before the API path, "" or "/x/y", never with a trailing slash."""

    name: str
    dialect: Dialect
    scheme: Literal["http", "https"]
    host: str
    port: int
    prefix: str = ""
    provider: str | None = None  # whose price list applies; None: unknown
    price: FlatPrice | None = None  # overrides the list; `price: free` is FlatPrice(0, 0)
    key: Literal["client", "file", "env"] = "client"
    key_ref: str = ""  # path of the file or name of the variable; never the key itself
    usage: Literal["ask", "never"] = "ask"
    ca_file: str | None = None


@dataclass(frozen=True, slots=True)
class Arm:
    """A model at an upstream that a policy may choose. `params` are set in the body when this arm serves."""

    id: str
    upstream: str
    model: str
    params: tuple[tuple[str, bytes], ...] = ()  # key, JSON text of the value
    facts: Mapping[str, str | float | bool] = field(default_factory=dict)  # `model.*` facts for rules


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests a route serves; an empty field matches all. `*` at the end of a model or path is a prefix match."""

    models: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Context:
    """What of a request may tell answers apart: the tag that names its task, and whether its text is looked at."""

    tag: str = "task"
    text: bool = False


@dataclass(frozen=True, slots=True)
class Objective:
    """What the selector wants: `minimize` inside `max_quality_loss` (fraction, relative to the baseline).

    `ttft_s` (streams) and `latency_s` (whole answers) are what a call should take at most; a call that takes longer
    counts as `late_nusd` dearer.
    """

    minimize: Literal["cost", "latency"] = "cost"
    max_quality_loss: float = 0.05
    quality_weight: float = 0.6
    cost_weight: float = 0.3
    latency_weight: float = 0.1
    ttft_s: float | None = None
    latency_s: float | None = None
    late_nusd: int = 0


@dataclass(frozen=True, slots=True)
class Guardrail:
    """A hard limit relative to concurrent control: `ratio` for `1.5x` (canary/control), `loss` for `-5%` (fraction)."""

    metric: Literal["error_rate", "ttft_p95", "latency_p95", "cost", "quality"]
    ratio: float | None = None
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class RolloutSpec:
    """How a new arm comes in. `false_rollback` is the probability, over the whole rollout, that a harmless canary is
    rolled back (alpha of all its harm tests together, already divided by `replicas`)."""

    strategy: Literal["canary", "blue_green", "shadow"] = "canary"
    steps: tuple[int, ...] = (5, 25, 50, 100)
    min_requests: int = 200  # canary requests per step
    interval_s: float = 900.0  # shortest time in a step
    max_wait_s: float = 86400.0  # longest time in a step without a verdict
    false_rollback: float = 0.02
    on_inconclusive: Literal["wait", "rollback", "promote"] = "wait"  # wait: until max_wait, then pause
    require: Literal["no_harm", "non_inferior"] = "no_harm"
    margin: float = 0.05  # for non_inferior
    guardrails: tuple[Guardrail, ...] = ()


@dataclass(frozen=True, slots=True)
class Fallback:
    arms: tuple[str, ...]
    on: tuple[str, ...]  # "connect", "timeout", "429", "5xx", or a status code
    max: int = 1


@dataclass(frozen=True, slots=True)
class Budget:
    """Hard ceilings in nano-dollars (already divided by `replicas`), UTC days and months; None: no ceiling.

    `mean_request_nusd` bounds what the calls of the route cost on average; `window_nusd` what `window_s` may cost.
    """

    per_request_nusd: int | None = None
    mean_request_nusd: int | None = None
    window_nusd: int | None = None
    window_s: float = 3600.0
    daily_nusd: int | None = None
    monthly_nusd: int | None = None
    on_exceeded: Literal["cheapest", "deny"] = "cheapest"  # cheapest: then deny when even that arm does not fit


@dataclass(frozen=True, slots=True)
class Quality:
    """Where quality comes from. `min_samples`: labels beyond validators before an arm may exceed its canary step."""

    validators: tuple[str, ...] = ()
    judge: str | None = None
    feedback: bool = True
    min_samples: int = 200


@dataclass(frozen=True, slots=True)
class Threshold:
    """A limit on one metric of the route's traffic. `above` or `below` (exactly one), in the metric's unit."""

    name: str
    metric: Metric
    above: float | None
    below: float | None
    window_s: float
    severity: Severity
    action: Action
    arm: str | None = None  # whose metric when the action is rollback; where to when it is route_to
    min_samples: int = 20
    recover: float = (
        0.9  # hysteresis: recovered when the value is back inside `recover` x the limit (1/recover for below)
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """Governance: `when` is an expression over request, model and spending facts, already parsed by `core.rules`."""

    id: str
    when: object  # core.rules.Expression; opaque here
    text: str
    action: Literal["deny", "filter", "log"]
    message: str


@dataclass(frozen=True, slots=True)
class Route:
    name: str
    match: Match
    mode: Mode
    baseline: Arm
    arms: tuple[Arm, ...] = ()  # without the baseline
    virtual: tuple[str, ...] = ()
    objective: Objective = Objective()
    context: Context = Context()
    sticky: Unit = "conversation"
    rollout: RolloutSpec | None = None
    fallback: Fallback | None = None
    budget: Budget | None = None
    quality: Quality = Quality()
    thresholds: tuple[Threshold, ...] = ()

    @property
    def all_arms(self) -> tuple[Arm, ...]:
        """Baseline first, then the arms in the policy's order."""
        return (self.baseline, *self.arms)


@dataclass(frozen=True, slots=True)
class Policy:
    """One service's policy. `version` is a hash of its content: equal files in all pods give equal versions."""

    service: str = "*"
    version: str = "none"
    upstreams: Mapping[str, Upstream] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    rules: tuple[Rule, ...] = ()
    replicas: int = 1


NO_POLICY = Policy()
