"""How Anthropic's models are told how much to think, and what that leaves of their sampling, wherever they are served.

**Two spellings.** Models before Claude 4.6, and other makers' models at servers of Anthropic's format, are given a number of
tokens; later ones decide for themselves and are given an effort (they refuse a number). From 4.7 on they refuse every
sampling parameter. The model's name says which; a name of Anthropic's without a version is a later one.

**What is refused,** and so is left out and told: thinking where a tool is forced; a number of tokens where the last turn
called tools without thoughts of this provider's before it, or that the limit of the answer does not exceed; beside thinking
a top_k, any temperature but 1, a top_p below 0.95.

What it does not know: where these members stand in a body.
"""

import re
from typing import Final

from msgspec import Struct

from sidecar.wire.neutral import EFFORT_TOKENS, Effort, Json, Reasoning, Report, Request, effort_of

Version = tuple[int, int]
ADAPTIVE_FROM: Final[Version] = (4, 6)
_NO_SAMPLING_FROM: Final[Version] = (4, 7)
_MAKER: Final = re.compile(r"\bclaude-|\banthropic\.")
_VERSION: Final = re.compile(r"\bclaude-(?:[a-z]+-)*?v?(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
_MIN_BUDGET: Final = 1024
_ANSWER_TOKENS: Final = 4096  # left to the answer where a call that thinks names no limit
_MIN_TOP_P: Final = 0.95  # beside thinking


class Plan(Struct):
    """What a model is told. `max_tokens`: the limit of an answer that thinks, where the call names none."""

    thinking: Json | None = None  # the member `thinking`
    effort: Effort | None = None
    max_tokens: int | None = None
    exact: bool = True  # it is just what was asked for

    @property
    def thinks(self) -> bool:
        return self.thinking is not None and self.thinking["type"] != "disabled"


def version_of(model: str) -> Version:
    """(0, 0): another maker's."""
    if _MAKER.search(model) is None:
        return 0, 0
    found = _VERSION.search(model)
    return (99, 0) if found is None else (int(found[1]), int(found[2] or 0))


def plan(request: Request, version: Version, *, forced: bool, unsigned: bool) -> Plan:
    """What the model is told of thinking. `forced`: the call forces a tool. `unsigned`: its last turn called tools, and
    does not begin with thoughts that this provider signed."""
    reasoning = request.reasoning
    if reasoning is None:
        return Plan()
    if reasoning.effort == "none" or (reasoning.budget_tokens is not None and reasoning.budget_tokens <= 0):
        return Plan({"type": "disabled"}, exact=reasoning.effort in (None, "none"))
    made = _adaptive(reasoning) if version >= ADAPTIVE_FROM else _budget(request, reasoning, unsigned=unsigned)
    if forced and made.thinking is not None:
        made.thinking, made.exact = None, False
    return made


def _adaptive(reasoning: Reasoning) -> Plan:
    """For a model that decides for itself."""
    effort, budget = reasoning.effort, reasoning.budget_tokens
    if effort is None and budget is not None:
        effort = effort_of(budget)
    effort = "low" if effort == "minimal" else effort
    if effort is None and not (reasoning.adaptive or reasoning.show or reasoning.summary):
        return Plan()
    exact = effort == reasoning.effort and budget is None and reasoning.summary in (None, "auto")
    return Plan(shown({"type": "adaptive"}, reasoning), effort, exact=exact)


def _budget(request: Request, reasoning: Reasoning, *, unsigned: bool) -> Plan:
    """For a model that is given a number of tokens, which must leave some of the answer's limit to the answer."""
    budget, limit = reasoning.budget_tokens, request.max_tokens
    if budget is None:
        effort = reasoning.effort or ("medium" if reasoning.adaptive else None)
        if effort is None:
            return Plan(exact=not (reasoning.show or reasoning.summary))
        budget = EFFORT_TOKENS[effort]
    budget = max(budget, _MIN_BUDGET)
    if limit is not None and budget >= limit:
        budget = max(limit // 2, _MIN_BUDGET)
    room = budget + _ANSWER_TOKENS if limit is None else None
    if unsigned or (limit is not None and budget >= limit):
        return Plan(max_tokens=room, exact=False)
    exact = budget == reasoning.budget_tokens and reasoning.effort is None and reasoning.summary is None
    return Plan(shown({"type": "enabled", "budget_tokens": budget}, reasoning), max_tokens=room, exact=exact)


def shown(thinking: Json, reasoning: Reasoning) -> Json:
    """The member `thinking` with whether thoughts are shown, where the call says so."""
    show = True if reasoning.show is None and reasoning.summary else reasoning.show
    if show is not None:
        thinking["display"] = "summarized" if show else "omitted"
    return thinking


def calm(version: Version, config: Json, more: Json, report: Report, *, top_p: str, thinks: bool) -> None:
    """Takes out the sampling that the model refuses. `config` has the temperature and, called `top_p`, that; `more` has the
    top_k."""
    if version >= _NO_SAMPLING_FROM:
        places = (
            (config, "temperature", "temperature", 1),
            (config, top_p, "top_p", 1),
            (more, "top_k", "top_k", None),
        )
        for said, ours, name, plain in places:
            if said.pop(ours, plain) != plain:
                report.lose(name)
    elif thinks:
        if config.pop("temperature", 1) != 1:
            report.map("temperature")
        if more.pop("top_k", None) is not None:
            report.lose("top_k")
        if config.get(top_p, 1) < _MIN_TOP_P:
            config[top_p] = _MIN_TOP_P
            report.map("top_p")
