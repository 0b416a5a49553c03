"""Another policy on a log whose truth is known: the answers hold it, and what cannot be answered is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidecar.config.policy import load_text
from sidecar.control.logged import Score, calls_of, seconds
from sidecar.control.replay import Report, Target, outcomes_of, replay
from sidecar.core.engine import Engine, stated_price
from sidecar.core.evaluation import Answer, Estimate
from sidecar.core.types import Feedback
from sidecar.errors import ReplayError
from sidecar.store import queries
from tests.fixtures import logs
from tests.fixtures.logs import FINE, MINI, NANO, SHARES, policy, records, truth

ALL = f"{MINI}, {NANO}"


def asked(text: str, rows: list[dict[str, Any]], scores: list[Score] | None = None, **target: Any) -> Report:
    loaded = load_text(text, Path("new.yaml"), {})
    return replay(calls_of(rows), scores or [], Target(loaded.policy, stated_price, **target), lambda _text: None)


def answer(report: Report, outcome: str = "quality") -> Answer:
    found = report.answers[outcome]
    assert isinstance(found, Answer), found
    return found


def near(estimate: Estimate, value: float) -> bool:
    """Within twice the 95 % interval, 3.9 standard errors: chance misses it once in 10,000."""
    return abs(estimate.value - value) <= 2 * (estimate.high - estimate.low) / 2 + 1e-9


def test_what_the_baseline_alone_would_have_given() -> None:
    """Observe: everything to the app's own model. Quality and cost are those of that arm."""
    report = asked(policy("observe"), records())
    assert report.shares["gpt-4o"][1] == 1.0
    found = answer(report)
    for estimate in (found.ips, found.snips, found.dr):
        assert near(estimate, truth(dict.fromkeys(FINE, (1.0, 0.0, 0.0))))
    assert near(answer(report, "cost_usd").snips, 1000e-9)
    assert answer(report, "cost_usd").change.low > 0
    assert set(report.answers) == {"quality", "reward", "cost_usd", "latency_s", "ttft_s", "failed"}
    assert near(answer(report, "latency_s").snips, 0.999)
    assert near(answer(report, "ttft_s").snips, 0.099)


@pytest.mark.parametrize(("step", "mini"), [(25, 0.25), (100, 1.0)])
def test_a_canary_at_its_step(step: int, mini: float) -> None:
    """Rollouts stand where `step` says: the first arm has that share, at 100 it is the stable one."""
    report = asked(policy("canary", MINI), records(), step=step)
    assert report.shares["mini"][1] == pytest.approx(mini)
    assert report.shares["gpt-4o"][1] == pytest.approx(1 - mini)
    assert near(answer(report).dr, truth(dict.fromkeys(FINE, (1 - mini, mini, 0.0))))


def test_a_log_in_which_an_arm_rested_cannot_speak_for_it() -> None:
    """Mini was out for the last tenth: the weights of its calls miss a tenth, which IPS would take for a lower cost."""
    rows = records()
    for one in rows:
        one["context"]["scores"] = {"gpt-4o": 0.1, "mini": 0.1, "nano": None}
    assert asked(policy("canary", MINI), rows, step=100).shares["mini"][1] == 1.0
    resting = [one for one in rows[1080:] if one["arm"] != "mini"]
    for one in resting:
        del one["context"]["scores"]["mini"]
        one["propensity"] = {"gpt-4o": 0.6, "nano": 0.4}[one["arm"]]
    with pytest.raises(ReplayError, match=r"mini would serve [67]\.\d% of the calls where the log could not choose it"):
        asked(policy("canary", MINI), rows[:1080] + resting, step=100)
    beside = [
        one | {"rollout_id": "r"} for one in resting
    ]  # a canary was chosen by hash: the row names one pool of two
    assert asked(policy("canary", MINI), rows[:1080] + beside, step=100).calls == len(rows[:1080] + beside)


def test_the_log_checks_itself() -> None:
    """True probabilities: the logging policy gives its own mean, which is the truth of its shares."""
    report = asked(policy("observe"), records())
    logged, by_ips = report.checks["quality"]
    assert by_ips.holds(logged)
    assert near(answer(report).logged, truth(SHARES))


def test_conversations_are_the_units() -> None:
    """Four calls each: as many units as conversations, and intervals that know it."""
    single = asked(policy("observe"), records(units=1600))
    talks = asked(policy("observe"), records(units=400, calls=4))
    assert (single.calls, single.units) == (1600, 1600)
    assert (talks.calls, talks.units) == (1600, 400)
    wide, narrow = answer(talks, "cost_usd").ips, answer(single, "cost_usd").ips
    assert (wide.high - wide.low) > 1.6 * (narrow.high - narrow.low)


