"""Fields that lie encrypted: what is on the disk, who can read it, what a forger can do, and how keys change."""

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from msgspec.structs import replace

from sidecar.clock import wall
from sidecar.config.settings import Settings
from sidecar.control.key_files import KeyFiles
from sidecar.core.record import Row
from sidecar.core.types import Feedback
from sidecar.errors import ConfigError, StoreError
from sidecar.store import queries
from sidecar.store.explain import explain
from sidecar.store.keys import KeySet, StoreKeys, no_keys
from sidecar.store.vault import (
    CLOSED,
    ENCRYPTED,
    PREFIX,
    UNREADABLE,
    Sealed,
    Spoilt,
    Vault,
    context_place,
    open_context,
    seal_context,
)
from sidecar.store.writer import Writer
from tests.fixtures.guards import key_file
from tests.fixtures.settled import as_rows, settled

ROOT = Path(__file__).resolve().parents[3]
OLD, NEW = KeySet({"old": b"o" * 32}), KeySet({"new": b"n" * 32, "old": b"o" * 32})
CANARY = "canary-person-7c1"
STATE = orjson.dumps({"version": 3, "routes": {"support": {"who": CANARY}}})


def tagged(number: int, tags: dict[str, str] | None = None) -> Row:
    """The row of a call with a tag and a task."""
    one = settled(number)
    facts = replace(one.facts, tags=tags or {"user": f"{CANARY}-{number}"}, task=f"task-{CANARY}")
    return as_rows([replace(one, facts=facts)], "bot")[0]


def put(path: Path, keys: KeySet | None, numbers: Sequence[int] = range(20)) -> None:
    """Rows, scores with labels, and a state, through the writer of a process that starts and ends."""
    writer = Writer(path, service="bot", keys=StoreKeys(fields=lambda: keys))
    writer.put([tagged(number) for number in numbers])
    writer.put_feedback(
        [
            (
                wall(),
                Feedback(decision_id=settled(number).id, route="support", arm="mini", score=1.0, label=f"{CANARY}!"),
            )
            for number in numbers
        ]
    )
    writer.put_state(STATE)
    writer.start()
    assert writer.close(10)


def on_disk(path: Path) -> bytes:
    """All bytes of the database and what lies beside it."""
    return b"".join(file.read_bytes() for file in sorted(path.parent.glob(f"{path.name}*")))


def vault(keys: KeySet | None) -> Vault:
    return Vault(lambda: keys)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "s.db"
    put(file, OLD)
    return file


# ---- what lies there, and who reads it


def test_nothing_of_it_is_on_the_disk(path: Path, tmp_path: Path) -> None:
    """SEC-PRIVACY: neither tags, nor task, nor labels, nor the learnt state; without a key all of them are."""
    plain = tmp_path / "plain" / "s.db"
    plain.parent.mkdir()
    put(plain, None)
    assert on_disk(plain).count(CANARY.encode()) > 40
    assert CANARY.encode() not in on_disk(path)


def test_who_has_the_key_reads_it(path: Path) -> None:
    """SEC-PRIVACY: every way of reading opens it, and what was not sealed is the same with and without the key."""
    key = settled(3).id
    found = queries.find(path, key, vault(OLD))
    assert isinstance(found, dict)
    assert found["context"]["tags"] == {"user": f"{CANARY}-3"}
    assert found["context"]["task"] == f"task-{CANARY}"
    assert "sealed" not in found["context"]
    assert queries.decisions(path, None, 20, vault(NEW))[0]["context"]["tags"] == {"user": f"{CANARY}-19"}
    assert [row["context"]["task"] for row in queries.export(path, vault=vault(OLD))] == [f"task-{CANARY}"] * 20
    assert queries.feedback_of(path, key, vault(OLD))[0]["label"] == f"{CANARY}!"
    assert next(queries.scores(path, vault(OLD)))["label"] == f"{CANARY}!"
    assert queries.load_state(path, "bot", vault=vault(OLD)) == STATE
    assert queries.knowledge(path, found, vault(OLD))["route"] == {"who": CANARY}


