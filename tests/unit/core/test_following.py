"""One engine learns, others decide: what passes between them keeps them together."""

from collections.abc import Iterator, Mapping
from dataclasses import replace as replaced

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from sidecar.core import following
from sidecar.core.engine import Engine
from sidecar.core.following import Bound, Follower
from sidecar.core.leading import Leader
from sidecar.core.memory import MAX_BINDINGS
from sidecar.core.policy import (
    NO_POLICY,
    Budget,
    ExperimentSpec,
    Fallback,
    Knob,
    Match,
    Policy,
    Quality,
    Threshold,
    Tuning,
    Variant,
)
from sidecar.core.scale import FIRST
from sidecar.core.types import Decision, Facts, Feedback, Mode
from tests.unit.core.engines import BASE, MINI, NANO, NOW, ROUTE, facts, fall_back, kinds, outcome, policy, rule

WHO = 7


class Crew:
    """A leader and its followers, with messages that arrive when the test says so."""

    def __init__(self, made: Policy, count: int = 2) -> None:
        self.leader = Leader(made, np.random.default_rng(1), NOW)
        self.leader.parts = count
        self.followers = {WHO + n: Follower(made, np.random.default_rng(10 + n), NOW) for n in range(count)}
        for who, one in self.followers.items():
            one.hear([], self.leader.welcome(who))
        self.tell()

    def __getitem__(self, place: int) -> Follower:
        return self.followers[WHO + place]

    def tell(self, now: float = NOW) -> None:
        """The leader to all followers, each of whom confirms."""
        for who, one in self.followers.items():
            one.hear(self.leader.unbound(who), [])
            assert one.follow(self.leader.stand(), now) == []
            one.lend(self.leader.leases(who, now))
            self.leader.hear(who, one.spending, heard=True)

    def report(self, now: float = NOW) -> None:
        """All followers to the leader; what it passes on arrives when it has heard all of them."""
        passed: dict[int, list[Bound]] = {who: [] for who in self.followers}
        for who, one in self.followers.items():
            for lesson in one.lessons:
                self.leader.learn(lesson, now)
            for route, (cost_nusd, at) in one.charges.items():
                self.leader.charge(route, cost_nusd, at)
            one.lessons, one.charges = [], {}
            self.leader.hear(who, one.spending, heard=False)
            taken, again = self.leader.bind(who, one.bound())
            for other, waiting in passed.items():
                waiting += again if other == who else taken
        for who, waiting in passed.items():
            self.followers[who].hear([], waiting)

    def ask(self, place: int, asked: Facts, **ended: object) -> Decision:
        made = self[place].decide(asked, NOW)
        if made.refusal is None:
            self[place].settle(asked, made, outcome(**ended), NOW)  # type: ignore[arg-type]  # fields of one test
        return made


def spent(engine: Engine) -> tuple[int, int]:
    status = engine.status()[0]
    return status.spent_day_nusd, status.reserved_nusd


def test_the_leader_learns_what_one_engine_would() -> None:
    """The same calls in the same order, through one process or through two: the same state."""
    made = policy(mode="observe", budget=Budget(daily_nusd=1_000_000))
    crew, alone = Crew(made), Engine(made, np.random.default_rng(1), NOW)
    alone.tick(NOW)
    crew.leader.tick(NOW)
    for n in range(20):
        asked = facts(n + 1)
        kind = "failed" if n % 7 == 3 else "completed"
        crew.ask(n % 2, asked, kind=kind)
        alone.settle(asked, alone.decide(asked, NOW), outcome(kind), NOW)
        crew.report()
    assert crew.leader.stand() == following_state(alone)
    assert spent(crew.leader) == spent(alone) == (600 * 17, 0)


def following_state(alone: Engine) -> bytes:
    """What a leader that had learnt the same would tell."""
    other = Leader(alone.policy, np.random.default_rng(1), NOW)
    other.parts = 2
    other.restore(alone.snapshot(), NOW)
    return other.stand()