def test_an_engine_that_learns_the_log_prefers_what_is_good_and_cheap() -> None:
    """Optimize over all arms: probabilities are complete, and the last half leans on arms that keep the quality."""
    report = asked(policy("optimize", ALL), records(units=1500))
    assert sum(target for _, target in report.shares.values()) == pytest.approx(1.0, abs=1e-6)
    assert report.shares["nano"][1] < report.shares["gpt-4o"][1] + report.shares["mini"][1]
    assert near(answer(report).dr, answer(report).snips.value)


def test_scores_teach_and_are_an_outcome_of_their_own() -> None:
    """A tenth of the calls is scored: `score` is estimated from those."""
    rows = records(units=3000)
    scores = [Score(one["id"], seconds(one["at"]) + 9, "user", one["quality"]) for one in rows[::5]]
    report = asked(policy("optimize", MINI), rows, [*scores, Score("unknown", 0.0, "user", 1.0)])
    assert answer(report, "score").calls == 600


def test_a_frozen_engine_is_taught_nothing() -> None:
    """From an empty state every call of one kind has the same probabilities."""
    report = asked(policy("optimize", MINI), records(units=600), learner="frozen", state=None)
    again = asked(policy("optimize", MINI), records(seed=2, units=600), learner="frozen", state=None)
    assert report.shares["mini"][1] == pytest.approx(again.shares["mini"][1], abs=0.02)


def test_a_call_that_the_new_rules_refuse_is_left_out() -> None:
    rules = "rules: [{id: r, when: \"user.task == 'hard'\", action: deny, message: no}]"
    rows = records(units=800)
    report = asked(policy("observe", rules=rules), rows)
    hard = sum(one["context"]["tags"]["task"] == "hard" for one in rows)
    assert report.left_out == {"refused by the new policy's rules": hard}
    assert report.calls == 800 - hard
    everything = rules.replace("'hard'", "'hard' || user.task == 'easy'")
    with pytest.raises(ReplayError, match="refuse every logged call"):
        asked(policy("observe", rules=everything), rows)


def test_a_model_that_the_log_never_saw_is_refused_by_name() -> None:
    other = "{id: opus, upstream: up, model: opus}"
    with pytest.raises(ReplayError, match=r"100\.0% of the calls would go to arms that the log does not have"):
        asked(policy("canary", other), records(units=300))


def test_an_arm_of_the_same_name_and_another_model_is_another_arm() -> None:
    other = "{id: mini, upstream: up, model: gpt-5-mini}"
    with pytest.raises(ReplayError, match="does not have"):
        asked(policy("canary", other), records(units=300))


def test_an_arm_of_another_name_and_the_same_model_is_the_same_arm() -> None:
    renamed = "{id: small, upstream: up, model: gpt-4o-mini}"
    report = asked(policy("canary", renamed), records())
    assert report.shares["mini"][1] == 1.0


def test_the_apps_own_model_is_the_arm_that_has_it() -> None:
    """An observing route that names no arm of the log still forwards what the app asked for."""
    text = policy("observe").replace("id: gpt-4o,", "id: own,")
    assert asked(text, records()).shares["gpt-4o"][1] == 1.0


def test_a_log_without_chance_answers_only_for_itself() -> None:
    """Propensity 1 everywhere: another policy is refused, the same one is not."""
    rows = [one for one in records(units=900, propensity=1.0) if one["arm"] == "gpt-4o"]
    mixed = [*rows, *(one for one in records(seed=3, units=400) if one["arm"] == "mini")]
    with pytest.raises(ReplayError, match="where the log could not choose it"):
        asked(policy("canary", MINI), mixed)
    assert answer(asked(policy("observe"), rows)).dr.value == pytest.approx(
        answer(asked(policy("observe"), rows)).logged.value
    )


def test_too_few_effective_calls_are_said_for_each_outcome() -> None:
    report = asked(policy("observe"), records(units=90))
    assert all("effective sample size" in str(one) for one in report.answers.values())


def test_paths_and_empty_logs_are_refused() -> None:
    with pytest.raises(ReplayError, match="by path"):
        asked(policy("observe").replace("mode:", 'match: {paths: ["/v1/x"]}\n    mode:'), records(units=9))
    with pytest.raises(ReplayError, match="decided by chance: no row"):
        asked(policy("observe"), [])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"reason": "pinned"}, "pinned to server-side state"),
        ({"reason": "budget"}, "sent by a budget"),
        ({"arm": None}, "served by no arm of the policy"),
        ({"propensity": None}, "without a probability"),
        ({"error": "refused"}, "refused"),
        ({"reason": "fallback", "propensity": 1.0}, "fell back from a choice that was none"),
    ],
)
def test_rows_without_chance_are_left_out_and_counted(changes: dict[str, Any], why: str) -> None:
    rows = [one | changes for one in records(units=7)]
    assert calls_of(rows).left_out == {why: 7}
    with pytest.raises(ReplayError, match=f"7 {why}"):
        asked(policy("observe"), rows)


