"""The bench of translation measures whole streams through the real replies, and requests of the size it says."""

import pytest

from bench import translation
from sidecar.wire.neutral import Format


@pytest.mark.parametrize("form", translation.FORMATS)
def test_a_stream_has_all_its_chunks(form: Format) -> None:
    """What surrounds the deltas is at most a dozen events."""
    assert translation.CHUNKS <= translation.words(form) <= translation.CHUNKS + 12


@pytest.mark.parametrize(("client", "arm"), [("chat", "messages"), ("generate", "responses")])
def test_what_is_measured_is_translated(client: Format, arm: Format) -> None:
    """The reply tells the client every word, in its own format."""
    told = translation.translated(client, arm, translation.stream(arm))()
    assert isinstance(told, bytes)
    assert told.count(b" word7") == sum(
        f"word{number % 97}".startswith("word7") for number in range(translation.CHUNKS)
    )
    assert told != translation.untranslated(arm, translation.stream(arm))()


@pytest.mark.parametrize("rounds", [translation.LONG, translation.SHORT])
def test_requests_have_their_size(rounds: int) -> None:
    """Within 5 %."""
    assert abs(len(translation.body("chat", rounds)) - translation.REQUEST_BYTES) < translation.REQUEST_BYTES / 20


def test_one_round_gives_a_table() -> None:
    """One line for each pair."""
    figures = translation.measure(1)
    assert translation.table(figures).count("\n") == len(translation.PAIRS) + 1
