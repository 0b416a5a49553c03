"""The documented queries run on a real file and answer what their heading says."""

import re
import sqlite3
from pathlib import Path

import pytest
from msgspec.structs import replace

from sidecar.core.types import Event, Feedback
from sidecar.store.database import open_reader
from sidecar.store.writer import Writer
from tests.fixtures.settled import as_rows, settled

TEXT = (Path(__file__).resolve().parents[3] / "docs/queries.md").read_text()
QUERIES = dict(zip(re.findall(r"^## (\d+)\.", TEXT, re.M), re.findall(r"```sql\n(.*?)```", TEXT, re.S), strict=True))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[sqlite3.Row]]:
    path = tmp_path_factory.mktemp("docs") / "s.db"
    writer = Writer(path)
    writer.put(as_rows([settled(n) for n in range(40)]))
    writer.put_events([(4e9, Event(kind="rollout.started", detail={"rollout_id": "r"}))])
    writer.start()
    assert writer.close(5.0)
    connection = open_reader(path)
    found = {number: connection.execute(query).fetchall() for number, query in QUERIES.items()}
    connection.close()
    return found


def test_there_are_ten() -> None:
    """As promised."""
    assert len(QUERIES) == 10


def test_they_answer(rows: dict[str, list[sqlite3.Row]]) -> None:
    """Figures that are known for these rows."""
    assert len(rows["1"]) == 20
    assert rows["2"][0]["usd"] == pytest.approx(40 * 12_345e-9)
    assert tuple(rows["3"][0]) == ("mini", 40, 0.21, 0.21)
    assert rows["4"][0]["mean_propensity"] == 0.25
    assert rows["5"] == []
    assert rows["6"][0]["usd_per_request_if_always"] == pytest.approx(12_345e-9)
    assert rows["7"] == []
    assert rows["8"][0]["calls"] == 40
    assert rows["9"][0]["cached_share"] == 0.2
    assert [row["kind"] for row in rows["10"]] == ["rollout.started"]


def test_a_canary_with_its_later_calls_stands_against_its_control(tmp_path: Path) -> None:
    """Of conversations with two calls each, in a second attempt: the second call's reason is `sticky` on both sides. One of
    the canary's was scored later."""
    writer = Writer(tmp_path / "s.db")
    writer.put_events([(4e9, Event(kind="rollout.started", arm="mini", detail={"rollout_id": "0" * 16}))])
    calls = []
    for number in range(12):
        one, later = settled(number, key=1 + number // 2), number % 2
        arm = "mini" if number < 4 else "gpt-4o"
        reason = "sticky" if later else "canary" if arm == "mini" else "baseline"
        assert one.decision is not None
        decision = replace(one.decision, arm=arm, reason=reason, rollout_id="0" * 16 + ".2", rollout_step=25)
        kind = "failed" if arm == "mini" and later else "completed"
        calls.append(replace(one, decision=decision, outcome=replace(one.outcome, kind=kind)))
    writer.put(as_rows(calls))
    writer.put_feedback([(4e9, Feedback(decision_id=calls[0].id, route="support", arm="mini", score=0.2))])
    writer.start()
    assert writer.close(5.0)
    connection = open_reader(tmp_path / "s.db")
    found = [dict(one) for one in connection.execute(QUERIES["7"])]
    connection.close()
    seen = [(one["canary"], one["units"], one["requests"], one["error_rate"], one["quality"]) for one in found]
    assert seen == [(0, 4, 8, 0.0, 1.0), (1, 2, 4, 0.5, 0.8)]
