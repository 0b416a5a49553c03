"""The choice of an arm: its propensity is the truth, it follows beliefs and prices, and it forgets nothing at a change."""

import json
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.asked import RECENT
from sidecar.core.draws import FLOOR, MAX_BASES
from sidecar.core.features import FEATURES, features
from sidecar.core.learnt import restore, state_of
from sidecar.core.policy import Objective
from sidecar.core.quality import PRIOR_MEAN
from sidecar.core.selector import JUMP, MAX_PRICE, MAX_VIEWS, NEWS, REFRESH, Selector
from tests.unit.core.selectors import ARMS, FREE, answered, ask, label, made, ready, rng, teach, vector

# ---- propensities


@pytest.mark.parametrize("text", [None, features("sort this list"), features("poem")], ids=["none", "code", "poem"])
def test_the_logged_propensity_is_the_real_frequency(text: np.ndarray | None) -> None:
    """20,000 choices between arms that are nearly equal: each arm's frequency is within 4.5 sd of its propensity
    (p < 1e-5 an arm), the propensity of an arm is the same each time, and they sum to 1."""
    one = made(Objective(max_quality_loss=0.1), (100.0, 99.0, 98.0))
    for at in range(60):
        for arm in ARMS:
            shown = None if text is None else features(f"words {at % 7}")
            one.label(label(arm, 0.7 + (0.25 if at % 2 else -0.25), text=shown))
    ready(one)
    chance, count, told = rng(2), dict.fromkeys(ARMS, 0), dict[str, float]()
    for _ in range(20_000):
        pick = one.choose(ARMS, ask("", text), chance)
        assert told.setdefault(pick.arm, pick.propensity) == pick.propensity
        count[pick.arm] += 1
    assert sum(told.values()) == pytest.approx(1.0)
    for arm, p in told.items():
        assert abs(count[arm] - 20_000 * p) < 4.5 * sqrt(20_000 * p * (1 - p))
    assert sum(p > 0.05 for p in told.values()) >= 2


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(ARMS), st.floats(0, 1), st.sampled_from(["", "a"])), max_size=40),
    st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    st.lists(st.sampled_from(ARMS), min_size=1, max_size=3, unique=True),
    st.floats(0, 2_000),
)
def test_propensities_of_any_pool_sum_to_one(
    labels: list[tuple[str, float, str]], loss: float, pool: list[str], allowance: float
) -> None:
    """Whatever was learnt, promised and left of a ceiling; and what a choice says of itself lies in (0, 1]."""
    one = made(Objective(max_quality_loss=loss))
    for arm, score, task in labels:
        one.label(label(arm, score, task))
        assert 0.0 < one.choose(tuple(pool), ask(task), rng()).propensity <= 1.0
    one.refresh(rng(), allowance)
    shown = one.propensities(tuple(pool))
    assert shown.sum() == pytest.approx(1.0)
    assert (shown >= 0.0).all()
    pick = one.choose(tuple(pool), ask("a"), rng(3), allowance)
    assert 0.0 < pick.propensity <= 1.0


def test_before_anything_was_drawn_the_baseline_has_all() -> None:
    """Shares that are asked for early: the baseline's, or even ones where it is not in the pool."""
    one = made()
    assert vector(one) == {"big": 1.0, "mid": 0.0, "small": 0.0}
    assert vector(one, ("mid", "small")) == {"mid": 0.5, "small": 0.5}


def test_an_arm_alone_is_chosen_with_certainty() -> None:
    pick = made().choose(("mid",), ask(), rng())
    assert (pick.arm, pick.propensity, len(pick.worth)) == ("mid", 1.0, 1)


def test_shares_are_those_of_the_requests_of_late() -> None:
    """Half of the requests are sums, at which the cheap arm is as good: it gets their half."""
    one = made(FREE)
    for _ in range(20):
        teach(one, {"big": 0.9, "mid": 0.2, "small": 0.9}, 10, "sums")
        teach(one, {"big": 0.9, "mid": 0.2, "small": 0.2}, 10, "prose")
    for at in range(64):
        one.choose(ARMS, ask(("sums", "prose")[at % 2]), rng())
    one.refresh(rng())
    shares = vector(one)
    assert shares["small"] == pytest.approx(0.5, abs=0.01)
    assert shares["big"] == pytest.approx(0.5, abs=0.01)
    assert vector(one, ("mid", "small"))["small"] == pytest.approx(1 - FLOOR, abs=0.1)


# ---- what is learnt


