"""An experiment draws units, counts each once, and answers once."""

from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from sidecar.core.counted import Counted
from sidecar.core.experiment import HARM_ALPHA, MAX_EPOCHS, REALLOCATE_EVERY, Experiment
from sidecar.core.policy import Arm, ExperimentSpec, Match, Quality, Route, Variant
from sidecar.core.scale import FIRST
from sidecar.core.types import Clocks, Decision, Event, Outcome, OutcomeKind
from sidecar.core.variants import Compress, Keep, Replace

BASE = Arm("base", "up", "m", params=(("temperature", b"1"), ("top_p", b"1")))
NEW = Arm("new", "up", "n")
TWO = (Variant("control", "base"), Variant("short", "base", params=(("temperature", b"0"),), system=(Replace("S"),)))
THREE = (*TWO, Variant("other", "new"))


def experiment(variants: tuple[Variant, ...] = TWO, *, feedback: bool = True, **changes: Any) -> Experiment:
    """One that has begun at time 0."""
    spec = ExperimentSpec(variants, **{"min_samples": 10, "allocation": "uniform", **changes})
    route = Route("chat", Match(), "ab", BASE, (NEW,), quality=Quality(feedback=feedback), experiment=spec)
    made = Experiment(route, spec)
    assert made.phase == "pending"
    assert [event.kind for event in made.tick(0.0)] == ["experiment.started"]
    return made


def outcome(kind: OutcomeKind = "completed", **changes: Any) -> Outcome:
    return Outcome(kind=kind, clocks=Clocks(duration_s=1.0, ttft_s=0.5), **changes)


def decision(one: Experiment, variant: int, epoch: int | None = 0) -> Decision:
    return Decision(
        route="chat",
        mode="ab",
        arm=one.choices[variant].arm.id,
        upstream="up",
        model=None,
        reason="sampled",
        propensity=0.5,
        rollout_id=one.choices[variant].tag,
        rollout_step=epoch,
    )


def feed(one: Experiment, means: list[float], units: int, seed: int = 1, first: int = 1) -> list[Event]:
    """Scores 0 or 1 of new units, until it is over; the events."""
    rng = np.random.default_rng(seed)
    events: list[Event] = []
    for key in range(first, first + units):
        if not one.running:
            break
        variant, _, epoch = one.draw(key)
        events += one.label(one.choices[variant].tag, epoch, key, float(rng.random() < means[variant]), 1.0)
    return events


# ---- drawing


def test_a_variant_is_its_arm_with_changes() -> None:
    """Params of the variant win over the arm's; without any it is the arm."""
    one = experiment(THREE)
    assert one.choices[0].arm == BASE
    assert one.choices[1].arm.params == (("top_p", b"1"), ("temperature", b"0"))
    assert one.choices[1].edits == (Replace("S"),)
    assert one.choices[2].arm == NEW


def test_where_one_edits_prompts_the_others_keep_theirs() -> None:
    """All variants look for the prompt's place, so that requests without one are left out on all sides."""
    assert [one.edits for one in experiment(THREE).choices] == [(Keep(),), (Replace("S"),), (Keep(),)]
    plain = tuple(replace(one, system=()) for one in THREE)
    assert [one.edits for one in experiment(plain).choices] == [()] * 3


def test_the_hash_decides() -> None:
    """A key gets the same variant each time, in every pod, and shares are kept: 4,000 keys at weights 1 and 3 give the
    first one 1,000 +- 5 standard deviations of 27."""
    weighted = (replace(TWO[0], weight=1.0), replace(TWO[1], weight=3.0))
    one, pod = experiment(weighted), experiment(weighted)
    drawn = [one.draw(key) for key in range(4000)]
    assert drawn == [pod.draw(key) for key in range(4000)]
    assert 863 <= sum(variant == 0 for variant, _, _ in drawn) <= 1137
    assert {(variant, share, epoch) for variant, share, epoch in drawn} == {(0, 0.25, 0), (1, 0.75, 0)}


