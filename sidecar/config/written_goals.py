"""What a policy file says of prices, context, goals and ceilings: more classes of the kind that `written` describes.

They stand apart from `written` because each is about money or about what the selector makes of a call.
"""

from dataclasses import dataclass, field
from fractions import Fraction

from sidecar.config import kinds, units
from sidecar.config.document import Node, Problems
from sidecar.config.kinds import Wrong, choice, key, scalar, struct, within
from sidecar.core import policy as core

_CONTEXT, _OBJECTIVE, _BUDGET = core.Context(), core.Objective(), core.Budget()
_WEIGHT = within(kinds.NUMBER, 0.0, 1e6)
_TTFT = within(kinds.DURATION, 0.05, 50.0)  # what the engine tells apart: shorter is felt by nobody, longer by all
_LATENCY = within(kinds.DURATION, 0.1, 240.0)
_WINDOW = within(kinds.DURATION, 1.0, 7 * 86400.0)
SECONDS_PER_HOUR = 3600
# Femto-dollars, exact until they are rounded once; a fraction because an hour's price need not divide by 3,600.
_PRICE_OF_TIME = scalar("US dollars", units.usd_to_fusd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Prices of your own, in US dollars per million tokens, per second of a call, or both; they replace the price list."""

    node: Node
    input_mtok: int | None = field(
        default=None, metadata=key(kinds.LIST_PRICE, "Input tokens; required unless time alone is paid.")
    )
    output_mtok: int | None = field(
        default=None, metadata=key(kinds.LIST_PRICE, "Output tokens, with reasoning; required as `input_mtok` is.")
    )
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
    second_usd: int | None = field(
        default=None,
        metadata=key(_PRICE_OF_TIME, "Each second of a call, from sent to its last byte: a machine of your own."),
    )
    gpu_hour_usd: int | None = field(
        default=None, metadata=key(_PRICE_OF_TIME, "The same by the hour; divide it by the calls served at once.")
    )


def read_price(node: Node, problems: Problems) -> core.FlatPrice:
    """`free` or a map of prices; raises Wrong when it is neither, or when half of it is missing."""
    if node.kind == "scalar" and node.text == "free":
        return core.FlatPrice(0, 0)
    if node.kind != "map":
        problems.add(node, "is neither `free` nor prices", "write free, or {input_mtok: 2.5, output_mtok: 10}")
        raise Wrong
    price = struct(Price, "prices").read(node, problems)
    second_fusd = _second_fusd(price, problems)
    tokens = [price.input_mtok, price.output_mtok, price.cache_read_mtok, price.cache_write_mtok]
    if second_fusd is None or any(one is not None for one in (*tokens, price.cache_write_1h_mtok)):
        _needs_both(price, problems)
    return core.FlatPrice(
        price.input_mtok or 0,
        price.output_mtok or 0,
        price.cache_read_mtok,
        price.cache_write_mtok,
        price.cache_write_1h_mtok,
        second_fusd or 0,
    )


def _second_fusd(price: Price, problems: Problems) -> int | None:
    """Femto-dollars per second, or None where time is not paid."""
    if price.gpu_hour_usd is None:
        return price.second_usd
    if price.second_usd is not None:
        what = "says the price of time twice: `second_usd` is there too"
        problems.add(price.node.find("gpu_hour_usd"), what, "keep one of them")
        raise Wrong
    return round(Fraction(price.gpu_hour_usd, SECONDS_PER_HOUR))


def _needs_both(price: Price, problems: Problems) -> None:
    for name, value in (("input_mtok", price.input_mtok), ("output_mtok", price.output_mtok)):
        if value is None:
            fix = f"add `{name}`: US dollars per million tokens, or price time alone with `second_usd`"
            problems.add(price.node, "is missing", fix, name)
            raise Wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What of a request may tell answers apart, so that the choice can differ from one kind of call to another."""

    node: Node
    tag: str = field(
        default=_CONTEXT.tag,
        metadata=key(kinds.NAME, "The tag of `x-sidecar-tags` that names what kind of call it is."),
    )
    text: bool = field(
        default=_CONTEXT.text,
        metadata=key(kinds.FLAG, "Whether the last user message is looked at, as keyed hashes of its words."),
    )
    cache: bool = field(
        default=_CONTEXT.cache,
        metadata=key(
            kinds.FLAG,
            "With `sticky: request`: the model that served the conversation last is cheaper by what its cache saves.",
        ),
    )


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
    ttft: float | None = field(
        default=None,
        metadata=key(_TTFT, "Most time to the first token of a stream; 5 % of an arm's calls may be later."),
    )
    latency: float | None = field(default=None, metadata=key(_LATENCY, "The same for the time of a whole answer."))
    late_usd: int | None = field(
        default=None,
        metadata=key(kinds.MONEY, "Instead of the 5 %: a call that takes longer counts as so much dearer."),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Hard ceilings on what this route spends; days and months are UTC."""

    node: Node
    per_request_usd: int | None = field(default=None, metadata=key(kinds.MONEY, "Of one call."))
    mean_request_usd: int | None = field(
        default=None, metadata=key(kinds.MONEY, "Of the average call: dear arms get what cheap ones left over.")
    )
    window_usd: int | None = field(
        default=None, metadata=key(kinds.MONEY, "Of any `window`, all pods together (see `replicas`).")
    )
    window: float | None = field(default=None, metadata=key(_WINDOW, "For `window_usd`; without it `1h`."))
    daily_usd: int | None = field(
        default=None, metadata=key(kinds.MONEY, "Of one day, all pods together (see `replicas`).")
    )
    monthly_usd: int | None = field(default=None, metadata=key(kinds.MONEY, "Of one month, all pods together."))
    on_exceeded: str = field(
        default=_BUDGET.on_exceeded,
        metadata=key(choice("cheapest", "deny"), "`cheapest`: the cheapest arm that fits, then deny."),
    )
