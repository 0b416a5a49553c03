"""Rows of every mixture are written as they are, and their hourly sums are theirs."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from sidecar.core.record import COLUMNS, Row, Scalar
from sidecar.store.audit import Chain
from sidecar.store.batch import (
    OTHER_MODELS,
    WINDOW_MODELS,
    WINDOW_SUMS,
    Batch,
    _statement,
    _write_rows,
    window_rows,
    write,
)
from sidecar.store.database import PAGE_BYTES, open_writer, transaction

WORDS = {
    "outcome": ("completed", "failed", "aborted"),
    "arm": ("mini", "haiku", None),
    "route": ("support", "search"),
    "model": ("gpt-4o", None),
    "stream": (True, False),
}


def rows(number: int, seed: int, *, nulls: float) -> list[Row]:
    """Rows whose values are of the columns' kinds; each may be null with this chance, apart from those that never are."""
    chance = np.random.default_rng(seed)
    made: list[Row] = []
    for at in range(number):
        values: dict[str, object] = {}
        for name in COLUMNS:
            kind = chance.random() if name.endswith("_s") or name in ("propensity", "quality", "reward") else None
            whole = name.endswith("_tokens") or name in ("rollout_step", "status", "cost_nusd")
            values[name] = int(chance.integers(5)) if whole else name if kind is None else kind
            if chance.random() < nulls:
                values[name] = None
        values |= {name: words[chance.integers(len(words))] for name, words in WORDS.items()}
        values |= {"id": f"{at:08x}", "at": f"2026-11-21T0{chance.integers(2)}:00:00.000000Z", "service": "bot"}
        made.append(tuple(values.values()))  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize("nulls", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("number", [1, 3, 4, 5, 15, 16, 17, 21, 63, 64, 65, 300])
def test_what_is_written_is_read(tmp_path: Path, number: int, nulls: float) -> None:
    """Whatever the rows of a group have in common, each column of each row has its own value in the file."""
    given = rows(number, number, nulls=nulls)
    connection = open_writer(tmp_path / "x.db")
    with transaction(connection):
        _write_rows(connection, given)
        _write_rows(connection, given)  # a second time changes nothing
    names = ", ".join("decisions.id" if name == "id" else name for name in COLUMNS)
    found = connection.execute(f"SELECT {names} FROM decisions JOIN outcomes USING (id) ORDER BY 1").fetchall()
    connection.close()
    assert found == given


def test_models_of_an_hour_are_few(tmp_path: Path) -> None:
    """Names that a client makes up have one window together beyond a number of them, in one batch or in many; sums are
    whole, and an arm of its own model keeps its window."""
    place, of = [COLUMNS.index(name) for name in ("arm", "model")], COLUMNS.index("input_tokens")
    made = []
    for number, row in enumerate(rows(3 * WINDOW_MODELS, 7, nulls=0.0)):
        values: list[Scalar] = list(row)
        values[COLUMNS.index("at")] = "2026-11-21T00:00:00.000000Z"
        for at, value in zip(place, (None, f"made-up-{number}"), strict=True):
            values[at] = value
        made.append(tuple(values))
    mine = list(made[0])
    mine[place[0]], mine[place[1]] = "mini", "gpt-4o"
    connection = open_writer(tmp_path / "x.db")
    chain = Chain(tmp_path / "x.db")
    for batch in (made[:-50], *([row] for row in made[-50:]), [tuple(mine)], [made[0]]):
        with transaction(connection):
            write(connection, Batch(rows=list(batch)), "bot", chain)
    found = connection.execute("SELECT route, arm, count(DISTINCT model) FROM windows GROUP BY route, arm").fetchall()
    assert {tuple(one) for one in found} == {
        *((route, "", WINDOW_MODELS + 1) for route in WORDS["route"]),
        (mine[COLUMNS.index("route")], "mini", 1),
    }
    total = sum(int(str(row[of])) for row in [*made, tuple(mine), made[0]])
    assert connection.execute("SELECT sum(requests), sum(input_tokens) FROM windows").fetchone() == (
        len(made) + 2,
        total,
    )
    assert connection.execute("SELECT sum(requests) > 50 FROM windows WHERE model = ?", (OTHER_MODELS,)).fetchone() == (
        1,
    )
    connection.close()


def test_an_older_sqlite_takes_smaller_groups(tmp_path: Path) -> None:
    """Before 3.32 a statement has 999 values at most, which 64 rows are more than."""
    given = rows(200, 3, nulls=0.3)
    connection = open_writer(tmp_path / "x.db")
    connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)
    with transaction(connection):
        _write_rows(connection, given)
    assert connection.execute("SELECT count(*) FROM decisions JOIN outcomes USING (id)").fetchone() == (200,)
    connection.close()


def test_the_statements_stay_few(tmp_path: Path) -> None:
    """However rows are mixed, no statement has to be made a second time: SQLite's cache of 128 holds them all."""
    connection = open_writer(tmp_path / "x.db")
    _statement.cache_clear()
    for seed in range(60):
        with transaction(connection):
            _write_rows(connection, rows(81, seed, nulls=(0.0, 0.01, 0.1, 1.0)[seed % 4]))
    connection.close()
    made = _statement.cache_info()
    assert 2 < made.misses == made.currsize < 100


@pytest.mark.parametrize("nulls", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("number", [1, 2, 200])
def test_windows_are_the_sums_of_their_rows(number: int, nulls: float) -> None:
    """Compared with sums that are made row by row, for one window and for many; what is unknown is no 0."""
    given = rows(number, 7, nulls=nulls)
    expected: dict[tuple[object, ...], dict[str, float]] = {}
    for row in given:
        one = dict(zip(COLUMNS, row, strict=True))
        key = (
            str(one["at"])[:13],
            "bot",
            one["route"],
            one["arm"] or "",
            one["upstream"] or "",
            one["model"] or "",
            one["stream"],
        )
        sums = expected.setdefault(key, dict.fromkeys(WINDOW_SUMS, 0))
        sums["requests"] += 1
        sums[str(one["outcome"])] += 1
        sums["unpriced"] += one["cost_nusd"] is None
        for name in ("input_tokens", "output_tokens", "cost_nusd", "duration_s", "ttft_s", "quality", "reward"):
            sums[name] += one[name] or 0  # type: ignore[operator]
        for name in ("ttft_s", "quality", "reward"):
            sums[name.removesuffix("_s") + "_n"] += one[name] is not None
    found: dict[tuple[object, ...], dict[str, float]] = {}
    for window in window_rows(given):
        into = found.setdefault(window[:7], dict.fromkeys(WINDOW_SUMS, 0))
        for name, value in zip(WINDOW_SUMS, window[7:], strict=True):
            into[name] += value  # type: ignore[operator]
    assert found.keys() == expected.keys()
    for key, sums in expected.items():
        assert found[key] == pytest.approx(sums)


def test_a_new_file_has_our_pages_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    """The WAL is copied back after as many bytes in both."""
    old = sqlite3.connect(tmp_path / "old.db")
    old.executescript(
        "PRAGMA page_size=4096; PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL;"
        "CREATE TABLE other (x); DROP TABLE other"
    )
    old.close()
    for name, page in (("old.db", 4096), ("new.db", PAGE_BYTES)):
        connection = open_writer(tmp_path / name)
        told = [
            connection.execute(f"PRAGMA {one}").fetchone()[0]
            for one in ("page_size", "wal_autocheckpoint", "auto_vacuum")
        ]
        connection.close()
        assert told == [page, 4 * 2**20 // page, 2]
