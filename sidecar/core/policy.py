"""A policy as loaded: validated, defaults filled in, frozen. `config.policy` makes it from a file; the engine obeys it.

Nothing here checks anything: a value of these types is valid by construction (`config` refuses the rest with file and key
path). Percentages are whole numbers 0..100 where named `steps`, fractions everywhere else; durations are seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from sidecar.core.abilities import UNKNOWN, Capabilities
from sidecar.core.types import Mode, Severity, Spoken, Unit
from sidecar.core.variants import Edit

Metric = Literal["latency_p95", "ttft_p95", "error_rate", "cost_per_request", "quality"]
Action = Literal["rollback", "route_to", "adjust", "log"]
WatchedMetric = Literal["ttft", "latency", "input_tokens", "output_tokens", "cost", "quality"]
Method = Literal["mad", "iqr", "z"]
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
    dialect: Spoken
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
    prior: tuple[float, float] | None = None  # expected quality (0..1), and of how many scores that has the weight
    capabilities: Capabilities = UNKNOWN  # as the catalogue and the policy say


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests a route serves; an empty field matches all. `*` at the end of a model or path is a prefix match."""

    models: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Context:
    """What of a request may tell answers apart: the tag that names its task, and whether its text is looked at.

    `cache`: where single requests are chosen for, the arm that served a conversation last is cheaper by what its prompt
    cache saves.
    """

    tag: str = "task"
    text: bool = False
    cache: bool = False


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
    """A hard limit relative to concurrent control: `ratio` for `1.5x` (canary/control), `loss` for `-5%` (fraction).

    `off` takes a guardrail away that is there without being asked for.
    """

    metric: Literal["error_rate", "gave_up", "ttft_p95", "latency_p95", "cost", "quality"]
    ratio: float | None = None
    loss: float | None = None
    off: bool = False


@dataclass(frozen=True, slots=True)
class RolloutSpec:
    """How a new arm comes in. `false_rollback` is the probability, over the whole rollout, that a harmless canary is
    rolled back (alpha of all its harm tests together) in any of `replicas` pods, among which it is divided."""

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
    replicas: int = field(default=1, repr=False)  # no part of a rollout's id: one more pod begins nothing anew


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
class Judge:
    """A model that grades a sample of finished answers. `daily_nusd` is already divided by `replicas`."""

    upstream: str
    model: str
    sample: float = 0.05  # share of the answers, before arms with few labels get more
    daily_nusd: int = 1_000_000_000
    per_minute: int = 30  # most calls of it
    criteria: str = ""  # what a good answer is, in words


@dataclass(frozen=True, slots=True)
class Shadow:
    """A sample of finished calls is sent to `arm` too; nobody gets its answers."""

    arm: str
    sample: float = 0.1
    daily_nusd: int = 1_000_000_000
    per_minute: int = 60


