"""The chain of the audit on real files: what a forger does is found, what the sidecar does keeps it whole."""

import hashlib
import json
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.clock import wall
from sidecar.errors import StoreError
from sidecar.store import audit, audit_check, queries
from sidecar.store.audit import GENESIS, Audit, Chain, Head, anchor_file, canonical, link_hash, parse_head, read_anchor
from sidecar.store.audit_check import Verdict
from sidecar.store.database import open_writer, transaction
from sidecar.store.keys import KeySet, StoreKeys, parse_keys
from sidecar.store.migrations import FIRST
from sidecar.store.retention import Forgetting, forget
from sidecar.store.writer import QUEUE_OTHERS, Writer
from tests.fixtures.settled import as_rows, settled

ROOT = Path(__file__).resolve().parents[3]
OLD, NEW = KeySet({"old": b"o" * 32}), KeySet({"new": b"n" * 32, "old": b"o" * 32})


def put(path: Path, *actions: str, keys: KeySet | None = None) -> None:
    """Lines of the audit through the writer of a process that starts and ends."""
    writer = Writer(path, service="bot", keys=StoreKeys(lambda: keys))
    writer.put_audit([Audit(wall(), "alice", action, "support", '{"arm":"mini"}', "because") for action in actions])
    writer.start()
    assert writer.close(10)


def check(path: Path, keys: KeySet | None = None, *heads: Head, accept: Sequence[Head] = ()) -> Verdict:
    beside = read_anchor(path)
    return queries.verify_audit(path, keys, [*heads, *([beside] if beside else [])], accept)


def kinds(verdict: Verdict) -> list[str]:
    return [problem.kind for problem in verdict.problems]


def asked(verdict: Verdict) -> Head:
    """What the only problem asks to accept."""
    (problem,) = verdict.problems
    found = parse_head(problem.text.partition("--accept ")[2])
    assert found is not None
    return found


