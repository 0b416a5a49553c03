"""What a policy file says of limits, drift, anomalies and tuning: more classes of the kind that `written` describes.

They stand apart from `written` because each watches the route's traffic after the answer, or acts on what was seen.
"""

from dataclasses import dataclass, field

from sidecar.config import kinds
from sidecar.config.document import Node
from sidecar.config.kinds import choice, filled, key, list_of, struct, within
from sidecar.core import policy as core

METRICS = ("latency_p95", "ttft_p95", "error_rate", "cost_per_request", "quality")
WATCHED = ("ttft", "latency", "input_tokens", "output_tokens", "cost", "quality")
PARAMS = ("temperature", "top_p", "max_tokens")
AUTO = "auto"
_AUTO, _DRIFT, _ANOMALIES, _CHANGES = core.AutoLimit(), core.Drift(), core.Anomalies(), core.Changes()
_SEVERITY = choice("critical", "high", "medium", "low")
_WINDOW = within(kinds.DURATION, 1.0, 86400.0)
_BUDGET = within(kinds.NUMBER, 0.01, 1000.0)
_SIGMA = within(kinds.NUMBER, 1.0, 100.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What the control loop's slower lanes may do to the pool of an `optimize` route by themselves."""

    node: Node
    hold: bool = field(
        default=_CHANGES.hold,
        metadata=key(kinds.FLAG, "An arm that fails or is late more than the others, beyond doubt, rests for minutes."),
    )
    retire: bool = field(
        default=_CHANGES.retire,
        metadata=key(
            kinds.FLAG,
            "An arm that is worse and not cheaper than another, beyond doubt, rests until that changes, or a day.",
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
        metadata=key(
            kinds.TEXT, "Broken above this: a duration, a share, or dollars, as the metric has it; or `auto`."
        ),
    )
    below: str | None = field(default=None, metadata=key(kinds.TEXT, "Broken below this; or `auto`."))
    window: float = field(default=300.0, metadata=key(_WINDOW, "How far back it looks, like 1m, 5m, 15m, 1h."))
    severity: str = field(
        default="medium", metadata=key(_SEVERITY, "Gives the default action: rollback, route_to, adjust, log.")
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
    sigma: float | None = field(
        default=None, metadata=key(_SIGMA, f"`auto`: robust scales away from the usual; without it {_AUTO.sigma:g}.")
    )
    ratio: float | None = field(
        default=None,
        metadata=key(
            within(kinds.NUMBER, 1.0, 100.0), f"`auto`: at least this many times the usual; without it {_AUTO.ratio:g}."
        ),
    )
    per_day: float | None = field(
        default=None,
        metadata=key(
            within(kinds.FRACTION, 0.001, 1.0),
            f"`auto`: how far the limit may move in a day; without it {_AUTO.per_day:g}.",
        ),
    )
    adjust: str | None = field(
        default=None,
        metadata=key(
            choice(*(f"{param} {way}" for param in PARAMS for way in ("down", "up"))),
            "`adjust`: which parameter of `tuning` moves, and where; `max_tokens down` for cost and latency.",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Whether calls are still what they were: whole distributions, against those of the first windows. See drift.md."""

    node: Node
    metrics: tuple[str, ...] = field(
        default=_DRIFT.metrics, metadata=key(filled(list_of(choice(*WATCHED))), "Whose distributions are compared.")
    )
    window: float = field(default=_DRIFT.window_s, metadata=key(_WINDOW, "Shortest time of a window."))
    samples: int = field(
        default=_DRIFT.samples,
        metadata=key(within(kinds.INTEGER, 20, 1000), "Values of a window; it lasts until it has them."),
    )
    false_alarms_per_10k: float = field(
        default=_DRIFT.false_alarms_per_10k,
        metadata=key(_BUDGET, "Alarms with nothing changed, in 10,000 windows, of all distributions together."),
    )
    severity: str = field(default=_DRIFT.severity, metadata=key(_SEVERITY, "Of its events."))


@dataclass(frozen=True, slots=True, kw_only=True)
class Anomalies:
    """Single calls, and windows, that are far from the usual. See drift.md."""

    node: Node
    metrics: tuple[str, ...] = field(
        default=_ANOMALIES.metrics, metadata=key(filled(list_of(choice(*WATCHED))), "What is watched.")
    )
    method: str = field(
        default=_ANOMALIES.method,
        metadata=key(choice("mad", "iqr", "z"), "How the distance from the usual is measured."),
    )
    sigma: float = field(
        default=_ANOMALIES.sigma, metadata=key(_SIGMA, "How far a single call must be away, besides being rare.")
    )
    window: float = field(default=_ANOMALIES.window_s, metadata=key(_WINDOW, "Shortest time of a window."))
    samples: int = field(
        default=_ANOMALIES.samples,
        metadata=key(within(kinds.INTEGER, 5, 1000), "Values of a window; it lasts until it has them."),
    )
    false_alarms_per_10k: float = field(
        default=_ANOMALIES.false_alarms_per_10k,
        metadata=key(_BUDGET, "Alarms with nothing changed, in 10,000 calls, and in 10,000 windows."),
    )
    severity: str = field(default=_ANOMALIES.severity, metadata=key(_SEVERITY, "Of its events."))


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """A parameter that may be moved between two bounds."""

    node: Node
    min: float = field(metadata=key(within(kinds.NUMBER, 0.0, 1e7), "Never below this."))
    max: float = field(metadata=key(within(kinds.NUMBER, 0.0, 1e7), "Never above this."))
    start: float = field(
        metadata=key(within(kinds.NUMBER, 0.0, 1e7), "What calls get until something better is known.")
    )


_KNOB = struct(Knob, "bounds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Parameters that are set in every call of the route and moved, task by task, when rewards show which way."""

    node: Node
    temperature: Knob | None = field(default=None, metadata=key(_KNOB, "Bounds of `temperature`, within 0..2."))
    top_p: Knob | None = field(default=None, metadata=key(_KNOB, "Bounds of `top_p`, within 0..1."))
    max_tokens: Knob | None = field(
        default=None, metadata=key(_KNOB, "Bounds of the output limit; it never raises what the app asked for.")
    )
    per_day: float = field(
        default=0.05,
        metadata=key(
            within(kinds.FRACTION, 0.001, 0.05), "Most that a parameter changes in a UTC day, trials included."
        ),
    )
    false_moves: float = field(
        default=0.05,
        metadata=key(
            within(kinds.FRACTION, 0.0001, 0.5), "Probability that a trial moves a parameter that makes no difference."
        ),
    )
    max_samples: int = field(
        default=20_000,
        metadata=key(within(kinds.INTEGER, 100, 10**7), "Calls of one trial; then the next parameter is tried."),
    )
