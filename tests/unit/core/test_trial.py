"""Mode ab in the engine: who is drawn, who keeps what, and what outlives a policy or a process."""

from dataclasses import asdict, replace
from typing import Any

import orjson
import pytest

from sidecar.core.counted import STORED
from sidecar.core.engine import Engine
from sidecar.core.experiment_status import ExperimentStatus
from sidecar.core.policy import REPEAT, Arm, ExperimentSpec, Fallback, Route, Rule, Variant
from sidecar.core.types import Clocks, Decision, Event, Facts, Feedback, Outcome
from sidecar.core.variants import Keep, Replace
from tests.unit.core.engines import BASE, HAIKU, MINI, NANO, NOW, ROUTE, engine, fall_back, policy, rule

VARIANTS = (Variant("control", BASE.id), Variant("short", BASE.id, system=(Replace("S"),)), Variant("mini", MINI.id))
SPEC = ExperimentSpec(VARIANTS, min_samples=10, allocation="uniform")
AB = replace(ROUTE, mode="ab", rollout=None, experiment=SPEC)


def made(route: Route = AB, *rules: Rule, **changes: Any) -> Engine:
    return engine(policy(route, *rules, **changes))


def facts(key: int = 0, **changes: Any) -> Facts:
    usual: dict[str, Any] = {
        "endpoint": "chat",
        "dialect": "openai",
        "path": "/v1/chat/completions",
        "model": "gpt-4o",
        "stream": False,
        "key": key,
        "key_source": "session" if key else "request",
        "draw": key,
    }
    return Facts(**(usual | changes))


def done(**changes: Any) -> Outcome:
    return Outcome(**({"kind": "completed", "clocks": Clocks(duration_s=1.0)} | changes))


def status(one: Engine) -> ExperimentStatus:
    found = one.status()[0].experiment
    assert found is not None
    return found


def scored(decision: Decision, key: int, score: float, **changes: Any) -> Feedback:
    usual: dict[str, Any] = {
        "decision_id": str(key),
        "route": decision.route,
        "arm": decision.arm,
        "score": score,
        "context_key": key,
        "rollout_id": decision.rollout_id,
        "rollout_step": decision.rollout_step,
    }
    return Feedback(**(usual | changes))


def kinds(events: list[Event]) -> list[str]:
    return [event.kind for event in events if event.kind.startswith("experiment.")]


def test_units_are_drawn_and_keep_their_variant() -> None:
    """Each session keeps variant, prompt and share; all variants occur; the route says what shares it has."""
    one = made()
    first = {key: one.decide(facts(key), NOW) for key in range(1, 60)}
    assert {decision.reason for decision in first.values()} == {"sampled"}
    assert {round(decision.propensity, 9) for decision in first.values()} == {round(1 / 3, 9)}
    assert len({decision.rollout_id for decision in first.values()}) == 3
    for key, decision in first.items():
        again = one.decide(facts(key), NOW)
        assert again.reason == "sticky"
        kept = (again.arm, again.system, again.params, again.rollout_id, again.rollout_step, again.propensity)
        assert kept == (
            decision.arm,
            decision.system,
            decision.params,
            decision.rollout_id,
            decision.rollout_step,
            decision.propensity,
        )
    shares = {arm.id: arm.share for arm in one.status()[0].arms}
    assert shares == {BASE.id: pytest.approx(2 / 3), MINI.id: pytest.approx(1 / 3)}


def test_requests_are_drawn_one_by_one() -> None:
    """Without a key the request's own bits decide, and nothing is bound."""
    one = made()
    drawn = {one.decide(facts(draw=bits), NOW).rollout_id for bits in range(1, 60)}
    assert len(drawn) == 3


def test_outcomes_and_scores_are_counted() -> None:
    """A score counts once per unit; one that replaces an earlier one of its source does not count again."""
    one = made()
    for key in range(1, 13):
        decision = one.decide(facts(key), NOW)
        one.settle(facts(key), decision, done(), NOW)
        one.feedback(scored(decision, key, 1.0), NOW)
        one.feedback(scored(decision, key, 0.0, previous=1.0), NOW)
        one.feedback(scored(decision, key, 0.0, source="task"), NOW)
        one.feedback(scored(decision, key + 100, 0.0, source=REPEAT, weight=0.1), NOW)  # a hint, and no judgement
    variants = status(one).variants
    assert sum(variant.units for variant in variants) == 12
    assert {variant.mean for variant in variants if variant.units} == {1.0}


def test_outcomes_are_the_metric_where_it_says_so() -> None:
    one = made(AB, experiment=replace(SPEC, metric="error_rate"))
    decision = one.decide(facts(1), NOW)
    one.settle(facts(1), decision, done(kind="failed", status=500), NOW)
    assert [variant.mean for variant in status(one).variants if variant.units] == [1.0]


