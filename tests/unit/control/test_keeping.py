"""Snapshots: a few times a second while there is traffic, once more after it, and at once where it is asked for."""

from collections.abc import Callable

import numpy as np
import pytest

from sidecar.clock import steady
from sidecar.config.settings import Settings
from sidecar.control.archive import Archive
from sidecar.control.keeping import BINDINGS_EVERY_S, SNAPSHOT_EVERY_S, Keeping
from sidecar.core.engine import Engine
from sidecar.core.policy import NO_POLICY, Policy
from tests.unit.core.engines import policy

Made = Callable[[Policy], tuple[Keeping, list[bool]]]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock: what it says is its one item."""
    at = [100.0]
    monkeypatch.setattr("sidecar.control.keeping.monotonic", lambda: at[0])
    return at


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """What keeps, and whether each snapshot that was taken had the bindings."""

    def make(of: Policy) -> tuple[Keeping, list[bool]]:
        engine, taken = Engine(of, np.random.default_rng(1), steady()), list[bool]()

        def snapshot(*, bindings: bool = True) -> bytes:
            taken.append(bindings)
            return b"{}"

        monkeypatch.setattr(engine, "snapshot", snapshot)
        return Keeping(engine, Archive(Settings.load({}, None, ["service=bot"]))), taken

    return make


def test_rows_that_come_close_together_share_a_snapshot(made: Made, now: list[float]) -> None:
    """What is still owed is kept by the next tick, and then nothing is owed."""
    keeping, taken = made(policy())
    for _ in range(3):
        keeping.keep(())
    assert len(taken) == 1
    keeping.pay()
    assert len(taken) == 1, "it is too soon, and stays owed"
    now[0] += SNAPSHOT_EVERY_S
    keeping.pay()
    keeping.pay()
    assert len(taken) == 2


def test_a_score_has_no_row_and_is_kept(made: Made, now: list[float]) -> None:
    keeping, taken = made(policy())
    keeping.pay()
    assert taken == []
    keeping.owe()
    keeping.pay()
    assert len(taken) == 1
    assert now


def test_bindings_are_kept_less_often(made: Made, now: list[float]) -> None:
    keeping, taken = made(policy())
    steps = round(BINDINGS_EVERY_S / SNAPSHOT_EVERY_S)
    for _ in range(2 * steps):
        keeping.keep(())
        now[0] += SNAPSHOT_EVERY_S * 1.001
    assert taken.count(True) == 2
    assert len(taken) == 2 * steps


def test_without_routes_only_all_is_kept(made: Made, now: list[float]) -> None:
    """There is nothing to learn; what budgets have spent is kept at the end."""
    keeping, taken = made(NO_POLICY)
    keeping.keep(())
    keeping.owe()
    keeping.pay()
    assert taken == []
    keeping.keep_all()
    assert taken == [True]
    assert now