def test_who_has_not_is_told(path: Path) -> None:
    """SEC-PRIVACY: "encrypted" stands where the value would; sums and all else can be read."""
    for keys in (None, KeySet({"other": b"x" * 32})):
        (row,) = queries.decisions(path, None, 1, vault(keys))
        assert row["context"]["sealed"] == ENCRYPTED
        assert row["context"]["endpoint"] == "chat"
        assert not {"tags", "task"} & set(row["context"])
        scores, known = queries.feedback_of(path, row["id"], vault(keys)), queries.knowledge(path, row, vault(keys))
        assert scores[0]["label"] == ENCRYPTED
        assert (known["route"], known["sealed"]) == (None, ENCRYPTED)
        text = "\n".join(explain(row, scores, known))
        assert "Tags and task: encrypted." in text
        assert "What is known now: encrypted." in text
        with pytest.raises(Sealed, match="encryption_key_file"):
            queries.load_state(path, "bot", vault=vault(keys))


def test_rows_without_tags_stay_as_they_are() -> None:
    """Nothing to hide: nothing is sealed, also when a name looks like the member's."""
    vaulted = vault(OLD)
    for row in as_rows([settled(1)]):
        text = str(row[14])
        assert seal_context(vaulted, text, "x") == text
    odd = orjson.dumps({"rules": ['"tags":'], "arm": {"tags": 1}}).decode()
    assert seal_context(vaulted, odd, "x") == odd


# ---- what a forger does


def test_values_that_change_places_do_not_open(path: Path) -> None:
    """SEC-PRIVACY: between two rows, two columns, two tables; each row says so, and the others can be read."""
    first, second = settled(1).id, settled(2).id
    with closing(sqlite3.connect(path)) as connection, connection:
        swap = "UPDATE decisions SET context = (SELECT context FROM decisions WHERE id = ?) WHERE id = ?"
        connection.execute(swap, (first, second))
        label = orjson.loads(connection.execute("SELECT context FROM decisions WHERE id = ?", (first,)).fetchone()[0])
        connection.execute("UPDATE feedback SET label = ? WHERE decision_id = ?", (label["sealed"], first))
        connection.execute("UPDATE arms SET service = 'other'")
    rows = {row["id"]: row["context"] for row in queries.export(path, vault=vault(OLD))}
    assert rows[second]["sealed"] == UNREADABLE
    assert "tags" in rows[first]
    assert queries.feedback_of(path, first, vault(OLD))[0]["label"] == UNREADABLE
    with pytest.raises(Spoilt, match="arms"):
        queries.load_state(path, "other", vault=vault(OLD))
    assert (
        queries.knowledge(path, queries.decisions(path)[0] | {"service": "other"}, vault(OLD))["sealed"] == UNREADABLE
    )


def test_every_changed_byte_is_found() -> None:
    """Nonce, ciphertext, tag and key id; cut and empty values: each is refused in words, never opened, never a crash."""
    vaulted, place = vault(OLD), context_place("x")
    sealed = vaulted.seal(b"value", place)
    assert vaulted.open(sealed, place) == b"value"
    for at in range(len("old."), len(sealed)):
        with pytest.raises(Spoilt):
            vaulted.open(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :], place)
    for cut in range(len("old."), len(sealed)):
        with pytest.raises(Spoilt):
            vaulted.open(sealed[:cut], place)
    for wrong in (b"", b".", b"new." + sealed[4:], b"\xff\xfe.x"):
        with pytest.raises(Sealed):
            vaulted.open(wrong, place)
    for text in (f"{PREFIX}old.@@@", f"{PREFIX}old.AAA", f"{PREFIX}old."):
        with pytest.raises(Spoilt):
            vaulted.open_text(text, place)
    odd: dict[str, Any] = {"sealed": vaulted.seal_text("[1]", place)}
    assert open_context(vaulted, odd, "x") == {"sealed": UNREADABLE}
    assert open_context(vaulted, {"sealed": vaulted.seal_text("no json", place)}, "x") == {"sealed": UNREADABLE}
    assert open_context(CLOSED, odd, "x") == {"sealed": ENCRYPTED}
    assert open_context(vaulted, {"sealed": 7}, "x") == {"sealed": UNREADABLE}


# ---- nonces


def test_nonces_never_repeat() -> None:
    """They count; two vaults, two keys and a full counter draw anew; equal values never look equal."""
    one, other = vault(OLD), vault(OLD)
    made = [one.seal(b"same", ("t", "c", "1")) for _ in range(1000)] + [other.seal(b"same", ("t", "c", "1"))]
    nonces = [sealed[4:16] for sealed in made]
    assert len(set(nonces)) == len(set(made)) == 1001
    assert all(int.from_bytes(b[8:]) == int.from_bytes(a[8:]) + 1 for a, b in pairwise(nonces[:1000]))
    assert nonces[0][:8] != nonces[1000][:8]
    one._count = 2**32 - 1
    last, after = (one.seal(b"same", ("t",))[4:16] for _ in range(2))
    assert last[:8] == nonces[0][:8]
    assert last[8:] == b"\xff" * 4
    assert after[:8] != last[:8]
    assert after[8:] == bytes(4)


