"""The golden conversations, translated: what each arm is asked and each client is told, for each pair of dialects.

What stands in tests/golden/expected was read by a person. `python -m tests.golden` writes it again after a change of the
translation; the difference is to be read before it is committed.
"""

from collections.abc import Callable
from typing import Any

import pytest

from sidecar.wire.sse import SseParser
from tests.fixtures import grammar_chat, grammar_generate, grammar_messages, grammar_responses
from tests.golden import form
from tests.golden.conversations import conversation, framed, unframed
from tests.golden.crossing import EXPECTED, crossing, file_of, sections
from tests.golden.declared import ASKED
from tests.golden.differences import Case, Difference, held
from tests.golden.differing import differing
from tests.golden.names import PAIRS, SCENARIOS, Format

GRAMMARS: dict[str, Callable[..., None]] = {
    "chat": grammar_chat.check,
    "responses": grammar_responses.check,
    "messages": grammar_messages.check,
    "generate": grammar_generate.check,
}
pairs = pytest.mark.parametrize(("client", "arm"), PAIRS, ids=["-".join(pair) for pair in PAIRS])


@pairs
def test_the_translation_is_as_it_was_read(client: Format, arm: Format) -> None:
    """Calls and answers, whole and streamed, refusals and what is told of changes: to the byte."""
    for scenario in SCENARIOS:
        written = file_of(client, arm, scenario).read_text(encoding="utf-8")
        assert written == form.written(sections(client, arm, scenario)), "see `python -m tests.golden`"


def test_nothing_else_is_expected() -> None:
    """A file of a pair or a scenario that is gone would be believed for ever."""
    assert set(EXPECTED.glob("*/*")) == {file_of(*pair, scenario) for pair in PAIRS for scenario in SCENARIOS}


@pairs
def test_the_arm_is_asked_as_its_own_clients_ask(client: Format, arm: Format) -> None:
    """The call is the one that the arm's own SDK sends for the same conversation, but for what is listed with a reason."""
    found: dict[Case, dict[str, str]] = {}
    for scenario in SCENARIOS:
        own = conversation(scenario, arm)
        whole, streamed = crossing(client, arm, scenario, False), crossing(client, arm, scenario, True)
        found[scenario, "whole"] = differing(whole.body, own.request)
        found[scenario, "streamed"] = differing(streamed.body, own.streamed_request)
        if (client, arm) != ("responses", "chat"):  # served by a server with a path of its own
            assert (whole.path, streamed.path) == (own.path, own.streamed_path)
    assert held(ASKED, client, arm, found) == []


@pairs
def test_the_streams_are_grammatical(client: Format, arm: Format) -> None:
    """Start and stop, index order, the end: the client's dialect."""
    for scenario in SCENARIOS:
        told = crossing(client, arm, scenario, True).told
        events = SseParser().feed(told)
        assert events
        GRAMMARS[client](events)


def test_what_is_listed_has_to_occur() -> None:
    """The list of differences is held in both directions."""
    one = Difference("a.*.b", "why", clients=("chat",), arms=("cohere",), scenarios=("text",))
    found: dict[Case, dict[str, str]] = {("text", "whole"): {"a[0].b": "1 instead of 2"}}
    assert held([one], "chat", "cohere", found) == []
    assert held([one], "chat", "converse", found) == ["text, whole: a.0.b is 1 instead of 2"]
    assert held([one], "chat", "cohere", {("tool", "whole"): found["text", "whole"]}) == [
        "tool, whole: a.0.b is 1 instead of 2",
        "listed, and not there any more: a.*.b in text",
    ]


@pytest.mark.parametrize(
    ("got", "own", "told"),
    [
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1, "b": None}, {"a": 2}, {"a": "1 instead of 2", "b": "None instead of nothing"}),
        ([{"a": 1}], [{"a": 1.0}], {"[0].a": "1 instead of 1.0"}),
        ([1], [1, 2], {"": "[1] instead of [1, 2]"}),
    ],
)
def test_differing(got: Any, own: Any, told: dict[str, str]) -> None:
    """Each place where two values differ is named once; 1 and 1.0 are not the same number."""
    assert differing(got, own) == told


def test_a_binary_stream_can_be_read() -> None:
    """Bedrock's frames stand as lines of text in the recordings."""
    lines = 'messageStart {"role":"assistant"}\n!throttlingException {"message":"busy"}'
    assert unframed(framed(lines)) == lines