def test_a_fallback_is_the_variant_s_failure() -> None:
    """Who is served by another arm counts as failed for the variant that was drawn, and once."""
    one = made(AB, experiment=replace(SPEC, metric="error_rate"), fallback=Fallback((MINI.id,), ("5xx",)))
    key = next(key for key in range(1, 99) if one.decide(facts(key), NOW).arm == BASE.id)
    decision = one.decide(facts(key), NOW)
    second = fall_back(one, facts(key), decision, "500", NOW)
    assert second is not None
    assert (second.arm, second.system, second.rollout_id) == (MINI.id, (), None)
    one.settle(facts(key), second, done(served_arm=MINI.id), NOW)
    assert [(variant.id, variant.mean) for variant in status(one).variants if variant.units] == [
        ((decision.rollout_id or "").partition(":")[2], 1.0)
    ]


def test_where_not_all_may_serve_nothing_is_drawn() -> None:
    """Rules took an arm away: the baseline serves, uncounted; a conversation whose arm is gone goes there too."""
    asked = replace(MINI, facts={"region": "EU"})
    route = replace(AB, arms=(asked,))
    one = made(route, rule("model.region == 'EU' && user.at == 'home'", "filter"))
    key = next(key for key in range(1, 99) if one.decide(facts(key, tags={"at": "work"}), NOW).arm == MINI.id)
    left = one.decide(facts(key, tags={"at": "home"}), NOW)
    assert (left.arm, left.reason, left.rollout_id, left.system) == (BASE.id, "baseline", None, ())


def test_other_dialects_and_off_are_left_alone() -> None:
    """An arm of another dialect is never eligible, so nothing is compared; x-sidecar-off skips all of it."""
    route = replace(AB, arms=(MINI, HAIKU), experiment=replace(SPEC, variants=(*VARIANTS, Variant("h", HAIKU.id))))
    one = made(route)
    assert one.decide(facts(1), NOW).rollout_id is None
    assert made().decide(facts(1, off=True), NOW).reason == "passthrough"


def test_calls_with_state_keep_their_prompt() -> None:
    """previous_response_id does not carry instructions over: the variant of the conversation is applied again."""
    one = made()
    key = next(key for key in range(1, 99) if one.decide(facts(key), NOW).system == (Replace("S"),))
    pinned = one.decide(facts(key, stateful=True), NOW)
    assert (pinned.reason, pinned.system) == ("pinned", (Replace("S"),))
    assert one.decide(facts(777, stateful=True), NOW).system == ()


def test_the_verdict_moves_new_units_only() -> None:
    """A promoted winner takes what is new; who was drawn before keeps what it has."""
    one = made(AB, experiment=replace(SPEC, variants=VARIANTS[:2], on_winner="promote"))
    old = next(key for key in range(1, 99) if one.decide(facts(key), NOW).system == (Keep(),))
    events: list[Event] = []
    for key in range(100, 400):
        decision = one.decide(facts(key), NOW)
        events += one.feedback(scored(decision, key, 1.0 if decision.system == (Replace("S"),) else 0.0), NOW)
        if events:
            break
    assert kinds(events) == ["experiment.decided"]
    assert one.routes[0].trial is not None
    one.routes[0].trial.experiment.promote()  # as the control loop does
    assert one.decide(facts(old), NOW).system == (Keep(),)
    new = one.decide(facts(5000), NOW)
    assert (new.reason, new.system, new.propensity, new.rollout_id) == ("policy", (Replace("S"),), 1.0, None)
    assert any("the winner" in text for text in one.status()[0].explanations)


def test_the_api_can_show_it() -> None:
    """The status is JSON as it is, with the experiment in it and no prompt."""
    one = made()
    for key in range(1, 40):
        one.feedback(scored(one.decide(facts(key), NOW), key, 0.5), NOW)
    shown = orjson.loads(orjson.dumps([asdict(route) for route in one.status()]))
    variants = shown[0]["experiment"]["variants"]
    assert [variant["id"] for variant in variants] == ["control", "short", "mini"]
    assert variants[1]["effect_low"] <= variants[1]["effect"] == 0.0 <= variants[1]["effect_high"]
    assert sum(variant["units"] for variant in variants) == 39


