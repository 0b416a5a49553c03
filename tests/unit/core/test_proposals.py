"""What the slower lanes propose: arms that are held, retired, wanted again and tried again, winners that are promoted."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import orjson
import pytest

from sidecar.core.cost import RateCard, flat_card
from sidecar.core.cycle import Cycle, Lane, Proposal
from sidecar.core.draws import PROBE
from sidecar.core.engine import Engine
from sidecar.core.impact import Minutes
from sidecar.core.policy import Changes, ExperimentSpec, FlatPrice, Objective, Upstream, Variant
from sidecar.core.proposals import (
    MOST_FAILED,
    SOURCES,
    SURE,
    TRIAL,
    Seen,
    Source,
    hold,
    is_late,
    promote,
    reinstate,
    retire,
    retry,
)
from sidecar.core.resting import HOLD_S, RETIRED_S
from sidecar.core.route import RouteState
from sidecar.core.types import Clocks, Event, Feedback, Outcome
from tests.unit.core.engines import MINI, NANO, NOW, ROUTE, UPSTREAMS, facts, kinds, outcome, policy, promoted

PLAIN = replace(ROUTE, mode="optimize", arms=(MINI, NANO), sticky="request")
FINE, FAILED = outcome(), outcome("failed")
SLOW = outcome(clocks=Clocks(sent_s=0.0, ttft_s=5.0, duration_s=9.0))


def pool(**changes: object) -> Engine:
    return promoted(policy(PLAIN, **changes))


class Lanes:
    """An engine and its minutes, as the loop sees them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.minutes = Minutes(lambda route, one: is_late(self.state.route, one))
        self.seen = Seen(self.minutes, lambda name: next((s for s in engine.routes if s.route.name == name), None))

    @property
    def state(self) -> RouteState:
        return self.engine.routes[0]

    def calls(self, arm: str, fine: int, bad: int, one: Outcome = FAILED, at: float = NOW) -> None:
        for count, ended in ((fine, FINE), (bad, one)):
            for _ in range(count):
                self.minutes.add(("support", arm), ended, None, at)

    def found(self, source: Source = hold, now: float = NOW + 1) -> list[Proposal]:
        return list(source(self.state, self.seen, now))


def apply(found: Sequence[Proposal], now: float) -> list[Event]:
    return [event for one in found for event in one.apply(now)]


def undo(one: Proposal, now: float) -> list[Event]:
    assert one.undo is not None
    return list(one.undo(now))


def rates(engine: Engine, scores: dict[str, float], n: int = 150, task: str = "") -> None:
    """n scores an arm of sd .1, and a call for each."""
    for at in range(n):
        for arm, mean in scores.items():
            score = mean + (0.1 if at % 2 else -0.1)
            engine.feedback(Feedback(decision_id="d", route="support", arm=arm, score=score, task=task), NOW)
    engine.tick(NOW)


# ---- hold


def test_an_arm_that_fails_more_than_the_others_is_held() -> None:
    """20 of 60 against 1 of 60; it says so, takes the arm out of the pool, and expects fewer failures."""
    lanes = Lanes(pool())
    lanes.calls("mini", 40, 20)
    lanes.calls("gpt-4o", 59, 1)
    one = lanes.found()[0]
    assert (one.kind, one.route, one.arm, one.urgent) == ("arm.hold", "support", "mini", True)
    assert one.rationale == "20 of 60 calls of mini failed, of the others' at the same time 1 of 60"
    assert one.confidence is not None
    assert one.confidence >= SURE
    assert one.expected["failed"] == pytest.approx((1 / 60) / (21 / 120) - 1)
    assert one.facts == {"share": 0.5, "seconds": HOLD_S}
    assert kinds(apply([one], NOW + 1)) == ["arm.held"]
    assert lanes.state.staging.pool == ("gpt-4o", "nano")
    assert {lanes.engine.decide(facts(0, draw=n), NOW).arm for n in range(200)} <= {"gpt-4o", "nano"}
    assert lanes.found() == []


def test_what_everybody_suffers_from_holds_nobody() -> None:
    lanes = Lanes(pool())
    lanes.calls("mini", 40, 20)
    lanes.calls("gpt-4o", 40, 20)
    assert lanes.found() == []


def test_few_calls_and_the_baseline_are_never_held() -> None:
    lanes = Lanes(pool())
    lanes.calls("mini", 5, 20)
    lanes.calls("gpt-4o", 0, 200)
    lanes.calls("nano", 200, 0)
    assert lanes.found() == []


