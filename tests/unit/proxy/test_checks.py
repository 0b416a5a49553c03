"""Which calls are checked, and what is found."""

from typing import Any

from msgspec.structs import replace

from sidecar.core.policy import Arm, Match, Policy, Quality, Route
from sidecar.core.types import Outcome
from sidecar.proxy.checks import Checks
from sidecar.wire.answer import Said
from tests.fixtures.settled import settled

ONE = settled(1)
GOOD = replace(ONE.outcome, finish="stop", empty=False)
JSON = Said(('{"a": 1}',))
ASKED = b'{"response_format": {"type": "json_schema", "json_schema": {"schema": {"required": ["a"]}}}}'


def checks(*validators: str, **more: Any) -> Checks:
    made = Checks()
    arm = Arm("mini", "openai", "m")
    route = Route("support", Match(), "observe", arm, quality=Quality(validators=validators, **more))
    made.apply(Policy(routes=(route, Route("plain", Match(), "observe", arm))))
    return made


def found(made: Checks, outcome: Outcome = GOOD, said: Said | None = JSON, request: bytes = ASKED) -> dict[str, float]:
    return dict(made.found(ONE.decision, ONE.facts, outcome, said, request))


def test_nothing_is_kept_where_nobody_asks() -> None:
    """No policy, validators that read no text, another route, no decision; a call of no arm is checked all the same."""
    assert Checks().collector(ONE.decision, "chat") is None
    assert checks("finish_reason", "empty").collector(ONE.decision, "chat") is None
    made = checks("json_schema")
    assert made.reads
    assert made.collector(ONE.decision, "chat") is not None
    assert made.collector(None, "chat") is None
    assert made.collector(replace(ONE.decision, arm=None), "chat") is not None
    assert made.collector(replace(ONE.decision, route="plain"), "chat") is None


def test_what_is_found() -> None:
    """Every check that read the answer, good or bad; of the others those that failed."""
    made = checks("finish_reason", "json_schema", "empty")
    assert found(made) == {"json_schema": 1.0}
    assert found(made, said=Said(("no",))) == {"json_schema": 0.0}
    assert found(made, replace(GOOD, finish="length"), Said(("{}",))) == {"finish_reason": 0.5, "json_schema": 0.0}
    assert found(made, replace(GOOD, empty=True), None) == {"empty": 0.0}


def test_only_answers_that_ended_well_are_checked() -> None:
    """Failed and aborted calls, and streams without their last event, say enough themselves."""
    made = checks("json_schema", "empty")
    for outcome in (replace(GOOD, kind="failed"), replace(GOOD, kind="aborted"), replace(GOOD, error="no_terminal")):
        assert found(made, outcome, Said(("no",))) == {}
    assert made.found(replace(ONE.decision, route="plain"), ONE.facts, GOOD, JSON, ASKED) == ()
