"""Taking the process down: whatever raises on the way, what waits in the queues is stored, and the fault is counted."""

from pathlib import Path

import pytest

from sidecar.app import Sidecar
from sidecar.config.settings import Settings
from sidecar.store import queries
from tests.fixtures.policies import SUPPORT
from tests.fixtures.settled import as_rows, settled


def broken(*_: object, **__: object) -> bytes:
    raise ZeroDivisionError


@pytest.fixture
def app(tmp_path: Path) -> Sidecar:
    (tmp_path / "bot.yaml").write_text(SUPPORT)
    settings = [f"policies={tmp_path}", f"db={tmp_path / 'sidecar.db'}", "service=bot", "request_log=off"]
    return Sidecar(Settings.load({}, None, settings), {})


async def close(app: Sidecar) -> int:
    """Opens the store, puts a row, closes; how many rows the database has then."""
    await app.archive.open(app.engine)
    app.archive.put(as_rows([settled(1)], "bot"))
    await app._close()
    assert app.settings.db is not None
    return len(queries.decisions(app.settings.db))


async def test_a_snapshot_that_raises_loses_no_row(app: Sidecar, monkeypatch: pytest.MonkeyPatch) -> None:
    """As while serving: counted and told; the state that was stored before stays."""
    monkeypatch.setattr(app.engine, "snapshot", broken)
    assert await close(app) == 1
    assert app.plane.books.bugs == 1


async def test_listeners_and_logs_that_raise_lose_no_row(app: Sidecar, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step of closing is fenced, and the store comes before the logs."""
    monkeypatch.setattr(app.tasks, "close", broken)
    monkeypatch.setattr(app.request_log, "close", broken)
    assert await close(app) == 1
    assert app.plane.books.bugs == 2


async def test_an_ordinary_end(app: Sidecar) -> None:
    """Rows and state are there, and nothing was counted."""
    assert await close(app) == 1
    assert app.settings.db is not None
    assert queries.load_state(app.settings.db, "bot") is not None
    assert app.plane.books.bugs == 0