@dataclass(frozen=True, slots=True)
class Cascade:
    """Whole answers are checked before the app gets them; what fails goes to the next of `arms`, weakest first.

    `on` are validators; `min_confidence` is the least geometric mean of the token probabilities, where an answer
    states them.
    """

    arms: tuple[str, ...]
    on: tuple[str, ...] = ()
    min_confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where scores come from, and what they mean: `low` is worth 0 and `high` 1, or the other way round.

    `weight` is what one of its scores counts against those of other sources for the same decision; `max_share` the
    largest part (fraction) of a label that it may decide while another source has spoken.
    """

    low: float = 0.0
    high: float = 1.0
    better: Literal["higher", "lower"] = "higher"
    log: bool = False  # log(1 + value - low) is what is linear: for money and times
    weight: float = 1.0
    max_share: float = 1.0


OTHER = "other"  # the source that stands for all that have no name in the policy
JUDGE, REPEAT, ABANDONED = "judge", "repeat", "abandoned"
OWN_SOURCES = frozenset({JUDGE, REPEAT, ABANDONED})  # scores that the sidecar makes itself: nobody else may send them
SOURCES: Mapping[str, Source] = {
    "score": Source(),
    "user": Source(),  # what feedback is from that names no source
    "task": Source(),
    "thumbs": Source(),
    "stars": Source(1.0, 5.0),
    JUDGE: Source(max_share=0.5),  # a model's word: never more than a person's who has spoken too
    "task_completion": Source(),  # what the app was for: as good as a person's word
    "conversion": Source(weight=0.5, max_share=0.5),  # has many causes besides the answer
    "revenue": Source(0.0, 1000.0, log=True, weight=0.5, max_share=0.5),  # dollars; as conversion
    "edit_distance": Source(better="lower", weight=0.5, max_share=0.5),  # share of the answer that a person changed
    "retry": Source(better="lower", weight=0.5, max_share=0.5),  # asked again: 1; people also retry out of curiosity
    "dwell_time": Source(0.0, 600.0, log=True, weight=0.25, max_share=0.25),  # seconds; long may also mean confusing
    REPEAT: Source(weight=0.1, max_share=0.2),  # 0 when the same prompt came again; weak, and there are many of them
    ABANDONED: Source(weight=0.1, max_share=0.2),  # 0 when the client left in the middle of a stream
    OTHER: Source(max_share=0.5),  # nothing is known of its meaning, and anybody may invent names
}


@dataclass(frozen=True, slots=True)
class Implicit:
    """Signals that nobody sends: the same prompt again within `repeat_within_s`, and streams that are left."""

    repeat_within_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Quality:
    """Where quality comes from. `min_samples`: labels beyond validators before an arm may exceed its canary step.

    `schema` (JSON text) replaces what requests ask for; without `languages` the prompt's own is expected; every one of
    `must` and none of `must_not` is to be found in an answer.
    """

    validators: tuple[str, ...] = ()
    judge: Judge | None = None
    feedback: bool = True
    min_samples: int = 200
    schema: bytes | None = None
    languages: tuple[str, ...] = ()
    must: tuple[str, ...] = ()
    must_not: tuple[str, ...] = ()
    sources: Mapping[str, Source] = field(default_factory=lambda: SOURCES)
    implicit: Implicit | None = None

    @property
    def teaching(self) -> Mapping[str, Source]:
        """The sources as labels are made of them: without `feedback` none but our own weighs anything."""
        if self.feedback:
            return self.sources
        return {
            name: source if name in OWN_SOURCES else replace(source, weight=0.0)
            for name, source in self.sources.items()
        }


@dataclass(frozen=True, slots=True)
class AutoLimit:
    """A limit that follows the metric's own past: `sigma` robust scales away from its median, at least `ratio` times.

    It moves by at most `per_day` (fraction of itself) in a day.
    """

    sigma: float = 6.0
    ratio: float = 1.2
    per_day: float = 0.1


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
    # hysteresis: recovered when the value is back inside `recover` x the limit (1/recover for below)
    recover: float = 0.9
    auto: AutoLimit | None = None  # then `above` is infinite, or `below` 0, until the baseline is learnt
    adjust: tuple[str, Literal["up", "down"]] | None = None  # the tuned parameter that `adjust` moves, and where


@dataclass(frozen=True, slots=True)
class Drift:
    """Which distributions are compared with what they were. The budget is of all of them together, per 10,000 windows."""

    metrics: tuple[WatchedMetric, ...] = ("ttft", "latency", "input_tokens", "output_tokens", "cost", "quality")
    window_s: float = 900.0
    samples: int = 100  # values of a window that are compared; a window lasts until it has them
    false_alarms_per_10k: float = 1.0
    severity: Severity = "medium"


@dataclass(frozen=True, slots=True)
class Anomalies:
    """Single calls, and windows, that are far from the usual. The budget is per 10,000 calls, and per 10,000 windows."""

    metrics: tuple[WatchedMetric, ...] = ("ttft", "latency", "output_tokens", "cost")
    method: Method = "mad"
    sigma: float = 6.0  # how far a single call must be from the usual besides being rare
    window_s: float = 60.0
    samples: int = 20
    false_alarms_per_10k: float = 1.0
    severity: Severity = "low"


@dataclass(frozen=True, slots=True)
class Changes:
    """What the control loop's slower lanes may do to the pool of an optimize route by themselves."""

    hold: bool = True  # an arm that fails or is late beyond doubt rests for minutes
    retire: bool = True  # an arm that another one dominates beyond doubt rests until that is over, or a trial is due


@dataclass(frozen=True, slots=True)
class Knob:
    """A parameter of the request that may be moved between `low` and `high`, from `start` on."""

    name: str
    low: float
    high: float
    start: float
    whole: bool = False  # a whole number, like max_tokens


@dataclass(frozen=True, slots=True)
class Tuning:
    """Parameters that are moved on evidence, for each task by itself, by at most `per_day` (fraction) in a day."""

    knobs: tuple[Knob, ...]
    per_day: float = 0.05
    false_moves: float = 0.05  # probability that a comparison moves a parameter that makes no difference
    max_samples: int = 20_000  # calls of one comparison; then the next parameter is tried


@dataclass(frozen=True, slots=True)
class Variant:
    """One side of an experiment: an arm of the route, with further params or another system prompt where given."""

    id: str
    arm: str
    params: tuple[tuple[str, bytes], ...] = ()  # added to the arm's
    system: tuple[Edit, ...] = ()  # applied to the request's system prompt, in this order
    weight: float = 1.0  # of the first shares; with uniform allocation of all


@dataclass(frozen=True, slots=True)
class ExperimentSpec:
    """An A/B test of 2..5 variants, the first of which is the control."""

    variants: tuple[Variant, ...] = ()
    metric: Literal["quality", "cost", "latency", "ttft", "error_rate"] = "quality"
    allocation: Literal["uniform", "adaptive"] = "adaptive"
    alpha: float = 0.05  # probability, over all variants, all times and all pods, of a winner that is not the best
    min_samples: int = 100  # values of each variant before there is an answer
    min_effect: float | None = None  # a difference (quality, error_rate) or ratio - 1 (others) that is worth having
    max_duration_s: float = 14 * 86400.0
    on_winner: Literal["report", "promote"] = "report"
    replicas: int = 1  # pods, which decide by themselves; no part of an experiment's id

    @property
    def pod_alpha(self) -> float:
        """This pod's part of `alpha`."""
        return self.alpha / self.replicas


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
    shadow: Shadow | None = None
    cascade: Cascade | None = None
    experiment: ExperimentSpec | None = None
    thresholds: tuple[Threshold, ...] = ()
    drift: Drift | None = None
    anomalies: Anomalies | None = None
    tuning: Tuning | None = None
    allow_loss: bool = False  # an arm of another dialect may serve a call that it cannot be told in full
    changes: Changes = Changes()

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