def test_a_stopped_variant_lets_its_conversations_go() -> None:
    """A variant that fails always is stopped, told, and its conversations are drawn anew."""
    one = made(AB, experiment=replace(SPEC, variants=(VARIANTS[0], VARIANTS[2])))
    events: list[Event] = []
    bad = 0
    for key in range(1, 200):
        decision = one.decide(facts(key), NOW)
        failed = decision.arm == MINI.id
        bad = key if failed else bad
        verdict = one.settle(facts(key), decision, done(kind="failed" if failed else "completed"), NOW)
        events += verdict.events
        if kinds(events):
            break
    assert kinds(events) == ["experiment.variant_stopped"]
    again = one.decide(facts(bad), NOW)
    assert (again.arm, again.reason) == (BASE.id, "sampled")
    assert kinds(one.tick(NOW)) == ["experiment.ended"]


def test_a_policy_that_leaves_it_as_it_is() -> None:
    """Evidence goes on over an edit elsewhere; an edit of the experiment ends it and frees its conversations."""
    one = made()
    decision = one.decide(facts(1), NOW)
    one.feedback(scored(decision, 1, 1.0), NOW)
    assert kinds(one.apply(policy(replace(AB, virtual=("auto", "x"))), NOW)) == []
    assert sum(variant.units for variant in status(one).variants) == 1
    assert one.decide(facts(1), NOW).reason == "sticky"
    events = one.apply(policy(replace(AB, experiment=replace(SPEC, alpha=0.01))), NOW)
    assert kinds(events) == ["experiment.ended"]
    assert one.decide(facts(1), NOW).reason == "sampled"
    assert kinds(one.apply(policy(replace(ROUTE, mode="observe", rollout=None)), NOW)) == ["experiment.ended"]
    assert one.status()[0].experiment is None
    assert kinds(one.apply(policy(AB), NOW)) == []
    assert kinds(one.tick(NOW)) == ["experiment.started"]


def test_a_winner_serves_only_while_the_policy_wants_it_promoted() -> None:
    """An edit of `on_winner` is no other experiment: the winner stays the winner, and serves as the policy of now says, also
    where it was edited while no process ran."""
    report, promote = (replace(AB, experiment=replace(SPEC, on_winner=what)) for what in ("report", "promote"))
    one = made(promote)
    trial = one.routes[0].trial
    assert trial is not None
    trial.experiment._finish("winner", 2, "for this test")
    trial.experiment.promote()
    kept = one.snapshot()
    assert kinds(one.apply(policy(promote), NOW)) == []
    assert one.routes[0].shares()[MINI.id] == 1.0
    assert kinds(one.apply(policy(report), NOW)) == ["experiment.demoted"]
    assert (one.routes[0].shares()[BASE.id], status(one).winner) == (1.0, "mini")
    assert kinds(trial.experiment.promote()) == ["experiment.promoted"]  # when a later policy wants it
    for route, winner_serves in ((report, False), (promote, True)):
        again = made(route)
        again.restore(kept, NOW)
        assert (again.routes[0].shares()[MINI.id] == 1.0) is winner_serves
        assert status(again).winner == "mini"


def test_a_route_that_goes_and_returns() -> None:
    """Its evidence waits for it; its conversations are free."""
    one = made()
    decision = one.decide(facts(1), NOW)
    one.feedback(scored(decision, 1, 1.0), NOW)
    one.apply(policy(replace(ROUTE, name="else")), NOW)
    one.apply(policy(AB), NOW)
    assert sum(variant.units for variant in status(one).variants) == 1
    assert one.decide(facts(1), NOW).reason == "sampled"


def test_scores_of_an_earlier_run_are_weighed_by_its_own_shares_or_not_at_all() -> None:
    """The mode leaves `ab` and returns: the experiment begins anew under its id. Late scores of units that the first run
    drew by the policy's shares count; of those that it drew by changed ones none does, whatever the second has changed."""

    def rolled_back(arm: str, now: float) -> None:
        trial = one.routes[0].trial
        assert trial is not None
        trial.experiment.roll_back(now, "a test", arm)

    one = made()
    by_the_policy, control = one.decide(facts(1), NOW), f"{status(one).id}:control"
    rolled_back(MINI.id, NOW + 1)
    by_changed = one.decide(facts(2), NOW + 1)
    one.apply(policy(AB, mode="observe"), NOW + 2)
    one.apply(policy(AB), NOW + 3)
    rolled_back(BASE.id, NOW + 4)
    assert (by_the_policy.rollout_id, by_changed.rollout_id) == (control, control)
    one.feedback(scored(by_the_policy, 1, 1.0), NOW + 5)
    assert [variant.units for variant in status(one).variants] == [1, 0, 0]
    one.feedback(scored(by_changed, 2, 1.0), NOW + 5)
    assert [variant.units for variant in status(one).variants] == [1, 0, 0]


