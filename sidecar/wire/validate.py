"""Scores in 0..1 for what an answer said: the validators of a policy that need its text.

| validator | 1 | 0 | unknown |
| --- | --- | --- | --- |
| json_schema | the text is JSON and satisfies the schema | it does not | no schema, calls instead of text, limits |
| tool_arguments | every call: a tool that was offered, its schema satisfied | one is not | no calls, no tools, limits |
| language | the expected language | another one | not clear |
| regex | every `must` is found, no `must_not` is | else | no text, limits |
| refusal_text | | 0.5: it opens like a refusal | no text |

Several choices of one answer have their smallest score. Unknown never counts as good or bad. Nothing here keeps a text.
"""

from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct

from sidecar.core.policy import Quality
from sidecar.core.types import Dialect, Endpoint
from sidecar.wire import validators_schema
from sidecar.wire.answer import Said
from sidecar.wire.asked import Asked, read_asked
from sidecar.wire.conversation import last_user_text
from sidecar.wire.validators_language import REFUSAL_QUALITY, language_of, opens_like_refusal
from sidecar.wire.validators_pattern import search

_OF_REQUEST: Final = frozenset({"json_schema", "tool_arguments"})  # what these need stands in the request
_PROMPT_CHARS: Final = 4_000
Checks = tuple[tuple[str, float], ...]  # validator and score, in the policy's order, only what is known


class Answered(Struct, frozen=True, gc=False):
    """One finished call. `request` is the body as it was sent; empty where it is not known any more."""

    said: Said
    request: bytes
    endpoint: Endpoint
    dialect: Dialect


class Plan(Struct, frozen=True):
    """Which checks a route asks for, with all that they need of the policy."""

    names: tuple[str, ...]
    schema: bytes | None = None
    languages: tuple[str, ...] = ()
    must: tuple[str, ...] = ()
    must_not: tuple[str, ...] = ()


def plan_of(quality: Quality) -> Plan | None:
    """The checks of this policy that read texts; None when it has none. Imports the schema library when it is needed.

    Raises:
        ImportError: it is needed and not installed.
    """
    names = tuple(name for name in quality.validators if name in _CHECKS)
    if not names:
        return None
    if _OF_REQUEST & set(names):
        validators_schema.load()
    return Plan(names, quality.schema, quality.languages, quality.must, quality.must_not)


def check(plan: Plan, answered: Answered) -> Checks:
    """The score of every validator that can tell."""
    asked: Asked | None = None
    if _OF_REQUEST & set(plan.names):
        asked = read_asked(answered.request, answered.endpoint)
    found = []
    for name in plan.names:
        score = _CHECKS[name](plan, answered, asked)
        if score is not None:
            found.append((name, score))
    return tuple(found)


def _json_schema(plan: Plan, answered: Answered, asked: Asked | None) -> float | None:
    schema, own = plan.schema, plan.schema is not None
    if schema is None:
        schema = None if asked is None else asked.schema
    said = answered.said
    if schema is None or (said.calls and not any(said.texts)):
        return None
    openapi = answered.dialect == "gemini" and not own
    return _least([validators_schema.satisfies(schema, text, openapi=openapi) for text in said.texts or ("",)])


def _tool_arguments(_plan: Plan, answered: Answered, asked: Asked | None) -> float | None:
    calls = answered.said.calls
    if not calls or asked is None or asked.tools is None:
        return None
    openapi = answered.dialect == "gemini"
    scores: list[float | None] = []
    for call in calls:
        schema = asked.tools.get(call.name)
        if schema is None:
            return 0.0
        text = call.arguments or "{}"  # a call without arguments may send none
        scores.append(validators_schema.satisfies(schema or b'{"type":"object"}', text, openapi=openapi))
    return _least(scores)


def _language(plan: Plan, answered: Answered, _asked: Asked | None) -> float | None:
    expected: tuple[str | None, ...] = plan.languages
    if not expected:
        expected = (language_of(last_user_text(answered.request, _PROMPT_CHARS)),)
    if None in expected:
        return None
    found = [language_of(text) for text in answered.said.texts]
    return _least([None if one is None else float(one in expected) for one in found])


def _regex(plan: Plan, answered: Answered, _asked: Asked | None) -> float | None:
    scores = []
    for text in answered.said.texts:
        results = [search(pattern, text) for pattern in plan.must]
        results += [None if found is None else not found for found in (search(one, text) for one in plan.must_not)]
        scores.append(_least([None if one is None else float(one) for one in results]))
    return _least(scores)


def _refusal_text(_plan: Plan, answered: Answered, _asked: Asked | None) -> float | None:
    said = [text for text in answered.said.texts if text]
    return _least([REFUSAL_QUALITY if opens_like_refusal(text) else 1.0 for text in said])


def _least(scores: list[float | None]) -> float | None:
    """The smallest score; unknown where nothing is known, or where all that is known is good and some is unknown."""
    known = [score for score in scores if score is not None]
    if not known:
        return None
    least = min(known)
    return None if least == 1.0 and len(known) < len(scores) else least


_Check = Callable[[Plan, Answered, Asked | None], float | None]
_CHECKS: Final[Mapping[str, _Check]] = {
    "json_schema": _json_schema,
    "tool_arguments": _tool_arguments,
    "language": _language,
    "regex": _regex,
    "refusal_text": _refusal_text,
}
