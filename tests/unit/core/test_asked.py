"""The ring of the requests of late."""

import numpy as np

from sidecar.core.asked import RECENT, Asked
from sidecar.core.features import FEATURES
from sidecar.core.types import Facts


def facts(task: str, stream: bool = False, text: float | None = None) -> Facts:
    made = None if text is None else np.full(FEATURES, text, dtype=np.float32)
    return Facts(
        endpoint="chat", dialect="openai", path="/", model="m", stream=stream, key=0, task=task, text=made
    )  # fmt: skip


def test_it_remembers_the_last_ones() -> None:
    one = Asked()
    assert not one
    for number in range(RECENT + 3):
        one.remember(facts(str(number)))
    assert len(one) == RECENT
    assert {task for task, _ in one.kinds} == {str(number) for number in range(3, RECENT + 3)}


def test_a_place_without_a_text_holds_none_of_an_earlier_one() -> None:
    one = Asked()
    one.remember(facts("a", text=0.5))
    for _ in range(RECENT):
        one.remember(facts("b"))
    assert one.texts.shape == (RECENT, FEATURES)
    assert not one.texts.any()
    one.remember(facts("c", text=0.25))
    assert one.texts.sum() == 0.25 * FEATURES


def test_tasks_and_kinds() -> None:
    one = Asked()
    for task, stream in (("a", True), ("b", True), ("a", True), ("c", False)):
        one.remember(facts(task, stream))
    assert one.by_task() == (["a", "b", "c"], [0, 1, 0, 2])
    assert one.mostly_streams()
    assert one.usual(True, 1) == ["a"]
    assert one.usual(True, 9) == ["a", "b"]
    assert one.usual(False, 9) == ["c"]
