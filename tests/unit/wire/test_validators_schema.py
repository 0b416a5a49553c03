"""JSON schemas: right answers for ordinary ones, no answer (and no work, and no network) for hostile ones."""

import json
import socket
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.sim.schema import broken, instance
from sidecar.wire.validators_schema import MAX_SCHEMA_BYTES, MAX_STEPS, compiled, load, satisfies

ORDER = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "state": {"enum": ["open", "done"]},
        "when": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"},
        "items": {"type": "array", "items": {"$ref": "#/$defs/item"}, "uniqueItems": True},
    },
    "required": ["id", "state"],
    "additionalProperties": False,
    "$defs": {"item": {"type": "object", "properties": {"sku": {"type": "string"}}, "required": ["sku"]}},
}


def score(schema: Any, value: Any, **more: Any) -> float | None:
    text = value if isinstance(value, str) else json.dumps(value)
    return satisfies(json.dumps(schema).encode(), text, **more)


@pytest.mark.parametrize(
    ("value", "want"),
    [
        ({"id": 1, "state": "open"}, 1.0),
        ({"id": 1, "state": "open", "when": "2026-11-21", "items": [{"sku": "a"}, {"sku": "b"}]}, 1.0),
        ({"id": "1", "state": "open"}, 0.0),
        ({"state": "open"}, 0.0),
        ({"id": 1, "state": "gone"}, 0.0),
        ({"id": 1, "state": "open", "more": 1}, 0.0),
        ({"id": 1, "state": "open", "when": "tomorrow"}, 0.0),
        ({"id": 1, "state": "open", "items": [{}]}, 0.0),
        ({"id": 1, "state": "open", "items": [{"sku": "a"}, {"sku": "a"}]}, 0.0),
        ("here you are: {}", 0.0),
        ("", 0.0),
        ('```json\n{"id": 1, "state": "open"}\n```', 0.0),
        ('{"id": NaN, "state": "open"}', 0.0),
    ],
)
def test_an_ordinary_schema(value: Any, want: float) -> None:
    """JSON that satisfies it is 1; other JSON, and what is no JSON, is 0."""
    assert score(ORDER, value) == want


def test_older_drafts() -> None:
    """Draft 7 says `items` for a tuple and `definitions` for parts."""
    old = {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "integer"}, {"type": "string"}]}
    assert score(old, [1, "a"]) == 1.0
    assert score(old, ["a", 1]) == 0.0


def test_formats_are_not_checked() -> None:
    """As the standard has it by default: `format` is an annotation."""
    assert score({"type": "string", "format": "email"}, '"nobody"') == 1.0


def test_geminis_spelling() -> None:
    """Types in capitals, and `nullable`."""
    gemini = {
        "type": "OBJECT",
        "properties": {
            "a": {"type": "STRING", "nullable": True, "enum": ["x"]},
            "b": {"type": "INTEGER", "nullable": True},
        },
        "required": ["a"],
    }
    assert score(gemini, {"a": None, "b": None}, openapi=True) == 1.0
    assert score(gemini, {"a": "x", "b": 1}, openapi=True) == 1.0
    assert score(gemini, {"a": "y"}, openapi=True) == 0.0
    assert score(gemini, {"a": "x"}) is None, "capitals are no types elsewhere"


