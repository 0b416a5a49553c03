"""The brake of promoted arms by itself; what it does to a route is in test_staging."""

import json

import pytest

from sidecar.core.brake import HOLD_S, UNITS, Brake


def pressed(bad: int = 20, good: int = 0) -> Brake:
    made = Brake(["big", "mini"])
    for unit in range(bad + good):
        made.observe("mini", unit >= good, unit + 1, 10.0)
    return made


def test_it_trips_after_the_hold_and_says_why() -> None:
    brake = pressed()
    assert brake.trips("mini", 10.0) is None
    assert brake.is_pressed("mini")
    assert brake.trips("mini", 10.0 + HOLD_S / 2) is None
    assert brake.trips("mini", 10.0 + HOLD_S) == "20 of its last 20 units failed, limit 50%"
    assert brake.trips("big", 20.0) is None


def test_it_remembers_a_bounded_number_of_units() -> None:
    brake = pressed(bad=200)
    for _ in range(UNITS):
        brake.observe("mini", False, 0, 11.0)
    assert brake.trips("mini", 11.0) is None
    assert not brake.is_pressed("mini")
    assert len(brake.to_state()["mini"][2]) == UNITS


def test_a_restart_in_the_middle_of_an_outage_changes_nothing() -> None:
    """The window and the begin of the hold are in the state."""
    brake, again = pressed(), Brake(["big", "mini"])
    brake.trips("mini", 10.0)
    again.restore(json.loads(json.dumps(brake.to_state())))
    assert again.is_pressed("mini")
    assert again.trips("mini", 10.0 + HOLD_S) == brake.trips("mini", 10.0 + HOLD_S) is not None


@pytest.mark.parametrize("broken", [3, [], [None, 0, [[1]]], ["x", 0, []]])
def test_a_state_that_cannot_be_read_begins_anew(broken: object) -> None:
    brake = pressed()
    brake.restore({"mini": broken, "gone": broken})
    assert brake.to_state() == {}


def test_an_arm_takes_its_ends_over_or_forgets_them() -> None:
    brake, after = pressed(), Brake(["mini"])
    brake.trips("mini", 10.0)
    after.take_over(brake, "mini")
    assert after.trips("mini", 10.0 + HOLD_S) is not None
    after.forget("mini")
    assert not after.is_pressed("mini")