def test_a_follower_teaches_itself_nothing() -> None:
    """It books and keeps the lesson; beliefs come from the leader."""
    crew = Crew(policy(mode="observe"))
    crew.ask(0, facts(), kind="failed")
    assert crew[0].status()[0].arms[0].exchanges == 0
    assert len(crew[0].lessons) == 1
    crew.report()
    crew.tell()
    assert crew.leader.status()[0].arms[0].exchanges == crew[1].status()[0].arms[0].exchanges


def test_a_budget_is_closed_until_it_is_lent_and_then_shared() -> None:
    """Each follower gets its part, spends it at once, and what it spent is the leader's too."""
    made = policy(mode="observe", budget=Budget(daily_nusd=6_000, on_exceeded="deny"))
    alone = Follower(made, np.random.default_rng(1), NOW)
    refusal = alone.decide(facts(max_tokens=1), NOW).refusal
    assert refusal is not None
    assert refusal.code == "budget"
    crew = Crew(made)
    assert [one.spending for one in crew.followers.values()] == [{"support": (0, 3_000)}] * 2
    crew.leader.hear(WHO, {"support": (2_500, 3_000)}, heard=True)
    crew.leader.charge("support", 2_500, NOW)
    assert crew.leader.leases(WHO, NOW)["support"][0] == 2_500 + 500  # the other may still spend 3,000
    crew.leader.forget(WHO + 1)
    assert crew.leader.leases(WHO, NOW)["support"][0] == 2_500 + 1_750


def test_a_budget_that_is_gone_needs_no_lease() -> None:
    """And one that comes is closed until the leader says more. Leases of routes that are not here are nobody's."""
    with_budget, without = policy(mode="observe", budget=Budget(daily_nusd=6_000)), policy(mode="observe")
    crew = Crew(with_budget)
    crew[0].apply(without, NOW)
    crew[0].lend({"support": (1, 1.0), "other": (1, 1.0)})
    assert crew[0].spending == {}
    assert crew.ask(0, facts()).refusal is None
    crew[0].apply(with_budget, NOW)
    assert crew[0].spending == {"support": (0, 0)}
    crew.ask(0, facts(max_tokens=1))
    crew[0].lend({"support": (5_000, 1.0)})
    crew[0].apply(policy(mode="observe", budget=Budget(daily_nusd=7_000)), NOW)
    assert crew[0].spending == {"support": (0, 5_000)}  # another ceiling, and still what was lent
    crew.leader.apply(without, NOW)
    assert crew.leader.leases(WHO, NOW) == {}


@pytest.mark.parametrize("between", [NO_POLICY, policy(mode="observe")], ids=["route", "budget"])
def test_a_budget_that_returns_is_not_lent_twice(between: Policy) -> None:
    """What was spent of it stays spent, in the leader and in every follower."""
    made = policy(mode="observe", budget=Budget(daily_nusd=60_000, on_exceeded="deny"))
    crew = Crew(made)
    for _ in range(3):
        for n in range(100):
            crew.ask(n % 2, facts())
            if n % 10 == 9:
                crew.report()
                crew.tell()
        crew.report()
        assert 50_000 < spent(crew.leader)[0] <= 60_000
        for now_in_force in (between, made):
            for engine in (crew.leader, *crew.followers.values()):
                engine.apply(now_in_force, NOW)
            assert all(one.decide(facts(), NOW).refusal for one in crew.followers.values() if one.spending)
            crew.tell()


def test_what_calls_saved_is_divided_too() -> None:
    """A ceiling on the mean: each follower may use its part of what cheap calls left, and the leader knows the whole."""
    crew = Crew(policy(mode="observe", budget=Budget(mean_request_nusd=1_000)))
    for n in range(10):
        crew.ask(n % 2, facts(max_tokens=1))
    crew.report()
    crew.tell()
    saved = crew.leader.routes[0].ledger.savings.nusd
    assert saved > 0
    assert [one.routes[0].ledger.savings.nusd for one in crew.followers.values()] == [saved / 2] * 2