def test_the_past_of_the_others_stands_in_where_they_are_not_called() -> None:
    lanes = Lanes(pool())
    lanes.calls("mini", 60, 40)
    assert lanes.found() == []  # nothing is known of any other arm
    lanes.calls("gpt-4o", 100, 0, at=NOW - 3600)
    lanes = Lanes(pool())
    lanes.calls("gpt-4o", 100, 0, at=NOW - 3600)
    lanes.calls("mini", 60, 40)
    assert [one.arm for one in lanes.found()] == ["mini"]


@pytest.mark.parametrize(("loss", "held"), [(0.05, True), (0.2, False), (1.0, False)])
def test_the_objective_says_how_many_failures_are_allowed(loss: float, held: bool) -> None:
    """30 % failures against none: beyond doubt more than 5 %, not more than MOST_FAILED."""
    assert MOST_FAILED == 0.2
    lanes = Lanes(pool(objective=Objective(max_quality_loss=loss)))
    lanes.calls("mini", 42, 18)
    lanes.calls("gpt-4o", 60, 0)
    assert bool(lanes.found()) is held


@pytest.mark.parametrize(
    ("objective", "held"),
    [(Objective(ttft_s=2.0), True), (Objective(ttft_s=9.0), False), (Objective(), False),
     (Objective(ttft_s=2.0, late_nusd=5), False)],
)  # fmt: skip
def test_an_arm_that_is_late_is_held_where_there_is_a_limit_and_no_price(objective: Objective, held: bool) -> None:
    lanes = Lanes(pool(objective=objective))
    lanes.calls("mini", 30, 30, SLOW)
    lanes.calls("gpt-4o", 60, 0)
    found = lanes.found()
    assert [one.rationale for one in found] == (
        ["30 of 60 calls of mini came later than the objective wants, of the others' at the same time 0 of 60"]
        if held
        else []
    )


def test_only_answers_that_took_a_time_are_late() -> None:
    route = replace(PLAIN, objective=Objective(latency_s=2.0))
    whole = outcome(stream=False, clocks=Clocks(sent_s=0.0, duration_s=3.0))
    assert is_late(route, whole) is True
    assert is_late(route, FINE) is None  # a stream, and no limit for streams
    assert is_late(replace(route, mode="canary"), whole) is None
    unknown = outcome(clocks=Clocks(duration_s=1.0))
    assert is_late(replace(route, objective=Objective(ttft_s=1.0)), unknown) is None


def test_a_held_arm_comes_back_by_itself_and_its_old_failures_count_no_more() -> None:
    lanes = Lanes(pool())
    lanes.calls("mini", 40, 20)
    lanes.calls("gpt-4o", 59, 1)
    apply(lanes.found(), NOW + 1)
    assert "arm.returned" not in kinds(lanes.engine.tick(NOW + HOLD_S))
    assert kinds(lanes.engine.tick(NOW + 1 + HOLD_S)) == ["arm.returned"]
    assert "mini" in lanes.state.staging.pool
    assert lanes.found(now=NOW + 2 + HOLD_S) == []
    lanes.calls("mini", 40, 20, at=NOW + 420.0)
    again = lanes.found(now=NOW + 430.0)
    assert again[0].facts["seconds"] == 2 * HOLD_S


def test_a_hold_that_did_harm_is_undone_and_the_arm_spared() -> None:
    lanes = Lanes(pool())
    lanes.calls("mini", 40, 20)
    lanes.calls("gpt-4o", 59, 1)
    one = lanes.found()[0]
    apply([one], NOW + 1)
    assert kinds(undo(one, NOW + 300)) == ["arm.returned"]
    assert undo(one, NOW + 301) == []
    lanes.calls("mini", 40, 20, at=NOW + 320)
    assert lanes.found(now=NOW + 330) == []
    lanes.engine.apply(policy(name="other"), NOW)
    assert undo(one, NOW + 302) == []


def test_a_held_arms_conversations_are_free_and_a_retired_ones_stay() -> None:
    for kind, reason in (("held", "sampled"), ("retired", "sticky")):
        engine = pool(sticky="conversation")
        staging = engine.routes[0].staging
        key = next(key for key in range(1, 500) if engine.decide(facts(key), NOW).arm == "mini")
        staging.rest("mini", kind, "a test", NOW)  # type: ignore[arg-type]  # one of the two
        again = engine.decide(facts(key), NOW)
        assert (again.reason, again.arm == "mini") == (reason, kind == "retired")


# ---- retire, and back


