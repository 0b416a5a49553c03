"""How much to think: what is said of it to models at Bedrock, and what that leaves of the sampling.

It is a matter of the model's maker (`additionalModelRequestFields`): what Anthropic's models take is in `wire.claude`;
Amazon's Nova 2 and OpenAI's open models take one of three efforts; other makers' models are told nothing. Nova's highest
effort is refused beside a limit or sampling: such a call gets the middle one.
"""

from typing import Final

from sidecar.wire.claude import ADAPTIVE_FROM, calm, plan, version_of
from sidecar.wire.neutral import Effort, Json, Reasoning, Report, Request, effort_of

_EFFORTS: Final[dict[Effort, Effort]] = {"minimal": "low", "xhigh": "high", "max": "high"}  # of those that take three
_REFUSED_BESIDE_HIGH: Final = frozenset({"maxTokens", "temperature", "topP"})


def write_thinking(body: Json, request: Request, report: Report, *, unsigned: bool) -> None:
    """How much to think, and what that leaves of the sampling; everything else is written already.

    `unsigned`: the last turn called tools, and does not begin with thoughts that this service signed.
    """
    version = version_of(request.model)
    if not version[0]:
        if request.reasoning is not None and request.reasoning != Reasoning():
            _write_effort(body, request.model, request.reasoning, report)
        return
    forced = "toolChoice" in body.get("toolConfig", ())
    made = plan(request, version, forced=forced, unsigned=unsigned)
    if made.effort is not None:
        capped = forced and made.effort in ("xhigh", "max")  # without thinking there is no more than high
        body["outputConfig"] = {**body.get("outputConfig", {}), "effort": "high" if capped else made.effort}
    if made.thinks or (made.thinking is not None and version >= ADAPTIVE_FROM):
        body.setdefault("additionalModelRequestFields", {})["thinking"] = made.thinking
    if made.thinks and made.max_tokens is not None:
        body["inferenceConfig"]["maxTokens"] = made.max_tokens
        report.map("max_tokens")
    if not made.exact:
        report.map("reasoning")
    more = body.get("additionalModelRequestFields", {})
    calm(version, body["inferenceConfig"], more, report, top_p="topP", thinks=made.thinks)


def _write_effort(body: Json, model: str, reasoning: Reasoning, report: Report) -> None:
    """What other makers' models are told."""
    nova, open_model = "amazon.nova-2" in model, "openai.gpt-oss" in model
    if not (nova or open_model):
        report.lose("reasoning")
        return
    budget, said = reasoning.budget_tokens, reasoning.effort or ("medium" if reasoning.adaptive else None)
    if budget is not None and (said is None or budget <= 0):
        said = effort_of(budget)
    if said == "none" and open_model:
        said = "low"  # it always thinks
    said = None if said is None else _EFFORTS.get(said, said)
    if said == "high" and nova and body["inferenceConfig"].keys() & _REFUSED_BESIDE_HIGH:
        said = "medium"
    if reasoning != Reasoning(effort=said):
        report.map("reasoning")
    if said is not None and open_model:
        body.setdefault("additionalModelRequestFields", {})["reasoning_effort"] = said
    elif said not in (None, "none"):  # without a word it does not think
        config = {"type": "enabled", "maxReasoningEffort": said}
        body.setdefault("additionalModelRequestFields", {})["reasoningConfig"] = config