def test_calls_of_our_own_and_lost_lessons_are_paid() -> None:
    """What the leader cannot learn it books all the same."""
    crew = Crew(policy(mode="observe", budget=Budget(daily_nusd=6_000_000)))
    crew[0].charge("support", 50, NOW)
    crew.ask(0, facts())
    crew.ask(0, facts(), kind="failed")
    for lesson in crew[0].lessons:
        crew[0].forgo(lesson, NOW)
    crew[0].lessons = []
    assert crew[0].charges == {"support": (650, NOW)}
    crew.report()
    assert spent(crew.leader) == (650, 0)


def test_calls_without_a_route_are_paid_by_the_service() -> None:
    """Rules about the day's cost see them in every process."""
    crew = Crew(policy(mode="observe"))
    crew.ask(0, facts(model="unknown"))
    crew.report()
    crew.tell()
    denied = rule("daily_cost > 0.0000005")
    crew[1].apply(policy(BASE_ROUTE, denied), NOW)
    assert crew[1].decide(facts(model="unknown"), NOW).reason == "policy"


BASE_ROUTE = policy().routes[0]


class Text(Mapping[str, tuple[str, ...]]):
    """What a call loses at each upstream, worked out from its text, as the proxy has it."""

    def __getitem__(self, _where: str) -> tuple[str, ...]:
        return ()

    def __iter__(self) -> Iterator[str]:
        return iter(("up",))

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize("staged", [False, True], ids=["fallback", "stage of a cascade"])
def test_a_lesson_of_a_call_under_way_leaves_its_text_here(staged: bool) -> None:
    """Its facts still hold the call; in the lesson they have to pass between processes, and no prompt may."""
    crew = Crew(policy(fallback=Fallback(("mini", "gpt-4o"), ("5xx",))))
    asked = replace(facts(), lost=Text())
    decided = crew[0].decide(asked, NOW)
    if staged:
        crew[0].settle(asked, decided, outcome(), NOW, call=False)
    else:
        assert fall_back(crew[0], asked, decided, "503", NOW) is not None
    (lesson,) = crew[0].lessons
    assert lesson.facts == facts()
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(lesson.facts), type=Facts) == facts()


def test_what_a_fallback_blames_is_a_lesson() -> None:
    """The arm that failed is blamed by the leader, and no call is counted for it."""
    made = policy(fallback=Fallback(("mini", "gpt-4o"), ("5xx",)), budget=Budget(daily_nusd=6_000_000))
    crew = Crew(made)
    decided = crew[0].decide(facts(), NOW)
    assert fall_back(crew[0], facts(), decided, "503", NOW) is not None
    [lesson] = crew[0].lessons
    assert (lesson.call, lesson.outcome.status, lesson.decision.reserved_nusd) == (False, 503, 0)
    crew.report()
    assert spent(crew.leader) == (0, 0)


def test_sessions_and_rollouts_are_the_same_everywhere() -> None:
    """The canary by hash, a kept arm by message; after a rollback nobody keeps the arm, whoever was late."""
    crew = Crew(policy(sticky="session"))
    keys = range(1, 60)
    asked = {key: facts(key, key_source="session") for key in keys}
    first = {key: crew.ask(key % 2, asked[key]).arm for key in keys}
    crew.report()
    crew.leader.promote("support", NOW)
    crew.tell()
    assert {key: crew.ask(1 - key % 2, asked[key]).arm for key in keys} == first
    assert set(first.values()) == {"gpt-4o", "mini"}
    crew.leader.rollback("support", NOW)
    late = {key: crew.ask(0, facts(key, key_source="session")).arm for key in range(1000, 1100)}
    assert "mini" in late.values()  # it has not heard of it
    crew.report()
    crew.tell()
    for place in (0, 1):
        assert {crew.ask(place, one).arm for one in asked.values()} == {"gpt-4o"}
        assert {crew.ask(place, facts(key, key_source="session")).arm for key in late} == {"gpt-4o"}


