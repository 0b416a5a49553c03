"""How much to think: what is said of it to Anthropic's models at Bedrock, and what that leaves of the sampling.

It is a matter of the model's maker (`additionalModelRequestFields`); other makers' models are told nothing. Models before
Claude 4.6 are given a number of tokens, which the answer's limit must exceed; later ones decide for themselves and are given
an effort.

**What the service refuses,** and so is left out and told: thinking where a tool is forced; a number of tokens where the last
turn called tools without thoughts of this service before it; beside thinking a top_k, any temperature but 1, a top_p below
0.95. From 4.7 on there is no sampling at all.
"""

import re
from typing import Final

from sidecar.wire.neutral import EFFORT_TOKENS, Json, Reasoning, Report, Request, effort_of
from sidecar.wire.spokes.converse.blocks import makes_claude

_VERSION: Final = re.compile(r"anthropic\.claude-(?:[a-z]+-)*?v?(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
_ADAPTIVE_FROM: Final = (4, 6)
_NO_SAMPLING_FROM: Final = (4, 7)
_MIN_BUDGET: Final = 1024
_ANSWER_TOKENS: Final = 4096  # left to the answer where a call that thinks names no limit
_MIN_TOP_P: Final = 0.95


def write_thinking(body: Json, request: Request, report: Report, *, unsigned: bool) -> None:
    """How much to think, and what that leaves of the sampling; everything else is written already.

    `unsigned`: the last turn called tools, and does not begin with thoughts that this service signed.
    """
    reasoning, version = request.reasoning, _claude(request.model)
    if version is None:
        if reasoning is not None and reasoning != Reasoning():
            report.lose("reasoning")
        return
    thinking, exact = None, True
    if reasoning is not None:
        if version >= _ADAPTIVE_FROM:
            thinking, exact = _adaptive(body, reasoning)
        else:
            thinking, exact = _budget(body, request, reasoning, report, unsigned=unsigned)
    thinks = thinking is not None and thinking["type"] != "disabled"
    if thinking is not None:
        body.setdefault("additionalModelRequestFields", {})["thinking"] = thinking
    if not exact:
        report.map("reasoning")
    if version >= _NO_SAMPLING_FROM:
        _lose_sampling(body, report)
    elif thinks:
        _calm(body, report)


def _claude(model: str) -> tuple[int, int] | None:
    """The version of a model of Anthropic's; a name without one is a later one. None: another maker's."""
    if not makes_claude(model):
        return None
    found = _VERSION.search(model)
    return (99, 0) if found is None else (int(found[1]), int(found[2] or 0))


def _forced(body: Json) -> bool:
    return "toolChoice" in body.get("toolConfig", ())


def _adaptive(body: Json, reasoning: Reasoning) -> tuple[Json | None, bool]:
    """For a model that decides for itself. Second: whether it is just what was asked for."""
    effort = reasoning.effort
    if effort is None and reasoning.budget_tokens is not None:
        effort = effort_of(reasoning.budget_tokens)
    if effort == "none":
        return {"type": "disabled"}, True
    if effort is not None:
        effort = "low" if effort == "minimal" else effort
        if _forced(body) and effort in ("xhigh", "max"):
            effort = "high"  # without thinking there is no more
        body["outputConfig"] = {**body.get("outputConfig", {}), "effort": effort}
    elif not (reasoning.adaptive or reasoning.show or reasoning.summary):
        return None, True
    if _forced(body):
        return None, False
    return _shown({"type": "adaptive"}, reasoning), effort == reasoning.effort and reasoning.summary in (None, "auto")


def _budget(
    body: Json, request: Request, reasoning: Reasoning, report: Report, *, unsigned: bool
) -> tuple[Json | None, bool]:
    """For a model that is given a number of tokens, and does not think unless it is."""
    asked = reasoning.budget_tokens
    if asked is None:
        effort = reasoning.effort or ("medium" if reasoning.adaptive else None)
        if effort is None:
            return None, not (reasoning.show or reasoning.summary)
        asked = EFFORT_TOKENS[effort]
    if asked <= 0:
        return None, True
    budget, limit = max(asked, _MIN_BUDGET), request.max_tokens
    if limit is not None and budget >= limit:
        budget = max(limit // 2, _MIN_BUDGET)
    if unsigned or _forced(body) or (limit is not None and budget >= limit):
        return None, False
    if limit is None:
        body["inferenceConfig"]["maxTokens"] = budget + _ANSWER_TOKENS
        report.map("max_tokens")
    exact = budget == reasoning.budget_tokens and reasoning.summary is None
    return _shown({"type": "enabled", "budget_tokens": budget}, reasoning), exact


def _shown(thinking: Json, reasoning: Reasoning) -> Json:
    show = True if reasoning.show is None and reasoning.summary else reasoning.show
    if show is not None:
        thinking["display"] = "summarized" if show else "omitted"
    return thinking


def _calm(body: Json, report: Report) -> None:
    """The sampling that is allowed beside thinking."""
    config = body["inferenceConfig"]
    if config.pop("temperature", 1) != 1:
        report.map("temperature")
    if body["additionalModelRequestFields"].pop("top_k", None) is not None:
        report.lose("top_k")
    if config.get("topP", 1) < _MIN_TOP_P:
        config["topP"] = _MIN_TOP_P
        report.map("top_p")


def _lose_sampling(body: Json, report: Report) -> None:
    """The sampling of a model that has none; 1 is what it does."""
    config = body["inferenceConfig"]
    for name, ours in (("temperature", "temperature"), ("top_p", "topP")):
        if config.pop(ours, 1) != 1:
            report.lose(name)
    if body.get("additionalModelRequestFields", {}).pop("top_k", None) is not None:
        report.lose("top_k")
