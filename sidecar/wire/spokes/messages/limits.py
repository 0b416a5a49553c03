"""Writes the members of another format's call that are about the answer: its length, its sampling, its form, its service.

What the API does not have is lost where it was asked for: a penalty of 0, one answer, or `store: false` asks for nothing.
"""

from typing import Final

from sidecar.wire.neutral import Json, Output, Report, Request
from sidecar.wire.saying import closed
from sidecar.wire.spoke import lose_all, lose_asked

MAX_TOKENS: Final = 4096  # of a call that names no limit: the API wants one
_TIERS: Final = {"auto": "auto", "priority": "auto", "default": "standard_only", "standard_only": "standard_only"}
_UNSAYABLE: Final = (
    "n", "frequency_penalty", "presence_penalty", "seed", "logprobs", "logit_bias", "metadata", "cache_key",
    "cache_retention", "store", "verbosity",
)  # fmt: skip


def write_limits(body: Json, request: Request, report: Report) -> None:
    """Everything but messages, tools and thinking."""
    body["max_tokens"] = request.max_tokens
    if request.max_tokens is None:
        body["max_tokens"] = MAX_TOKENS
        report.map("max_tokens")
    _write_sampling(body, request, report)
    _write_stop(body, request, report)
    _write_user(body, request, report)
    _write_tier(body, request, report)
    if request.output is not None:
        _write_output(body, request.output, report)
    _lose_rest(request, report)


def _write_sampling(body: Json, request: Request, report: Report) -> None:
    if request.temperature is not None:
        body["temperature"] = min(max(request.temperature, 0), 1)
        if body["temperature"] != request.temperature:
            report.map("temperature")
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.top_k is not None:
        body["top_k"] = request.top_k


def _write_stop(body: Json, request: Request, report: Report) -> None:
    """The API refuses a stop text of white space alone."""
    texts = [text for text in request.stop if text.strip()]
    for number, text in enumerate(request.stop):
        if not text.strip():
            report.lose(f"stop[{number}]")
    if texts:
        body["stop_sequences"] = texts


def _write_user(body: Json, request: Request, report: Report) -> None:
    user = request.user or request.safety_identifier
    if user:
        body["metadata"] = {"user_id": user}
    if request.safety_identifier:
        (report.map if request.safety_identifier == user else report.lose)("safety_identifier")


def _write_tier(body: Json, request: Request, report: Report) -> None:
    if request.service_tier is None:
        return
    tier = _TIERS.get(request.service_tier)
    if tier is None:
        report.lose("service_tier")
        return
    body["service_tier"] = tier
    if tier != request.service_tier:
        report.map("service_tier")


def _write_output(body: Json, output: Output, report: Report) -> None:
    """A schema is exact; any JSON at all is nothing that the API can be asked for."""
    if output.schema is None:
        report.lose("output")
        return
    schema = closed(output.schema)
    if schema != output.schema:
        report.map("output.schema")
    body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    if output.description:
        report.lose("output.description")
    lose_all(report, "output", output.extra)


def _lose_rest(request: Request, report: Report) -> None:
    """What the API cannot be asked for."""
    lose_asked(report, request, _UNSAYABLE)
    lose_all(report, "", request.extra)
