"""Feedback is checked, joined with its decision, bounded and told once."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence

import numpy as np
import pytest
from msgspec.structs import replace

from sidecar.clock import wall
from sidecar.control import feedback as desk_module
from sidecar.control.feedback import MAX_AGE_S, FeedbackDesk, Kind, Known, known_of
from sidecar.core.policy import SOURCES, Objective, Quality, Source
from sidecar.core.selector import Selector
from sidecar.core.types import Event, Feedback
from sidecar.errors import StoreError
from tests.fixtures.settled import settled

TOLD = Event(kind="told")


class Desk:
    """A desk whose neighbours write down what they are told. `stored` answers look-ups."""

    def __init__(self) -> None:
        self.taught: list[Feedback] = []
        self.kept: list[tuple[Feedback, float]] = []
        self.events: list[Event] = []
        self.teach: Callable[[Feedback], object] = lambda _: None
        self.stored: dict[str, list[Known]] = {}
        self.broken = False
        self.desk = FeedbackDesk(self._teach, self._keep, self._look_up, self._spawn, self.events.extend)
        self._waiting: list[Coroutine[object, object, None]] = []

    def _teach(self, feedback: Feedback, _now: float) -> Sequence[Event]:
        self.taught.append(feedback)
        self.teach(feedback)
        return [TOLD]

    def _keep(self, feedback: Feedback, at: float) -> None:
        self.kept.append((feedback, at))

    async def _look_up(self, key: str, tenant: str) -> list[Known]:
        if self.broken:
            raise StoreError("the database is locked")
        return [known for known in self.stored.get(key, []) if tenant in ("", known.kind.tenant)]

    def _spawn(self, make: object) -> None:
        self._waiting.append(make())  # type: ignore[operator] # the desk gives a function without arguments

    def send(self, body: bytes | dict[str, object]) -> tuple[int, dict[str, object]]:
        """The one answer to this body."""
        answers: list[tuple[int, bytes]] = []
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.desk.handle(text, lambda status, answer: answers.append((status, answer)))
        self.settle()
        ((status, answer),) = answers
        return status, json.loads(answer)

    def settle(self) -> None:
        """Ends what the desk has begun."""
        while self._waiting:
            asyncio.run(_wait(self._waiting.pop()))


async def _wait(coroutine: Coroutine[object, object, None]) -> None:
    await coroutine


@pytest.fixture
def desk() -> Desk:
    return Desk()


def recent(number: int = 1, **changes: object) -> Known:
    known = known_of(settled(number, at=wall()))
    return replace(known, **changes)


def test_a_database_that_cannot_be_read_is_not_taken_for_one_without_the_decision(desk: Desk) -> None:
    """GW-37: 503, so that the score comes again."""
    desk.stored["d"] = [recent()]
    desk.broken = True
    status, _ = desk.send({"id": "d", "score": 1})
    desk.broken = False
    assert (status, desk.send({"id": "d", "score": 1})[0], len(desk.kept)) == (503, 202, 1)


def test_a_remembered_decision(desk: Desk) -> None:
    """By id: 202, the engine is taught with all that joins, the store keeps it, events go on."""
    one = settled(1, at=wall())
    desk.desk.remember([one])
    status, answer = desk.send({"id": one.id, "score": 0.75, "source": "task", "label": "good"})
    assert (status, answer) == (202, {"id": one.id, "accepted": True})
    (taught,) = desk.taught
    assert (taught.route, taught.arm, taught.score, taught.source, taught.label) == (
        "support",
        "mini",
        0.75,
        "task",
        "good",
    )
    assert (taught.context_key, taught.previous) == (0, None), "its unit was the request"
    assert (taught.weight, desk.kept[0][0]) == (1.0, taught)
    assert desk.events == [TOLD]
    assert (desk.desk.accepted, desk.desk.refused) == (1, 0)


def test_a_forgotten_key_is_remembered_no_more(desk: Desk) -> None:
    """Its decisions are looked for in the database, and a score teaches as if it were the first; others stay."""
    one, other = settled(1, at=wall(), key=1), settled(2, at=wall(), key=2)
    desk.desk.remember([one, other])
    desk.send({"id": one.id, "score": 1})
    desk.desk.forget(1)
    assert desk.send({"id": one.id, "score": 0})[0] == desk.send({"completion_id": "chatcmpl-1", "score": 0})[0] == 404
    assert desk.send({"id": other.id, "score": 1})[0] == 202
    desk.stored = {one.id: [known_of(one)]}
    assert desk.send({"id": one.id, "score": 0})[0] == 202
    assert [taught.previous for taught in desk.taught] == [None, None, None]


def test_by_completion_id(desk: Desk) -> None:
    """The provider's completion id names the decision as long as one decision only has it."""
    desk.desk.remember([settled(1, at=wall()), settled(2, at=wall(), completion_id="chatcmpl-1")])
    assert desk.send({"completion_id": "chatcmpl-1", "score": 1})[0] == 409
    desk.desk.remember([settled(3, at=wall())])
    assert desk.send({"completion_id": "chatcmpl-3", "score": 1})[0] == 202
    assert len(desk.taught) == 1


