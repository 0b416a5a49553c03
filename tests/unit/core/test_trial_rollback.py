"""A rollback in mode ab: by a threshold or by hand, everything goes to the control."""

from dataclasses import replace

import pytest

from sidecar.core.engine import Engine
from sidecar.core.experiment import Experiment
from sidecar.core.policy import Threshold
from sidecar.core.types import Clocks, Event
from sidecar.core.variants import Keep, Replace
from sidecar.errors import RolloutError
from tests.unit.core.engines import NOW
from tests.unit.core.test_trial import AB, SPEC, done, facts, kinds, made, status

ERRORS = Threshold("errors", "error_rate", 0.5, None, 60.0, "critical", "rollback", min_samples=5)


def broken(one: Engine) -> list[Event]:
    """Calls of 60 sessions, half a second apart, and all fail: no variant more often than the control."""
    decisions = {key: one.decide(facts(key), NOW) for key in range(1, 61)}
    events, failed = list[Event](), done(kind="failed", status=500, clocks=Clocks(duration_s=1.0))
    for key, decision in decisions.items():
        events += one.settle(facts(key), decision, failed, NOW + key / 2).events
    return events


def stopped(one: Engine) -> list[str]:
    return [variant.id for variant in status(one).variants if variant.stopped]


def served(one: Engine) -> set[tuple[str | None, type[object]]]:
    decisions = [one.decide(facts(key), NOW + 1) for key in range(1, 200)]
    return {(decision.arm, type(decision.system[0])) for decision in decisions}


def test_a_threshold_on_an_arm_takes_out_its_variants() -> None:
    """`mini` is rolled back once; sessions that had it are drawn anew among the two that are left."""
    one = made(replace(AB, thresholds=(replace(ERRORS, arm="mini"),)))
    events = broken(one)
    out = [event for event in events if event.kind == "experiment.variant_stopped"]
    assert [event.arm for event in out] == ["mini"]
    assert "rolled back: errors" in out[0].message
    assert stopped(one) == ["mini"]
    assert served(one) == {("gpt-4o", Keep), ("gpt-4o", Replace)}
    assert status(one).verdict is None


def test_a_threshold_on_the_route_sends_all_to_the_control() -> None:
    """It cannot say which variant it was, so none but the control goes on, and the experiment is over."""
    one = made(replace(AB, thresholds=(ERRORS,)))
    assert "experiment.ended" in kinds(broken(one))
    assert stopped(one) == ["short", "mini"]
    assert served(one) == {("gpt-4o", Keep)}
    assert (status(one).verdict, status(one).cause) == ("inconclusive", "all others were stopped")


def test_by_hand() -> None:
    one = made()
    assert kinds(one.rollback("support", NOW)) == [
        "experiment.variant_stopped",
        "experiment.variant_stopped",
        "experiment.ended",
    ]
    assert served(one) == {("gpt-4o", Keep)}
    with pytest.raises(RolloutError, match="no variant is left but the control"):
        one.rollback("support", NOW)


def test_it_outlives_a_restart() -> None:
    one, again = made(), made()
    one.rollback("support", NOW)
    again.restore(one.snapshot(), NOW)
    assert stopped(again) == ["short", "mini"]
    assert served(again) == {("gpt-4o", Keep)}


@pytest.mark.parametrize("promoted_before", [True, False])
def test_a_winner_that_is_rolled_back_serves_no_more_and_is_promoted_never(promoted_before: bool) -> None:
    spec = replace(SPEC, on_winner="promote")
    one = Experiment(AB, spec)
    one.tick(NOW)
    one._finish("winner", 2, "for this test")
    if promoted_before:
        one.promote()
        assert one.shares == (0.0, 0.0, 1.0)
    told = kinds(one.roll_back(NOW, "by hand", "mini"))
    assert told == ["experiment.variant_stopped", *(["experiment.demoted"] if promoted_before else [])]
    assert one.shares == (1.0, 0.0, 0.0)
    assert one.promote() == []
    assert one.roll_back(NOW, "by hand", "mini") == []
