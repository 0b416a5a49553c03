"""The documented queries run on a real file and answer what their heading says."""

import re
import sqlite3
from pathlib import Path

import pytest

from sidecar.core.types import Event
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
