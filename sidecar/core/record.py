"""One finished exchange as one flat row: the columns that the store, the line per request and `decisions --json` share.

Theory: a decision and its outcome are one record, so the order of its columns stands in one place. A row
holds scalars only: text, numbers, booleans and None for "unknown" or "does not apply". `eligible` and `context` are
JSON text. `context` keeps what replay needs and has no column: the endpoint, the unit of the propensity, sizes, tags,
the task that one of the tags names, what was found that the request needs of a model, arms that lacked it, the arm
decided when a fallback served, the stages of a cascade before the arm that served, the validators that the answer failed,
what was drawn for each arm (`scores`) at which prices (`prices`), and the rules that took arms out or denied the call.
`itl_p50_s` and `itl_p95_s` are percentiles of the gaps between this response's token chunks; they are inter-token latencies
only where the provider sends one token a chunk (`itl_s` is).

It asks no clock and writes nothing; it holds no prompt, completion or credential because `Settled` has none.
"""

from functools import lru_cache
from typing import TypeAlias

import orjson

from sidecar.clock import rfc3339
from sidecar.core.types import Clocks, Decision, Drawn, Facts, Outcome, Settled, Stage, Usage

Scalar: TypeAlias = str | int | float | bool | None
Row: TypeAlias = tuple[Scalar, ...]

COLUMNS: tuple[str, ...] = (
    "id",
    "at",
    "service",
    "route",
    "mode",
    "dialect",
    "stream",
    "requested_model",
    "arm",
    "upstream",
    "model",
    "reason",
    "propensity",
    "eligible",
    "context",
    "sticky_key",
    "rollout_id",
    "rollout_step",
    "policy_version",
    "completion_id",
    "outcome",
    "error",
    "status",
    "sent_s",
    "ttfb_s",
    "ttfe_s",
    "ttft_s",
    "ttfa_s",
    "duration_s",
    "itl_s",
    "itl_p50_s",
    "itl_p95_s",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "usage_source",
    "cost_nusd",
    "cost_kind",
    "price_version",
    "quality",
    "quality_source",
    "reward",
)

_NO_USAGE = Usage()
_LARGE = 1e6  # beyond it a float times 10,000 has too few digits left to be rounded so


@lru_cache(maxsize=4)
def _second_text(second: int) -> str:
    """`2026-11-21T03:38:00` for a whole second since the epoch; batches share very few of them."""
    return rfc3339(second)[:19]


def at_text(at: float) -> str:
    """RFC 3339 UTC text with microseconds, as `clock.rfc3339`, at a fifth of the price."""
    micros = round(at * 1_000_000)
    second = micros // 1_000_000
    return f"{_second_text(second)}.{micros - second * 1_000_000:06d}Z"


@lru_cache(maxsize=256)
def _eligible_text(eligible: tuple[str, ...]) -> str:
    return orjson.dumps(eligible).decode()


def _stages_text(stages: tuple[Stage, ...]) -> str:
    """What a cascade asked before the arm that served, in order."""
    asked = [
        {"arm": one.arm, "why": one.why, "cost_nusd": one.cost_nusd, "duration_s": round(one.duration_s, 6)}
        for one in stages
    ]
    return f',"stages":{orjson.dumps(asked).decode()}'


def _failed_text(checks: tuple[tuple[str, float], ...]) -> str:
    """The validators that the answer failed."""
    failed = [name for name, score in checks if score < 1.0]
    return f',"failed":{orjson.dumps(failed).decode()}' if failed else ""


def _rounded(value: float) -> float:
    """`round(value, 4)`, but for halves that are none by less than a float can tell; at a quarter of the price."""
    return round(value * 10_000.0) / 10_000.0 if -_LARGE < value < _LARGE else round(value, 4)


@lru_cache(maxsize=16)  # routes; their prices stay the same for many exchanges
def _prices_text(price: float, money: float) -> str:
    return orjson.dumps({"quality": round(price, 4), "money": round(money, 4)}).decode()


def _drawn_text(drawn: Drawn) -> str:
    """What the selector drew for each arm (null: kept out by a limit), and its prices."""
    scores = dict(zip(drawn.arms, map(_rounded, drawn.worth), strict=False))
    return f',"scores":{orjson.dumps(scores).decode()},"prices":{_prices_text(drawn.price, drawn.money)}'


def _context_text(
    facts: Facts, decision: Decision, outcome: Outcome, served: str | None, stages: tuple[Stage, ...] | None
) -> str:
    """JSON written by hand where every part is a number or a word of ours; orjson where text of others comes in."""
    limit = "" if facts.max_tokens is None else f',"max_tokens":{facts.max_tokens}'
    tools = ',"tools":true' if facts.tools else ""
    tags = f',"tags":{orjson.dumps(dict(facts.tags)).decode()}' if facts.tags else ""
    task = f',"task":{orjson.dumps(facts.task).decode()}' if facts.task else ""
    needs = f',"needs":[{facts.needs},{facts.context_tokens},{facts.output_tokens}]' if facts.context_tokens else ""
    left_out = f',"left_out":{orjson.dumps(dict(decision.left_out)).decode()}' if decision.left_out else ""
    decided = "" if served is None else f',"decided":{orjson.dumps(decision.arm).decode()}'
    asked = "" if stages is None else _stages_text(stages)
    failed = _failed_text(outcome.checks) if outcome.checks else ""
    drawn = "" if decision.drawn is None else _drawn_text(decision.drawn)
    rules = f',"rules":{orjson.dumps(decision.rules).decode()}' if decision.rules else ""
    return (
        f'{{"endpoint":"{facts.endpoint}","unit":"{decision.unit}","input_bytes":{facts.input_bytes}'
        f"{limit}{tools}{needs}{left_out}{tags}{task}{decided}{asked}{failed}{drawn}{rules}}}"
    )


def row(settled: Settled, service: str) -> Row:
    """The values of COLUMNS for one exchange. `arm` and `model` are those that served: after a fallback the reason is
    `fallback` and the arm that `propensity` speaks of stands in the context as `decided`."""
    facts: Facts = settled.facts
    decision: Decision = settled.decision
    outcome: Outcome = settled.outcome
    clocks: Clocks = outcome.clocks
    usage: Usage = outcome.usage or _NO_USAGE
    served = outcome.served_arm if outcome.served_arm != decision.arm else None
    return (
        settled.id,
        at_text(settled.at),
        service,
        decision.route,
        decision.mode,
        facts.dialect,
        facts.stream or outcome.stream,
        facts.model,
        decision.arm if served is None else served,
        settled.upstream or None,
        settled.sent_model or outcome.served_model,
        decision.reason if served is None else "fallback",
        decision.propensity,
        _eligible_text(decision.eligible),
        _context_text(facts, decision, outcome, served, settled.stages),
        "%016x" % facts.key if facts.key else None,  # noqa: UP031 - cheaper than an f-string here
        decision.rollout_id,
        decision.rollout_step,
        decision.policy_version,
        outcome.completion_id,
        outcome.kind,
        outcome.error,
        outcome.status or None,
        clocks.sent_s,
        clocks.ttfb_s,
        clocks.ttfe_s,
        clocks.ttft_s,
        clocks.ttfa_s,
        clocks.duration_s,
        clocks.itl_s,
        clocks.gap_p50_s,
        clocks.gap_p95_s,
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
        outcome.usage_source,
        outcome.cost_nusd,
        outcome.cost_kind,
        outcome.price_version,
        settled.quality,
        settled.quality_source,
        settled.reward,
    )