def test_one_route_of_the_log() -> None:
    rows = [*records(units=5), *(one | {"route": "other"} for one in records(units=4))]
    assert len(calls_of(rows, "other").kept) == 4
    assert len(calls_of(rows).kept) == 9


def test_after_a_fallback_the_call_counts_for_the_arm_that_was_decided() -> None:
    """And what served is no evidence of what the decided arm's model is."""
    one = records(units=1)[0]
    one |= {"arm": "nano", "reason": "fallback", "context": one["context"] | {"decided": "mini"}}
    call = calls_of([one]).kept[0]
    assert (call.arm, call.place) == ("mini", (None, None))


def test_unknown_outcomes_are_nan() -> None:
    """An aborted call has neither duration nor failure, and an outcome that nobody has is left out."""
    rows = records(units=2)
    rows[0] |= {"outcome": "aborted", "cost_nusd": None, "reward": None}
    rows[1] |= {"outcome": "failed", "reward": None, "ttft_s": None, "stream": True}
    found = outcomes_of(calls_of(rows).kept, [])
    assert "reward" not in found
    assert [value == value for value in found["failed"]] == [False, True]
    assert [value == value for value in found["cost_usd"]] == [False, True]


def test_the_log_as_a_file_reads_back_the_same(tmp_path: Path) -> None:
    """Rows of the store and rows made here are the same rows."""
    logs.store(tmp_path / "s.db", units=20, scored=4)
    assert list(queries.export(tmp_path / "s.db")) == records(units=20)
    assert len(list(queries.scores(tmp_path / "s.db"))) == 5


def test_variants_of_an_arm_count_as_the_arm_and_that_is_said() -> None:
    """What an experiment changed besides the arm is not in the log."""
    assert asked(policy("observe"), records(units=500)).notes == ()
    assert asked(policy("observe"), records(units=500, mode="ab")).notes == (
        "500 calls were of experiments: all variants of an arm count as that arm",
    )


@pytest.mark.parametrize(
    ("mode", "budget", "might"),
    [
        ("optimize", "daily_usd: 1", "bar gpt-4o and refuse calls"),
        ("optimize", "mean_request_usd: 0.1", "bar gpt-4o"),
        ("canary", "per_request_usd: 0.1, on_exceeded: deny", "bar gpt-4o and refuse calls"),
        ("canary", "mean_request_usd: 0.1", None),
    ],
)
def test_what_budgets_and_thresholds_might_do_is_said(mode: str, budget: str, might: str | None) -> None:
    """They are left out, as their state depends on the path taken. Mini is cheaper, so a budget bars the other arm; a
    ceiling on the mean is a matter of the selector's alone."""
    slow = "{name: slow, metric: latency_p95, above: 2s, window: 5m, severity: high, action: route_to, arm: mini}"
    told = "{name: told, metric: latency_p95, above: 1s, window: 5m, severity: low, action: log}"
    text = policy(mode, MINI).replace("id: gpt-4o, upstream: up", "id: gpt-4o, upstream: dear")
    text = text.replace(
        "routes:",
        "  dear: {dialect: openai, base_url: 'http://127.0.0.1:9/v1', price: {input_mtok: 9, output_mtok: 9}}\nroutes:",
    )
    assert asked(text, records(units=300)).notes == ()
    text = text.replace("    quality:", f"    budget: {{{budget}}}\n    thresholds: [{slow}, {told}]\n    quality:")
    wanted = [] if might is None else [f"route chat: its budget is left out; it might {might}"]
    notes = asked(text, records(units=300)).notes
    assert list(notes) == [*wanted, "route chat: its thresholds are left out; they might route_to mini"]


def test_a_stored_state_is_asked_as_it_is() -> None:
    """A state that has learnt that mini always fails gives it its floor only; an empty one does not know."""
    loaded = load_text(policy("optimize", MINI), Path("new.yaml"), {}).policy
    engine = Engine(loaded, np.random.default_rng(1), 0.0)
    engine.tick(0.0)
    while engine.status()[0].rollouts[0].phase != "promoted":
        engine.promote("chat", 0.0)
    for number in range(400):
        arm = ("gpt-4o", "mini")[number % 2]
        given = Feedback(decision_id=str(number), route="chat", arm=arm, score=float(arm == "gpt-4o"))
        engine.feedback(given, float(number))
    report = asked(policy("optimize", MINI), records(units=300), learner="frozen", state=engine.snapshot())
    assert report.shares["mini"][1] < 0.15  # a floor, or a probe of an arm that fell
