"""Patterns of a route's match, and the conditions of its fallback."""

import pytest

from sidecar.core.match import listed, matches, unknown_arm
from sidecar.core.policy import Match
from tests.unit.core.engines import facts


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        (Match(), True),
        (Match(models=("gpt-4o",)), True),
        (Match(models=("gpt-*",)), True),
        (Match(models=("o1", "*")), True),
        (Match(models=("gpt-4",)), False),
        (Match(paths=("/v1/chat/*",)), True),
        (Match(paths=("/v1/chat",)), False),
        (Match(tags={"tenant": "a"}), True),
        (Match(tags={"tenant": "b"}), False),
    ],
)
def test_every_filled_field_must_agree(match: Match, fits: bool) -> None:
    assert matches(match, facts(tags={"tenant": "a"})) is fits


def test_a_call_without_a_model_fits_the_bare_star_only() -> None:
    assert matches(Match(models=("*",)), facts(model=None))
    assert not matches(Match(models=("gpt-*",)), facts(model=None))


def test_conditions_of_a_fallback() -> None:
    assert listed("connect", ("connect",))
    assert listed("503", ("5xx",))
    assert not listed("429", ("5xx", "connect"))


def test_an_unknown_arm_has_the_name_that_was_asked_for() -> None:
    assert unknown_arm(facts()).model == "gpt-4o"
    assert unknown_arm(facts(model=None)).model == ""