def test_the_last_write_per_source_wins(desk: Desk) -> None:
    """All sources of one decision teach one label; whatever is said later takes back what was taught before."""
    one = settled(1, at=wall())
    desk.desk.remember([one])
    for score, source in ((0.2, "user"), (0.9, "user"), (0.5, "task")):
        desk.send({"id": one.id, "score": score, "source": source})
    assert [(taught.score, taught.previous) for taught in desk.taught] == [(0.2, None), (0.9, 0.2), (0.7, 0.9)]
    assert [kept.score for kept, _ in desk.kept] == [0.2, 0.9, 0.5], "each source's own score is kept"


def test_values_are_scored_on_their_sources_scale(desk: Desk) -> None:
    """A number on the scale, true or false, or an end of it in words."""
    one = settled(1, at=wall())
    desk.desk.remember([one])
    for source, value, score in (
        ("stars", 4, 0.75),
        ("thumbs", "up", 1.0),
        ("thumbs", "down", 0.0),
        ("retry", True, 0.0),
        ("retry", "up", 1.0),
        ("task_completion", True, 1.0),
        ("edit_distance", 0.25, 0.75),
        ("something", 0.5, 0.5),
    ):
        assert desk.send({"id": one.id, "source": source, "value": value})[0] == 202
        assert desk.kept[-1][0].score == score


@pytest.mark.parametrize(("source", "value"), [("stars", 0), ("stars", 6), ("stars", "good"), ("something", 2)])
def test_values_outside_of_the_scale_are_422(desk: Desk, source: str, value: object) -> None:
    """And the answer says what the scale is."""
    one = settled(1, at=wall())
    desk.desk.remember([one])
    status, answer = desk.send({"id": one.id, "source": source, "value": value})
    assert status == 422
    assert ("1..5" if source == "stars" else "0..1") in str(answer)
    assert (desk.taught, desk.kept) == ([], [])


def test_a_routes_own_sources(desk: Desk) -> None:
    """Scale, weight and largest share are the policy's, by route; a source without weight is kept and does not teach."""
    one = settled(1, at=wall())
    desk.desk.remember([one])
    own = {"nps": Source(0.0, 10.0, weight=0.5), "noise": Source(weight=0.0), "other": Source(0.0, 2.0, weight=0.25)}
    desk.desk.sources = {one.decision.route: own}
    assert desk.send({"id": one.id, "source": "noise", "value": 1})[0] == 202
    assert (desk.taught, len(desk.kept)) == ([], 1)
    assert desk.send({"id": one.id, "source": "nps", "value": 9})[0] == 202
    assert desk.send({"id": one.id, "source": "new", "value": 1})[0] == 202
    first, second = desk.taught
    assert (first.score, first.weight, first.previous) == (0.9, 0.5, None)
    assert (second.score, second.weight) == (pytest.approx(0.9 * 2 / 3 + 0.5 / 3), 0.75)
    assert (second.previous, second.previous_weight) == (0.9, 0.5)


def test_a_decision_takes_sixteen_sources(desk: Desk) -> None:
    """More are 422; those that it has may speak again."""
    one = settled(1, at=wall())
    desk.desk.remember([one])
    answers = [desk.send({"id": one.id, "source": f"s{number}", "score": 1})[0] for number in range(17)]
    assert answers == [202] * 16 + [422]
    assert desk.send({"id": one.id, "source": "s3", "score": 0})[0] == 202


def test_task_and_text_of_the_decision_come_back_with_its_scores(desk: Desk) -> None:
    """Late feedback teaches what was known of the request; nothing of the text is kept with the score."""
    text = np.ones(4, dtype=np.float32)
    one = settled(1, at=wall())
    one = replace(one, facts=replace(one.facts, task="sums", text=text))
    desk.desk.remember([one])
    desk.send({"id": one.id, "score": 1})
    assert desk.taught[0].task == "sums"
    assert desk.taught[0].text is text
    assert desk.kept[0][0].text is None