@settings(max_examples=100)
@given(st.integers(0, 2**64 - 1), st.lists(st.floats(0.01, 100.0), min_size=2, max_size=5))
def test_every_key_has_a_variant(key: int, weights: list[float]) -> None:
    """Rounding of shares loses nobody, and the propensity is the share."""
    one = experiment(tuple(Variant(f"v{at}", "base", weight=weight) for at, weight in enumerate(weights)))
    variant, share, _ = one.draw(key)
    assert share == one.shares[variant] > 0.0


def test_units_of_a_variant_that_is_out_are_drawn_by_the_shares_of_then() -> None:
    """By the hash of before, all of the last variant's would be the second's: half is what its decisions say."""
    one = experiment(THREE)
    freed = [key for key in range(1, 3001) if one.draw(key)[0] == 2]
    one.roll_back(1.0, "by hand", "new")
    drawn = [one.draw(key)[:2] for key in freed]
    assert {share for _, share in drawn} == {0.5}
    assert sum(variant for variant, _ in drawn) / len(freed) == pytest.approx(0.5, abs=0.06)


def test_bindings_name_the_experiment() -> None:
    """A binding of another experiment, or of a stopped variant, binds no more."""
    one, other = experiment(), experiment(alpha=0.01)
    assert one.id != other.id
    assert one.bound_to(one.choices[1].owner) == 1
    assert other.bound_to(one.choices[1].owner) is None
    one.race.out.add(1)
    assert one.bound_to(one.choices[1].owner) is None


def test_another_prompt_is_another_experiment() -> None:
    """The id depends on all that is compared, on the prompt's text too, and on nothing else."""
    same = experiment(THREE)
    assert same.id == experiment(THREE).id
    assert same.id != experiment((*TWO, replace(THREE[2], arm="base"))).id
    for edits in ((Replace("T"),), (Compress(),), ()):
        assert experiment((TWO[0], replace(TWO[1], system=edits))).id != experiment().id


# ---- counting


def test_a_unit_counts_once() -> None:
    """The first score of a conversation; a request without a key is a unit each time."""
    one = experiment()
    tag = one.choices[1].tag
    for key, score in ((7, 1.0), (7, 0.0), (0, 0.5), (0, 0.5)):
        one.label(tag, 0, key, score, 1.0)
    assert one.race.counts.tolist() == [0.0, 3.0]
    assert one.race.totals.tolist() == [0.0, 2.0]


def test_what_does_not_belong_counts_nowhere() -> None:
    """Other rollouts, unknown epochs, decisions without one, aborts and the caller's mistakes."""
    one = experiment(metric="error_rate")
    good = decision(one, 1)
    one.observe(changed(good, rollout_id="x"), outcome(), None, 1, 1.0)
    one.observe(changed(good, rollout_id=None), outcome(), None, 2, 1.0)
    one.observe(changed(good, rollout_step=None), outcome(), None, 3, 1.0)
    one.observe(changed(good, rollout_step=9), outcome(), None, 4, 1.0)
    one.observe(good, outcome("aborted"), None, 5, 1.0)
    one.observe(good, outcome("failed", caller_fault=True), None, 6, 1.0)
    one.label(good.rollout_id, 0, 7, 1.0, 1.0)  # a score is not this metric
    assert one.race.counts.sum() == 0
    one.observe(good, outcome(), None, 8, 1.0)
    assert one.race.counts.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("metric", "feedback", "given", "mean"),
    [
        ("quality", False, {"quality": 0.25}, 0.25),
        ("quality", False, {}, None),
        ("quality", True, {"quality": 0.25}, None),  # scores of the app are waited for
        ("error_rate", True, {"kind": "failed"}, 1.0),
        ("cost", True, {"cost_nusd": 300}, 300.0),
        ("latency", True, {}, 1.0),
        ("ttft", True, {}, 0.5),
    ],
)
def test_metrics(metric: str, feedback: bool, given: dict[str, Any], mean: float | None) -> None:
    """What one outcome says of each metric, in its own unit."""
    one = experiment(metric=metric, feedback=feedback)
    quality = given.pop("quality", None)
    for key in range(1, FIRST + 2):  # of costs and times all but the last fix the scale
        one.observe(decision(one, 0), outcome(**given), quality, key, 1.0)
    shown = one.status().variants[0].mean
    assert shown == (None if mean is None else pytest.approx(mean))