def test_an_arm_that_is_worse_and_not_cheaper_is_retired() -> None:
    """Nano costs what gpt-4o costs and is half as good; mini is cheaper and stays."""
    lanes = Lanes(pool())
    rates(lanes.engine, {"gpt-4o": 0.8, "mini": 0.6, "nano": 0.4})
    found = lanes.found(retire)
    assert [(one.kind, one.arm) for one in found] == [("arm.retire", "nano")]
    one = found[0]
    assert one.rationale.startswith("gpt-4o is better than nano and not dearer, with probability 0.99")
    assert one.expected["quality"] >= 0.0
    assert one.facts["seconds"] == RETIRED_S
    assert kinds(apply(found, NOW)) == ["arm.retired"]
    assert lanes.state.staging.pool == ("gpt-4o", "mini")
    status = {arm.id: (arm.role, arm.share) for arm in lanes.engine.status()[0].arms}
    assert status["nano"] == ("retired", 0.0)
    assert any("nano of route support is retired" in text for text in lanes.engine.status()[0].explanations)
    assert kinds(undo(one, NOW + 900)) == ["arm.returned"]
    assert lanes.found(retire, NOW + 901) == []  # spared


def test_on_each_task_and_told_so() -> None:
    lanes = Lanes(pool())
    for task in ("code", "prose"):
        rates(lanes.engine, {"gpt-4o": 0.8, "nano": 0.3}, task=task)
    assert "on each of 2 tasks" in lanes.found(retire)[0].rationale
    rates(lanes.engine, {"gpt-4o": 0.3, "nano": 0.8}, task="poems")
    assert lanes.found(retire) == []


def test_the_baseline_and_the_last_beside_it_are_never_retired() -> None:
    lanes = Lanes(promoted(policy(replace(PLAIN, arms=(NANO,)))))
    rates(lanes.engine, {"gpt-4o": 0.8, "nano": 0.4})
    assert lanes.found(retire) == []
    lanes = Lanes(pool())
    rates(lanes.engine, {"gpt-4o": 0.2, "mini": 0.9, "nano": 0.9})
    assert lanes.found(retire) == []


@pytest.mark.parametrize("dark", ["mini", "nano"])
def test_a_cost_that_nobody_knows_retires_nobody(dark: str) -> None:
    """Without a price and before any cost, who is dearer is not known: of the worse arm, and of the better one."""
    unknown = Upstream("dark", "openai", "https", "d", 443)
    arms = tuple(replace(arm, upstream="dark") if arm.id == dark else arm for arm in (MINI, NANO))
    made = replace(policy(replace(PLAIN, arms=arms)), upstreams={**UPSTREAMS, "dark": unknown})
    lanes = Lanes(promoted(made))
    rates(lanes.engine, {"gpt-4o": 0.3, "mini": 0.8, "nano": 0.4})
    assert lanes.found(retire) == []


def retired(task: str = "") -> Lanes:
    lanes = Lanes(pool())
    rates(lanes.engine, {"gpt-4o": 0.8, "mini": 0.6, "nano": 0.4}, task=task)
    apply(lanes.found(retire), NOW)
    assert lanes.state.staging.pool == ("gpt-4o", "mini")
    assert lanes.found(reinstate) == lanes.found(retry) == []
    return lanes


def test_a_price_cut_brings_a_retired_arm_back() -> None:
    """At a twentieth of the price nano is cheaper than gpt-4o, however bad."""
    lanes = retired()
    lanes.state.price_of = cut_price
    lanes.engine.tick(NOW + 60)
    found = lanes.found(reinstate, NOW + 60)
    assert [(one.kind, one.arm, one.facts["trial"]) for one in found] == [("arm.return", "nano", False)]
    assert kinds(apply(found, NOW + 60)) == ["arm.returned"]
    assert "nano" in lanes.state.staging.pool
    assert lanes.found(retire, NOW + 61) == []


