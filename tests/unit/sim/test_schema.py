"""Minimal instances of JSON schemas, and distributions."""

import numpy as np
import pytest

from sidecar.sim.knobs import Distribution
from sidecar.sim.schema import broken, instance


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"const": 3}, 3),
        ({"enum": ["a", "b"]}, "a"),
        ({"anyOf": [{"type": "boolean"}, {}]}, True),
        ({"type": ["string", "null"], "minLength": 7}, "Parisss"),
        ({"type": "array", "minItems": 2, "items": {"type": "integer"}}, [1, 1]),
        ({"type": "number", "minimum": 2}, 2.0),
        ({"type": "null"}, None),
        ({"type": "integer", "minimum": "x"}, 1),
        ({"properties": {"a": {}}}, {}),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"type": "boolean"}}}, True),
        ({"$ref": "#/nowhere/x"}, None),
        (3, None),
    ],
)
def test_instances_satisfy_their_schema(schema: object, value: object) -> None:
    """Each keyword that structured output uses gives the smallest value it admits."""
    assert instance(schema) == value


def test_recursion_ends() -> None:
    """A schema that contains itself ends in null."""
    schema = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    value = instance(schema)
    depth = 0
    while isinstance(value, dict):
        value, depth = value["next"], depth + 1
    assert depth < 12


def test_broken_values_differ() -> None:
    """A member goes; without members the type changes."""
    assert broken({"a": 1, "b": 2}) == {"b": 2}
    assert broken({}) == []
    assert broken(3) == {"unexpected": 3}


@pytest.mark.parametrize("kind", ["lognormal", "gamma"])
def test_distributions_have_their_mean_and_cv(kind: str) -> None:
    """20,000 draws: the mean's standard error is 0.5/sqrt(20000) = 0.35 %, so 2 % is over 5 of them; cv within 10 %."""
    drawn = np.array(Distribution(4.0, kind, cv=0.5).sample(np.random.default_rng(1), 20_000))
    assert abs(drawn.mean() / 4.0 - 1) < 0.02
    assert abs(drawn.std() / drawn.mean() / 0.5 - 1) < 0.1


def test_distributions_are_clipped() -> None:
    """low and high hold for every kind; a mean of zero is zero."""
    rng = np.random.default_rng(1)
    assert Distribution(9.0, high=5.0).sample(rng, 2) == [5.0, 5.0]
    assert max(Distribution(4.0, "gamma", high=5.0).sample(rng, 500)) == 5.0
    assert Distribution(0.0, "lognormal").sample(rng, 2) == [0.0, 0.0]