def test_a_fork_draws_anew() -> None:
    """A child that goes on with the parent's counter would use its nonces."""
    one = vault(OLD)
    one.seal(b"x", ("t",))
    parent = one._drawn
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, one.seal(b"x", ("t",))[4:12])
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 8) != one.seal(b"x", ("t",))[4:12]
    assert one._drawn == parent
    os.close(reader)
    os.close(writer)


# ---- keys change


def test_a_new_key_and_the_verb(path: Path) -> None:
    """SEC-PRIVACY: with a new first key old rows stay readable; after `encrypt` the old key may go."""
    put(path, NEW, range(20, 30))
    assert {row["context"]["task"] for row in queries.export(path, vault=vault(NEW))} == {f"task-{CANARY}"}
    only_new = KeySet({"new": b"n" * 32})
    assert sum("sealed" in row["context"] for row in queries.export(path, vault=vault(only_new))) == 20
    done = queries.encrypt(path, queries.By(keys=StoreKeys(fields=lambda: NEW)))
    assert (done.sealed, done.unreadable) == (40, 0)
    assert queries.encrypt(path, queries.By(keys=StoreKeys(fields=lambda: NEW))).sealed == 0
    assert {row["context"]["task"] for row in queries.export(path, vault=vault(only_new))} == {f"task-{CANARY}"}
    assert {score["label"] for score in queries.scores(path, vault(only_new))} == {f"{CANARY}!"}
    assert queries.load_state(path, "bot", vault=vault(only_new)) == STATE
    assert b"sealed:1.old." not in on_disk(path)
    assert queries.audit(path)[-2]["detail"] == {"key": "new", "values": 40, "unreadable": 0}


def test_what_was_plain_is_gone_after_the_verb(tmp_path: Path) -> None:
    """SEC-PRIVACY: switched on later, `encrypt` leaves no plain text in the file, its free pages or its WAL."""
    path = tmp_path / "s.db"
    put(path, None, range(900))
    put(path, None, range(900, 1300))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM decisions WHERE id > ?", (settled(1199).id,))
    assert CANARY.encode() in on_disk(path)
    done = queries.encrypt(path, queries.By(keys=StoreKeys(fields=lambda: OLD)))
    assert (done.sealed, done.unreadable) == (2501, 0)
    assert CANARY.encode() not in on_disk(path)
    assert sum(row["context"]["task"] == f"task-{CANARY}" for row in queries.export(path, vault=vault(OLD))) == 1200


def test_what_cannot_be_opened_is_left_and_counted(path: Path) -> None:
    """The verb neither loses nor hides it; without a key it does nothing at all."""
    done = queries.encrypt(path, queries.By(keys=StoreKeys(fields=lambda: KeySet({"new": b"n" * 32}))))
    assert (done.sealed, done.unreadable) == (0, 41)
    assert queries.decisions(path, None, 1, vault(OLD))[0]["context"]["task"] == f"task-{CANARY}"
    with pytest.raises(StoreError, match="encryption_key_file"):
        queries.encrypt(path)


def test_a_label_that_looks_sealed_is_encrypted(tmp_path: Path) -> None:
    """SEC-PRIVACY: what an app wrote before there was a key, with or without the id of the key that came; once is enough."""
    path, by = tmp_path / "s.db", queries.By(keys=StoreKeys(fields=lambda: OLD))
    put(path, None, range(2))
    words = [f"{PREFIX}old.{CANARY}", f"{PREFIX}zz.x"]
    with closing(sqlite3.connect(path)) as connection, connection:
        for number, word in enumerate(words):
            connection.execute("UPDATE feedback SET label = ? WHERE decision_id = ?", (word, settled(number).id))
    assert queries.encrypt(path, by).unreadable == 0
    assert CANARY.encode() not in on_disk(path)
    assert [score["label"] for score in queries.scores(path, vault(OLD))] == words
    assert (queries.encrypt(path, by).sealed, queries.encrypt(path, by).unreadable) == (0, 0)