def cut_price(up: Upstream, model: str) -> RateCard:
    assert up.price is not None
    cheap = FlatPrice(up.price.input_fusd // 20, up.price.output_fusd // 20)
    return flat_card(cheap if model == "gpt-nano" else up.price)


def test_a_drop_of_the_others_brings_it_back_and_their_return_takes_it_out() -> None:
    """The two others fall silently to .2: nano at .4 is the better one now. When they are well again it is not."""
    lanes = retired()
    rates(lanes.engine, {"gpt-4o": 0.2, "mini": 0.2}, 400)
    found = lanes.found(reinstate)
    assert [one.arm for one in found] == ["nano"]
    apply(found, NOW)
    rates(lanes.engine, {"gpt-4o": 0.8, "mini": 0.6, "nano": 0.4}, 600)
    assert [one.arm for one in lanes.found(retire)] == ["nano"]


def test_a_new_task_brings_it_back() -> None:
    """What nano does on poems nobody knows."""
    lanes = retired("code")
    rates(lanes.engine, {"gpt-4o": 0.5, "mini": 0.5}, 100, task="poems")
    assert [one.arm for one in lanes.found(reinstate)] == ["nano"]


def test_when_its_time_is_over_it_is_tried_and_a_better_one_stays() -> None:
    """During the trial it gets PROBE of the calls; scores of .9 end it, and nobody retires it again."""
    lanes = retired()
    now = NOW + RETIRED_S
    found = lanes.found(retry, now)
    assert [(one.kind, one.arm, one.confidence, one.facts["trial"]) for one in found] == [
        ("arm.return", "nano", None, True)
    ]
    assert "cost_nusd" in found[0].expected
    assert kinds(apply(found, now)) == ["arm.returned"]
    assert lanes.state.selector.model.on_probation(2)
    assert lanes.found(retire, now) == []
    lanes.engine.tick(now)
    assert lanes.state.shares()["nano"] >= PROBE
    rates(lanes.engine, {"nano": 0.9}, 60)
    assert lanes.state.selector.quality()[0][2] > 0.8
    assert lanes.found(retire, now) == []


def test_a_trial_that_showed_nothing_new_ends_in_a_longer_rest() -> None:
    lanes = retired()
    now = NOW + RETIRED_S
    one = lanes.found(retry, now)[0]
    apply([one], now)
    rates(lanes.engine, {"gpt-4o": 0.8, "mini": 0.6, "nano": 0.4}, TRIAL // 3)
    again = lanes.found(retire, now + 3600)
    assert [(each.arm, each.facts["seconds"]) for each in again] == [("nano", 2 * RETIRED_S)]
    assert kinds(undo(one, now + 3600)) == ["arm.retired"]
    lanes.engine.apply(policy(name="other"), NOW)
    assert undo(one, now) == []


def test_the_policy_switches_both_off() -> None:
    lanes = Lanes(pool(changes=Changes(hold=False, retire=False)))
    rates(lanes.engine, {"gpt-4o": 0.8, "mini": 0.6, "nano": 0.4})
    lanes.calls("mini", 40, 20)
    lanes.calls("gpt-4o", 59, 1)
    assert lanes.found(hold) == lanes.found(retire) == []


def test_a_restart_and_a_reload_go_on_where_the_arm_stays() -> None:
    lanes = retired()
    snapshot = lanes.engine.snapshot()
    after = pool()
    after.restore(snapshot, NOW + 5)
    assert after.routes[0].staging.pool == ("gpt-4o", "mini")
    lanes.engine.apply(policy(PLAIN, objective=Objective(max_quality_loss=0.1)), NOW)
    assert lanes.state.staging.pool == ("gpt-4o", "mini")
    lanes.engine.apply(policy(PLAIN, changes=Changes(retire=False)), NOW)
    assert "nano" in lanes.state.staging.pool
    lanes.engine.apply(policy(PLAIN, mode="canary"), NOW)
    assert lanes.found(retire) == lanes.found(hold) == []


def test_a_state_that_cannot_be_read_lets_nobody_rest_and_says_so() -> None:
    """The part of an earlier version, which has no rests, is no news."""
    after = retired()
    state = orjson.loads(after.engine.snapshot())
    for broken, told in (({"nano": 7}, ["rollout.evidence_lost"]), (None, [])):
        state["routes"]["support"]["staging"]["resting"] = broken
        if broken is None:
            del state["routes"]["support"]["staging"]["resting"]
        one = pool()
        assert [event for event in kinds(one.restore(orjson.dumps(state), NOW)) if event != "state.restored"] == told
        assert one.routes[0].staging.pool == ("gpt-4o", "mini", "nano")


def test_what_is_free_has_no_relative_cost() -> None:
    lanes = Lanes(pool())
    lanes.state.price_of = lambda _up, _model: flat_card(FlatPrice(0, 0))
    lanes.engine.tick(NOW)
    rates(lanes.engine, {"gpt-4o": 0.8, "mini": 0.7, "nano": 0.4})
    assert list(lanes.found(retire)[0].expected) == ["quality"]


def test_a_persons_verbs_go_before_a_rest() -> None:
    """A rollback ends it, and a new promotion begins with a clean slate."""
    lanes = retired()
    lanes.engine.rollback("support", NOW)  # nano was promoted last
    assert lanes.state.staging.resting.arms == {}
    assert lanes.state.staging.rest("nano", "held", "it is not in the pool", NOW) == []


# ---- experiments

AB = replace(
    ROUTE, mode="ab", arms=(MINI,),
    experiment=ExperimentSpec((Variant("today", "gpt-4o"), Variant("small", "mini")), on_winner="promote"),
)  # fmt: skip


def decided(on_winner: str = "promote", metric: str = "quality", better: str = "mini", low: float = 0.3) -> Lanes:
    spec = replace(AB.experiment, on_winner=on_winner, metric=metric)  # type: ignore[type-var]  # it is there
    engine = Engine(policy(replace(AB, experiment=spec)), np.random.default_rng(1), NOW)
    engine.tick(NOW)
    for key in range(1, 3000):
        one = engine.decide(facts(key), NOW)
        if metric == "quality":
            score = 0.9 if one.arm == better else low
            told = Feedback(decision_id="d", route="support", arm=one.arm or "", score=score, context_key=key,
                            rollout_id=one.rollout_id, rollout_step=one.rollout_step)  # fmt: skip
            engine.feedback(told, NOW)
        else:
            engine.settle(facts(key), one, outcome(cost_nusd=100 if one.arm == better else 1000), NOW)
        if engine.status()[0].experiment.phase == "decided":  # type: ignore[union-attr]  # mode ab has one
            return Lanes(engine)
    raise AssertionError("no winner")


def test_a_winner_is_promoted_where_the_policy_says_so() -> None:
    """Quality .9 against .3: the change is proposed with what it should bring; new units go to the winner, and back."""
    lanes = decided()
    assert lanes.state.shares() == {"gpt-4o": 1.0, "mini": 0.0}
    one = lanes.found(promote)[0]
    assert (one.kind, one.arm, one.confidence) == ("experiment.promote", "mini", 0.95)
    assert one.expected["quality"] == pytest.approx(2.0)
    assert one.facts == {"variant": "small", "step": 100.0}
    assert kinds(apply([one], NOW)) == ["experiment.promoted"]
    assert lanes.state.shares() == {"gpt-4o": 0.0, "mini": 1.0}
    assert lanes.found(promote) == []
    assert apply([one], NOW) == []
    assert kinds(undo(one, NOW)) == ["experiment.demoted"]
    assert lanes.state.shares() == {"gpt-4o": 1.0, "mini": 0.0}
    assert (undo(one, NOW), lanes.found(promote)) == ([], [])
    lanes.engine.apply(policy(name="other"), NOW)
    assert undo(one, NOW) == []


def test_the_expected_cost_of_a_winner() -> None:
    lanes = decided(metric="cost")
    assert lanes.found(promote)[0].expected["cost_nusd"] == pytest.approx(-0.9, abs=1e-6)


def test_a_control_that_wins_and_a_report_promote_nobody() -> None:
    assert decided(better="gpt-4o").found(promote) == []
    assert decided("report").found(promote) == []
    assert Lanes(pool()).found(promote) == []


def test_a_mean_that_is_not_known_expects_nothing() -> None:
    """As a control whose every answer scored 0: no relative change is known."""
    lanes = decided(low=0.0)
    assert lanes.found(promote)[0].expected == {}


# ---- in the loop


def test_every_lane_has_its_sources() -> None:
    assert {lane: [source.__name__ for source in sources] for lane, sources in SOURCES.items()} == {
        Lane.FAST: ["hold", "reinstate"],
        Lane.MAIN: ["retire", "promote"],
        Lane.DEEP: ["retry"],
    }


def test_an_observing_route_is_left_alone() -> None:
    engine = Engine(policy(mode="observe"), np.random.default_rng(1), NOW)
    lanes = Lanes(engine)
    for sources in SOURCES.values():
        for source in sources:
            assert lanes.found(source) == []


def test_rules_say_whether_an_arm_may_rest() -> None:
    lanes = Lanes(pool())
    lanes.calls("mini", 40, 20)
    lanes.calls("gpt-4o", 59, 1)
    for answer, kind in (("not today", "change.denied"), (None, "change.applied")):
        loop = Cycle(lambda *_, why=answer: why)
        loop.add(Lane.FAST, lambda now: hold(lanes.state, lanes.seen, now))
        assert kinds(loop.run(Lane.FAST, "demand", NOW + 1))[-1] == kind
        assert ("mini" in lanes.state.staging.pool) is (answer is not None)
