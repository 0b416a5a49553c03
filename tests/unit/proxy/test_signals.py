"""A prompt that comes again and a stream that is left are told once, and only where they are an opinion."""

from typing import Any

import pytest
from msgspec.structs import replace

from sidecar.control.feedback import FeedbackDesk, Known
from sidecar.core.policy import Arm, Implicit, Match, Policy, Quality, Route
from sidecar.core.types import Clocks
from sidecar.proxy.signals import MAX_BODY_BYTES, Heard, Signal, Signals, retries_of
from tests.fixtures.settled import settled

ARM = Arm("mini", "openai", "m")


def listening() -> Signals:
    made = Signals()
    made.apply(Policy(routes=(Route("support", Match(), "optimize", ARM, quality=Quality(implicit=Implicit(30.0))),)))
    return made


def heard(name: str, *, body: bytes = b"{}", retries: int = 0, took_s: float = 0.5, **changes: Any) -> Heard:
    """A whole answer under sticky key 7."""
    one = settled(1)
    outcome = {"kind": "completed", "clocks": Clocks(duration_s=took_s), "stream": False} | changes.pop("outcome", {})
    facts = {"stream": False} | changes.pop("facts", {})
    decision = replace(one.decision, **changes)
    return Heard(name, replace(one.facts, **facts), decision, replace(one.outcome, **outcome), body, retries)


def told(made: Signals, now: float) -> list[tuple[str, str, float]]:
    return [(one.decision_id, one.source, one.score) for one in made.due(now)]


async def _nobody(_key: str, _tenant: str) -> list[Known]:
    return []


def test_a_repeat_speaks_against_the_first_answer() -> None:
    """The same body and key 5 s later: 0 for the first; when nothing follows, 1 for the second."""
    made = listening()
    assert made.active
    made.over(heard("a"), 100.0)
    made.over(heard("b"), 105.5)
    assert told(made, 106.0) == [], "the decision may not be known yet where scores are taken"
    assert told(made, 107.0) == [("a", "repeat", 0.0)]
    assert told(made, 135.0) == []
    assert told(made, 136.0) == [("b", "repeat", 1.0)]
    assert told(made, 500.0) == []


def test_an_answer_that_nobody_repeats_was_fine() -> None:
    """After `repeat_within`, whether somebody looks at the time or the prompt comes again later."""
    made = listening()
    made.over(heard("a"), 100.0)
    made.over(heard("b"), 140.0)
    assert told(made, 142.0) == [("a", "repeat", 1.0)]


@pytest.mark.parametrize(
    "again",
    [
        heard("b", body=b"{ }"),
        heard("b", facts={"key": 8}),
        heard("b", facts={"key": 0}),
        heard("b", retries=1),
        heard("b", route="plain"),
        heard("b", arm=None),
        heard("b", body=b" " * (MAX_BODY_BYTES + 1)),
        heard("b", body=b""),
        heard("b", took_s=4.9),
        heard("b", outcome={"kind": "failed"}),
    ],
)
def test_what_is_no_repeat(again: Heard) -> None:
    """Another prompt, another user, none, an SDK's retry, another route, no arm, too large, no body, began at once,
    failed itself."""
    made = listening()
    made.over(heard("a"), 100.0)
    made.over(again, 105.0)
    assert ("a", "repeat", 0.0) not in told(made, 500.0)


def test_a_failed_call_is_not_repeated_but_tried_again() -> None:
    """Neither the failure nor the answer before it is spoken against."""
    made = listening()
    made.over(heard("a"), 100.0)
    made.over(heard("b", outcome={"kind": "failed"}), 105.0)
    made.over(heard("c"), 110.0)
    assert told(made, 500.0) == [("c", "repeat", 1.0)]