def test_scores_of_a_forgotten_decision_are_taken_back(desk: Desk) -> None:
    """After a restart the database says what it had been given: that label is what the new one replaces."""
    desk.stored = {"old": [recent(id="old", given=(("user", 0.5), ("stars", 1.0)))]}
    assert desk.send({"id": "old", "source": "stars", "value": 1})[0] == 202
    assert (desk.taught[0].score, desk.taught[0].previous) == (0.25, 0.75)


def test_signals_of_our_own(desk: Desk) -> None:
    """They need no rate and no form, count for remembered decisions, and weigh little."""
    one = settled(1, at=wall())
    desk.desk.remember([one])
    assert desk.desk.signal(one.id, "repeat", 0.0)
    assert not desk.desk.signal("unknown", "repeat", 0.0)
    assert [(taught.score, taught.weight, taught.source) for taught in desk.taught] == [(0.0, 0.1, "repeat")]


@pytest.mark.parametrize("in_turn", [True, False])
def test_a_weak_signal_that_was_not_learnt_is_not_taken_out(desk: Desk, in_turn: bool) -> None:
    """Before a route's first label it teaches nothing. 300 streams are read to their end, and a person calls them bad, each
    at once or all of them later: what is learnt is the same."""
    selector = Selector(["gpt-4o", "mini"], Objective())
    desk.teach = selector.label
    desk.desk.labelled = lambda _: selector.labelled
    batch = [settled(number, at=wall()) for number in range(300)]
    desk.desk.remember(batch)
    for one in batch:
        desk.desk.signal(one.id, "abandoned", 1.0)
        if in_turn:
            desk.send({"id": one.id, "score": 0})
    for one in () if in_turn else batch:
        desk.send({"id": one.id, "score": 0})
    assert (selector.promise.scores, selector.promise.total) == (pytest.approx(300.0), pytest.approx(300.0 / 11))


def test_without_feedback_a_judge_teaches_what_it_said(desk: Desk) -> None:
    """What people said is kept and teaches nothing: it has no part in the label of the judge, which is the first of its
    answer and takes no other one out."""
    one = settled(1, at=wall())
    desk.desk.remember([one])
    desk.desk.sources = {one.decision.route: Quality(feedback=False).teaching}
    for source, score in (("user", 1), ("invented", 1)):
        assert desk.send({"id": one.id, "score": score, "source": source})[0] == 202
    assert (desk.taught, len(desk.kept)) == ([], 2)
    assert desk.desk.signal(one.id, "judge", 0.25)
    (taught,) = desk.taught
    assert (taught.score, taught.previous, taught.is_label) == (0.25, None, True)
    assert Quality().teaching == SOURCES


def test_a_late_grade_of_a_judge_is_looked_up(desk: Desk) -> None:
    """Thousands of decisions may come between an answer and its grade. What is found nowhere is counted; so are signals,
    which come soon and often, and for which no database is asked."""
    desk.stored = {"old": [recent(id="old")]}
    assert not desk.desk.signal("old", "judge", 0.7)
    desk.settle()
    assert [(taught.decision_id, taught.score, taught.source) for taught in desk.taught] == [("old", 0.7, "judge")]
    assert (desk.kept[0][0].score, desk.desk.lost) == (0.7, 0)
    for source, decision in (("judge", "none"), ("repeat", "old")):
        desk.desk.signal(decision, source, 0.7)
        desk.settle()
    desk.broken = True
    desk.desk.signal("old", "judge", 0.7)
    desk.settle()
    assert (len(desk.taught), desk.desk.lost) == (1, 3)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        {"id": "a"},
        {"id": "a", "score": "1"},
        {"id": "a", "score": 1.01},
        {"id": "a", "score": -0.01},
        b'{"id": "a", "score": NaN}',
        {"id": "a", "score": 1, "more": 1},
        {"score": 1},
        {"id": "a", "completion_id": "b", "score": 1},
        {"id": "", "score": 1},
        {"id": "a" * 129, "score": 1},
        {"id": "a", "score": 1, "source": ""},
        {"id": "a", "score": 1, "source": "s" * 129},
        {"id": "a", "score": 1, "label": "l" * 129},
        {"id": "a", "score": 1, "value": 1},
        {"id": "a", "score": 1, "source": "judge"},
        {"id": "a", "score": 1, "source": "repeat"},
        {"id": "a", "value": [1]},
        b'{"id": "\xff", "score": 1}',
        b'{"id": "a", "value": 1e999}',
    ],
)
def test_what_is_wrong_is_422(desk: Desk, body: bytes | dict[str, object]) -> None:
    """Shape, range, both ids or none, sizes: refused, and nobody is told."""
    status, answer = desk.send(body)
    assert status == 422
    assert answer["error"]
    assert (desk.taught, desk.kept, desk.desk.refused) == ([], [], 1)


