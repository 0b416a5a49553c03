"""How much to think: `thinking` and `output_config.effort` of the Messages API, read and written.

What Anthropic's models take, and what the API refuses, is in `wire.claude`.
"""

from typing import Final

from sidecar.wire.claude import calm, plan, shown, version_of
from sidecar.wire.members import Members, wrong
from sidecar.wire.neutral import Effort, Json, Reasoning, Report, Request

_EFFORTS: Final[tuple[Effort, ...]] = ("low", "medium", "high", "xhigh", "max")
_DISPLAYS: Final = {"summarized": True, "omitted": False}


def read_reasoning(body: Members, config: Members | None) -> tuple[Reasoning | None, Json]:
    """What the call says of thinking. Second: what has no neutral form, by the member of the body that it stands in."""
    reasoning, rest = Reasoning(), {}
    effort = None if config is None else config.text("effort")
    reasoning.effort = next((known for known in _EFFORTS if known == effort), None)
    if effort != reasoning.effort:
        rest["output_config"] = {"effort": effort}
    said = body.mapping("thinking")
    if said is not None:
        thoughts = _read_thinking(reasoning, Members(said, "thinking"))
        rest["thinking"] = said if thoughts is None else thoughts
    return None if reasoning == Reasoning() else reasoning, rest


def _read_thinking(reasoning: Reasoning, node: Members) -> Json | None:
    """Gives the members that are not known; None: it is of a kind that is not."""
    match node.needed_text("type"):
        case "enabled":
            reasoning.budget_tokens = node.integer("budget_tokens")
            if reasoning.budget_tokens is None:
                wrong("thinking.budget_tokens", "a whole number", None)
        case "adaptive":
            reasoning.adaptive = True
        case "disabled":
            reasoning.budget_tokens = 0
        case _:
            return None
    display = node.text("display")
    reasoning.show = _DISPLAYS.get(display or "")
    return node.rest() | ({"display": display} if display is not None and reasoning.show is None else {})


def write_own_thinking(body: Json, request: Request, report: Report, *, unsigned: bool) -> None:
    """As it was read. `unsigned`: thoughts of another provider were left out before calls of tools."""
    reasoning = request.reasoning
    if reasoning is None:
        return
    if reasoning.effort is not None:
        body["output_config"] = {"effort": reasoning.effort} | body.get("output_config", {})
    if reasoning.budget_tokens and unsigned:
        report.map("reasoning")
    elif reasoning.adaptive:
        body["thinking"] = shown({"type": "adaptive"}, reasoning)
    elif reasoning.budget_tokens == 0:
        body["thinking"] = shown({"type": "disabled"}, reasoning)
    elif reasoning.budget_tokens is not None:
        body["thinking"] = shown({"type": "enabled", "budget_tokens": reasoning.budget_tokens}, reasoning)


def write_thinking(body: Json, request: Request, report: Report, *, unsigned: bool) -> None:
    """Of another format's call; `max_tokens` and the sampling are written already. `unsigned`: the last turn called tools,
    and does not begin with thoughts that Anthropic signed."""
    version = version_of(request.model)
    forced = request.tool_choice is not None and request.tool_choice.mode == "required" and "tool_choice" in body
    made = plan(request, version, forced=forced, unsigned=unsigned)
    if made.effort is not None:
        body["output_config"] = {"effort": made.effort} | body.get("output_config", {})
    if made.max_tokens is not None:
        body["max_tokens"] = made.max_tokens
    if made.thinking is not None:
        body["thinking"] = made.thinking
    if not made.exact:
        report.map("reasoning")
    calm(version, body, body, report, top_p="top_p", thinks=made.thinks)
