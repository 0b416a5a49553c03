"""The demo's table: figures joined from rows and status, and how they look."""

from pathlib import Path
from typing import Any

import pytest

from sidecar.demo.board import Screen, View, id_at, read, table, view_of
from sidecar.demo.traffic import said

GUARD = {"metric": "error_rate", "e_value": 2.5, "needed": 300.0, "canary_n": 3}
ROLLOUT = {"arm": "mini", "phase": "running", "step": 5, "blocked_by": ("3 of 30 units",), "guards": [GUARD]}
STATUS = {
    "arms": [
        {"id": "gpt-4o", "role": "baseline", "label_mean": 0.97},
        {"id": "mini", "role": "canary", "label_mean": None},
    ],
    "rollouts": [ROLLOUT],
}
TOTALS = [
    {"arm": "gpt-4o", "requests": 3, "errors": 0, "priced": 3, "nusd": 3_000_000},
    {"arm": "mini", "requests": 1, "errors": 1, "priced": 1, "nusd": 80_000},
]
RECENT: list[dict[str, Any]] = [
    {"arm": "gpt-4o", "ttft_s": 0.2},
    {"arm": "gpt-4o", "ttft_s": None},
    {"arm": "gpt-4o", "ttft_s": 0.1},
    {"arm": "mini", "ttft_s": None},
]


def test_money_shares_and_times_are_joined() -> None:
    """What the baseline alone would have cost is its own mean cost times all priced requests."""
    view = view_of(STATUS, TOTALS, RECENT, ())
    assert view.requests == 4
    assert view.spent_usd == pytest.approx(0.00308)
    assert view.baseline_usd == pytest.approx(0.004)
    assert view.saved() == pytest.approx(0.23)
    assert view.arms["gpt-4o"].share == 0.75
    assert (view.arms["gpt-4o"].ttft_p50_s, view.arms["gpt-4o"].ttft_p95_s) == (0.2, 0.2)
    assert (view.arms["mini"].errors, view.arms["mini"].ttft_p50_s) == (1, None)


def test_nothing_yet_is_shown_as_nothing() -> None:
    """Before the first row there is no saving, and no division by zero."""
    view = view_of({}, (), (), ())
    assert view.saved() is None
    assert table(view)[0].startswith("arm")
    assert len(table(view)) == 1


def test_the_table_has_a_line_for_each_arm_and_the_rollout() -> None:
    """Numbers end below each other; the rollout says why it waits and how strong the evidence is."""
    lines = table(view_of(STATUS, TOTALS, RECENT, ()))
    assert len({len(line) for line in lines[:3]}) == 1
    assert "rollout of mini: running at 5 %: 3 of 30 units" in lines
    assert "  evidence of harm (e-value/the one that takes it out): error_rate 2.5/300" in lines
    assert "(23% saved)" in lines[-1]


def test_a_rollout_that_is_over_needs_no_line() -> None:
    """Its arm's role tells it."""
    lines = table(view_of(STATUS | {"rollouts": [ROLLOUT | {"phase": "promoted"}]}, TOTALS, RECENT, ()))
    assert not [line for line in lines if line.startswith("rollout")]


def test_a_terminal_is_redrawn(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The block goes, by as many lines as it had, before what stays is written; lines never wrap."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    screen = Screen()
    screen.draw(view_of(STATUS, TOTALS, RECENT, ()), 1.0)
    first = capsys.readouterr().out.splitlines()
    assert max(map(len, first)) <= 40
    screen.say("stays")
    assert capsys.readouterr().out == f"\x1b[{len(first)}A\x1b[Jstays\n"


def test_without_a_terminal_lines_come_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    """A log gets a block every five seconds, and each event once."""
    screen = Screen()
    event = {"kind": "rollout.started", "message": "mini: started"}
    for at_s in (0.0, 1.0, 4.9, 5.0):
        screen.draw(View(events=[event]), at_s)
    told = capsys.readouterr().out
    assert told.count("-- ") == 2
    assert told.count("rollout.started: mini: started") == 1
    assert "\x1b" not in told


def test_no_database_is_an_empty_view(tmp_path: Path) -> None:
    """The demo looks before the sidecar has written anything."""
    assert read(tmp_path / "none.db") == ([], [], [])


def test_ids_order_by_time() -> None:
    """16 hex digits of microseconds."""
    assert id_at(1.0) < id_at(1.00001)
    assert len(id_at(1.0)) == 16


def test_the_app_reads_both_kinds_of_answers() -> None:
    """Streams are put together; events without text and the end mark add nothing."""
    stream = (
        b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\ndata: {"choices":[{"delta":{"content":"4 + 4"}}]}\n\n'
        b'data: {"choices":[{"delta":{"content":" = 8."}}]}\n\ndata: {"choices":[]}\n\ndata: [DONE]\n\n'
    )
    assert said(stream, stream=True) == "4 + 4 = 8."
    assert said(b'{"choices":[{"message":{"content":"1 + 1 = 2."}}]}', stream=False) == "1 + 1 = 2."
