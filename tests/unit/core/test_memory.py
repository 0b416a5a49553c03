"""A snapshot's parts stand alone: what is broken begins anew and is named, all else goes on."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.cost import MOST_NUSD
from sidecar.core.engine import Engine
from sidecar.core.memory import LARGEST, check, version_of
from sidecar.core.policy import (
    NO_POLICY,
    Anomalies,
    AutoLimit,
    Budget,
    Drift,
    ExperimentSpec,
    Knob,
    Match,
    Policy,
    Threshold,
    Tuning,
    Variant,
)
from sidecar.core.types import MOST_SUM, Event, Facts, Feedback, Outcome, Usage
from tests.unit.core.engines import BASE, MINI, NANO, NOW, ROUTE, engine, facts, kinds, outcome, policy

LIMIT = Threshold("slow", "latency_p95", 9.0, None, 60.0, "low", "log")
OWN = Threshold("dear", "cost_per_request", float("inf"), None, 60.0, "low", "log", auto=AutoLimit())
FULL = replace(
    ROUTE,
    mode="optimize",
    arms=(MINI, NANO),
    budget=Budget(daily_nusd=10**9, window_nusd=10**9),
    thresholds=(LIMIT, OWN),
    drift=Drift(metrics=("output_tokens", "quality"), window_s=10.0, samples=4),
    anomalies=Anomalies(metrics=("output_tokens",), window_s=10.0, samples=4),
    tuning=Tuning((Knob("max_tokens", 100, 2000, 1000, whole=True),)),
)
COMPARED = replace(
    ROUTE,
    name="trial",
    match=Match(models=("other",)),
    mode="ab",
    rollout=None,
    experiment=ExperimentSpec((Variant("control", BASE.id), Variant("mini", MINI.id)), min_samples=10),
)
POLICY = replace(policy(FULL), routes=(FULL, COMPARED))
ROUTE_PARTS = ("arms", "ledger", "spend", "beliefs", "promise", "staging", "thresholds")
PARTS: tuple[tuple[str, ...], ...] = (
    ("ledger",),
    ("bindings",),
    *(("routes", "support", part) for part in (*ROUTE_PARTS, "watch")),
    *(("routes", "trial", part) for part in (*ROUTE_PARTS, "experiment")),
)
OPTIONAL = ("arms", "promise", "thresholds", "watch", "experiment")  # absent in older snapshots, or where nobody asks
WRONG: tuple[Any, ...] = (None, "x", 1e300, -1e300, -7, 10**19, [], {}, [None], True)
GONE = object()
EMPTY: dict[str, tuple[Any, ...]] = {"arms": ({},), "thresholds": ({},), "bindings": ([],)}  # these may hold nothing


def drive(one: Engine, calls: int = 60, begin: int = 1, now: float = NOW) -> None:
    """Calls on both routes with scores, a tick a call; every answer is one that may be."""
    for key in range(begin, begin + calls):
        now += 1.0
        for model in ("gpt-4o", "other"):
            asked: Facts = facts(key, model=model, task="code" if key % 2 else "")
            made = one.decide(asked, now)
            assert made.arm is not None
            assert 0.0 < made.propensity <= 1.0
            ended: Outcome = outcome(cost_nusd=600 + key)
            one.settle(asked, made, ended, now)
            told = Feedback(
                decision_id=str(key), route=made.route, arm=made.arm, score=key % 3 / 2, context_key=key,
                rollout_id=made.rollout_id, rollout_step=made.rollout_step,
            )  # fmt: skip
            one.feedback(told, now)
        one.tick(now)
    assert len(one.status()) == 2


@lru_cache(maxsize=1)
def good() -> bytes:
    """A snapshot in which every part holds something."""
    made = engine(POLICY)
    drive(made)
    made.promote("support", NOW + 60.0)
    drive(made, 30, 61, NOW + 60.0)
    return made.snapshot()


def restored(state: bytes, used: Policy = POLICY) -> tuple[Engine, list[Event]]:
    made = engine(used)
    return made, made.restore(state, NOW + 90.0)


def lost(events: list[Event]) -> list[Event]:
    return [event for event in events if event.kind in ("state.ignored", "rollout.evidence_lost")]


@lru_cache(maxsize=1)
def expected() -> dict[tuple[str, ...], Any]:
    """The parts of an engine that has read the good snapshot."""
    return parts_of(restored(good())[0].snapshot())


def parts_of(state: bytes) -> dict[tuple[str, ...], Any]:
    whole = orjson.loads(state)
    return {path: at(whole, path) for path in PARTS}


def at(whole: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        whole = whole[step]
    return whole


def nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to this value and everything in it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for step, one in inner for found in nodes(one, (*path, step)))]


@lru_cache(maxsize=32)
def places(part: tuple[str, ...]) -> list[list[tuple[Any, ...]]]:
    """Paths inside a part, by depth, so that deep tables do not hide what lies above them."""
    found = nodes(at(orjson.loads(good()), part))
    return [[one for one in found if len(one) == depth] for depth in range(max(map(len, found)) + 1)]


def broken(path: tuple[Any, ...], value: Any) -> bytes:
    """The good snapshot with this value (GONE: nothing; a list is cut) at this place."""
    whole = orjson.loads(good())
    holder = at(whole, path[:-1])
    if value is not GONE:
        holder[path[-1]] = value
    elif isinstance(holder, list):
        del holder[path[-1] :]
    else:
        del holder[path[-1]]
    return orjson.dumps(whole)


def test_what_is_whole_is_taken_over_without_a_word() -> None:
    made, events = restored(good())
    assert kinds(events) == ["state.restored"]
    before, after = parts_of(good()), parts_of(made.snapshot())
    assert after[("routes", "support", "staging")] == before[("routes", "support", "staging")]
    assert after[("routes", "trial", "experiment")] == before[("routes", "trial", "experiment")]
    assert after[("routes", "support", "watch")] == before[("routes", "support", "watch")]


@settings(max_examples=200)
@given(st.data())
def test_a_broken_part_costs_itself_only(data: st.DataObject) -> None:
    """Whatever is broken in it: nothing raises, every other part is what it would have been, events name this part and no
    other, one at least if it is lost as a whole, and the service goes on and can be stored again."""
    part = data.draw(st.sampled_from(PARTS))
    depths = places(part)
    level = depths[data.draw(st.integers(0, len(depths) - 1))]
    path = part + level[data.draw(st.integers(0, len(level) - 1))]
    values = [
        one for one in (*WRONG, GONE) if not (part[-1] == "arms" and isinstance(one, str))
    ]  # another arm, by right
    value = data.draw(st.sampled_from(values))
    made, events = restored(broken(path, value))
    absent = (value is GONE and part[-1] in OPTIONAL) or value in EMPTY.get(part[-1], ())
    _is_named(events, part, whole=path == part and not absent)
    free = part[-1] in ("staging", "arms", "beliefs")  # conversations of rollouts that begin again, arms that changed
    _others_are_whole(made, part, free)
    drive(made, 8, 500, NOW + 90.0)
    assert lost(restored(made.snapshot())[1]) == []


def _is_named(events: list[Event], part: tuple[str, ...], *, whole: bool) -> None:
    found = lost(events)
    assert found or not whole
    for event in found:
        own = event.kind == "state.ignored"
        name = str(event.detail["part"]) if own else "staging"
        assert name.split(".")[0] == part[-1]
        assert event.route == ("" if len(part) == 1 else part[1])


def _others_are_whole(made: Engine, part: tuple[str, ...], free: bool) -> None:
    usual, found = expected(), parts_of(made.snapshot())
    for other in PARTS:
        if other != part and not (free and other == ("bindings",)):
            assert found[other] == usual[other], other


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("value", ["x", 5, [1]])
def test_a_part_that_is_something_else_is_named(part: tuple[str, ...], value: object) -> None:
    """Each of them, always."""
    made, events = restored(broken(part, value))
    _is_named(events, part, whole=True)
    assert len(lost(events)) == 1
    assert made.decide(facts(3), NOW + 90.0).route == "support"


def test_a_route_that_is_no_table_begins_anew() -> None:
    made, events = restored(broken(("routes", "support"), 7))
    assert [(event.kind, event.route, event.detail.get("part")) for event in lost(events)] == [
        ("state.ignored", "support", "all parts")
    ]
    assert parts_of(made.snapshot())[("routes", "trial", "experiment")]["race"]["parts"]
    _, events = restored(broken(("routes",), 7))
    assert [event.detail["part"] for event in lost(events)] == ["routes"]


def test_the_window_of_a_budget_is_lost_alone() -> None:
    """What the day has cost is kept when the sliding window cannot be read."""
    for value in (None, [3600.0, [[1, None, 1.0, []]]], 7):
        made, events = restored(broken(("routes", "support", "ledger", "window"), value))
        assert [event.detail["part"] for event in lost(events)] == ["ledger.window"]
        assert made.status()[0].spent_day_nusd > 0


def test_spending_below_nothing_opens_no_budget() -> None:
    made, events = restored(broken(("routes", "support", "ledger", "day_nusd"), -(10**12)))
    assert [event.detail["part"] for event in lost(events)] == ["ledger"]
    assert made.status()[0].spent_day_nusd == 0


def test_absurd_costs_are_kept_over_a_restart() -> None:
    """2,100 calls at the largest cost and count of tokens: the sums, which would need 65 bits, end where a snapshot can hold
    them, and a budget is not open again; so with a ceiling on the mean, whose savings fall as fast."""
    budget = Budget(daily_nusd=10**9, mean_request_nusd=10**6, window_nusd=10**9)
    used = policy(arms=(), mode="optimize", budget=budget)
    one, tokens = engine(used), 2**53 - 1
    made = msgspec.structs.replace(one.decide(facts(1), NOW), reserved_nusd=0)
    absurd = outcome(cost_nusd=MOST_NUSD, usage=Usage(input_tokens=tokens, output_tokens=tokens))
    for key in range(1, 2_101):
        one.settle(facts(key), made, absurd, NOW + key / 1e4)
    again, events = restored(one.snapshot(), used)
    assert not lost(events)
    assert again.status()[0].spent_day_nusd == one.status()[0].spent_day_nusd == MOST_SUM
    assert again.decide(facts(1), NOW + 1.0).refusal is not None
    one.restore(one.snapshot(), NOW + 1.0)
    assert not lost(one.restore(one.snapshot(), NOW + 1.0))


def test_a_client_without_any_limit_costs_no_state() -> None:
    """The largest number of 64 bits as max_tokens, in a call that is left: what was reserved is booked, and two are more
    than 64 bits, and a snapshot could not be written any more."""
    used = policy(arms=(), mode="optimize", budget=Budget(mean_request_nusd=10**9))
    one, asked = engine(used), facts(1, max_tokens=2**63 - 1)
    for _ in range(2):
        made = one.decide(asked, NOW)
        assert 0 < made.reserved_nusd <= MOST_NUSD
        one.settle(asked, made, outcome("aborted", cost_nusd=None), NOW)
    assert not lost(restored(one.snapshot(), used)[1])


def test_beliefs_of_arms_are_lost_one_by_one() -> None:
    made, events = restored(broken(("routes", "support", "beliefs", "mini", "answered"), [5.0, 9.0]))
    assert [event.detail["part"] for event in lost(events)] == ["beliefs.mini"]
    assert [arm.exchanges > 0 for arm in made.status()[0].arms][:2] == [True, False]


def test_a_broken_part_waits_for_its_route() -> None:
    """A route that is away keeps what it had, and is judged when it returns."""
    made, events = restored(broken(("routes", "support", "beliefs"), None), NO_POLICY)
    assert kinds(events) == ["state.restored"]
    told = made.apply(POLICY, NOW + 90.0)
    assert [event.detail["part"] for event in lost(told)] == ["beliefs"]
    assert made.status()[0].spent_day_nusd > 0
    assert made.status()[0].rollouts[0].step == 25


def test_older_snapshots_have_no_table_of_arms() -> None:
    """Then the beliefs say which arms are the same."""
    _, events = restored(broken(("routes", "support", "arms"), GONE))
    assert kinds(events) == ["state.restored"]
    whole = orjson.loads(good())
    del whole["routes"]["support"]["arms"]
    del whole["routes"]["support"]["beliefs"]["mini"]["digest"]
    made, events = restored(orjson.dumps(whole))
    assert kinds(events) == ["state.restored"], "another arm, for all that is known"
    assert made.status()[0].arms[1].exchanges == 0


@pytest.mark.parametrize("kept", ["sums", "nothing", "another baseline", "whole"])
def test_a_promise_is_measured_against_what_is_known_of_the_baseline(kept: str) -> None:
    """Older snapshots have two sums of scores or none, and the route may have had another baseline: then the reference is
    what the beliefs say of the baseline. Else it is what was kept, even where the beliefs know less."""
    whole = orjson.loads(good())
    route = whole["routes"]["support"]
    route["promise"]["tasks"][""] = [9.0, 9.0, 1.0]
    known = route["beliefs"][BASE.id]["context"]["tasks"][""]
    match kept:
        case "sums":
            route["promise"] = route["promise"]["sums"]
        case "nothing":
            del route["promise"]
        case "another baseline":
            route["promise"]["baseline"] = "mini"
        case _:
            known = [9.0, 1.0]
    made, events = restored(orjson.dumps(whole))
    after = orjson.loads(made.snapshot())["routes"]["support"]["promise"]
    assert kinds(events)[:1] == ["state.restored"]
    assert after["tasks"][""][1:] == pytest.approx(known)
    assert (after["sums"][0] > 0.0) is (kept != "nothing")
    assert after["baseline"] == BASE.id


def test_numbers_are_checked() -> None:
    check([{"a": [1, 2.5, True, None, "text"]}, LARGEST])
    for wrong in (float("nan"), float("inf"), -2 * LARGEST, 10**400):
        with pytest.raises((ValueError, OverflowError)):
            check({"a": [wrong]})


@pytest.mark.parametrize(("text", "version"), [(b"{", None), (b"[]", None), (b'{"version": 2}', 2), (good(), 1)])
def test_the_version_is_read_without_the_rest(text: bytes, version: int | None) -> None:
    assert version_of(text) == version
    assert version_of(b'{"version": "2"}') is None


@pytest.mark.parametrize(
    ("path", "value", "part"),
    [
        (("routes", "support", "spend", "total", 0), -1, "spend"),
        (("routes", "support", "promise", "sums", 0), -1.0, "promise"),
        (("routes", "support", "promise", "tasks", "", 2), 1e9, "promise"),
        (("routes", "support", "beliefs", "mini", "latency", 0, 2), -5.0, "beliefs.mini"),
        (("routes", "support", "beliefs", "mini", "context", "residual"), -5.0, "beliefs.mini"),
        (("routes", "support", "staging", "rollouts"), 5, "staging"),
        (("routes", "support", "staging", "rollouts", "mini"), 5, None),
        (("routes", "support", "staging", "brake"), 5, None),
        (("routes", "support", "staging", "resting"), 5, None),
        (("routes", "support", "staging", "brake"), {"mini": 5}, None),
        (("routes", "support", "thresholds", "slow", 1, 3, 0), 7, "thresholds.slow"),
        (("routes", "support", "thresholds", "dear", 1, 0), "odd", "thresholds.dear"),
        (("routes", "support", "watch", "drift", "watched"), 7, "watch.drift"),
        (("routes", "support", "watch", "drift", "watched", "quality/mini"), [1], "watch.drift"),
        (("routes", "support", "watch", "anomalies", "watched"), 7, "watch.anomalies"),
        (("routes", "support", "watch", "anomalies", "watched", "output_tokens/mini"), [1], "watch.anomalies"),
        (("routes", "support", "watch", "tuning", "tasks"), 7, "watch.tuning"),
        (("routes", "support", "watch", "tuning", "tasks", ""), [1], "watch.tuning"),
        (("routes", "trial", "experiment", "race", "out"), [0, 1], "experiment"),
        (("routes", "trial", "experiment", "race", "parts", 6, 0), -1.0, "experiment"),
        (("routes", "trial", "experiment", "means", 0, 3), 0.0, "experiment"),
        (("bindings", 0), ["support/mini", "mini", 7.0, [1]], "bindings"),
        (("bindings", 0, 3, 0), -1, "bindings"),
    ],
)
def test_what_is_lost_is_named(path: tuple[Any, ...], value: object, part: str | None) -> None:
    """Also the parts of parts: one event for each of these; of rollouts it is `rollout.evidence_lost`."""
    found = lost(restored(broken(path, value))[1])
    assert [(event.kind, event.detail.get("part")) for event in found] == [
        ("state.ignored" if part else "rollout.evidence_lost", part)
    ]
