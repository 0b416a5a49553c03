"""What spokes share: names that are never given twice."""

from sidecar.wire.spoke import Distinct


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
