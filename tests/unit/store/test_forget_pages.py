"""Forgetting reaches the pages themselves: SQLite moves rows between pages and does not overwrite where they lay."""

from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sidecar.config.settings import Settings
from sidecar.control.archive import Archive
from sidecar.store import queries, retention
from sidecar.store.database import open_writer

PEOPLE = 40
ROWS = 4_000


def filled(folder: Path) -> tuple[Path, list[str]]:
    """A database of rows of many people, of different lengths; their keys."""
    chance, path = np.random.default_rng(1), folder / "sidecar.db"
    people = [chance.bytes(8).hex() for _ in range(PEOPLE)]
    with closing(open_writer(path)) as connection:
        connection.execute("BEGIN")
        for number in range(ROWS):
            key, context = (
                people[chance.integers(PEOPLE)],
                f'{{"tags":{{"pad":"{"x" * (300 + chance.integers(400))}"}}}}',
            )
            row = (f"{number:026x}", "2026-11-23T09:00:00Z", key, context)
            connection.execute("INSERT INTO decisions (id, at, sticky_key, context) VALUES (?, ?, ?, ?)", row)
        connection.execute("COMMIT")
    return path, people


def left_of(path: Path, people: list[str]) -> list[str]:
    """Those whose keys lie anywhere in the file or its WAL."""
    pages = b"".join(one.read_bytes() for one in path.parent.glob("sidecar.db*"))
    return [key for key in people if key.encode() in pages]


def test_no_page_keeps_a_row_that_was_moved(tmp_path: Path) -> None:
    """However many were forgotten before, and however rows were moved for it."""
    path, people = filled(tmp_path)
    for key in people[:-1]:
        queries.forget(path, key)
        assert left_of(path, [key]) == []
    assert left_of(path, people) == people[-1:]


async def test_a_running_sidecar_leaves_none_either(tmp_path: Path) -> None:
    path, people = filled(tmp_path)
    archive = Archive(Settings(db=path))
    assert archive.writer is not None
    archive.writer.start()
    for key in people[:-1]:
        await archive.forget(key, "test")
        assert left_of(path, [key]) == []
    assert left_of(path, people) == people[-1:]
    archive.close(5.0)


async def test_a_file_is_not_rewritten_beyond_its_ceiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice its room would be needed meanwhile, which the volume of a running sidecar may not have, or its disk: it says so.
    A disk that was full half-way would take no row any more."""
    path, (anna, carla, ben, *_) = filled(tmp_path)
    size = path.stat().st_size
    for key, ceiling, disk, rewritten in (
        (anna, size, 10 * size, False),
        (carla, 3 * size, size, False),
        (ben, 3 * size, 3 * size, True),
    ):
        monkeypatch.setattr(retention, "disk_usage", lambda _, free=disk: SimpleNamespace(free=free))
        archive = Archive(Settings(db=path, store_max_bytes=ceiling))
        assert archive.writer is not None
        archive.writer.start()
        erased, left = await archive.forget(key, "test")
        assert archive.writer.close(5.0)
        assert (len(left), "a third of store_max" in "".join(left)) == ((0, False) if rewritten else (1, True))
        told = {"decisions": erased} if rewritten else {"decisions": erased, "rewritten": False}
        assert queries.audit(path)[0]["detail"] == told
        assert (path.stat().st_size < size) is rewritten