@pytest.mark.parametrize(
    ("spoilt", "unreadable"),
    [
        ("UPDATE decisions SET context = '{\"a' WHERE id = (SELECT min(id) FROM decisions)", 1),
        ("UPDATE decisions SET context = '[1]' WHERE id = (SELECT min(id) FROM decisions)", 1),
        ("UPDATE decisions SET context = CAST(x'7bff' AS TEXT) WHERE id = (SELECT min(id) FROM decisions)", 1),
        ("UPDATE feedback SET label = x'ff31' WHERE decision_id = (SELECT min(id) FROM decisions)", 1),
        ("UPDATE feedback SET label = CAST('sealed:1.' AS BLOB)", 0),
        ("INSERT INTO arms VALUES ('bot', 'r', 'a', '2026', NULL, NULL)", 0),
        ("UPDATE arms SET state = 'sealed:1.new.x'", 1),
    ],
)
def test_a_value_that_is_none_of_ours_ends_nothing(tmp_path: Path, spoilt: str, unreadable: int) -> None:
    """It is counted and left, all others are encrypted; also when it bears the id of the newest key."""
    path = tmp_path / "s.db"
    put(path, None, range(3))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(spoilt)
    done = queries.encrypt(path, queries.By(keys=StoreKeys(fields=lambda: NEW)))
    assert (done.sealed, done.unreadable) == (7 - unreadable, unreadable)
    assert queries.encrypt(path, queries.By(keys=StoreKeys(fields=lambda: NEW))).unreadable == unreadable


def test_broken_json_ends_no_reading(path: Path) -> None:
    """The row says so, and the others are whole."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE decisions SET context = '{\"a', eligible = '7' WHERE id = ?", (settled(19).id,))
    for rows in (queries.decisions(path, None, 20, vault(OLD)), list(queries.export(path, vault=vault(OLD)))[::-1]):
        assert (rows[0]["context"], rows[0]["eligible"]) == ({"sealed": UNREADABLE}, None)
        assert all("tags" in row["context"] for row in rows[1:])


def test_a_newer_state_is_set_aside_under_its_own_place(path: Path) -> None:
    """It moves to another row, so it is sealed for that one; importing seals too."""
    with closing(sqlite3.connect(path)) as connection:
        queries.set_aside(connection, "bot", 9, vault(OLD))
        queries.set_aside(connection, "nobody", 9, vault(OLD))
    assert queries.load_state(path, "bot", 9, vault(OLD)) == STATE
    queries.save_state(path, STATE + b" ", "bot", queries.By(keys=StoreKeys(fields=lambda: OLD)))
    assert queries.load_state(path, "bot", vault=vault(OLD)) == STATE + b" "
    assert CANARY.encode() not in on_disk(path)


# ---- settings, and the package


def test_the_settings_belong_together(tmp_path: Path) -> None:
    """Without a salt the sticky keys that stay could be guessed: that is refused, and said."""
    keys = key_file(tmp_path / "keys", "k1")
    with pytest.raises(ConfigError, match="salt_file"):
        Settings.load({}, None, [f"encryption_key_file={keys}"])
    settings = Settings.load({}, None, [f"encryption_key_file={keys}", f"salt_file={keys}"])
    made = KeyFiles(settings, 0.0).keys.fields()
    assert made is not None
    assert made.first == "k1"
    assert KeyFiles(Settings.load({}, None, []), 0.0).keys.fields is no_keys
    keys.write_text("k1 short\n")
    with pytest.raises(ConfigError, match=r"encryption_key_file.*line 1") as caught:
        KeyFiles(settings, 0.0)
    assert "short" not in str(caught.value)


def test_without_the_package_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install, at start, and not with the first row."""
    keys = key_file(tmp_path / "keys", "k1")
    settings = Settings.load({}, None, [f"encryption_key_file={keys}", f"salt_file={keys}"])
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(ConfigError, match=r"llm-sidecar\[encryption\]"):
        KeyFiles(settings, 0.0)


def test_without_a_key_the_package_is_not_imported() -> None:
    """The serving process and the verbs pay nothing for what they do not use."""
    code = "import sys, sidecar.app, sidecar.cli; print([n for n in sys.modules if n.startswith('cryptography')])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_the_lock_of_the_extra_has_it() -> None:
    """SEC-SUPPLY: what the extra installs is pinned by hash, in the version that is tested."""
    pins = [
        dict(re.findall(r"^(\S+?)==(\S+)", (ROOT / "requirements" / name).read_text(), re.MULTILINE))
        for name in ("encryption.txt", "dev.txt")
    ]
    assert "cryptography" in pins[0]
    assert all(pins[1].get(name) == version for name, version in pins[0].items())