def test_each_kind_of_request_goes_where_it_is_answered_best() -> None:
    """By task, and by text where only the text tells."""
    one = made(Objective(max_quality_loss=0.0), (100.0, 100.0))
    for _ in range(20):
        teach(one, {"big": 0.9, "mid": 0.3}, 10, "prose")
        teach(one, {"big": 0.3, "mid": 0.9}, 10, "sums")
    code, poem = features("def f(x): return {x}"), features("a poem about the sea")
    ready(one)
    assert one.choose(("big", "mid"), ask("prose"), rng()).propensity > 0.9
    assert [one.choose(("big", "mid"), ask(task), rng(5)).arm for task in ("prose", "sums")] == ["big", "mid"]
    two = made(Objective(max_quality_loss=0.0), (100.0, 100.0))
    for _ in range(300):
        for arm, text, score in (("big", code, 0.9), ("big", poem, 0.2), ("mid", code, 0.2), ("mid", poem, 0.9)):
            two.label(label(arm, score, text=text))
        two.model.digest()
    for at in range(64):
        two.choose(("big", "mid"), ask("", (code, poem)[at % 2]), rng())
    two.refresh(rng())
    assert vector(two, ("big", "mid"))["big"] == pytest.approx(0.5, abs=0.05)
    assert two.choose(("big", "mid"), ask("", code), rng(5)).arm == "big"
    assert two.choose(("big", "mid"), ask("", poem), rng(5)).arm == "mid"
    assert len(code) == FEATURES


def test_validators_teach_until_the_first_label() -> None:
    """Then quality is what labels say, times how often the arm answers at all; the old scale is forgotten."""
    one = made(FREE)
    for _ in range(100):
        one.partial_fit("mid", answered(), ask())
        one.partial_fit("small", answered(fine=0.0), ask())
    quality = one.quality()[0]
    assert quality[1] > 0.9
    assert quality[2] < 0.1
    one.label(label("big", 0.5, weight=0.0))
    assert not one.labelled
    one.label(label("big", 0.5))
    assert one.labelled
    after = one.quality()[0]
    assert one.model.learnt == one.promise.scores == 1
    assert after[1] < 0.7
    assert after[2] < 0.1
    for _ in range(100):
        one.partial_fit("mid", answered(), ask())
    assert one.model.learnt == 1


def test_what_is_stated_of_an_arm_holds_until_scores_say_otherwise() -> None:
    """Before any score, and again when labels begin; a refresh is due at once."""
    one = ready(made(FREE))
    one.expect("small", 0.95, 50.0)
    assert one.due
    assert one.quality()[0] == pytest.approx([PRIOR_MEAN, PRIOR_MEAN, 0.95])
    one.label(label("big", 0.5))
    assert one.quality()[0][2] == pytest.approx(0.95, abs=0.03)  # times how often it answers


def test_what_teaches_nothing_changes_nothing() -> None:
    """An aborted call is no signal; a call without a latency says nothing of the arm's speed."""
    one = made()
    before = json.dumps(state_of(one))
    one.partial_fit("big", answered().__class__(), ask())
    assert json.dumps(state_of(one)) == before
    one.partial_fit("big", answered(None), ask())
    assert (one.beliefs["big"].stream.n, one.beliefs["big"].answered.n) == (0.0, 1.0)
    one.partial_fit("big", answered(0.9), ask(stream=False))
    assert (one.beliefs["big"].stream.n, one.beliefs["big"].whole.n) == (0.0, 1.0)


def test_a_label_that_is_corrected_counts_once() -> None:
    """In the beliefs, in the promise and in the number of labels; a weak signal is no label."""
    one = made()
    one.label(label("big", 1.0))
    one.label(label("big", 0.0, previous=1.0))
    one.label(label("big", 0.5, weight=0.1))
    one.model.digest()
    assert one.model.scores(0) == pytest.approx((1.1, 0.05))
    assert (one.promise.scores, one.promise.total) == pytest.approx((1.1, 0.05))
    assert one.beliefs["big"].samples == 1


def test_how_sure_it_is_that_an_arm_is_within_the_loss() -> None:
    """The baseline is by definition; the others by their posteriors."""
    one = teach(made(Objective(max_quality_loss=0.1)), {"big": 0.8, "mid": 0.79, "small": 0.4})
    sure = one.feasible()
    assert sure[0] == 1.0
    assert sure[1] > 0.99
    assert sure[2] < 0.01


# ---- when beliefs are drawn anew


