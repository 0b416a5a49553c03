import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.rules import MAX_DEPTH, MAX_TEXT, parse

ENV = {
    "daily_cost": 1200.5,
    "user.region": "EU",
    "user.level": "7",
    "user.beta": "true",
    "model.region": "US",
    "model.open": False,
    "model.context": 128,
    "request.stream": True,
}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("daily_cost > 1000", True),
        ("daily_cost <= 1000", False),
        ("daily_cost >= 1200.5 && daily_cost < 1201", True),
        ("user.region == 'EU' && model.region != 'EU'", True),
        ('user.region == "US" || model.region == "US"', True),
        ("!(user.region == 'EU')", False),
        ("!request.stream || model.open", False),
        ("user.region in ['DE', 'EU']", True),
        ("user.region in ['DE']", False),
        ("user.level > 5", True),
        ("5 < user.level", True),
        ("user.beta == true", True),
        ("user.level in [1, 7]", True),
        ("request.stream", True),
        ("true", True),
        ("-1 < 0", True),
        ("user.region > 5", None),
        ("request.stream > 5", None),
        ("5 == request.stream", None),
        ("daily_cost", None),
        ("user.missing == 1", None),
        ("!(user.missing == 1)", None),
        ("user.missing == 1 && request.stream", None),
        ("request.stream && user.missing == 1", None),
        ("user.missing == 1 || model.open", None),
        ("model.open || user.missing == 1", None),
        ("user.missing == 1 && model.open", False),
        ("user.missing == 1 || request.stream", True),
        ("user.region in [1]", None),
        ("user.missing in ['EU']", None),
        ("user.region in [1, 'EU']", True),
        ("true in [true]", True),
        ("model.context == 128", True),
        ("model.open || request.stream", True),
        ("user.missing == 1 || !model.open", True),
        ("user.level == 7 || user.missing == 1", True),
        ("user.region == 7", None),
        ("model.open || model.open", False),
        ("1 in [true]", None),
        ("daily_cost in [1200.5]", True),
    ],
)
def test_evaluates_with_three_values(text: str, answer: bool | None) -> None:
    """Unknown facts make an answer unknown only where they could change it; tags read as numbers or truth values."""
    assert parse(text).evaluate(ENV) is answer


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("daily_cost = 5", "position 12: cannot read '='; use =="),
        ("daily_cost > 5 & true", "use &&"),
        ("user.region == 'EU", 'position 16: cannot read "\'"; close the quotation mark'),
        ("daly_cost > 5", "position 1: unknown fact 'daly_cost'; did you mean daily_cost"),
        ("EU == user.region", "unknown fact 'EU'; text needs quotation marks"),
        ("user == 'x'", "unknown fact 'user'"),
        ("(true", "unexpected 'the end'; expected ')'"),
        ("true false", "unexpected 'false'; join conditions"),
        ("", "unexpected 'the end'; expected a name"),
        ("true && ", "unexpected 'the end'"),
        ("user.x in [user.y]", "a list holds"),
        ("user.x in []", "a list holds"),
        ("user.x in 'a'", "expected '['"),
        ("user.x == ,", "unexpected ','"),
        ("user.x ~ 5", "see the grammar"),
        ("(" * (MAX_DEPTH + 2), "nested too deep"),
        ("!" * (MAX_DEPTH + 2) + "true", "nested too deep"),
        (" " * (MAX_TEXT + 1), "longer than"),
    ],
)
def test_errors_say_where_and_how(text: str, says: str) -> None:
    """A rule that cannot be read is refused with its position and how to repair it."""
    with pytest.raises(ValueError, match=r"position|longer") as caught:
        parse(text)
    assert says in str(caught.value)


def test_names_tell_what_a_rule_asks() -> None:
    """An expression names its facts, so that `check` can warn and the engine knows which rules filter arms."""
    made = parse("user.region == 'EU' && model.region in ['US'] || daily_cost > 1")
    assert made.names == {"user.region", "model.region", "daily_cost"}
    assert made.asks_model
    assert not parse("daily_cost > 1").asks_model


@given(st.text(alphabet="!&|()<>= 'ab1.tuser,[]inmodel", max_size=40))
def test_parse_raises_nothing_but_value_error(text: str) -> None:
    """Whatever stands in a policy file, the parser answers with an expression or a ValueError."""
    try:
        made = parse(text)
    except ValueError:
        return
    assert made.evaluate({}) in (True, False, None)
