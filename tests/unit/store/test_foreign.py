"""A path that leads to the database of another program, by mistake: it stays as it is, to the byte."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from sidecar.errors import StoreError
from sidecar.store import queries
from sidecar.store.retention import Limits
from sidecar.store.writer import Writer
from tests.fixtures.settled import as_rows, settled

THEIRS = "it is the database of another program"


@pytest.mark.parametrize("table", ["moz_places", "decisions", "schema_migrations"])
def test_what_another_program_made_is_not_changed(tmp_path: Path, table: str) -> None:
    """By no verb, and by no sidecar: its rows wait."""
    path = tmp_path / "places.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"CREATE TABLE {table} (name)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=THEIRS):
        queries.prune(path, Limits())
    writer = Writer(path)
    writer.put(as_rows([settled(1)]))
    writer.start()
    assert not writer.flush(0.3)
    assert THEIRS in str(writer.last_error)
    assert writer.queued == 1
    writer.close(0.1)
    assert path.read_bytes() == before
    assert not path.with_name("places.sqlite-wal").exists()