def test_a_loop_is_no_opinion() -> None:
    """Only the first repeat counts: who sends the same prompt again and again is a program."""
    made = listening()
    for number in range(6):
        made.over(heard(f"n{number}"), 100.0 + 5 * number)
    assert told(made, 500.0) == [("n0", "repeat", 0.0), ("n5", "repeat", 1.0)]


def test_a_stream_that_is_left() -> None:
    """After its first token: 0; read to the end: 1; left before anything came, or no stream: nothing."""
    made = listening()
    streamed: dict[str, Any] = {"facts": {"stream": True, "key": 0}}
    first = Clocks(ttft_s=0.2, duration_s=0.5)
    made.over(heard("a", outcome={"kind": "aborted", "clocks": first}, **streamed), 100.0)
    made.over(heard("b", outcome={"clocks": first}, **streamed), 100.0)
    made.over(heard("c", outcome={"kind": "aborted"}, **streamed), 100.0)
    made.over(heard("d", outcome={"kind": "failed", "clocks": first}, **streamed), 100.0)
    made.over(heard("e", outcome={"kind": "aborted", "clocks": first}, facts={"key": 0}), 100.0)
    assert told(made, 101.0) == [("a", "abandoned", 0.0), ("b", "abandoned", 1.0)]


def test_an_aborted_answer_waits_for_no_repeat() -> None:
    """It was left already: whether the prompt comes again says nothing new."""
    made = listening()
    made.over(heard("a", outcome={"kind": "aborted"}), 100.0)
    made.over(heard("b"), 105.0)
    assert told(made, 500.0) == [("b", "repeat", 1.0)]


def test_retries_are_read_from_the_head() -> None:
    """As OpenAI's and Anthropic's SDKs write it; what cannot be read is none."""
    assert retries_of(b"POST / HTTP/1.1\r\nX-Stainless-Retry-Count: 2\r\n\r\n") == 2
    assert retries_of(b"POST / HTTP/1.1\r\nx-stainless-retry-count:0\r\nx: 1\r\n\r\n") == 0
    assert retries_of(b"POST / HTTP/1.1\r\nx-stainless-retry-count: many\r\n\r\n") == 0


def test_memory_is_bounded() -> None:
    """An answer is watched for so many calls; one that nobody has repeated by then was fine, like any other."""
    made = listening()
    made.watched = 2
    for number in range(4):
        made.over(heard(f"n{number}", facts={"key": number + 1}), 100.0)
    assert told(made, 100.0) == [("n0", "repeat", 1.0), ("n1", "repeat", 1.0)]
    made.over(heard("other", route="plain"), 100.5)
    assert told(made, 100.5) == [("n2", "repeat", 1.0)], "calls of other routes count among those of the desk"
    assert told(made, 500.0) == [("n3", "repeat", 1.0)]


def test_of_a_busy_service_good_ends_are_known_as_well_as_bad_ones() -> None:
    """300 calls a second, a tenth of them repeats: every score finds its decision where it is taken."""
    made, scores, each = listening(), list[float](), 300
    desk = FeedbackDesk(lambda *_: [], lambda one, _: scores.append(one.score), _nobody, lambda _: None, lambda _: None)
    for second in range(40):
        for at in range(each):
            number = second * each + at
            again = number % 10 == 0 and second > 1
            key = number - 2 * each + 1 if again else number
            made.over(heard(str(number), facts={"key": key + 1}, took_s=0.1), second + at / each)
            desk.remember([replace(settled(1), id=str(number))])
        for one in made.due(second + 1.0):
            assert desk.signal(one.decision_id, one.source, one.score)
    assert scores.count(0.0) > 1_000
    assert scores.count(1.0) > 8_000


def test_a_policy_without_it_listens_to_nothing() -> None:
    """Off by default."""
    made = Signals()
    made.apply(Policy(routes=(Route("support", Match(), "optimize", ARM),)))
    assert not made.active
    made.over(heard("a"), 100.0)
    assert made.due(500.0) == []
    assert Signal("a", "repeat", 1.0).score == 1.0
