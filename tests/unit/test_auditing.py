"""The verbs audit, token, `store encrypt` and `state export` on real files: what they print, and what they exit with."""

import json
import re
import stat
from contextlib import closing
from pathlib import Path

import pytest

from sidecar.cli import main
from sidecar.clock import wall
from sidecar.control.access import Role, parse_roles
from sidecar.store import queries
from sidecar.store.audit import Audit, anchor_file, read_anchor
from sidecar.store.database import open_writer
from sidecar.store.writer import Writer
from tests.fixtures.guards import key_file
from tests.fixtures.settled import as_rows, settled


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """Three links, the second with terminal codes in its words."""
    path = tmp_path / "s.db"
    writer = Writer(path, service="bot")
    writer.put(as_rows([settled(1)], "bot"))
    writer.put_audit([Audit(wall(), "alice", f"a{number}", "support", "{}", "odd \x1b[2J") for number in range(3)])
    writer.start()
    assert writer.close(10)
    return path


def edit(db: Path, statement: str) -> None:
    with closing(open_writer(db)) as connection:
        connection.execute(statement)


def test_verify(db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SEC-AUDIT: exit 0 and the head to keep; exit 1 and a line a problem; JSON for programs."""
    head = read_anchor(db)
    assert main(["audit", "verify", "--db", str(db), "--head", str(head)]) == 0
    assert f"the chain holds: 3 links, without a key\nhead: {head}\n" in capsys.readouterr().out
    edit(db, "DELETE FROM audit WHERE seq = 3")
    assert main(["audit", "verify", "--db", str(db)]) == 1
    assert "cut: the chain ends at 2" in capsys.readouterr().out
    anchor_file(db).unlink()
    assert main(["audit", "verify", "--db", str(db)]) == 0
    assert "nobody can see whether the end was cut off" in capsys.readouterr().out
    edit(db, "UPDATE audit SET action = char(27) WHERE seq = 1")
    assert main(["audit", "verify", "--db", str(db), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["holds"], told["links"], [one["kind"] for one in told["problems"]]) == (False, 2, ["edited"])


def test_verify_shows_no_codes_of_a_forger(db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What stands in a forged row is told escaped."""
    edit(
        db,
        "UPDATE audit SET actor = 'sidecar', action = 'chain.broken', at = char(27), detail = char(27) WHERE seq = 2",
    )
    edit(db, "UPDATE audit SET key = char(27), hash = char(27) WHERE seq = 3")
    assert main(["audit", "verify", "--db", str(db)]) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "break: link 2" in out


@pytest.mark.parametrize("head", ["", "7", "x" * 64, "0:" + "a" * 64])
def test_a_head_that_is_none(db: Path, head: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong usage, in words."""
    with pytest.raises(SystemExit) as ended:
        main(["audit", "verify", "--db", str(db), "--head", head])
    assert ended.value.code == 2
    assert "SEQ:HASH" in capsys.readouterr().err


@pytest.mark.parametrize("link", ["3", "a" * 64, "0:" + "a" * 64])
def test_a_break_is_not_accepted_by_half(db: Path, link: str, capsys: pytest.CaptureFixture[str]) -> None:
    """SEC-AUDIT: a number alone would pass the next break that gets it."""
    with pytest.raises(SystemExit) as ended:
        main(["audit", "verify", "--db", str(db), "--accept", link])
    assert ended.value.code == 2
    assert "SEQ:HASH" in capsys.readouterr().err


def test_verify_with_a_key(db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The key is that of the settings; a verb that writes uses it too, and says who it was."""
    keys = f"audit_key_file={key_file(tmp_path / 'keys', 'k1')}"
    assert main(["store", "prune", "--db", str(db), "--set", keys, "--why", "space"]) == 0
    assert main(["audit", "verify", "--db", str(db), "--set", keys]) == 1
    link = re.findall(r"^break: .* --accept (\S+)$", capsys.readouterr().out, re.MULTILINE)
    assert main(["audit", "verify", "--db", str(db), "--set", keys, "--accept", *link]) == 0
    assert "6 links, 3 of them with a key" in capsys.readouterr().out
    assert main(["audit", "verify", "--db", str(db)]) == 1
    assert "unproven: 3 links" in capsys.readouterr().out
    newest = queries.audit(db, 1)[0]
    assert (newest["action"], newest["why"], newest["actor"].partition(":")[0]) == ("prune", "space", "cli")


def test_list(db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table for people, in which nothing moves the cursor; JSON for programs."""
    assert main(["audit", "list", "--db", str(db), "--last", "2"]) == 0
    out = capsys.readouterr().out
    assert "alice" in out
    assert "\x1b" not in out
    assert main(["audit", "list", "--db", str(db), "--last", "2", "--json"]) == 0
    assert [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()] == [3, 2]


def test_token(capsys: pytest.CaptureFixture[str]) -> None:
    """The token, then its line; the line says nothing of the token."""
    assert main(["token", "otto", "operator"]) == 0
    token, line = capsys.readouterr().out.splitlines()
    ((_, caller),) = parse_roles(line.encode())
    assert (caller.name, caller.role) == ("otto", Role.operator)
    assert token not in line
    assert main(["token", "two words", "viewer"]) == 2


def test_an_exported_state_is_private(tmp_path: Path) -> None:
    """SEC-PRIVACY: a file is its owner's alone, as the database is, also where one was there that others could read."""
    path, new, old = tmp_path / "s.db", tmp_path / "new.json", tmp_path / "old.json"
    writer = Writer(path, service="default")
    writer.put_state(b"{}")
    writer.start()
    assert writer.close(10)
    old.touch()
    old.chmod(0o640)
    for file in (new, old):
        assert main(["state", "export", str(file), "--db", str(path)]) == 0
        assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (b"{}", 0o600)


def test_encrypt(db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SEC-PRIVACY: without a key it says what to set; with one it says how much; export and explain follow the key."""
    assert main(["store", "encrypt", "--db", str(db)]) == 1
    assert "encryption_key_file" in capsys.readouterr().err
    edit(db, """UPDATE decisions SET context = '{"endpoint":"chat","tags":{"user":"zoe"}}'""")
    keys, key = key_file(tmp_path / "keys", "k1"), settled(1).id
    with_key = ["--db", str(db), "--set", f"encryption_key_file={keys}", "--set", f"salt_file={keys}"]
    assert main(["store", "encrypt", *with_key]) == 0
    assert capsys.readouterr().out == "1 values encrypted with the newest key\n"
    assert b"zoe" not in db.read_bytes()
    for verb in (["export"], ["decisions", "--json"], ["explain", key, "--json"]):
        assert main([*verb, *with_key]) == 0
        assert json.loads(capsys.readouterr().out)["context"]["tags"] == {"user": "zoe"}
        assert main([*verb, "--db", str(db)]) == 0
        assert json.loads(capsys.readouterr().out)["context"]["sealed"] == "encrypted"
    (tmp_path / "p.yaml").write_text("version: 1\nservice: bot\nroutes: []\n")
    assert main(["replay", "--policy", str(tmp_path / "p.yaml"), "--db", str(db)]) == 1
    assert "encryption_key_file" in capsys.readouterr().err
    key_file(tmp_path / "keys", "k2")
    assert main(["store", "encrypt", *with_key]) == 1
    assert "1 values cannot be read" in capsys.readouterr().err
