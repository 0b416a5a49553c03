"""Judges the row of one exchange of a campaign of faults: whether it tells what the client and the upstream saw."""

from collections.abc import Mapping
from typing import Any

from tests.e2e.fault_judge import Seen
from tests.e2e.fault_stack import INPUT_NUSD, OUTPUT_NUSD, PRICED
from tests.fixtures.answers import ended, output_tokens

_CLOCKS_S = 0.05  # by which two processes may see one moment apart
_ERRORS = {"upstream_closed": {"truncated"}, "bad_response": {"bad_response", "bad_framing"}, "budget": {"refused"}}


def judge_row(seen: Seen, row: Mapping[str, Any]) -> list[str]:
    """Whether the database tells of the exchange what the client saw of it."""
    outcome, error, sent = row["outcome"], row["error"], seen.sent
    said_so = f"row {outcome}/{error}/{row['status']}"
    broken: list[str] = []
    stayed = seen.end == "whole" and not seen.plan.leave and not seen.plan.client
    if outcome == "aborted" and (stayed or not seen.gone):
        broken.append(f"{said_so}, but the client stayed")
    finished = sent.state == "whole" or (seen.gone and (seen.given.state == "whole" or ended(seen.given.payload)))
    if outcome == "completed" and not finished:
        broken.append(f"{said_so}, but the client got {sent.state}")
    if error == "truncated" and not seen.died:
        broken.append(f"{said_so}, but no upstream's connection had ended")
    if outcome == "failed" and error == "truncated" and sent.state == "whole" and not seen.own:
        broken.append(f"{said_so}, but the answer was complete")
    good = sent.state == "whole" and not seen.own and sent.status < 400
    if outcome == "failed" and good and error not in ("error_event", "bad_body"):
        broken.append(f"{said_so}, but the answer was {sent.status}")
    if seen.own in _ERRORS and outcome == "failed" and error not in _ERRORS[seen.own]:
        broken.append(f"{said_so}, but the client was told {seen.own}")
    if sent.status and outcome != "aborted" and row["status"] != sent.status:
        broken.append(f"{said_so}, but the client was told {sent.status}")
    if outcome == "aborted" and row["cost_nusd"] and row["cost_kind"] != "lower_bound":
        broken.append(f"{said_so}, and its cost is {row['cost_kind']}")
    if outcome == "completed" and good and seen.given.state == "whole" and not seen.noisy and seen.calls == 1:
        broken += _judge_usage(seen, row)
    return broken + _judge_times(seen, row)


def _judge_usage(seen: Seen, row: Mapping[str, Any]) -> list[str]:
    """Tokens are those that the upstream told; money is what the policy says that they cost."""
    told, broken = output_tokens(seen.given.payload), []
    if told is not None and (row["output_tokens"], row["usage_source"]) != (told, "provider"):
        broken.append(f"row of {row['output_tokens']} tokens by {row['usage_source']}, but the upstream told {told}")
    if row["upstream"] in PRICED and told is not None:
        cost = INPUT_NUSD * (row["input_tokens"] or 0) + OUTPUT_NUSD * told
        if (row["cost_nusd"], row["cost_kind"]) != (cost, "exact"):
            broken.append(f"row of {row['cost_nusd']} nano-dollars ({row['cost_kind']}), but {cost} are due")
    return broken


def _judge_times(seen: Seen, row: Mapping[str, Any]) -> list[str]:
    """They stand in order, and none is longer than the client waited."""
    names = ("ttfb_s", "ttfe_s", "ttft_s", "ttfa_s", "duration_s")
    names = names if seen.plan.shape.upload else ("sent_s", *names)  # an answer may come before the upload's end
    times = [row[name] for name in names if row[name] is not None]
    broken = []
    if times != sorted(times) or (times and times[0] < 0):
        broken.append(f"row with times out of order: {dict(zip(names, (row[name] for name in names), strict=True))}")
    if seen.end == "whole" and row["duration_s"] > seen.took_s + _CLOCKS_S:
        broken.append(f"row of {row['duration_s']:.2f} s, but its client waited {seen.took_s:.2f} s")
    shape = seen.plan.shape
    streamed = shape.stream and not shape.array and row["outcome"] == "completed" and row["output_tokens"]
    if streamed and seen.end == "whole" and row["ttft_s"] is None:
        broken.append("row of a stream without a first token")
    return broken