def test_what_was_bound_before_a_rollback_was_heard_is_told_to_nobody() -> None:
    """Also not behind the word that it was heard."""
    crew = Crew(policy(sticky="session"))
    crew.leader.promote("support", NOW)
    crew.tell()
    asked = [facts(key, key_source="session") for key in range(1, 60)]
    crew.leader.rollback("support", NOW)
    assert "mini" in {crew.ask(0, one).arm for one in asked}  # it has not heard of it
    crew.tell()
    crew.report()
    assert {crew.ask(place, one).arm for place in (0, 1) for one in asked} == {"gpt-4o"}


def test_a_conversation_that_is_bound_twice_at_once_has_one_arm() -> None:
    """Each of two drew an arm for the same key before it heard of the other: all keep what the leader heard last."""
    crew = Crew(policy(mode="optimize", sticky="session"))
    while crew.leader.routes[0].staging.active is not None:
        crew.leader.promote("support", NOW)
    crew.tell()
    asked = [facts(key, key_source="session") for key in range(1, 60)]
    first, last = [[crew.ask(place, one).arm for one in asked] for place in (0, 1)]
    assert first != last
    crew.report()
    assert [[crew.ask(place, one).arm for one in asked] for place in (0, 1)] == [last, last]


def test_a_new_follower_keeps_the_conversations_of_the_others() -> None:
    """The first message has them; a follower that has ended is forgotten."""
    crew = Crew(policy(sticky="session"))
    asked = [facts(key, key_source="session") for key in range(1, 40)]
    arms = [crew.ask(0, one).arm for one in asked]
    crew.report()
    crew.leader.forget(WHO)
    crew.leader.forget(WHO)
    new = Follower(crew.leader.policy, np.random.default_rng(3), NOW)
    new.hear([], crew.leader.welcome(99))
    new.follow(crew.leader.stand(), NOW)
    said = [new.decide(one, NOW) for one in asked]
    assert [one.arm for one in said] == arms
    assert {one.reason for one in said} == {"sticky"}
    assert new.bound() == []  # it tells nobody what it was told


def test_a_conversation_that_goes_on_stays_young() -> None:
    """A restart, and a new follower, keep those that were used last, not those that began last."""
    crew = Crew(policy(sticky="session"))
    crew.leader.promote("support", NOW)
    crew.tell()
    asked = [facts(key, key_source="session") for key in range(1, MAX_BINDINGS + 2)]
    for one in (*asked, asked[0]):
        crew.ask(0, one)
        crew.report()
    said = [Follower(crew.leader.policy, np.random.default_rng(3), NOW) for _ in range(2)]
    said[0].hear([], crew.leader.welcome(99))
    said[1].restore(crew.leader.snapshot(), NOW)
    for new in said:
        assert new.decide(asked[0], NOW).reason == "sticky"
        assert new.decide(asked[1], NOW).reason != "sticky"


def test_what_waits_to_be_told_is_bounded() -> None:
    """A leader that never listens costs no memory without end."""
    table = following.StickyNews()
    binding = following.Binding("r/a", "a", 1.0, 0)
    for key in range(following.MAX_BOUND + 1):
        table.bind(key, binding)
    assert len(table.news) == following.MAX_BOUND // 2 + 1
    assert table.news[-1] == Bound(following.MAX_BOUND, "r/a", "a", 1.0)


def test_time_alone_moves_no_rollout_of_a_follower() -> None:
    """Its ticks renew days, breakers and draws, and tell the rules that matched."""
    crew = Crew(policy(BASE_ROUTE, rule("request.stream == true", "log"), mode="optimize"))
    crew.ask(0, facts())
    step = [one.step for one in crew[0].status()[0].rollouts]
    assert kinds(crew[0].tick(NOW + 100_000.0)) == ["rule.matched"]
    assert [one.step for one in crew[0].status()[0].rollouts] == step