def test_a_refresh_is_due_after_a_few_scores_and_later_after_refresh() -> None:
    """At first at once; then by one score while an eighth as many are known, and never by more than REFRESH."""
    one = made()
    assert one.due
    one.refresh(rng())
    assert not one.due
    one.label(label("big", 0.5))
    assert one.due
    teach(one, {"big": 0.5}, 400)
    one.refresh(rng())
    for _ in range(REFRESH - 1):
        one.label(label("big", 0.5))
        assert not one.due
    one.label(label("big", 0.5))
    assert one.due
    one.refresh(rng())
    assert not one.due
    one.touch()
    assert one.due


def test_a_jump_of_prices_acts_on_the_very_next_request() -> None:
    """Two equal arms: the cheap one serves; when it becomes the dear one, the other does. No refresh in between."""
    one = ready(teach(made(costs=(100.0, 10.0)), {"big": 0.8, "mid": 0.8}))
    assert one.choose(one.arms, ask(), rng()).arm == "mid"
    one.price_in((100.0, 1_000.0))
    pick = one.choose(one.arms, ask(), rng())
    assert pick.arm == "big"
    assert pick.propensity > 0.8


def test_small_changes_of_prices_wait_or_are_no_news() -> None:
    """Below NEWS nothing is done; below JUMP the next refresh is due at once and requests go on."""
    one = ready(made(costs=(100.0, 10.0)))
    one.price_in((100.0 * (1 + NEWS / 2), 10.0))
    assert not one.due
    assert one.expected_nusd.tolist() == [100.0, 10.0]
    one.price_in((100.0 * (1 + JUMP / 2), 10.0))
    assert one.due
    one.choose(one.arms, ask(), rng())
    assert one.due


def test_unknown_costs_are_the_baselines_or_the_dearest_known() -> None:
    assert made(costs=(100.0, None, 10.0)).expected_nusd.tolist() == [100.0, 100.0, 10.0]
    assert made(costs=(None, 20.0, 10.0)).expected_nusd.tolist() == [20.0, 20.0, 10.0]
    assert made(costs=(None, None)).expected_nusd.tolist() == [1.0, 1.0]


def test_where_the_baseline_is_free_the_dearest_arm_is_the_unit() -> None:
    """A free baseline among paid arms of its quality serves; where all are free, nothing breaks."""
    one = ready(teach(made(costs=(0.0, 50.0)), {"big": 0.8, "mid": 0.8}))
    assert vector(one)["big"] > 0.9
    assert sum(vector(ready(made(costs=(0.0, 0.0)))).values()) == pytest.approx(1.0)


def test_what_is_cached_is_bounded() -> None:
    """Tasks and pools come from requests; so do the requests on which prices are solved."""
    one = made()
    for at in range(max(MAX_BASES, RECENT) + 20):
        assert one.choose(ARMS, ask(f"t{at}"), rng()).arm in ARMS
    names = tuple(f"a{at}" for at in range(8))
    wide = Selector(names, FREE)
    for bits in range(1, 2 ** len(names)):
        pool = tuple(name for at, name in enumerate(names) if bits >> at & 1)
        assert wide.choose(pool, ask(), rng()).arm in pool
    assert len(wide._views) <= MAX_VIEWS
    assert len(one._asked.kinds) == RECENT
    assert all(len(view.bases) <= MAX_BASES for view in one._views.values())


def test_a_broken_belief_gets_no_traffic_beyond_its_floor() -> None:
    """Numbers that are none stop nobody; when all are broken, the first of the pool serves."""
    one = ready(teach(made(FREE), {"big": 0.8, "mid": 0.8, "small": 0.8}))
    one.beliefs["small"].stream.total = float("nan")
    one.refresh(rng())
    assert vector(one)["small"] == pytest.approx(FLOOR)
    for belief in one.beliefs.values():
        belief.stream.total = float("nan")
    one.refresh(rng())
    assert vector(one)["big"] == pytest.approx(1 - 2 * FLOOR)


# ---- another policy, a restart


def test_another_policy_takes_over_what_is_known_by_name() -> None:
    """Arms in another order, one gone, one new."""
    old = ready(teach(made(), {"big": 0.9, "mid": 0.8, "small": 0.2}))
    new = Selector(("big", "small", "tiny"), Objective())
    new.adopt(old, ["big", "small"])
    new.price_in((100.0, 10.0, 1.0))
    assert new.due
    assert new.labelled
    quality = new.quality()[0]
    assert quality[0] > quality[2] > quality[1]
    assert new.beliefs["small"].samples == 200
    assert new.promise is old.promise
    assert new.choose(("big", "small"), ask(), rng()).arm == "big"