def test_a_smaller_cost_is_better() -> None:
    """Two variants whose costs differ by a third: the cheaper wins, the effect is the ratio and its interval holds it.

    Log costs have a standard deviation of .5, the difference is .4, so 2,000 units are 35 standard errors.
    """
    one = experiment(metric="cost")
    rng = np.random.default_rng(3)
    for key in range(1, 2001):
        variant, _, epoch = one.draw(key)
        cost = int(1e6 * (1.0, 0.67)[variant] * np.exp(0.5 * rng.standard_normal()))
        one.observe(decision(one, variant, epoch), outcome(cost_nusd=cost), None, key, 1.0)
    status = one.status()
    assert (status.verdict, status.winner) == ("winner", "short")
    cheap = status.variants[1]
    assert cheap.low is not None
    assert cheap.high is not None
    assert cheap.mean is not None
    assert cheap.effect_low is not None
    assert cheap.effect_high is not None
    assert cheap.low < cheap.mean < cheap.high
    assert cheap.effect_low < 0.67 < cheap.effect_high < 1.0
    assert f"mean {cheap.mean / 1e9:.4g} $ ({cheap.low / 1e9:.4g} $ to " in one.explain()[2]


@pytest.mark.parametrize("odd", [0.0, 60.0])
def test_an_odd_value_that_comes_first_blinds_nobody(odd: float) -> None:
    """A free call, a cold start: beside it all others would be alike, and twice the cost "no difference that matters"."""
    one = experiment(metric="cost", min_effect=0.1)
    rng, costs = np.random.default_rng(3), (0.5, 1.0)
    for key in range(1, 1001):
        if key < 20:  # a restart behind each of the first
            state, one = orjson.loads(orjson.dumps(one.to_state())), experiment(metric="cost", min_effect=0.1)
            assert one.restore(state)
        variant, _, epoch = one.draw(key)
        cost = odd if key == 1 else costs[variant] * np.exp(0.5 * rng.standard_normal())
        one.observe(decision(one, variant, epoch), outcome(cost_nusd=int(1e6 * cost)), None, key, 1.0)
    assert (one.verdict, one.winner) == ("winner", 0)


# ---- answers


def test_a_winner_is_declared_once() -> None:
    """.9 against .5 is decided within 1,000 units (10 standard errors after 150), the event says all, nothing follows."""
    one = experiment()
    events = feed(one, [0.5, 0.9], 1000)
    assert [event.kind for event in events] == ["experiment.decided"]
    detail = events[0].detail
    assert (detail["verdict"], detail["winner"], detail["experiment_id"]) == ("winner", "short", one.id)
    assert events[0].arm == "base"
    assert "winner: short, beats all others" in events[0].message
    assert (one.phase, one.shares) == ("decided", (1.0, 0.0))  # reported: the control serves
    assert one.draw(5) == (0, 1.0, None)
    assert one.label(one.choices[0].tag, 0, 10**6, 1.0, 2.0) == []
    assert one.observe(decision(one, 0), outcome(), None, 10**6, 2.0) == []
    assert one.tick(1e9) == []
    assert ", the winner." in " ".join(one.explain())


def test_a_winner_may_be_promoted() -> None:
    one = experiment(on_winner="promote")
    feed(one, [0.5, 0.9], 1000)
    assert one.shares == (1.0, 0.0)  # nobody has promoted it yet
    assert [event.kind for event in one.promote()] == ["experiment.promoted"]
    assert one.shares == (0.0, 1.0)
    again = experiment(on_winner="promote")
    assert again.restore(one.to_state())
    assert again.shares == (0.0, 1.0)
    assert (one.promote(), [event.kind for event in again.demote()]) == ([], ["experiment.demoted"])
    assert (again.shares, again.demote(), again.promote()) == ((1.0, 0.0), [], [])
    assert one.draw(5) == (1, 1.0, None)


