"""A database on a volume that nobody can write: a mounted backup is read like any other."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sidecar.errors import StoreError
from sidecar.store import queries
from sidecar.store.database import open_writer

NOBODY = 65534
READS = (
    queries.status,
    queries.decisions,
    queries.audit,
    lambda path: queries.verify_audit(path, None, (), ()),
    lambda path: list(queries.export(path)),
)


@pytest.fixture
def volume() -> Iterator[Path]:
    """A folder with a copy of a database, in which nobody makes a file: root could, and is somebody else meanwhile."""
    folder = Path(tempfile.mkdtemp())
    with closing(open_writer(folder / "sidecar.db")) as connection:
        connection.execute("INSERT INTO events (kind) VALUES ('gap')")
    queries.backup(folder / "sidecar.db", folder / "copy.db")
    (folder / "copy.db").chmod(0o444)
    folder.chmod(0o555)
    was = os.geteuid()
    try:
        if was == 0:
            os.seteuid(NOBODY)
        yield folder
    finally:
        os.seteuid(was)
        folder.chmod(0o700)
        shutil.rmtree(folder)


def test_a_copy_on_a_read_only_volume_is_read(volume: Path) -> None:
    path = volume / "copy.db"
    assert not os.access(volume, os.W_OK, effective_ids=True)
    for read in READS:
        read(path)
    assert queries.status(path)["events"] == 1
    assert [one.name for one in volume.glob("copy*")] == ["copy.db"]


def test_what_is_not_there_is_still_missing(volume: Path) -> None:
    with pytest.raises(StoreError, match="no database here"):
        queries.status(volume / "none.db")
