"""What spokes share: names that are never given twice, answers that nothing refers to when they are over."""

import gc
from typing import Final

import pytest

from sidecar.wire.neutral import Close, Delta, Done, Event, Format, Open, Report, Request, Start, Stopped, Text
from sidecar.wire.spoke import Distinct
from sidecar.wire.spokes import SPOKES
from sidecar.wire.translate import StreamedAnswer

EVENTS: Final[tuple[Event, ...]] = (
    Start(id="a", model="m", format="chat"),
    Open(choice=0, index=0, part=Text(text="")),
    Delta(choice=0, index=0, text="hello"),
    Close(choice=0, index=0),
    Stopped(choice=0, stop="stop"),
    Done(),
)
CLIENTS: Final = [form for form, spoke in SPOKES.items() if spoke.stream_writer is not None]


def test_names_are_never_given_twice() -> None:
    """A number stands behind one that is taken; what is too long is cut, with room for the number."""
    names = Distinct("_", 6)
    said = ["call", "call", "call_3", "call", "call", "longest-1", "longest-2", ""]
    assert [names.make(one) for one in said] == [
        "call", "call_2", "call_3", "call_4", "call_5", "longes", "long_2", "",
    ]  # fmt: skip


def test_however_many_are_alike() -> None:
    """50,000 of them: were each compared with all the others, this test would take an hour."""
    names = Distinct("_", 64)
    assert len({names.make("x" * 80) for _ in range(50_000)}) == 50_000


def stream_of(form: Format) -> bytes:
    """A short answer as an arm of this format says it; where only upstreams speak it, nothing."""
    make = SPOKES[form].stream_writer
    if make is None:
        return b""
    writer = make(Request(format=form, model="m", messages=[], stream=True), Report())
    return b"".join([writer.feed(event) for event in EVENTS])


def tell(arm: Format, form: Format, said: bytes) -> bool:
    """Whether a client of a format was told the whole answer."""
    answer = StreamedAnswer(Request(format=form, model="m", messages=[], stream=True), arm, Report())
    answer.feed(said)
    if said and not answer.done:  # Gemini's has no event of its own behind the last one
        answer.end()
    return answer.done


@pytest.mark.parametrize("arm", SPOKES)
def test_an_answer_is_freed_without_a_collection(arm: Format) -> None:
    """What refers to itself waits for the collector, which runs rarely: a soak saw it as 120 bytes more each call."""
    said = stream_of(arm)
    gc.collect()
    gc.disable()
    try:
        assert [tell(arm, form, said) for form in CLIENTS] == [bool(said)] * len(CLIENTS)
        assert gc.collect() == 0
    finally:
        gc.enable()