def test_no_answer_before_min_samples() -> None:
    """0 against 1 is clear after some twenty units and told after 60 of each."""
    one = experiment(min_samples=60)
    feed(one, [0.0, 1.0], 1000)
    assert one.race.counts.min() == 60


def test_no_difference_that_matters() -> None:
    """Two equal halves are shown to be within .2, long before max_duration and with no winner; see test_race."""
    one = experiment(min_effect=0.2)
    events = feed(one, [0.5, 0.5], 4000)
    assert [event.detail["verdict"] for event in events] == ["no_difference"]
    assert "control and short differ by less than min_effect" in one.cause
    assert one.status().winner is None


def test_who_is_beaten_need_not_be_equal() -> None:
    """Of three, two equal ones and a bad one: no difference between those who are left."""
    one = experiment(THREE, min_effect=0.2)
    feed(one, [0.8, 0.8, 0.2], 6000)
    assert one.verdict == "no_difference"
    assert one.cause.startswith("control and short")


def test_max_duration_ends_it() -> None:
    """Without an answer; the control serves on."""
    one = experiment(max_duration_s=100.0)
    assert one.tick(99.0) == []
    events = one.tick(100.0)
    assert [event.kind for event in events] == ["experiment.ended"]
    assert events[0].detail["verdict"] == "inconclusive"
    assert one.shares == (1.0, 0.0)
    assert one.tick(101.0) == []
    assert one.leave() == []


def test_a_clock_that_was_set_back_makes_it_no_longer() -> None:
    """Begun by a clock a year ahead: max_duration counts from the first tick of the right one."""
    one = experiment(max_duration_s=100.0)
    one._since = 3e7
    assert one.tick(50.0) == []
    assert [event.kind for event in one.tick(150.0)] == ["experiment.ended"]


def test_requests_without_a_key_count_whatever_other_keys_are() -> None:
    """A key whose 32 bits that are kept are all 0 is not taken for "no key"."""
    counted = Counted()
    assert [counted.is_first(key) for key in (2**32, 2**32, 0, 0)] == [True, False, True, True]


def test_a_changed_policy_ends_it() -> None:
    one = experiment()
    assert [event.message for event in one.leave()] == ["inconclusive: no winner, the policy has changed"]


# ---- shares that follow the evidence


def test_adaptive_shares_change_for_new_units() -> None:
    """After REALLOCATE_EVERY values shares differ; a score of an earlier unit is weighed by the shares of its epoch."""
    one = experiment(THREE, allocation="adaptive", min_samples=10**6)
    feed(one, [0.9, 0.5, 0.1], 40 * REALLOCATE_EVERY)
    assert one.draw(1)[2] != 0
    assert sum(one.shares) == pytest.approx(1.0)
    assert one.shares[2] < 1 / 3
    before = one.race.counts.sum()
    one.label(one.choices[2].tag, 0, 10**7, 1.0, 1.0)
    assert one.race.counts.sum() == before + 1


def test_old_epochs_are_forgotten() -> None:
    """Memory is bounded: a score of a unit whose shares nobody remembers does not count."""
    one = experiment()
    for at in range(MAX_EPOCHS + 1):
        one._put((0.3, 0.7) if at % 2 else (0.7, 0.3), 1.0)
    assert len(one._epochs) == MAX_EPOCHS
    assert one.label(one.choices[0].tag, 0, 1, 1.0, 1.0) == []
    assert one.race.counts.sum() == 0


def test_small_changes_are_no_news() -> None:
    one = experiment()
    one._reallocate((0.51, 0.49), 1.0)
    assert one.draw(1)[2] == 0


# ---- harm