def forge(path: Path, *statements: str) -> None:
    """What somebody with another program does to the file."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def hash_again(path: Path, first: int, keys: KeySet | None = None) -> None:
    """What a forger who knows the form does: all links from `first` on are made anew."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for line in list(audit.lines(connection, "WHERE seq >= ?", (first,))):
            fields = list(line.fields)
            before = connection.execute("SELECT hash FROM audit WHERE seq = ?", (int(str(fields[0])) - 1,)).fetchone()
            fields[8] = before[0] if before else GENESIS
            made = link_hash(fields, keys)
            connection.execute("UPDATE audit SET prev = ?, hash = ? WHERE id = ?", (fields[8], made, line.id))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Six links: one, two ... six."""
    file = tmp_path / "s.db"
    put(file, "one", "two", "three")
    put(file, "four", "five", "six")
    return file


# ---- the form


def test_the_first_link_by_hand(path: Path) -> None:
    """The documented form, computed by another JSON library: a reader in any language can check the chain."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        row = dict(connection.execute("SELECT * FROM audit WHERE seq = 1").fetchone())
    made = row.pop("hash")
    assert row.pop("id") == 1
    assert row["prev"] == GENESIS
    form = json.dumps(row | {"v": 1}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(form.encode()).hexdigest() == made


@given(st.text(max_size=20), st.integers(-(2**53) + 1, 2**53 - 1))
def test_the_canonical_form_is_that_of_rfc_8785(text: str, number: int) -> None:
    """For text and whole numbers: escapes, order and numbers as the standard library writes them sorted and dense."""
    fields = (number, text, None, text, "", "", "", text, GENESIS, "")
    names = ("seq", "at", "service", "actor", "action", "target", "why", "detail", "prev", "key")
    form = dict(zip(names, fields, strict=True)) | {"v": 1}
    expected = json.dumps(form, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert canonical(fields) == expected.encode()


def test_the_chain_holds(path: Path) -> None:
    """Across two processes; the head lies beside the file, private, and is that of the last link."""
    verdict = check(path)
    assert verdict.problems == []
    assert (verdict.links, verdict.older, verdict.keyed) == (6, 0, 0)
    assert verdict.head == read_anchor(path)
    assert stat.S_IMODE(anchor_file(path).stat().st_mode) == 0o600
    assert [line["why"] for line in queries.audit(path, 2)] == ["because"] * 2


def test_a_head_is_told_when_its_link_is_on_the_disk(path: Path) -> None:
    """Else a power cut takes a link whose head is known, as a forger does: also what `forget` and markers write is synced,
    and what comes after costs no more than before."""
    said: list[str] = []
    connection, chain = open_writer(path), Chain(path)
    connection.set_trace_callback(said.append)
    forget(connection, "0" * 16, Forgetting(wall(), "alice", "bot"), chain)
    connection.execute("INSERT INTO audit (at, actor, action) VALUES ('2026', 'eve', 'x')")
    Chain(path).begin(connection, "bot")
    told = [one for one in said if one.startswith(("PRAGMA syn", "COMMIT"))]
    assert told == ["PRAGMA synchronous=FULL", "COMMIT", "PRAGMA synchronous=NORMAL"] * 2
    connection.close()


def test_heads_are_read() -> None:
    """With and without the number; nothing else."""
    digest = "ab" * 32
    assert parse_head(f" 7:{digest}\n") == Head(7, digest)
    assert parse_head(digest) == Head(0, digest)
    assert str(Head(0, digest)) == digest
    for text in ("", "7", f"0:{digest}", f"-1:{digest}", digest[:-1], f"7:{digest}:", digest.upper()):
        assert parse_head(text) is None


# ---- what a forger does


@pytest.mark.parametrize("column", ["at", "service", "actor", "action", "target", "why", "detail", "prev", "hash"])
def test_an_edit_is_found(path: Path, column: str) -> None:
    """SEC-AUDIT: whichever column was changed, of the first, a middle and the last row."""
    for seq in (1, 3, 6):
        forge(path, f"CREATE TABLE kept AS SELECT * FROM audit WHERE seq = {seq}")
        forge(path, f"UPDATE audit SET {column} = 'x' WHERE seq = {seq}")
        found = check(path)
        assert "edited" in kinds(found)
        assert seq in {problem.seq for problem in found.problems} | {problem.seq + 1 for problem in found.problems}
        forge(path, f"UPDATE audit SET {column} = (SELECT {column} FROM kept) WHERE seq = {seq}", "DROP TABLE kept")
        assert kinds(check(path)) == []


@pytest.mark.parametrize(
    "value",
    [
        "NULL",
        "CAST('alice' AS BLOB)",
        "CAST(x'ff' AS TEXT)",
        "'alice' || char(0)",
        "x'616c696365'",
        "'alice '",
        "char(27)",
    ],
)
def test_an_edit_of_kind_is_found(path: Path, value: str) -> None:
    """SEC-AUDIT: null, bytes that read the same, broken UTF-8, what terminals do not show; checking never fails."""
    forge(path, f"UPDATE audit SET actor = {value} WHERE seq = 2")
    assert kinds(check(path)) == ["edited"]


@pytest.mark.parametrize("value", ["'two'", "0", "-5", "2.5", "x'02'", "9000000000000000000", "99"])
def test_a_changed_number_is_found(path: Path, value: str) -> None:
    """SEC-AUDIT: also one that makes a gap of the size of the world."""
    forge(path, f"UPDATE audit SET seq = {value} WHERE seq = 2")
    assert "edited" in kinds(check(path))
    assert "deleted" in kinds(check(path))


@pytest.mark.parametrize(
    ("seq", "text"), [(1, "link 1 is missing"), (3, "link 3 is missing"), (5, "link 5 is missing")]
)
def test_a_deletion_is_found(path: Path, seq: int, text: str) -> None:
    """SEC-AUDIT: and named by its number."""
    forge(path, f"DELETE FROM audit WHERE seq = {seq}")
    verdict = check(path)
    assert kinds(verdict) == ["deleted"]
    assert verdict.problems[0].text == text


def test_a_deletion_that_is_hidden_by_new_numbers_is_found(path: Path) -> None:
    """SEC-AUDIT: the rows behind it move up; without hashing all again that shows in each of them."""
    forge(
        path, "DELETE FROM audit WHERE seq = 3", *(f"UPDATE audit SET seq = {n - 1} WHERE seq = {n}" for n in (4, 5, 6))
    )
    assert set(kinds(check(path))) == {"edited", "cut"}


@pytest.mark.parametrize("value", ["'zzz'", "x'00'", "1.5"])
def test_a_number_that_is_none_does_not_end_the_chain(path: Path, value: str) -> None:
    """What was done is recorded behind the last true link all the same: nobody is silenced by a row."""
    forge(path, f"INSERT INTO audit (seq, at, actor, action, hash) VALUES ({value}, '2026', 'eve', 'x', 'h')")
    before = check(path).links
    put(path, "later")
    after = check(path)
    assert (after.links, kinds(after)) == (before + 1, ["edited"])


def test_another_order_is_found(path: Path) -> None:
    """SEC-AUDIT: two rows change places, with their numbers or without."""
    swap = ["UPDATE audit SET id = 100 WHERE id = 2", "UPDATE audit SET id = 2 WHERE id = 5"]
    forge(path, *swap, "UPDATE audit SET id = 5 WHERE id = 100")
    assert "reordered" in kinds(check(path))
    forge(path, *(f"UPDATE audit SET seq = {new} WHERE seq = {old}" for old, new in ((2, 100), (5, 2), (100, 5))))
    assert {"edited"} <= set(kinds(check(path)))


def test_an_insertion_is_found(path: Path) -> None:
    """SEC-AUDIT: a row without a chain in the middle or at the end, and a number that is there twice."""
    forge(path, "INSERT INTO audit (at, actor, action) VALUES ('2026', 'eve', 'x')")
    assert kinds(check(path)) == ["inserted"]
    forge(path, "UPDATE audit SET id = -4 WHERE seq IS NULL")
    assert kinds(check(path)) == ["inserted"]
    forge(path, "DELETE FROM audit WHERE seq IS NULL", "DROP INDEX audit_seq")
    columns = "at, service, actor, action, target, why, detail, seq, prev, key, hash"
    forge(path, f"INSERT INTO audit ({columns}) SELECT {columns} FROM audit WHERE seq = 4")
    assert kinds(check(path)) == ["inserted"]


_VALUES = (
    "NULL",
    "''",
    "'x'",
    "0",
    "1",
    "-1",
    "2.5",
    "x'00'",
    "x'ff'",
    "CAST(x'ff' AS TEXT)",
    "char(0)",
    "'[' || at || ']'",
)


def test_random_forgeries_are_found(path: Path) -> None:
    """SEC-AUDIT: 600 forgeries by chance (a value of any kind in any column, a row taken, copied, moved), one at a time:
    whatever changed the rows is found, and looking never fails."""
    random = np.random.default_rng(7)
    head, found = read_anchor(path), 0
    assert head is not None
    columns = ("at", "service", "actor", "action", "target", "why", "detail", "seq", "prev", "key", "hash")
    for _ in range(600):
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(":memory:")) as copy:
            source.backup(copy)
            copy.text_factory = bytes
            before = copy.execute("SELECT * FROM audit ORDER BY id").fetchall()
            copy.execute("DROP INDEX audit_seq")
            one, other = (int(row) for row in random.choice(6, 2, replace=False) + 1)
            column, value = random.choice(columns), random.choice(_VALUES)
            every = ", ".join(columns)
            copy.execute(
                [
                    f"UPDATE audit SET {column} = {value} WHERE id = {one}",
                    f"DELETE FROM audit WHERE id = {one}",
                    f"INSERT INTO audit ({every}) SELECT {every} FROM audit WHERE id = {one}",
                    f"UPDATE audit SET id = {other} - 20 WHERE id = {one}",
                    f"UPDATE audit SET {column} = (SELECT {column} FROM audit WHERE id = {other}) WHERE id = {one}",
                ][int(random.choice(5, p=(0.5, 0.05, 0.1, 0.1, 0.25)))]
            )
            after = copy.execute("SELECT * FROM audit ORDER BY id").fetchall()
            copy.commit()
            moved = [row[1:] for row in after] != [row[1:] for row in before]
            found += moved
            assert bool(audit_check.verify(copy, None, [head], ()).problems) == moved, (before, after)
    assert found > 400


def test_a_cut_end_is_found_by_an_anchor(path: Path) -> None:
    """SEC-AUDIT: by the file beside the database, or by a head from elsewhere; without any it cannot be."""
    head = read_anchor(path)
    assert head is not None
    forge(path, "DELETE FROM audit WHERE seq > 4")
    assert kinds(check(path)) == ["cut"]
    anchor_file(path).unlink()
    assert kinds(check(path)) == []
    for told in (head, Head(0, head.hash)):
        assert kinds(check(path, None, told)) == ["cut"]
    forge(path, "DELETE FROM audit")
    assert kinds(check(path, None, head)) == ["cut"]


def test_a_chain_that_was_made_anew_is_found_by_an_anchor(path: Path) -> None:
    """SEC-AUDIT: each link fits the next one, but none is the head that was kept."""
    forge(path, "UPDATE audit SET actor = 'eve' WHERE seq = 3")
    hash_again(path, 3)
    assert kinds(check(path)) == ["cut"]
    anchor_file(path).unlink()
    assert kinds(check(path)) == []  # what an attacker who rewrites file and anchors can do without a key


def test_a_row_that_was_hashed_again_alone_is_found(path: Path) -> None:
    """SEC-AUDIT: the next link tells."""
    forge(path, "UPDATE audit SET actor = 'eve' WHERE seq = 3")
    with closing(sqlite3.connect(path)) as connection, connection:
        (line,) = audit.lines(connection, "WHERE seq = 3")
        connection.execute("UPDATE audit SET hash = ? WHERE seq = 3", (link_hash(line.fields, None),))
    verdict = check(path)
    assert kinds(verdict) == ["edited"]
    assert verdict.problems[0].seq == 3


def test_an_older_anchor_holds(path: Path) -> None:
    """A head that was kept before the last links came is still in the chain."""
    head = read_anchor(path)
    put(path, "seven")
    verdict = check(path, None, head or Head(0, ""))
    assert verdict.problems == []
    assert any("1 were added since" in note for note in verdict.notes)


# ---- with a key


def test_with_a_key_a_new_chain_cannot_be_made(tmp_path: Path) -> None:
    """SEC-AUDIT: hashing again without the key, with another key, or leaving the key out: each is found, anchors or not."""
    path = tmp_path / "s.db"
    put(path, "one", "two", "three", keys=OLD)
    verdict = check(path, OLD)
    assert (verdict.problems, verdict.keyed) == ([], 3)
    assert kinds(check(path)) == ["unproven"]
    anchor_file(path).unlink()
    forge(path, "UPDATE audit SET actor = 'eve' WHERE seq = 2")
    hash_again(path, 2, KeySet({"old": b"x" * 32}))
    assert set(kinds(check(path, OLD))) == {"edited"}
    forge(path, "UPDATE audit SET key = ''")
    hash_again(path, 1)
    assert set(kinds(check(path, OLD))) == {"unproven"}
    forge(path, "UPDATE audit SET key = 'eves'")
    hash_again(path, 1, KeySet({"eves": b"x" * 32}))
    assert set(kinds(check(path, OLD))) == {"unproven"}


@pytest.mark.parametrize("how", ["as links without a key", "as rows of an older version"])
def test_what_was_forged_without_the_key_is_a_break_behind_a_start(tmp_path: Path, how: str) -> None:
    """SEC-AUDIT: the sidecar goes on with its key behind whatever it finds, and `verify` does not take that for proof."""
    path = tmp_path / "s.db"
    put(path, "one", "two", "three", keys=OLD)
    anchor_file(path).unlink()
    forge(path, "UPDATE audit SET actor = 'eve' WHERE seq = 2", "UPDATE audit SET key = ''")
    if how == "as links without a key":
        hash_again(path, 1)
    else:
        forge(path, "UPDATE audit SET key = NULL, seq = NULL, prev = NULL, hash = NULL")
    put(path, "four", keys=OLD)
    verdict = check(path, OLD)
    assert kinds(verdict) == ["break"]
    assert check(path, OLD, accept=[asked(verdict)]).problems == []


def test_what_came_before_the_first_key_is_accepted_once(tmp_path: Path) -> None:
    """SEC-AUDIT: rows from before the chain, then links without a key, then a key: one link vouches for all of that."""
    path = tmp_path / "s.db"
    old_file(path, 3)
    put(path, "new")
    put(path, "newer", keys=OLD)
    verdict = check(path, OLD)
    known = asked(verdict)
    assert (kinds(verdict), known.seq, verdict.older) == (["break"], 3, 3)
    put(path, "newest", keys=OLD)
    assert check(path, OLD, accept=[known]).problems == []
    forge(path, "UPDATE audit SET actor = 'eve' WHERE id = 2")
    assert kinds(check(path, OLD, accept=[known])) == ["edited"]


def test_keys_change(path: Path) -> None:
    """No key, a key, another, each from its marker on; the file keeps the older key for checking."""
    put(path, "seven", keys=OLD)
    put(path, keys=NEW)
    put(path, "eight", keys=NEW)
    first = asked(check(path, NEW))
    verdict = check(path, NEW, accept=[first])
    assert (first.seq, verdict.problems, verdict.links, verdict.keyed) == (7, [], 10, 4)
    actions = [line["action"] for line in reversed(queries.audit(path))]
    assert actions[6:] == ["chain.key", "seven", "chain.key", "eight"]
    assert kinds(check(path, KeySet({"new": b"n" * 32}), accept=[first])) == ["unproven", "unproven"]


def test_key_files() -> None:
    """Lines `ID KEY`; a bad one is named by its number, never by its content; keys are not shown."""
    keys = parse_keys(f"# ours\n\nk2 {'AB' * 32}\nk1\t{'01' * 32}\n".encode())
    assert keys.first == "k2"
    assert "k1" in keys
    assert "ab" not in repr(keys).lower()
    assert keys.derived("k1", b"a") != keys.derived("k1", b"b") != keys.derived("k2", b"b")
    assert keys.derived("k3", b"a") is None
    for wrong, what in [("", "1 to 100"), (f"k1 {'0' * 63}", "line 1"), (f"a {'01' * 32}\na {'02' * 32}", "line 2")]:
        with pytest.raises(ValueError, match=what) as caught:
            parse_keys(wrong.encode())
        assert "01" * 32 not in str(caught.value)


# ---- what happens to files


def old_file(path: Path, rows: int) -> None:
    """A database of the version before the chain."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        for statement in FIRST:
            connection.execute(statement)
        connection.execute("CREATE TABLE schema_migrations (id INTEGER PRIMARY KEY, migration_set, name, applied_at)")
        connection.execute("CREATE UNIQUE INDEX s ON schema_migrations (migration_set, name)")
        connection.execute("INSERT INTO schema_migrations VALUES (1, 'llm-sidecar', '0001_first', '2026')")
        connection.execute("PRAGMA user_version=1")
        for number in range(rows):
            old_row(connection, f"old-{number}")


def old_row(connection: sqlite3.Connection, action: str) -> None:
    insert = (
        "INSERT INTO audit (at, service, actor, action, target, detail) VALUES ('2026', 'bot', 'admin', ?, '', '{}')"
    )
    connection.execute(insert, (action,))


def test_an_older_database_gets_a_start_marker(tmp_path: Path) -> None:
    """Its rows stand under the marker's sum from then on: an edit of them is found too. Before, there is no chain."""
    path = tmp_path / "s.db"
    old_file(path, 3)
    with pytest.raises(StoreError, match="without a chain"):
        check(path)
    put(path)
    put(path, "new")
    verdict = check(path)
    assert (verdict.problems, verdict.links, verdict.older) == ([], 2, 3)
    assert queries.audit(path)[1]["action"] == "chain.adopted"
    for forgery in ("UPDATE audit SET actor = 'eve' WHERE id = 2", "DELETE FROM audit WHERE id = 2"):
        copy = tmp_path / f"{len(forgery)}.db"
        queries.backup(path, copy)
        forge(copy, forgery)
        assert kinds(check(copy)) == ["edited"]


def test_rows_of_an_older_program_are_a_break(path: Path) -> None:
    """After a downgrade and an upgrade: told by a marker, and fine once somebody has accepted it. Their edit is found."""
    with closing(sqlite3.connect(path)) as connection, connection:
        old_row(connection, "while downgraded")
    assert kinds(check(path)) == ["inserted"]
    put(path, "seven")
    verdict = check(path)
    assert kinds(verdict) == ["break"]
    known = asked(verdict)
    assert known.seq == 7
    assert check(path, accept=[known]).problems == []
    forge(path, "UPDATE audit SET action = 'other' WHERE seq IS NULL")
    assert kinds(check(path, accept=[known])) == ["edited"]


@pytest.mark.parametrize("how", ["cut", "restored", "deleted"])
def test_a_head_that_is_gone_is_told_in_the_chain(path: Path, tmp_path: Path, how: str) -> None:
    """SEC-AUDIT: the next start after a cut, an older copy or a new file says which head was known."""
    copy, known = tmp_path / "copy.db", read_anchor(path)
    queries.backup(path, copy)
    put(path, "seven")
    known = read_anchor(path)
    if how == "cut":
        forge(path, "DELETE FROM audit WHERE seq > 3")
    elif how == "restored":
        copy.replace(path)
    else:
        for file in (path, path.with_name("s.db-wal"), path.with_name("s.db-shm")):
            file.unlink(missing_ok=True)
    put(path, "later")
    verdict = check(path)
    assert kinds(verdict) == ["break"]
    assert str(known) in verdict.problems[0].text
    assert check(path, accept=[asked(verdict)]).problems == []


def test_a_break_is_accepted_alone(path: Path, tmp_path: Path) -> None:
    """SEC-AUDIT: a second restore of the same copy has its marker in the same place, and is another break."""
    copy = tmp_path / "copy.db"
    queries.backup(path, copy)
    known = []
    for action in ("seven", "forget"):
        put(path, action)
        path.write_bytes(copy.read_bytes())
        put(path, "later")
        assert kinds(check(path, accept=known)) == ["break"]
        known.append(asked(check(path, accept=known)))
    first, second = known
    assert first.seq == second.seq
    assert check(path, accept=[second]).problems == []


def test_a_writer_sees_a_cut_while_it_runs(path: Path) -> None:
    """The head that it wrote itself is gone at its next link, whatever the file beside the database says."""
    writer = Writer(path, service="bot")
    writer.put_audit([Audit(wall(), "alice", "seven")])
    writer.start()
    assert writer.flush(10)
    forge(path, "DELETE FROM audit WHERE seq > 3")
    anchor_file(path).unlink()
    writer.put_audit([Audit(wall(), "alice", "eight")])
    assert writer.close(10)
    assert kinds(check(path)) == ["break"]


def test_backup_retention_and_forgetting_keep_the_chain(path: Path) -> None:
    """Nothing prunes the audit; forgetting adds a link that names no one."""
    writer = Writer(path, service="bot")
    writer.put(as_rows([settled(number, at=wall() - 100, key=number % 3) for number in range(30)]))
    writer.start()
    assert writer.close(10)
    assert queries.forget(path, f"{1:016x}", queries.By("cli:7", "asked for by letter 12")) == 10
    assert queries.prune(path, queries.Limits(2**20, 60, 60)) == 20
    newest = queries.audit(path, 3)
    assert [(line["action"], line["actor"], line["why"]) for line in newest] == [
        ("prune", "cli", ""),
        ("prune.begun", "cli", ""),
        ("forget", "cli:7", "asked for by letter 12"),
    ]
    assert f"{1:016x}" not in str(queries.audit(path))
    copy = path.with_name("copy.db")
    queries.backup(path, copy)
    for file in (path, copy):
        assert (check(file).problems, check(file).links) == ([], 9)


def test_lines_that_were_lost_are_told(tmp_path: Path) -> None:
    """Beyond the room for waiting lines the oldest go, and so does one that no file can store; the chain says how many."""
    path = tmp_path / "s.db"
    writer = Writer(path, service="bot")
    writer.put_audit([Audit(wall(), "alice", f"a{number}") for number in range(QUEUE_OTHERS + 7)])
    writer.start()
    assert writer.flush(10)
    writer.put_audit([Audit(wall(), "alice", "no text: \ud800"), Audit(wall(), "alice", "last")])
    assert writer.flush(10)
    writer.put_audit([Audit(wall(), "alice", "behind")])
    assert writer.close(10)
    lost = [line["detail"] for line in queries.audit(path, 5000) if line["action"] == "audit.lost"]
    assert lost == [{"lines": 1}, {"lines": 7}]
    assert (check(path).problems, check(path).links) == ([], QUEUE_OTHERS + 4)


def test_a_folder_that_takes_no_anchor_costs_only_that(path: Path) -> None:
    """The rows are written, and the chain holds."""
    anchor_file(path).unlink()
    anchor_file(path).with_name(anchor_file(path).name + ".new").mkdir()
    put(path, "seven")
    assert read_anchor(path) is None
    assert check(path).links == 7


# ---- more than one process

_APPEND = """
import sys
from pathlib import Path
from sidecar.store.audit import Audit, Chain
from sidecar.store.database import open_writer, transaction
path, name = Path(sys.argv[1]), sys.argv[2]
connection, chain = open_writer(path), Chain(path)
connection.execute("PRAGMA busy_timeout=20000")
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    with transaction(connection):
        chain.append(connection, "bot", [Audit(1.0, name, f"{number}")])
    chain.seal(connection)
"""


def processes(path: Path, count: int, rows: int) -> list["subprocess.Popen[str]"]:
    """Processes that append together, as they would on a file system without locks of ours."""
    with closing(open_writer(path)):
        pass
    made = [
        subprocess.Popen(
            [sys.executable, "-c", _APPEND, str(path), f"p{number}", str(rows)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for number in range(count)
    ]
    for child in made:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == "ready\n"
    for child in made:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    return made


def test_links_of_several_processes_are_one_chain(tmp_path: Path) -> None:
    """Three processes append to one file at once: each link is there, once, and the chain holds."""
    path = tmp_path / "s.db"
    for child in processes(path, 3, 40):
        while child.poll() is None:
            assert check(path).problems == []  # also in the midst of it
        assert child.wait(60) == 0
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            pipe.close()
    verdict = check(path)
    assert (verdict.problems, verdict.links) == ([], 120)


def test_a_killed_process_leaves_a_whole_chain(tmp_path: Path) -> None:
    """kill -9 between any two instructions: whole links or none, and an anchor that is in the chain."""
    path = tmp_path / "s.db"
    for goal in (3, 40, 90, 160):
        (child,) = processes(path, 1, 100_000)
        with closing(sqlite3.connect(path)) as connection:
            while connection.execute("SELECT count(*) FROM audit").fetchone()[0] < goal:
                pass
        child.kill()
        child.wait(10)
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            pipe.close()
        verdict = check(path)
        assert verdict.problems == []
        assert verdict.links >= goal


def test_an_error_takes_the_link_back(path: Path) -> None:
    """A transaction that fails leaves no link, and the next one takes its number."""
    with closing(open_writer(path)) as connection:
        chain = Chain(path)

        def fails() -> None:
            with transaction(connection):
                chain.append(connection, "bot", [Audit(1.0, "alice", "never")])
                raise OSError("full")

        call: Callable[[], None] = fails
        with pytest.raises(OSError, match="full"):
            call()
    put(path, "seven")
    assert (check(path).problems, check(path).links) == ([], 7)
