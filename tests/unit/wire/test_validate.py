"""The validators that read an answer: what is good, what is bad, and what nobody can tell."""

import json
from typing import Any

import pytest

from sidecar.core.policy import Quality
from sidecar.core.types import Dialect, Endpoint
from sidecar.wire.answer import Call, Said
from sidecar.wire.validate import Answered, check, plan_of
from tests.unit.wire.test_validators_language import TEXTS

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORMAT = {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}
TOOLS = {"tools": [{"function": {"name": "f", "parameters": SCHEMA}}, {"function": {"name": "g"}}]}


def scores(
    names: str | tuple[str, ...],
    said: Said,
    request: Any = None,
    endpoint: Endpoint = "chat",
    dialect: Dialect = "openai",
    **quality: Any,
) -> dict[str, float]:
    plan = plan_of(Quality(validators=(names,) if isinstance(names, str) else names, **quality))
    assert plan is not None
    body = json.dumps(request or {}).encode()
    return dict(check(plan, Answered(said, body, endpoint, dialect)))


def test_a_policy_without_text_validators_has_no_plan() -> None:
    """What reads no text costs nothing."""
    assert plan_of(Quality()) is None
    assert plan_of(Quality(validators=("finish_reason", "refusal", "empty"))) is None


def test_json_schema() -> None:
    """Every choice must satisfy what the request asks for; calls instead of text are another matter."""
    assert scores("json_schema", Said(('{"a": 1}',)), FORMAT) == {"json_schema": 1.0}
    assert scores("json_schema", Said(('{"a": "1"}',)), FORMAT) == {"json_schema": 0.0}
    assert scores("json_schema", Said(('{"a": 1}', "no")), FORMAT) == {"json_schema": 0.0}
    assert scores("json_schema", Said(), FORMAT) == {"json_schema": 0.0}
    assert scores("json_schema", Said(("",), (Call("f", "{}"),)), FORMAT) == {}
    assert scores("json_schema", Said(("free text",))) == {}
    assert scores("json_schema", Said(("free text",)), [1]) == {}


def test_json_schema_of_the_policy() -> None:
    """It replaces what requests ask for, in every dialect's own words."""
    own = json.dumps({"type": "array"}).encode()
    assert scores("json_schema", Said(("[]",)), FORMAT, schema=own) == {"json_schema": 1.0}
    assert scores("json_schema", Said(('{"a": 1}',)), schema=own, endpoint="generate", dialect="gemini") == {
        "json_schema": 0.0
    }


def test_json_schema_of_gemini() -> None:
    """Its types are in capitals."""
    request = {"generationConfig": {"responseSchema": {"type": "OBJECT", "required": ["a"]}}}
    for text, want in (('{"a": 1}', 1.0), ("{}", 0.0)):
        assert scores("json_schema", Said((text,)), request, "generate", "gemini") == {"json_schema": want}


@pytest.mark.parametrize(
    ("calls", "want"),
    [
        ((Call("f", '{"a": 1}'),), 1.0),
        ((Call("f", '{"a": 1}'), Call("g", '{"x": 1}')), 1.0),
        ((Call("g", ""),), 1.0),
        ((Call("f", '{"a": "1"}'),), 0.0),
        ((Call("f", '{"a": 1'),), 0.0),
        ((Call("f", '{"a": 1}'), Call("f", "")), 0.0),
        ((Call("g", "[]"),), 0.0),
        ((Call("h", "{}"),), 0.0),
        ((), None),
    ],
)
def test_tool_arguments(calls: tuple[Call, ...], want: float | None) -> None:
    """Every call is of a tool that was offered, with arguments that satisfy its schema."""
    assert scores("tool_arguments", Said((), calls), TOOLS) == ({} if want is None else {"tool_arguments": want})


def test_tool_arguments_without_tools() -> None:
    """Tools that the request does not list (a stored prompt may) cannot be judged."""
    assert scores("tool_arguments", Said((), (Call("f", "{}"),))) == {}
    assert scores("tool_arguments", Said((), (Call("f", "{}"),)), [1]) == {}


def test_a_check_that_is_partly_unknown() -> None:
    """One bad part is bad; a good part beside one that cannot be checked is unknown."""
    tools = {"tools": [*TOOLS["tools"], {"function": {"name": "x", "parameters": {"$ref": "http://a/b"}}}]}
    assert scores("tool_arguments", Said((), (Call("f", '{"a": 1}'), Call("x", "{}"))), tools) == {}
    assert scores("tool_arguments", Said((), (Call("f", "{}"), Call("x", "{}"))), tools) == {"tool_arguments": 0.0}


def test_language() -> None:
    """That of the prompt, or one of those that the policy names."""
    asks = {"messages": [{"role": "user", "content": TEXTS["de"]}]}
    assert scores("language", Said((TEXTS["de"],)), asks) == {"language": 1.0}
    assert scores("language", Said((TEXTS["en"],)), asks) == {"language": 0.0}
    assert scores("language", Said(("42",)), asks) == {}
    assert scores("language", Said((TEXTS["en"],)), {"messages": [{"role": "user", "content": "1+1?"}]}) == {}
    assert scores("language", Said((TEXTS["en"],)), languages=("en", "fr")) == {"language": 1.0}
    assert scores("language", Said((TEXTS["de"],)), languages=("en", "fr")) == {"language": 0.0}


def test_regex() -> None:
    """All of `must`, none of `must_not`; what is too much work is unknown."""
    rules: dict[str, Any] = {"must": (r"Source: \S", "^Dear"), "must_not": ("(password)",)}
    assert scores("regex", Said(("Dear you. Source: x",)), **rules) == {"regex": 1.0}
    assert scores("regex", Said(("Dear you.",)), **rules) == {"regex": 0.0}
    assert scores("regex", Said(("Dear you. Source: x. Your password",)), **rules) == {"regex": 0.0}
    assert scores("regex", Said(), **rules) == {}
    assert scores("regex", Said(("a" * 5000,)), must=(r"\d+ \d+",)) == {}
    assert scores("regex", Said(("a" * 5000,)), must_not=(r"\d+ \d+",)) == {}


def test_refusal_text() -> None:
    """An opening is a weak sign: it costs half."""
    assert scores("refusal_text", Said(("I'm sorry, but I can't do that.",))) == {"refusal_text": 0.5}
    assert scores("refusal_text", Said(("Here you are.",))) == {"refusal_text": 1.0}
    assert scores("refusal_text", Said(("",))) == {}


def test_scores_come_in_the_policys_order() -> None:
    """And those that know nothing are left out."""
    said = Said((TEXTS["en"],))
    found = scores(("regex", "json_schema", "language"), said, must=("password",), languages=("en",))
    assert list(found) == ["regex", "language"]