def test_an_experiment_is_one_experiment() -> None:
    """Who gets which variant is the same everywhere, the leader counts all, and its end reaches every follower."""
    variants = (Variant("control", BASE.id), Variant("mini", MINI.id))
    spec = ExperimentSpec(variants, metric="cost", min_samples=10, allocation="uniform")
    crew = Crew(policy(mode="ab", rollout=None, experiment=spec, sticky="session"))
    asked = [facts(key, key_source="session") for key in range(1, 80)]
    arms = [crew.ask(n % 2, one).arm for n, one in enumerate(asked)]
    assert [crew.ask(1 - n % 2, one).arm for n, one in enumerate(asked)] == arms  # by hash: nothing was told yet
    crew.report()
    experiment = crew.leader.status()[0].experiment
    assert experiment is not None
    assert sum(one.units for one in experiment.variants) == len(asked) - FIRST  # conversations
    crew.leader.rollback("support", NOW)
    crew.tell()
    new = [crew.ask(n % 2, facts(key, key_source="session")).arm for n, key in enumerate(range(1_000, 1_100))]
    assert set(new) == {BASE.id}


def test_only_what_cannot_be_read_is_told() -> None:
    """Of what the leader says; the rest of it is taken over."""
    crew = Crew(policy())
    assert crew[0].follow(crew.leader.stand(), NOW) == []
    assert kinds(crew[0].follow(b"[]", NOW)) == ["state.ignored"]


def test_a_follower_decides_by_what_the_leader_learnt() -> None:
    """Scores that only the leader heard change what every follower draws."""
    crew = Crew(policy(mode="optimize", arms=(MINI, NANO), sticky="request"))
    for arm in ("mini", "nano"):
        if not any(one.phase == "running" for one in crew.leader.status()[0].rollouts):
            crew.leader.start_rollout("support", arm, NOW)
        while any(one.phase == "running" for one in crew.leader.status()[0].rollouts):
            crew.leader.promote("support", NOW)
    for n in range(400):
        for arm, score in ((BASE.id, 1.0), ("mini", 1.0), ("nano", 0.0)):
            label = Feedback(decision_id=f"{n}{arm}", route="support", arm=arm, score=score)
            crew.leader.feedback(label, NOW)
    crew.tell()
    arms = [crew[n % 2].decide(facts(0, draw=n), NOW).arm for n in range(300)]
    assert arms.count("nano") < 15 < arms.count("mini")


def test_the_leader_knows_what_is_asked_of_late() -> None:
    """What it tells people of shares and prices, and finds of arms that can be spared, is of the requests that come."""
    crew = Crew(policy(mode="optimize", sticky="request"))
    while crew.leader.routes[0].staging.active is not None:
        crew.leader.promote("support", NOW)
    crew.tell()
    for key in range(1, 601):
        arm = crew.ask(key % 2, facts(key, task="chat"), cost_nusd=20_000).arm
        score = Feedback(decision_id=str(key), route="support", arm=str(arm), score=0.9)
        crew.leader.feedback(score, NOW)
        if key % 20 == 0:
            crew.report()
            crew.leader.tick(NOW)
            crew.tell()
            crew[0].tick(NOW)
            crew[1].tick(NOW)
    led, followed = crew.leader.routes[0], crew[0].routes[0]
    assert led.selector.asked[0] == [("chat", True)] * len(followed.selector.asked[0])
    assert led.shares() == pytest.approx(followed.shares(), abs=0.05)
    assert led.selector.price == pytest.approx(followed.selector.price, rel=0.05)


