"""Verbs about what is stored do all of it, or nothing: what was learnt is replaced by what was learnt, whole."""

import os
import resource
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from sidecar.cli import main
from sidecar.errors import StoreError
from sidecar.store import queries
from sidecar.store.database import open_writer
from sidecar.store.lock import WriteLock

STATE = b'{"version":1,"ledger":{},"routes":{},"bindings":[]}'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database that has learnt something."""
    path = tmp_path / "sidecar.db"
    open_writer(path).close()
    queries.save_state(path, STATE)
    return path


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"version": "1"}', '{"id": "018f"}\n{"id": "0190"}', "no json"])
def test_what_is_no_state_is_not_imported(
    path: Path, text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It would open budgets and undo rollbacks at the next start."""
    file = tmp_path / "file"
    file.write_text(text)
    assert main(["state", "import", str(file), "--db", str(path)]) == 2
    assert "give a file of `state export`" in capsys.readouterr().err
    assert queries.load_state(path) == STATE
    assert len(queries.audit(path)) == 1


def test_the_audit_tells_of_no_import_that_failed(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TRIGGER t BEFORE INSERT ON arms BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(StoreError, match="cannot be written: no"):
        queries.save_state(path, STATE + b" ")
    assert queries.load_state(path) == STATE
    assert len(queries.audit(path)) == 1


def test_an_export_is_private_also_where_a_file_lay(path: Path, tmp_path: Path) -> None:
    file, link = tmp_path / "state.json", tmp_path / "link.json"
    file.write_text("older")
    file.chmod(0o644)
    link.symlink_to(file)
    assert main(["state", "export", str(link), "--db", str(path)]) == 0
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (STATE, 0o600)
    assert link.is_symlink()


def test_an_export_that_fails_leaves_the_one_before(path: Path, tmp_path: Path) -> None:
    """A full disk, as one that a limit makes."""
    file = tmp_path / "state.json"
    assert main(["state", "export", str(file), "--db", str(path)]) == 0
    queries.save_state(path, STATE + b" " * 100_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))  # Python ignores SIGXFSZ: writes fail
        assert main(["state", "export", str(file), "--db", str(path)]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert file.read_bytes() == STATE
    assert not file.with_name("state.json.part").exists()


def test_a_reason_that_is_no_text_is_refused_before_anything_is_done(path: Path) -> None:
    """The rows would be gone, and the audit without its line."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO decisions (id, at) VALUES ('1', '1970-01-01T00:00:00Z')")
    with pytest.raises(SystemExit, match="2"):
        main(["store", "prune", "--why", os.fsdecode(b"\xff"), "--db", str(path)])
    assert queries.status(path)["decisions"] == 1
    assert main(["store", "prune", "--why", "wegen Überlänge", "--db", str(path)]) == 0
    assert queries.audit(path)[0]["why"] == "wegen Überlänge"


@pytest.mark.parametrize("key", ["anna", "0" * 16, "00000000000000FF", "0" * 15 + "7 "])
def test_a_key_that_can_be_nobodys_is_refused(path: Path, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """0 erased rows would be taken for a person of whom there are none."""
    with pytest.raises(SystemExit, match="2"):
        main(["store", "forget", "--key", key, "--db", str(path)])
    assert "is no sticky_key, which has 16 digits" in capsys.readouterr().err
    assert main(["store", "forget", "--key", "00000000000000ff", "--db", str(path)]) == 0


@pytest.mark.parametrize("verb", ["prune", "encrypt"])
def test_the_audit_has_a_verb_that_did_not_end(path: Path, verb: str, tmp_path: Path) -> None:
    """SEC-AUDIT: rows are gone, or changed, from the first of its many transactions on."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO decisions (id, at, context) VALUES ('1', '1970-01-01', '{\"task\":\"t\"}')")
        connection.execute("CREATE TRIGGER t BEFORE UPDATE ON arms BEGIN SELECT RAISE(ABORT, 'no'); END")
        connection.execute("CREATE TRIGGER u BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'no'); END")
        connection.execute("INSERT INTO events (at) VALUES ('1970-01-01')")
    keys = tmp_path / "keys"
    keys.write_text(f"k1 {'0' * 64}\n")
    keys.chmod(0o600)
    encrypting = ["--set", f"encryption_key_file={keys}", "--set", f"salt_file={keys}"]
    assert main(["store", verb, "--why", "space", "--db", str(path), *encrypting]) == 1
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT context FROM decisions").fetchall() != [('{"task":"t"}',)]
    assert (queries.audit(path)[0]["action"], queries.audit(path)[0]["why"]) == (f"{verb}.begun", "space")


def test_what_cannot_begin_is_not_told_as_begun(path: Path) -> None:
    assert main(["store", "encrypt", "--db", str(path)]) == 1
    assert [line["action"] for line in queries.audit(path)] == ["state.import"]


def test_what_a_sidecar_could_not_erase_is_no_success(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sidecar.cli._admin", lambda *_: {"decisions": 3, "left": ["the file is large"]})
    lock = WriteLock(path)
    lock.take()
    assert main(["store", "forget", "--key", "00000000000000ff", "--db", str(path)]) == 1
    lock.give()
    assert capsys.readouterr() == ("3 decisions erased\n", "but the file is large\n")