def test_the_ends_of_the_range(desk: Desk) -> None:
    """0 and 1 belong to it, and 128 characters are allowed."""
    one = settled(1, at=wall())
    desk.desk.remember([one])
    for score in (0, 1):
        assert desk.send({"id": one.id, "score": score, "source": "s" * 128, "label": "l" * 128})[0] == 202


def test_older_decisions_are_looked_up(desk: Desk) -> None:
    """Not in memory: the database answers; none is 404, several are 409."""
    desk.stored = {"old": [recent(id="old")], "twice": [recent(1), recent(2)]}
    assert desk.send({"id": "old", "score": 1})[0] == 202
    assert desk.send({"completion_id": "twice", "score": 1})[0] == 409
    assert desk.send({"id": "none", "score": 1})[0] == 404
    assert [taught.decision_id for taught in desk.taught] == ["old"]


def test_seven_days_and_no_more(desk: Desk) -> None:
    """An older decision is 404."""
    desk.stored = {
        "young": [recent(id="young", at=wall() - MAX_AGE_S + 60)],
        "old": [recent(id="old", at=wall() - MAX_AGE_S - 60)],
    }
    assert desk.send({"id": "young", "score": 1})[0] == 202
    assert desk.send({"id": "old", "score": 1})[0] == 404


def test_what_is_no_arm_is_kept_and_does_not_teach(desk: Desk) -> None:
    """Feedback on a passed-through call is stored for people."""
    desk.stored = {"plain": [recent(id="plain", kind=Kind("support"))]}
    assert desk.send({"id": "plain", "score": 1})[0] == 202
    assert (desk.taught, len(desk.kept)) == ([], 1)


def test_a_flood_of_one_source_is_429(desk: Desk) -> None:
    """2,000 at once and 1,000 a second after that, per source; another source is not hurt."""
    one = settled(1, at=wall())
    desk.desk.remember([one])
    body = {"id": one.id, "score": 1, "source": "flood"}
    answers = [desk.send(body)[0] for _ in range(5000)]
    assert answers[:2000] == [202] * 2000
    assert 429 in answers
    assert desk.send(body | {"source": "calm"})[0] == 202


def test_invented_sources_share_one_budget(desk: Desk) -> None:
    """64 sources are told apart; the rest is one, so inventing names gains nothing."""
    many = [settled(number, at=wall()) for number in range(400)]
    desk.desk.remember(many)
    bodies = [{"id": many[number // 16].id, "score": 1, "source": f"s{number}"} for number in range(5000)]
    answers = [desk.send(body)[0] for body in bodies]
    assert answers[:64] == [202] * 64
    assert 429 in answers


def test_memory_is_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest decisions and scores are forgotten first, with their completion ids."""
    monkeypatch.setattr(desk_module, "_REMEMBERED", 4)
    batch = [settled(number, at=wall(), completion_id=f"c-{number}") for number in range(5)]
    for at in (slice(0, 1), slice(1, 3), slice(3, 5)):
        desk.desk.remember(batch[at])
    assert desk.send({"id": batch[0].id, "score": 1})[0] == 404
    assert desk.send({"completion_id": "c-0", "score": 1})[0] == 404
    for number in (1, 2, 3, 4):
        assert desk.send({"completion_id": f"c-{number}", "score": 1})[0] == 202
    last = settled(6, at=wall(), completion_id="c-4")
    desk.desk.remember([last])
    assert desk.send({"completion_id": "c-4", "score": 1})[0] == 409, "one of the two is in the older half"
    desk.stored = {name: [recent(id=name)] for name in ("x", "y")}
    desk.stored[batch[4].id] = [recent(id=batch[4].id, given=(("user", 0.5),))]
    for id_, previous in ((batch[3].id, 1.0), (last.id, None), ("x", None), ("y", None), (batch[4].id, 0.5)):
        assert desk.send({"id": id_, "score": 1})[0] == 202
        assert desk.taught[-1].previous == previous, "of many labels the oldest is forgotten, and asked of the database"


def test_what_decisions_have_in_common_is_kept_once() -> None:
    """Of thousands of remembered decisions; another task, or another step of a rollout, is another kind."""
    one, two = settled(1), settled(2)
    assert known_of(one).kind is known_of(two).kind
    other = replace(two, facts=replace(two.facts, task="sql"))
    assert (known_of(other).kind.task, known_of(one).kind.task) == ("sql", "")


def test_a_fallback_teaches_the_arm_that_served() -> None:
    """What answered is what is scored."""
    one = settled(1)
    assert known_of(one).kind.arm == "mini"
    assert known_of(replace(one, outcome=replace(one.outcome, served_arm="gpt-4o"))).kind.arm == "gpt-4o"