@pytest.mark.parametrize("mode", ["observe", "optimize"])
def test_what_people_are_shown_is_of_now(mode: Mode) -> None:
    """Also by a leader, which decides nothing, and where calls are decided once for all."""
    slow = Threshold("slow", "ttft_p95", 0.2, None, 60.0, "high", "log", None, 3)
    made = policy(mode=mode, sticky="request", thresholds=(slow,))
    alone, crew = Engine(made, np.random.default_rng(1), NOW), Crew(made)
    for key in range(1, 200):
        asked, now = facts(key), NOW + key
        for engine in (alone, crew[key % 2]):
            engine.settle(asked, engine.decide(asked, now), outcome(), now)
        crew.report(now)
        alone.tick(now)
        crew.leader.tick(now)
    for engine in (alone, crew.leader):
        [shown] = engine.status()
        assert [one.samples for one in shown.thresholds] == [60]
        assert not any("s in this step" in text for text in engine.explanations())


def test_what_the_leader_forgot_no_follower_knows() -> None:
    """Its first label makes what validators said another scale; of a model that changed the old scores are gone."""
    crew = Crew(policy(mode="optimize", quality=Quality(("finish_reason",), min_samples=0)))
    for n in range(60):
        crew.ask(n % 2, facts(n + 1, task=f"task {n % 3}"))
    crew.report()
    crew.tell()
    assert known(crew[0]) == known(crew.leader)
    for n in range(3):
        label = Feedback(decision_id=str(n), route="support", arm=BASE.id, score=0.5, task="task 1")
        crew.leader.feedback(label, NOW)
        crew.tell()
        assert known(crew[0]) == known(crew.leader) == {BASE.id: (n + 1, 0.5 * (n + 1)), "mini": (0, 0)}
    crew.leader.routes[0].selector.model.counts[:] = 0.0
    crew.tell()
    assert known(crew[0]) == {BASE.id: (0, 0), "mini": (0, 0)}


def known(engine: Engine) -> dict[str, tuple[float, float]]:
    """Number and sum of the scores of each arm."""
    selector = engine.routes[0].selector
    selector.digest()
    return {arm: selector.model.scores(place) for place, arm in enumerate(selector.arms)}


def test_tuned_parameters_pass_too() -> None:
    """The rest of what is watched stays with the leader."""
    knob = Knob("temperature", 0.0, 1.0, 0.2)
    crew = Crew(policy(tuning=Tuning((knob,))))
    assert b'"tuning":{' in crew.leader.stand()
    assert b'"drift"' not in crew.leader.stand()


def test_each_task_is_tuned_by_its_own_calls() -> None:
    """The leader decides nothing, and learns of a task by the first lesson of it; followers hear what became of it."""
    crew = Crew(policy(mode="optimize", sticky="request", tuning=Tuning((Knob("temperature", 0.0, 1.0, 0.5),))))
    for n in range(40):
        crew.ask(n % 2, facts(0, draw=n * 2**57 + 1, task="x"))
    crew.ask(0, facts(0, task="y"), kind="failed")
    crew.report()
    crew.tell()
    for one in (crew.leader, crew[0], crew[1]):
        tuned = one.status()[0].watch.tuning
        assert [(each.task, each.calls > 30) for each in tuned if each.task != "y"] == [("", False), ("x", True)]
        assert one is crew[0] or len(tuned) == 2  # a call that teaches nothing begins no task elsewhere


def test_routes_of_which_nothing_new_is_said_are_left_alone() -> None:
    """To take over a hundred of them costs a twentieth of a second, four times a second; behind another policy all are."""
    routes = [replaced(ROUTE, name=one.id, match=Match(models=(one.model,)), baseline=one) for one in (BASE, NANO)]
    routes = [replaced(one, mode="observe", virtual=()) for one in routes]
    crew = Crew(replaced(policy(), routes=tuple(routes)), 1)

    def calls() -> list[int]:
        return [state.spend.calls for state in crew[0]._order]

    for state in crew[0]._order:
        state.spend.calls = 1_000
    crew.ask(0, facts(model="gpt-nano"))
    crew.report()
    crew.tell()
    assert calls() == [1_000, 1]
    crew.tell()
    assert calls() == [1_000, 1]
    crew[0].apply(crew[0].policy, NOW)
    crew.tell()
    assert calls() == [0, 1]
