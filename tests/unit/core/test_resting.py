"""Arms that rest: for how long, how often, and what a restart or another policy makes of it."""

import pytest

from sidecar.core.resting import AGAIN, HOLD_S, MOST, RETIRED_S, SPARED_S, Kind, Resting

DIGESTS = {"mini": "d1", "nano": "d2"}
KINDS: tuple[Kind, ...] = ("held", "retired")


def made(digests: dict[str, str] | None = None, kinds: tuple[Kind, ...] = KINDS) -> Resting:
    return Resting("r", DIGESTS if digests is None else digests, kinds)


def test_an_arm_rests_until_its_time_is_over() -> None:
    one = made()
    assert one.may("mini", "held", 0.0)
    told = one.begin("mini", "held", "it fails", 100.0)
    assert [(event.kind, event.severity, event.arm, event.detail["seconds"]) for event in told] == [
        ("arm.held", "medium", "mini", HOLD_S)
    ]
    assert "mini" in one
    assert "nano" not in one
    assert not one.may("mini", "held", 150.0)
    assert one.explain(160.0) == ["On this pod, mini of route r is held (it fails); it comes back in 240 s."]
    assert (one.over(399.0), one.over(400.0)) == ([], ["mini"])
    told = one.end("mini", "its time is over", 400.0)
    assert [(event.kind, event.detail["was"], event.detail["seconds"]) for event in told] == [
        ("arm.returned", "held", 300.0)
    ]
    assert (one.back_at("mini"), one.back_at("nano")) == (400.0, 0.0)
    assert one.end("mini", "again", 401.0) == one.end("nano", "never", 401.0) == []


def test_only_holds_end_by_themselves() -> None:
    """Who is retired waits for the deep lane."""
    one = made()
    one.begin("mini", "retired", "worse", 0.0)
    assert one.over(1e9) == []
    assert one.arms["mini"].until == RETIRED_S
    assert "is tried again in" in one.explain(1e9)[0]


def test_who_must_rest_again_soon_rests_twice_as_long_up_to_a_limit() -> None:
    """A rest of another kind, or a long time after, begins anew."""
    one, now, lengths = made(), 0.0, []
    for _ in range(7):
        lengths.append(one.length_s("mini", "held", now))
        one.begin("mini", "held", "it fails", now)
        now = one.arms["mini"].until
        one.end("mini", "over", now)
        now += 1.0
    assert lengths == [HOLD_S * times for times in (1, 2, 4, 8, 16, 16, 16)]
    assert lengths[-1] == MOST * HOLD_S
    assert one.length_s("mini", "retired", now) == RETIRED_S
    assert one.length_s("mini", "held", now + AGAIN * lengths[-1]) == HOLD_S


def test_who_is_spared_does_not_rest_soon() -> None:
    one = made()
    one.begin("mini", "held", "it fails", 0.0)
    one.end("mini", "the rest did harm", 10.0, spare=True)
    assert not one.may("mini", "held", 9.0 + SPARED_S["held"])
    assert one.may("mini", "held", 10.0 + SPARED_S["held"])
    one.forget("mini")
    assert one.may("mini", "held", 11.0)


def test_who_is_spared_when_the_time_is_just_over_is_spared_all_the_same() -> None:
    """A hold and the look at what it did end in the same second, and the hold ends first."""
    one = made()
    one.begin("mini", "held", "it fails", 0.0)
    one.end("mini", "its time is over", HOLD_S)
    assert one.end("mini", "the rest did harm", HOLD_S, spare=True) == []
    assert not one.may("mini", "held", HOLD_S + SPARED_S["held"] - 1.0)
    assert one.end("nano", "it never rested", HOLD_S, spare=True) == []
    assert one.may("nano", "held", HOLD_S)


def test_what_the_policy_does_not_allow_does_not_happen() -> None:
    assert not made(kinds=("held",)).may("mini", "retired", 0.0)


def test_a_restart_goes_on_for_arms_that_are_what_they_were() -> None:
    before = made()
    before.begin("mini", "retired", "worse", 10.0)
    before.begin("nano", "held", "late", 20.0)
    after = made({"mini": "d1", "nano": "another"})
    assert after.restore(before.to_state(), 30.0)
    assert after.arms == {"mini": before.arms["mini"]}
    without = made(kinds=("held",))
    without.restore(before.to_state(), 30.0)
    assert list(without.arms) == ["nano"]


def test_another_policy_goes_on_too() -> None:
    before = made()
    before.begin("mini", "held", "late", 20.0)
    after = made({"mini": "d1"})
    after.take_over(before)
    assert after.arms == before.arms


def test_a_rest_outlives_a_policy_that_knows_none() -> None:
    """Another mode for a minute, and back: who was out is out, and nothing was told meanwhile."""
    before, without, after = made(), made(kinds=("held",)), made()
    before.begin("mini", "retired", "worse", 0.0)
    without.take_over(before)
    assert (without.arms, "mini" in without, without.over(1e9)) == ({}, False, [])
    assert without.end("mini", "no rest that counts", 10.0) == []
    assert without.may("mini", "held", 10.0)
    after.take_over(without)
    assert after.arms["mini"].until == RETIRED_S


def test_a_clock_that_was_set_back_spares_nobody_longer() -> None:
    before, after = made(), made()
    before.begin("mini", "held", "late", 1e7)
    before.end("mini", "it did harm", 1e7, spare=True)
    after.restore(before.to_state(), 0.0)
    assert after.may("mini", "held", max(SPARED_S.values()))


def test_a_clock_that_was_set_back_makes_no_rest_longer() -> None:
    before = made()
    before.begin("nano", "held", "late", 1e6)
    before.end("nano", "over", 2e6)
    before.begin("mini", "held", "late", 1e6)
    after = made()
    after.restore(before.to_state(), 500.0)
    assert (after.arms["mini"].since, after.arms["mini"].until) == (500.0, 500.0 + HOLD_S)
    assert after.back_at("nano") == 500.0


@pytest.mark.parametrize("broken", [3, {"mini": 3}, {"mini": {"digest": "d1", "rest": "x"}}, None])
def test_what_cannot_be_read_rests_no_more(broken: object) -> None:
    one = made()
    assert not one.restore(broken, 0.0)
    assert one.arms == {}
