"""Tuning: moves on evidence alone, inside the policy's bounds, by at most five percent a day."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.policy import Arm, Knob, Match, Route, Tuning
from sidecar.core.tuning import MAX_TASKS, Tuner
from sidecar.core.types import Decision, Event, Facts, Refusal

DAY = 86_400.0
HEAT = Knob("temperature", 0.2, 1.0, 0.7)
LENGTH = Knob("max_tokens", 100, 2000, 1000, whole=True)
NOON = 20_000 * DAY + DAY / 2


def tuner(*knobs: Knob, **changes: Any) -> Tuner:
    spec = Tuning(knobs or (HEAT,), **changes)
    return Tuner(Route("r", Match(), "optimize", Arm("big", "u", "m"), tuning=spec), spec, NOON)


def call(draw: int, **changes: Any) -> Facts:
    given: dict[str, Any] = {
        "endpoint": "chat", "dialect": "openai", "path": "/v1/chat/completions", "model": "m", "stream": False, "key": 0,
        "draw": draw,
    }  # fmt: skip
    return Facts(**(given | changes))


def decided(**changes: Any) -> Decision:
    given: dict[str, Any] = {
        "route": "r", "mode": "optimize", "arm": "big", "upstream": "u", "model": "m", "reason": "sampled",
        "propensity": 1.0,
    }  # fmt: skip
    return Decision(**(given | changes))


def sent(one: Tuner, facts: Facts, now: float = NOON, **changes: Any) -> dict[str, float]:
    return {name: json.loads(value) for name, value in one.decide(facts, decided(**changes), now).params}


class Feed:
    """Calls whose reward is `best` at a temperature above the present one, and `rest` below."""

    def __init__(self, one: Tuner, seed: int = 1) -> None:
        self.one, self.rng, self.now = one, np.random.default_rng(seed), NOON

    def run(self, calls: int, above: float, below: float, task: str = "", seconds: float = 0.0) -> list[Event]:
        events = []
        for _ in range(calls):
            self.now += seconds
            facts = call(int(self.rng.integers(1 << 62)), task=task)
            now_at = {each.name: each.value for each in self.one.status() if each.task == task}
            decision = self.one.decide(facts, decided(), self.now)
            value = json.loads(dict(decision.params)["temperature"])
            chance = above if value > now_at.get("temperature", 0.7) else below
            events += self.one.observe(facts, decision, float(self.rng.random() < chance), self.now)
        return events


def test_a_trial_sends_both_sides_equally_often() -> None:
    """Of 2,000 calls half get each side; the deviation of a fair coin is 22.4."""
    one = tuner()
    values = [sent(one, call(draw))["temperature"] for draw in range(2000)]
    assert set(values) == {0.6825, 0.7175}
    assert abs(values.count(0.7175) - 1000) < 4 * 22.4


def test_conversations_of_many_calls_do_not_count_as_evidence() -> None:
    """Each call has its own coin, also within a conversation: where the parameter makes no difference, 20 streams of 60
    conversations whose 20 calls are all fine or all bad move it with probability <= .05 each. More than 5 of 20 have
    P < .0004. With one coin a conversation every stream moved it."""
    moved = 0
    for seed in range(20):
        one, rng = tuner(), np.random.default_rng(seed)
        events: list[Event] = []
        for key in range(1, 61):
            fine = float(rng.random() < 0.5)
            for _ in range(20):
                facts = call(int(rng.integers(1 << 62)), key=key)
                decision = one.decide(facts, decided(unit="conversation"), NOON)
                events += one.observe(facts, decision, fine, NOON)
        moved += bool(events)
    assert moved <= 5


def test_a_limit_of_the_app_that_allows_one_side_only_teaches_nothing() -> None:
    """Calls whose own max_tokens lies between the sides can only be sent the lower one. They are better for another
    reason (their answers are short), and must not speak for it."""
    one, rng = tuner(LENGTH), np.random.default_rng(1)
    events: list[Event] = []
    for at in range(600):
        facts = call(int(rng.integers(1 << 62)), max_tokens=1000 if at % 2 else None)
        events += one.observe(facts, one.decide(facts, decided(), NOON), 0.9 if at % 2 else 0.1, NOON)
    assert not events
    assert one.status()[0].calls == 300


def test_the_better_side_wins_and_the_event_says_why() -> None:
    events = Feed(tuner()).run(1500, 0.8, 0.5)
    assert events[0].kind == "tuning.moved"
    detail = events[0].detail
    assert (detail["name"], detail["old"], detail["new"]) == ("temperature", 0.7, 0.7175)
    assert "calls: rewards are better above" in events[0].message


def test_the_worse_side_wins_never() -> None:
    assert all(event.detail["new"] < event.detail["old"] for event in Feed(tuner()).run(1500, 0.5, 0.8))  # type: ignore[operator]


def test_a_parameter_that_makes_no_difference_hardly_ever_moves() -> None:
    """Forty trials of 500 calls at false_moves 0.05: two moves are expected at most; with a deviation of 1.4 the count
    is at most 2 + 4 x 1.4 = 7."""
    moves = sum(bool(Feed(tuner(), seed).run(500, 0.6, 0.6)) for seed in range(40))
    assert moves <= 7


def test_a_day_changes_no_more_than_five_percent_and_the_next_day_goes_on() -> None:
    feed = Feed(tuner())
    feed.run(6000, 0.9, 0.3)
    assert feed.one.status()[0].value == 0.735
    assert not feed.one.status()[0].trial
    assert sent(feed.one, call(1), feed.now) == {"temperature": 0.735}
    assert feed.one.observe(call(1), decided(params=(("temperature", b"0.735"),)), 1.0, feed.now) == []
    assert feed.one.tick(feed.now + DAY) == []
    feed.now += DAY
    feed.run(6000, 0.9, 0.3)
    assert 0.735 < feed.one.status()[0].value <= round(0.735 * 1.05, 4)


@settings(max_examples=30)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("adjust"), st.sampled_from(["up", "down"])),
            st.tuples(st.just("run"), st.sampled_from([0.1, 0.9])),
            st.tuples(st.just("wait"), st.sampled_from([3600.0, DAY])),
        ),
        max_size=8,
    )
)
def test_nothing_that_is_sent_leaves_the_bounds_or_the_day(steps: list[tuple[str, Any]]) -> None:
    """Whatever is ordered and learnt: inside the policy's bounds, and within five percent of the day's beginning."""
    one = tuner(Knob("temperature", 0.6, 0.75, 0.7), Knob("max_tokens", 900, 1010, 1000, whole=True))
    feed, begun = Feed(one), {"temperature": 0.7, "max_tokens": 1000.0}
    day = int(NOON // DAY)
    for what, value in steps:
        if what == "adjust":
            one.adjust("temperature", value, feed.now, "test")
            one.adjust("max_tokens", value, feed.now, "test")
        elif what == "run":
            feed.run(300, value, 1 - value)
        else:
            feed.now += value
        if int(feed.now // DAY) != day:
            one.tick(feed.now)
            day = int(feed.now // DAY)
            begun = {each.name: each.value for each in one.status()}
        for draw in range(20):
            for name, given_value in sent(one, call(draw), feed.now).items():
                low, high = (0.6, 0.75) if name == "temperature" else (900, 1010)
                assert low <= given_value <= high
                assert begun[name] * 0.95 - 1e-9 <= given_value <= begun[name] * 1.05 + 1e-9


def test_an_order_goes_to_the_end_of_the_day_at_once_for_all_tasks() -> None:
    one = tuner(HEAT, LENGTH)
    sent(one, call(1, task="sum"))
    events = one.adjust("max_tokens", "down", NOON, "cost is 2, limit 1")
    assert [(event.kind, event.detail["task"], event.detail["new"]) for event in events] == [
        ("tuning.moved", "", 950.0), ("tuning.moved", "sum", 950.0),
    ]  # fmt: skip
    assert "max_tokens for task sum: 1000 to 950, cost is 2, limit 1" in events[1].message
    refused = one.adjust("max_tokens", "down", NOON, "again")
    assert [event.kind for event in refused] == ["tuning.refused"]
    assert [event.kind for event in one.adjust("top_p", "up", NOON, "why")] == ["tuning.refused"]
    assert [event.detail["new"] for event in one.adjust("max_tokens", "up", NOON, "back")] == [1050.0, 1050.0]
    assert [event.detail["new"] for event in one.adjust("max_tokens", "down", NOON + DAY, "cost")][:1] == [998.0]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, {"max_tokens"}),
        ({"endpoint": "responses"}, {"max_output_tokens"}),
        ({"max_tokens": 4000}, {"max_tokens"}),
        ({"max_tokens": 4000, "limit_key": "max_completion_tokens"}, {"max_completion_tokens"}),
        ({"max_tokens": 500}, set()),
        ({"dialect": "gemini"}, set()),
    ],
)
def test_the_limit_of_tokens_goes_by_the_apps_own_name_and_never_up(facts: dict[str, Any], expected: set[str]) -> None:
    assert set(sent(tuner(LENGTH), call(1, **facts))) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"model": None},
        {"refusal": Refusal(429, "budget", "no")},
        {"params": (("temperature", b"0.1"),)},
    ],
    ids=["passed through", "refused", "set by the arm"],
)
def test_what_is_not_the_tuners_is_left_alone(changes: dict[str, Any]) -> None:
    given = decided(**changes)
    assert tuner().decide(call(1), given, NOON) is given
    limited = decided(params=(("max_completion_tokens", b"5"),))
    assert tuner(LENGTH).decide(call(1), limited, NOON) is limited


def test_calls_without_reward_or_trial_teach_nothing() -> None:
    one = tuner()
    facts = call(1)
    decision = one.decide(facts, decided(), NOON)
    one.observe(facts, decision, None, NOON)
    one.observe(facts, decided(), 1.0, NOON)
    one.observe(facts, decided(params=(("temperature", b"0.1"),)), 1.0, NOON)
    assert one.status()[0].calls == 0
    one.observe(facts, decision, 1.0, NOON)
    assert (one.status()[0].calls, one.status()[0].needed) == (1, 40.0)


def test_what_the_rules_forbid_does_not_move() -> None:
    """Orders and moves alike; the rules are told what would change."""
    one, asked = tuner(), []

    def permit(*change: object) -> str | None:
        asked.append(change)
        return "rule 7"

    one.permit = permit
    events = [*one.adjust("temperature", "up", NOON, "why"), *Feed(one).run(600, 0.9, 0.2)]
    assert {event.kind for event in events} == {"tuning.refused"}
    assert events[0].message == "temperature stays 0.7: rule 7 (why)"
    facts = {"parameter": "temperature", "task": "", "old": 0.7, "new": 0.735}
    assert asked[0] == ("tuning.temperature", "r", None, facts)
    assert one.status()[0].value == 0.7
    one.permit = lambda *_: None
    assert [event.kind for event in one.adjust("temperature", "up", NOON, "why")] == ["tuning.moved"]


def test_parameters_take_turns() -> None:
    """After `max_samples` calls without a verdict the next one is tried; what has no room is passed over."""
    feed = Feed(tuner(HEAT, Knob("top_p", 1.0, 1.0, 1.0), Knob("top_k", 0, 2, 1.0), max_samples=100))
    assert [each.name for each in feed.one.status() if each.trial] == ["temperature"]
    feed.run(100, 0.5, 0.5)
    assert [each.name for each in feed.one.status() if each.trial] == ["top_k"]
    stuck = tuner(Knob("temperature", 0.0, 1.0, 0.0))
    assert not stuck.status()[0].trial
    assert sent(stuck, call(1)) == {"temperature": 0.0}


def test_tasks_have_values_of_their_own_up_to_a_number() -> None:
    one = tuner()
    feed = Feed(one)
    feed.run(1500, 0.9, 0.3, task="sum")
    assert {each.task: each.value for each in one.status()}[""] == 0.7
    assert {each.task: each.value for each in one.status()}["sum"] > 0.7
    for at in range(2 * MAX_TASKS):
        facts = call(at, task=f"t{at}")
        one.observe(facts, one.decide(facts, decided(), NOON), 1.0, NOON)
    assert len({each.task for each in one.status()}) == MAX_TASKS


def test_state_survives_a_restart_inside_the_bounds_of_now() -> None:
    feed = Feed(tuner())
    feed.run(700, 0.62, 0.55)
    state = json.loads(json.dumps(feed.one.to_state()))
    again = tuner()
    again.restore(state, NOON)
    assert again.status() == feed.one.status()
    narrow = tuner(Knob("temperature", 0.2, 0.3, 0.25))
    narrow.restore(state, NOON)
    assert narrow.status()[0].value == 0.3


@pytest.mark.parametrize(
    "tasks",
    [7, {"": 7}, {"": [[], [], 0, 0, 0, []]}, {"": [[0.5], [0.5], 0, 0, 0, [0, 0.0, [1.0], [1.0]]]}, {"": [["x"]] * 6}],
    ids=["no map", "no list", "other knobs", "other stakes", "text"],
)
def test_what_cannot_be_read_begins_anew(tasks: object) -> None:
    one = tuner()
    one.restore({"names": ["temperature"], "tasks": tasks}, NOON)
    one.restore({"names": ["top_p"], "tasks": {}}, NOON)
    assert one.status() == tuner().status()