_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_LIST = {"properties": {"n": {"$ref": "#/$defs/n"}}}
HOSTILE: dict[str, tuple[Any, Any]] = {
    "another host": ({"$ref": "http://127.0.0.1:9/schema"}, 1),
    "a file": ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, {"a": 1}),
    "an anchor": ({"$ref": "#there", "$defs": {"a": {"$anchor": "there"}}}, 1),
    "an id inside": ({"properties": {"a": {"$id": "http://a/b"}}}, {"a": 1}),
    "the metaschema": ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, 1),
    "nowhere": ({"$ref": "#/$defs/none"}, 1),
    "itself": ({"$ref": "#"}, 1),
    "a billion laughs": (
        {"$ref": "#/$defs/d0", "$defs": {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
         | {"d40": {"type": "integer"}}},
        1,
    ),
    "many ways to be wrong": ({"anyOf": [{"type": "string"}] * 1500}, {"a": ["x" * 60] * 500}),
    "an evil pattern": ({"pattern": "^(a+)+$"}, "a" * 40),
    "patterns of names": ({"patternProperties": {"^(a+)+$": {}}}, {"a" * 40: 1}),
    "what was evaluated": ({"unevaluatedProperties": False}, {"a": 1}),
    "many equal things": ({"uniqueItems": True}, [{"a": n} for n in range(1000)]),
    "no type": ({"type": "strng"}, 1),
    "no schema": ([1], 1),
    "a list of items": ({"items": [{"type": "integer"}]}, [1]),
    "a deep value": ({"$ref": "#/$defs/n", "$defs": {"n": _LIST}}, '{"n":' * 900 + "1" + "}" * 900),
    "a deeper value": ({}, "[" * 100_000 + "]" * 100_000),
    "long texts": ({"allOf": [{"pattern": "^b"}] * 100}, "b" * 60_000),
    "very many members": ({"enum": list(range(6000))}, 1),
    "a class of the library's own": ({"allOf": [{"$schema": _DRAFT, "pattern": "^(a+)+$"}]}, "a" * 40 + "b"),
    "and again by a reference": (
        {"$schema": _DRAFT, "items": {"$ref": "#"}, "pattern": "^(a+)+$"},
        ["a" * 40 + "b"],
    ),
    "items of any kind": ({"allOf": [{"items": True}] * 1000}, [1] * 20_000),
    "members of any kind": ({"allOf": [{"additionalProperties": True}] * 900}, {f"a{n}": 1 for n in range(5000)}),
    "names of any kind": ({"allOf": [{"propertyNames": True}] * 900}, {f"a{n}": 1 for n in range(5000)}),
    "none of these": ({"allOf": [{"contains": False, "minContains": 0}] * 600}, [1] * 20_000),
    "hard patterns": ({"anyOf": [{"pattern": "[ab]*c" + "x" * n} for n in range(1000)]}, "a" * 300),
    "equal for long": ({"uniqueItems": True}, [{"a": [1] * 150 + [n]} for n in range(140)]),
    "almost a constant": ({"const": {"a": [1] * 9000 + [2]}}, {"a": [1] * 30_001}),
    "almost one of some": ({"items": {"enum": [[1] * 100 + [n] for n in range(90)]}}, [[1] * 100 + [-1]] * 200),
    "no pattern": ({"pattern": "("}, "x"),
    "a long way down": ({"$ref": "#" + "/a" * 10_000}, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schemas_have_no_answer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched, nothing runs away, nothing is raised: the answer is unknown."""
    monkeypatch.setattr(socket, "socket", _no_network)
    schema, value = HOSTILE[name]
    assert score(schema, value if isinstance(value, str) and value[:1] in "[{" else json.dumps(value)) is None


def _no_network(*_args: object, **_more: object) -> None:
    raise AssertionError("a schema made a connection")


@pytest.mark.parametrize("schema", [b"", b"{", b"7", b"[" * 100_000, b'{"a":"' + b"x" * MAX_SCHEMA_BYTES + b'"}'])
def test_what_is_no_schema(schema: bytes) -> None:
    """Not JSON, no object, too deep, too large."""
    assert compiled(schema) is None
    assert satisfies(schema, "1") is None


def test_a_schema_of_too_many_parts() -> None:
    """5,000 maps and lists are a program, not a schema."""
    assert compiled(json.dumps({"allOf": [{}] * 5001}).encode()) is None


def test_plain_truth() -> None:
    """`true` takes any JSON, `false` none."""
    assert score(True, [1]) == 1.0
    assert score(False, [1]) == 0.0
    assert score(True, "text") == 0.0
    assert score({"pattern": "^a"}, 5) == 1.0, "a pattern is about texts"


def test_the_limit_counts_what_is_looked_at() -> None:
    """Each element of an array costs two steps: within the limit it is judged, beyond it unknown."""
    numbers = {"items": {"type": "integer"}}
    assert score(numbers, [1] * (MAX_STEPS // 2 - 10)) == 1.0
    assert score(numbers, [1] * (MAX_STEPS // 2 + 10)) is None


def test_ordinary_values_are_within_the_limit() -> None:
    """A constant that is a map, twenty different things, two hundred dates."""
    assert score({"const": {"a": [1, 2]}}, {"a": [1, 2]}) == 1.0
    assert score({"const": 1}, 1) == 1.0
    assert score({"enum": [{"a": 1}, {"a": 2}]}, {"a": 2}) == 1.0
    assert score({"uniqueItems": True}, [{"sku": f"number {n}"} for n in range(20)]) == 1.0
    assert score({"uniqueItems": True}, [1, 2, 2]) == 0.0
    assert score({"uniqueItems": True}, {"a": 1}) == 1.0, "it is about lists"
    assert score({"const": list(range(300))}, list(range(300))) == 1.0
    dates = {"items": {"pattern": r"^\d{4}-\d{2}-\d{2}$"}}
    assert score(dates, ["2026-11-21"] * 200) == 1.0


def test_nothing_is_imported_before_it_is_needed() -> None:
    """The library costs 4 MiB: a process whose policies do not ask for it does not have it."""
    code = "import sys, sidecar.app; print([n for n in sys.modules if n.startswith(('jsonschema', 'referencing'))])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.strip() == "[]"
    load()
    assert "jsonschema" in sys.modules


_LEAVES = st.sampled_from([{"type": "string"}, {"type": "integer"}, {"type": "boolean"}, {"enum": ["a", "b"]}])
_SCHEMAS = st.recursive(
    _LEAVES,
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, min_size=1).map(
        lambda members: {
            "type": "object",
            "properties": members,
            "required": list(members),
            "additionalProperties": False,
        }
    ),
    max_leaves=12,
).filter(lambda schema: "properties" in schema)


@given(_SCHEMAS)
def test_what_the_simulated_provider_makes_is_told_apart(schema: dict[str, Any]) -> None:
    """Its instances satisfy their schema, its broken ones do not."""
    good = instance(schema)
    assert score(schema, good) == 1.0
    assert score(schema, broken(good)) == 0.0