def test_a_broken_variant_is_stopped() -> None:
    """One that always fails is out within 60 units, whatever the metric; the rest goes on without it."""
    one = experiment(THREE)
    events: list[Event] = []
    for key in range(1, 61):
        variant, _, epoch = one.draw(key)
        how = outcome("failed" if variant == 2 else "completed")
        events += one.observe(decision(one, variant, epoch), how, None, key, 1.0)
    assert [(event.kind, event.arm) for event in events] == [("experiment.variant_stopped", "new")]
    assert one.shares == (0.5, 0.5, 0.0)
    assert one.status().variants[2].stopped
    assert "other: stopped" in " ".join(one.explain())
    assert one.label(one.choices[2].tag, 0, 999, 1.0, 1.0) == []
    assert one.running


def test_all_pods_together_keep_the_promise_about_harm() -> None:
    """Each of a hundred stops a variant on a hundred times the evidence: it looks as often as all."""
    needed = []
    for replicas in (1, 100):
        one, key = experiment(min_samples=10**6, replicas=replicas), 0
        while len(one.race.left) > 1:
            key += 1
            variant, _, epoch = one.draw(key)
            how = outcome("failed" if variant else "completed")
            one.observe(decision(one, variant, epoch), how, None, key, 1.0)
        needed.append(one._harm[1].e_value)
    assert 100 <= needed[0] < 10_000 <= needed[1]


def test_without_others_it_ends() -> None:
    """Both others fail: the control is left, and nothing to compare."""
    one = experiment()
    for key in range(1, 100):
        variant, _, epoch = one.draw(key)
        one.observe(decision(one, variant, epoch), outcome("failed" if variant else "completed"), None, key, 1.0)
    assert one.shares == (1.0, 0.0)
    events = one.tick(1.0)
    assert "all others were stopped" in events[0].message


def test_a_harmless_variant_stays() -> None:
    """Failures of 20 % on both sides, 30 experiments of 300 units: a stop has probability <= HARM_ALPHA = .01 each, so
    more than 3 of 30 have probability < 1e-3."""
    assert HARM_ALPHA == 0.01
    stopped = 0
    for seed in range(30):
        one, rng = experiment(), np.random.default_rng(seed)
        for key in range(1, 301):
            variant, _, epoch = one.draw(key + 1000 * seed)
            how = outcome("failed" if rng.random() < 0.2 else "completed")
            one.observe(decision(one, variant, epoch), how, None, key, 1.0)
        stopped += len(one.race.out)
    assert stopped <= 3


# ---- reading, restart


def test_it_explains_itself() -> None:
    one = experiment()
    assert "goes on after 0 units" in " ".join(one.explain())
    assert "no value yet" in " ".join(one.explain())
    feed(one, [0.5, 0.9], 20)
    assert "goes on after 20 units" in " ".join(one.explain())
    assert "against the control" in " ".join(one.explain())
    fresh = Experiment(Route("chat", Match(), "ab", BASE), ExperimentSpec(TWO))
    assert "has not begun" in " ".join(fresh.explain())


def test_a_restart_goes_on() -> None:
    """The same evidence, shares and phase; what is of another experiment is left."""
    one = experiment(THREE, allocation="adaptive")
    feed(one, [0.6, 0.5, 0.5], 300)
    kept = orjson.loads(orjson.dumps(one.to_state()))
    again = experiment(THREE, allocation="adaptive")
    assert again.restore(kept)
    assert orjson.loads(orjson.dumps(again.to_state())) == kept
    assert again.status() == one.status()
    assert not again.restore({**kept, "id": "x"})
    assert not again.restore({**kept, "version": 0})
    with pytest.raises((ValueError, KeyError, TypeError)):
        again.restore({"version": 1, "id": again.id})


def test_one_more_pod_is_no_other_experiment() -> None:
    """Pods that are told different numbers draw the same units, and each has its own part of alpha."""
    one, three = experiment(alpha=0.06), experiment(alpha=0.06, replicas=3)
    assert one.id == three.id
    assert [one.draw(key) for key in range(100)] == [three.draw(key) for key in range(100)]
    assert (one.race.alpha, three.race.alpha) == (0.06, pytest.approx(0.02))