def test_a_snapshot_holds_it() -> None:
    """After a restart: the same evidence, no second beginning, conversations that keep prompts and count no more."""
    one = made()
    for key in range(1, 20):
        decision = one.decide(facts(key), NOW)
        one.feedback(scored(decision, key, 0.5), NOW)
    again = engine(policy(replace(ROUTE, mode="observe", rollout=None)))
    again.apply(policy(AB), NOW)
    again.restore(one.snapshot(), NOW)
    assert status(again) == status(one)
    assert kinds(again.tick(NOW)) == []
    for key in range(1, 20):
        old, new = one.decide(facts(key), NOW), again.decide(facts(key), NOW)
        assert (new.reason, new.arm, new.system) == ("sticky", old.arm, old.system)
        assert (new.rollout_id, new.rollout_step) == (None, None)


@pytest.mark.parametrize("edit", [{"mode": "observe"}, {"experiment": replace(SPEC, min_samples=7)}])
def test_an_edit_that_comes_with_a_restart_ends_it_too(edit: dict[str, Any]) -> None:
    """Once, and with the id that its row in the store has; a verdict that was told before is no end."""
    one, again = made(), made(**edit)
    (ended,) = [event for event in again.restore(one.snapshot(), NOW) if event.kind == "experiment.ended"]
    assert (ended.route, ended.detail["experiment_id"], ended.detail["verdict"]) == (
        AB.name,
        status(one).id,
        "inconclusive",
    )
    third = made(**edit)
    assert "experiment.ended" not in kinds(third.restore(again.snapshot(), NOW))
    one.rollback(AB.name, NOW)
    assert "experiment.ended" not in kinds(again.restore(one.snapshot(), NOW))


def test_a_snapshot_of_a_time_without_it() -> None:
    """What an older process stored begins the experiment; what has none of it stays as it is."""
    old = made(replace(ROUTE, mode="observe", rollout=None))
    one = made()
    one.restore(old.snapshot(), NOW)
    assert status(one).phase == "running"
    old.restore(one.snapshot(), NOW)
    assert old.status()[0].experiment is None


def test_arms_may_be_anywhere() -> None:
    """An experiment over models of the same route: each variant goes to its own arm's upstream and model."""
    route = replace(AB, arms=(MINI, NANO), experiment=replace(SPEC, variants=(VARIANTS[0], Variant("n", NANO.id))))
    one = made(route)
    models = {one.decide(facts(key), NOW).model for key in range(1, 40)}
    assert models == {BASE.model, NANO.model}
    assert isinstance(NANO, Arm)


def test_a_unit_counts_once_although_the_process_began_again() -> None:
    """Half of the units are scored, the process restarts, and all are scored again: each is in one mean, once."""
    one = made()
    drawn = {key: one.decide(facts(key), NOW) for key in range(1, 21)}
    for key in range(1, 11):
        one.feedback(scored(drawn[key], key, 0.5), NOW)
    again = made()
    again.restore(one.snapshot(), NOW)
    again = made()
    again.restore(one.snapshot(), NOW)  # and once more, from what the restored one stores
    for key, decision in drawn.items():
        again.feedback(scored(decision, key, 0.5), NOW)
        again.feedback(scored(decision, key, 0.5), NOW)
    assert sum(variant.units for variant in status(again).variants) == 20
    assert sum(variant.units for variant in status(one).variants) == 10


def test_only_the_youngest_units_outlive_a_restart() -> None:
    """A snapshot stays small: of more units than STORED the oldest are forgotten, as the docs say."""
    one = made(experiment=replace(SPEC, min_samples=10**6))
    kept = [one.decide(facts(key), NOW) for key in (1, 2)]
    experiment = one._order[0].trial
    assert experiment is not None
    for key in range(1, STORED + 2):
        experiment.experiment.label(kept[0].rollout_id, kept[0].rollout_step, key, 0.5, NOW)
    again = made(experiment=replace(SPEC, min_samples=10**6))
    again.restore(one.snapshot(), NOW)
    before = sum(variant.units for variant in status(again).variants)
    for key in (2, STORED + 1, 1):
        again.feedback(scored(kept[0], key, 0.5), NOW)
    assert sum(variant.units for variant in status(again).variants) == before + 1
    assert len(one.snapshot()) < 40_000


@pytest.mark.parametrize(
    "change",
    [
        {"winner": 9},
        {"means": []},
        {"epochs": [[0, 0.5, 0.2, 0.1]]},
        {"epochs": [[0, 1.0]]},
        {"epochs": []},
        {"phase": "half"},
        {"units": "AAA"},
        {"units": "AAAA"},
    ],
)
def test_a_state_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    """The experiment begins anew and says so."""
    one = made()
    state = orjson.loads(one.snapshot())
    state["routes"]["support"]["experiment"] |= change
    events = made().restore(orjson.dumps(state), NOW)
    assert [event.detail.get("part") for event in events] == ["experiment", None]
