"""How much to think: `thinking` and `output_config.effort` of the Messages API, read and written.

**Two spellings.** Models before Claude 4.6, and other makers' servers, are given a number of tokens; later ones decide for
themselves and are given an effort (they refuse a number). Models from 4.7 on also refuse every sampling parameter. The
model's name says which; a name of Anthropic's without a version is a later one.

**What the API refuses,** and so is left out of another format's call and told: thinking where a tool is forced; a number of
tokens where the last turn called tools without thoughts of Anthropic's before it (another provider answered it), or that
the limit of the answer does not exceed; sampling parameters beside thinking.
"""

import re
from typing import Final

from sidecar.wire.members import Members, wrong
from sidecar.wire.neutral import EFFORT_TOKENS, Effort, Json, Reasoning, Report, Request, effort_of
from sidecar.wire.spokes.messages.limits import MAX_TOKENS

EFFORTS: Final[tuple[Effort, ...]] = ("low", "medium", "high", "xhigh", "max")
MIN_BUDGET: Final = 1024
_DISPLAYS: Final = {"summarized": True, "omitted": False}
_CLAUDE: Final = re.compile(r"\bclaude-")
_VERSION: Final = re.compile(r"\bclaude-(?:[a-z]+-)*?(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
_ADAPTIVE_FROM: Final = (4, 6)
_NO_SAMPLING_FROM: Final = (4, 7)
_MIN_TOP_P: Final = 0.95  # beside thinking


def read_reasoning(body: Members, config: Members | None) -> tuple[Reasoning | None, Json]:
    """What the call says of thinking. Second: what has no neutral form, by the member of the body that it stands in."""
    reasoning, rest = Reasoning(), {}
    effort = None if config is None else config.text("effort")
    reasoning.effort = next((known for known in EFFORTS if known == effort), None)
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
        body["thinking"] = _shown({"type": "adaptive"}, reasoning)
    elif reasoning.budget_tokens == 0:
        body["thinking"] = _shown({"type": "disabled"}, reasoning)
    elif reasoning.budget_tokens is not None:
        body["thinking"] = _shown({"type": "enabled", "budget_tokens": reasoning.budget_tokens}, reasoning)


def write_thinking(body: Json, request: Request, report: Report, *, unsigned: bool) -> None:
    """Of another format's call; `max_tokens` and the sampling are written already. `unsigned`: the last turn called tools,
    and does not begin with thoughts that Anthropic signed."""
    version = _version(request.model)
    thinking, exact = None, True
    if request.reasoning is not None:
        if _is_off(request.reasoning):
            thinking = {"type": "disabled"}
        elif version >= _ADAPTIVE_FROM:
            thinking, exact = _adaptive(body, request.reasoning)
        else:
            thinking, exact = _budget(body, request, request.reasoning, unsigned=unsigned)
    thinks = thinking is not None and thinking["type"] != "disabled"
    if thinks and request.tool_choice is not None and request.tool_choice.mode == "required" and "tool_choice" in body:
        thinking, thinks, exact = None, False, False
    if thinking is not None:
        body["thinking"] = thinking
    if not exact:
        report.map("reasoning")
    if version >= _NO_SAMPLING_FROM:
        _lose_sampling(body, report)
    elif thinks:
        _calm(body, report)


def _adaptive(body: Json, reasoning: Reasoning) -> tuple[Json | None, bool]:
    """For a model that decides for itself. Second: whether it is just what was asked for."""
    effort = reasoning.effort
    if effort is None and reasoning.budget_tokens is not None:
        effort = effort_of(reasoning.budget_tokens)
    if effort is not None:
        effort = "low" if effort == "minimal" else effort
        body["output_config"] = {"effort": effort} | body.get("output_config", {})
    if effort is None and not (reasoning.adaptive or reasoning.show or reasoning.summary):
        return None, True
    return _shown({"type": "adaptive"}, reasoning), effort == reasoning.effort and reasoning.summary in (None, "auto")


def _budget(body: Json, request: Request, reasoning: Reasoning, *, unsigned: bool) -> tuple[Json | None, bool]:
    """For a model that is given a number of tokens, which must leave some of the answer's limit to the answer."""
    budget = reasoning.budget_tokens
    if budget is None:
        effort = reasoning.effort or ("medium" if reasoning.adaptive else None)
        if effort is None:
            return None, not (reasoning.show or reasoning.summary)
        budget = EFFORT_TOKENS[effort]
    budget = max(budget, MIN_BUDGET)
    if request.max_tokens is None:
        body["max_tokens"] = budget + MAX_TOKENS
    elif budget >= request.max_tokens:
        budget = max(request.max_tokens // 2, MIN_BUDGET)
    if unsigned or budget >= body["max_tokens"]:
        return None, False
    exact = budget == reasoning.budget_tokens and reasoning.summary is None
    return _shown({"type": "enabled", "budget_tokens": budget}, reasoning), exact


def _is_off(reasoning: Reasoning) -> bool:
    return reasoning.effort == "none" or (reasoning.effort is None and reasoning.budget_tokens == 0)


def _calm(body: Json, report: Report) -> None:
    """The sampling that is allowed beside thinking."""
    if body.pop("temperature", 1) != 1:
        report.map("temperature")
    if body.pop("top_k", None) is not None:
        report.lose("top_k")
    if body.get("top_p", 1) < _MIN_TOP_P:
        body["top_p"] = _MIN_TOP_P
        report.map("top_p")


def _lose_sampling(body: Json, report: Report) -> None:
    """The sampling of a model that has none; 1 is what it does."""
    for name, plain in (("temperature", 1), ("top_p", 1), ("top_k", None)):
        if body.pop(name, plain) != plain:
            report.lose(name)


def _version(model: str) -> tuple[int, int]:
    """(0, 0): not Anthropic's."""
    if _CLAUDE.search(model) is None:
        return 0, 0
    found = _VERSION.search(model)
    return (99, 0) if found is None else (int(found[1]), int(found[2] or 0))


def _shown(thinking: Json, reasoning: Reasoning) -> Json:
    show = True if reasoning.show is None and reasoning.summary else reasoning.show
    if show is not None:
        thinking["display"] = "summarized" if show else "omitted"
    return thinking