@pytest.mark.parametrize("labelled", [False, True])
def test_a_restart_keeps_what_is_known(labelled: bool) -> None:
    """Through JSON: the same state, and with the same generator the same choices."""
    one = made()
    for at in range(50):
        one.partial_fit(ARMS[at % 3], answered(0.5, 0.9), ask("t"))
        if labelled:
            one.label(label(ARMS[at % 3], 0.1 * (at % 9), "t", features(f"word{at}")))
    kept = json.loads(json.dumps(state_of(one)))
    again, twin = made(), made()
    for other in (again, twin):
        for arm in ARMS:
            restore(other, arm, kept[arm])
    assert state_of(again) == state_of(one)
    assert (again.labelled, again.due) == (labelled, True)
    first, second = rng(4), rng(4)
    for _ in range(20):
        assert again.choose(ARMS, ask("t"), first) == twin.choose(ARMS, ask("t"), second)


def old_state(n: int, good: float, labels: int, total: float) -> dict[str, object]:
    """What versions before the context wrote of an arm."""
    latency = [[3.0, 1.5, 0.9], [0.0, 0.0, 0.0]]
    return {"samples": labels, "posteriors": [[n, good], [labels, total, total], *latency]}


def test_what_earlier_versions_learnt_is_read() -> None:
    """Their scores without context: labels where there are some, else what validators said."""
    one = made()
    restore(one, "big", old_state(300, 290, 200, 180.0))
    restore(one, "small", old_state(300, 290, 100, 20.0))
    assert one.labelled
    assert (one.beliefs["big"].samples, one.beliefs["big"].answered.n, one.beliefs["big"].stream.n) == (200, 300, 3.0)
    quality = one.quality()[0]
    assert quality[0] == pytest.approx(0.87, abs=0.03)
    assert quality[2] == pytest.approx(0.2, abs=0.05)
    plain = made()
    restore(plain, "big", old_state(300, 290, 0, 0.0))
    assert not plain.labelled
    assert plain.quality()[0][0] == pytest.approx(290 / 300, abs=0.02)


def test_what_validators_said_earlier_is_not_mixed_with_labels() -> None:
    """Whichever arm is read first: one without labels is an average one then, and not as good as it is polite."""
    for order in (("big", "mid"), ("mid", "big")):
        one = made()
        for arm in order:
            restore(one, arm, old_state(300, 300, 0, 0.0) if arm == "mid" else old_state(300, 300, 200, 100.0))
        assert one.model.scores(1) == (0.0, 0.0)
        assert one.model.scores(0) == (200.0, 100.0)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"posteriors": []},
        {"posteriors": [[1.0, 1.0], [0.0, 0.0, 0.0]], "samples": 1},
        {"posteriors": [[1.0, 1.0]], "samples": None},
        {**state_of(made())["big"], "context": {}},
        {**state_of(made())["big"], "late": 1},
    ],
)
def test_a_broken_state_is_refused(state: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError, IndexError)):
        restore(made(), "big", state)


def test_limits_follow_the_weights() -> None:
    """Without a promise the price is what the policy's weights say: cost 0.3 against quality 0.6; where quality has no
    weight, MAX_PRICE. With one and nothing seen yet, quality comes first."""
    one = made(FREE)
    one.refresh(rng())
    assert one.price == pytest.approx(1 / 0.6)
    assert made(Objective(max_quality_loss=1.0, quality_weight=0.0)).max_price == MAX_PRICE
    cautious = made(Objective())
    cautious.refresh(rng())
    assert cautious.price == 0.0


def test_nothing_known_is_worth_the_prior() -> None:
    assert made().quality()[0] == pytest.approx(np.full(3, PRIOR_MEAN))


def test_a_weak_signal_alone_is_no_label() -> None:
    """What validators taught stays until somebody judges: one that is worth a tenth of a label does not."""
    one = made()
    one.label(label("mid", 0.0, weight=0.1))
    assert (one.labelled, one.model.waiting) == (False, 0)
    one.label(label("mid", 1.0))
    one.label(label("mid", 0.0, weight=0.1))
    assert (one.labelled, one.model.waiting) == (True, 2)


def test_prices_are_solved_where_the_baseline_could_serve() -> None:
    """Requests that the baseline cannot serve say nothing about a promise that is measured against it."""
    one = made()
    one.choose(("mid", "small"), ask("other"), rng())
    assert [task for task, _ in one._asked.kinds] == ["other"]  # better than nothing
    one.choose(ARMS, ask("ours"), rng())
    one.choose(("mid", "small"), ask("other"), rng())
    assert [task for task, _ in one._asked.kinds] == ["other", "ours"]
    assert one._pool == ARMS
