"""A row of the log as replay needs it: what the engine knew of the request, who chose what with what chance, how it ended.

A row is left out, and counted under its reason, when no chance had a part in it that another policy could change: pinned
calls (server-side state), calls that a threshold or a budget sent somewhere, refusals, calls outside the policy's arms.
After a fallback the call counts for the arm that was decided: with it comes what the fallback made of it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple, cast, get_args

from sidecar.core.types import Clocks, Endpoint, Facts, Outcome, Unit, Usage

_FORCED: Final = {
    "pinned": "pinned to server-side state",
    "threshold": "sent by a threshold",
    "budget": "sent by a budget",
    "fail-open": "failed open",
}
_ENDPOINTS: Final = frozenset(get_args(Endpoint))
_UNITS: Final = frozenset(get_args(Unit))


class Score(NamedTuple):
    """One feedback score of one decision."""

    decision_id: str
    at_s: float
    source: str
    score: float
    label: str | None = None


class Call(NamedTuple):
    """One logged call that chance decided. Times are seconds since the epoch; None is unknown."""

    id: str
    at_s: float
    route: str
    arm: str
    place: tuple[str | None, str | None]  # upstream and model that served
    propensity: float
    possible: tuple[str, ...]  # arms that the logging policy might have chosen, as far as the row tells
    regime: tuple[object, ...]  # calls of one regime could go to the same arms
    mode: str
    unit: str  # calls of one unit share their assignment
    facts: Facts
    outcome: Outcome
    quality: float | None
    reward: float | None


@dataclass(slots=True)
class Calls:
    """The calls of a log, oldest first, and how many rows were left out for what reason."""

    kept: list[Call] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)

    def leave(self, why: str) -> None:
        self.left_out[why] = self.left_out.get(why, 0) + 1


def calls_of(records: Iterable[Mapping[str, Any]], route: str | None = None) -> Calls:
    """The calls of these joined rows (as `queries.export` gives them), of one route or of all."""
    calls = Calls()
    for record in records:
        if route is not None and record["route"] != route:
            continue
        found = _call(record)
        if isinstance(found, str):
            calls.leave(found)
        else:
            calls.kept.append(found)
    return calls


def score_of(record: Mapping[str, Any]) -> Score:
    """One row of the table of scores."""
    return Score(record["decision_id"], seconds(record["at"]), record["source"], record["score"], record["label"])


def seconds(at: str) -> float:
    """Seconds since the epoch of RFC 3339 text."""
    return datetime.fromisoformat(at).timestamp()


def _call(record: Mapping[str, Any]) -> Call | str:
    """The call, or why the row is left out."""
    context: Mapping[str, Any] = record["context"] or {}
    arm = context.get("decided", record["arm"])
    propensity = record["propensity"]
    if record["error"] == "refused":
        return "refused"
    if "stages" in context:
        return "a cascade: several arms may have answered"
    if record["reason"] in _FORCED:
        return _FORCED[record["reason"]]
    if arm is None:
        return "served by no arm of the policy"
    if propensity is None or not 0.0 < propensity <= 1.0:
        return "without a probability"
    if record["reason"] == "fallback" and propensity == 1.0:
        return "fell back from a choice that was none"
    possible = _possible(record, context, arm)
    return Call(
        id=record["id"],
        at_s=seconds(record["at"]),
        route=record["route"],
        arm=arm,
        place=(record["upstream"], record["model"]) if arm == record["arm"] else (None, None),
        propensity=propensity,
        possible=possible,
        regime=(record["route"], record["policy_version"], record["rollout_step"], possible, propensity == 1.0),
        mode=record["mode"],
        unit=_unit(record, context),
        facts=_facts(record, context),
        outcome=_outcome(record),
        quality=record["quality"],
        reward=record["reward"],
    )


def _possible(record: Mapping[str, Any], context: Mapping[str, Any], arm: str) -> tuple[str, ...]:
    """The arms that the call might have gone to. Where the selector drew, those that it drew from: others rested, or were
    too dear for what the budget had left. Beside a rollout's canary, and in a conversation that keeps its arm, the row does
    not tell: all that the request could use."""
    if record["propensity"] == 1.0:
        return (arm,)
    scores = context.get("scores")
    if isinstance(scores, Mapping) and arm in scores and record["rollout_id"] is None:
        return tuple(scores)
    return tuple(record["eligible"] or ())


def _unit(record: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    key = record["sticky_key"]
    return (
        str(record["id"]) if key is None or context.get("unit", "request") == "request" else f"{record['route']}/{key}"
    )


def _facts(record: Mapping[str, Any], context: Mapping[str, Any]) -> Facts:
    """What the row tells of the request. The key is left out: a replay draws for each assignment anew."""
    endpoint, unit = context.get("endpoint"), context.get("unit")
    needs, context_tokens, output_tokens = context.get("needs", (0, 0, 0))
    return Facts(
        endpoint=cast("Endpoint", endpoint if endpoint in _ENDPOINTS else "other"),
        dialect=record["dialect"],
        path="",
        model=record["requested_model"],
        stream=bool(record["stream"]),
        key=0,
        key_source=cast("Unit", unit if unit in _UNITS else "request"),
        tags=context.get("tags", {}),
        input_bytes=context.get("input_bytes", 0),
        max_tokens=context.get("max_tokens"),
        tools=bool(context.get("tools")),
        task=context.get("task", ""),
        needs=needs,
        context_tokens=context_tokens,
        output_tokens=output_tokens,
    )


def _outcome(record: Mapping[str, Any]) -> Outcome:
    """How the call ended. The log keeps the quality that validators gave and not their inputs: one that gives the same
    quality stands for it."""
    quality = record["quality"] if record["outcome"] == "completed" else None
    return Outcome(
        kind=record["outcome"],
        status=record["status"] or 0,
        error=record["error"],
        clocks=Clocks(
            sent_s=record["sent_s"],
            ttfb_s=record["ttfb_s"],
            ttft_s=record["ttft_s"],
            duration_s=record["duration_s"] or 0.0,
        ),
        stream=bool(record["stream"]),
        usage=Usage(
            input_tokens=record["input_tokens"],
            output_tokens=record["output_tokens"],
            cached_input_tokens=record["cached_input_tokens"],
        ),
        usage_source=record["usage_source"],
        cost_nusd=record["cost_nusd"],
        cost_kind=record["cost_kind"],
        finish=None if quality is None else "stop" if quality > 0.75 else "length",
        empty=None if quality is None else quality < 0.25,
        refused=quality is not None and quality < 0.25,
    )
