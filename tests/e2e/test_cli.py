"""Every verb as a process: exit codes (0 fine, 1 failed, 2 wrong usage or configuration), messages, one object a line."""

import csv
import io
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from sidecar import __version__
from sidecar.cli import main
from sidecar.clock import monotonic
from sidecar.core.record import COLUMNS
from sidecar.demo.stage import Stage, build
from sidecar.store.lock import WriteLock

CLEAN = {key: value for key, value in os.environ.items() if not key.startswith("SIDECAR_") and key != "SERVICE_ID"}
POLICY = 'version: 1\nupstreams:\n  a: {dialect: openai, base_url: "http://127.0.0.1:9/v1"}\nroutes:\n'


def llm_sidecar(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sidecar", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=CLEAN | environ, check=False)


def objects(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """What `--json` printed: one object a line, and nothing else."""
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def refused(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one message of a verb that ended with `code`; a traceback is never a message."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A running sidecar before a simulated provider, with five calls in its database."""
    with ExitStack() as undo:
        made = build(tmp_path_factory.mktemp("stage"), undo)
        for number in range(5):
            body = {"model": "gpt-4o", "messages": [{"role": "user", "content": f"{number}: what is 1 + 1?"}]}
            url = f"{made.traffic}/v1/chat/completions"
            request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert answer.status == 200
        end = monotonic() + 10
        while len(rows(made)) < 5:
            assert monotonic() < end
        yield made


def rows(stage: Stage) -> list[dict[str, Any]]:
    return objects(llm_sidecar("decisions", "--db", str(stage.db), "--json"))


def running(stage: Stage) -> dict[str, str]:
    """The environment by which a verb finds the running sidecar."""
    return {
        "SERVICE_ID": "demo",
        "SIDECAR_DB": str(stage.db),
        "SIDECAR_ADMIN_LISTEN": stage.admin.removeprefix("http://"),
        "SIDECAR_LISTEN": stage.traffic.removeprefix("http://"),
    }


def test_version() -> None:
    assert llm_sidecar("version").stdout == f"llm-sidecar {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["explain"],
        ["feedback", "x"],
        ["rollout", "dance"],
        ["decisions", "--last", "many"],
        ["check"],
    ],
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    """argparse names what is missing or wrong."""
    assert "llm-sidecar" in refused(llm_sidecar(*arguments), 2)


def test_decisions(stage: Stage) -> None:
    """Newest first; the keys are those of a record; a table for people."""
    found = rows(stage)
    assert len(found) == 5
    assert list(found[0]) == list(COLUMNS)
    assert [row["id"] for row in found] == sorted((row["id"] for row in found), reverse=True)
    assert len(objects(llm_sidecar("decisions", "--db", str(stage.db), "--json", "--last", "2"))) == 2
    assert objects(llm_sidecar("decisions", "--db", str(stage.db), "--json", "--service", "other")) == []
    table = llm_sidecar("decisions", SIDECAR_DB=str(stage.db))
    assert table.returncode == 0
    assert table.stdout.splitlines()[0].split()[:2] == ["id", "at"]
    assert len(table.stdout.splitlines()) == 6


def test_explain(stage: Stage) -> None:
    """By decision id or the provider's completion id; an unknown id is exit 1 and says where ids are."""
    row = rows(stage)[0]
    by_id = llm_sidecar("explain", row["id"], "--db", str(stage.db))
    assert by_id.returncode == 0
    assert "gpt-4o" in by_id.stdout
    assert llm_sidecar("explain", row["completion_id"], "--db", str(stage.db)).stdout == by_id.stdout
    assert objects(llm_sidecar("explain", row["id"], "--db", str(stage.db), "--json"))[0]["id"] == row["id"]
    assert "llm-sidecar decisions" in refused(llm_sidecar("explain", "unknown", "--db", str(stage.db)), 1)


def test_export(stage: Stage) -> None:
    """Oldest first, as JSON lines and as CSV, between two times."""
    lines = objects(llm_sidecar("export", "--db", str(stage.db)))
    assert [row["id"] for row in lines] == sorted(row["id"] for row in lines)
    done = llm_sidecar("export", "--db", str(stage.db), "--format", "csv")
    assert [row["id"] for row in csv.DictReader(io.StringIO(done.stdout))] == [row["id"] for row in lines]
    assert objects(llm_sidecar("export", "--db", str(stage.db), "--until", "2020")) == []


def test_rollout(stage: Stage) -> None:
    """The verbs reach the running sidecar with the token beside its database."""
    environ = running(stage)
    (route,) = objects(llm_sidecar("rollout", "status", "--json", **environ))
    assert [arm["id"] for arm in route["arms"]] == ["gpt-4o", "mini"]
    told = llm_sidecar("rollout", "status", **environ).stdout
    assert "rollout of mini on route chat takes 5 % of new units" in told
    assert objects(llm_sidecar("rollout", "pause", "chat", "--json", **environ))[0]["kind"] == "rollout.paused"
    assert "rollout.resumed" in llm_sidecar("rollout", "resume", "chat", **environ).stdout
    assert "25 %" in llm_sidecar("rollout", "promote", "chat", **environ).stdout
    assert "rollout.rolled_back" in llm_sidecar("rollout", "rollback", "chat", **environ).stdout
    assert "rollout.started" in llm_sidecar("rollout", "start", "chat", "mini", **environ).stdout
    assert "no arm" in refused(llm_sidecar("rollout", "start", "chat", "nobody", **environ), 1)
    assert "no route" in refused(llm_sidecar("rollout", "pause", "nowhere", **environ), 1)
    assert "no route 'bots/größe 1'" in refused(llm_sidecar("rollout", "pause", "bots/größe 1", **environ), 1)
    assert "no route 'nowhere'; routes are: chat" in refused(llm_sidecar("rollout", "status", "nowhere", **environ), 1)
    assert "name the ROUTE and the ARM" in refused(llm_sidecar("rollout", "start", "chat", **environ), 2)
    assert "name the ROUTE" in refused(llm_sidecar("rollout", "pause", "", **environ), 2)


def test_feedback(stage: Stage) -> None:
    """A score for a known decision is taken; an unknown id is exit 1, a score out of range is exit 2."""
    row, environ = rows(stage)[0], running(stage)
    assert llm_sidecar("feedback", row["id"], "--score", "1", **environ).stdout == "taken\n"
    assert llm_sidecar("feedback", row["completion_id"], "--score", "0.5", **environ).returncode == 0
    for value, source in (("4", "stars"), ("true", "task_completion"), ("up", "thumbs")):
        assert llm_sidecar("feedback", row["id"], "--value", value, "--source", source, **environ).returncode == 0
    assert "must be a number" in refused(llm_sidecar("feedback", row["id"], "--value", "nan", **environ), 1)
    assert "1..5" in refused(llm_sidecar("feedback", row["id"], "--value", "6", "--source", "stars", **environ), 1)
    assert "404" in refused(llm_sidecar("feedback", "unknown", "--score", "1", **environ), 1)
    assert "between 0 and 1" in refused(llm_sidecar("feedback", row["id"], "--score", "2", **environ), 2)


def test_a_sidecar_that_does_not_run_is_said(tmp_path: Path) -> None:
    """Exit 1 and a question that helps; without a token exit 2 and which variable to set."""
    nowhere = {"SIDECAR_ADMIN_LISTEN": "127.0.0.1:9", "SIDECAR_LISTEN": "127.0.0.1:7"}
    token = tmp_path / "token"
    token.write_text("abc\n")
    done = llm_sidecar("rollout", "status", SIDECAR_ADMIN_TOKEN_FILE=str(token), **nowhere)
    assert "is the sidecar running with these settings?" in refused(done, 1)
    assert "is the sidecar running" in refused(llm_sidecar("feedback", "x", "--score", "1", **nowhere), 1)
    assert "SIDECAR_ADMIN_TOKEN_FILE" in refused(llm_sidecar("rollout", "status", **nowhere), 2)


@pytest.mark.parametrize("content", [b"abc\nsecond-line\n", b"\xff\xfeabc\n", b"\n"])
def test_a_token_that_is_none_is_said(tmp_path: Path, content: bytes) -> None:
    """Exit 2 and the file's name; nothing of what is in it."""
    token = tmp_path / "token"
    token.write_bytes(content)
    told = refused(llm_sidecar("rollout", "status", SIDECAR_ADMIN_TOKEN_FILE=str(token)), 2)
    assert f"{token}: must hold one line" in told
    assert "abc" not in told


def test_what_is_no_sidecar_is_said(tmp_path: Path) -> None:
    """What listens at the admin port speaks no HTTP, or no JSON; or the settings name no port at all."""
    token = tmp_path / "token"
    token.write_text("abc\n")
    file = {"SIDECAR_ADMIN_TOKEN_FILE": str(token)}
    assert "SIDECAR_ADMIN_LISTEN" in refused(llm_sidecar("rollout", "status", "--set", "admin_listen=", **file), 2)
    for said, told in ((b"220 mail\r\n", "is the sidecar running"), (b"HTTP/1.0 200 OK\r\n\r\n<p>", "no JSON")):
        with socket.create_server(("127.0.0.1", 0)) as other:

            def answer(other: socket.socket = other, said: bytes = said) -> None:
                with other.accept()[0] as peer:
                    peer.recv(4096)
                    peer.sendall(said)

            thread = threading.Thread(target=answer)
            thread.start()
            port = other.getsockname()[1]
            done = llm_sidecar("rollout", "status", SIDECAR_ADMIN_LISTEN=f"127.0.0.1:{port}", **file)
            thread.join()
        assert told in refused(done, 1)


def test_state(stage: Stage, tmp_path: Path) -> None:
    """What was learnt goes out and in again; a file that is no state is exit 2."""
    file, db = tmp_path / "state.json", str(stage.db)
    assert llm_sidecar("state", "export", str(file), "--db", db, SERVICE_ID="demo").returncode == 0
    assert json.loads(file.read_text())
    copy = tmp_path / "copy.db"
    assert llm_sidecar("store", "backup", str(copy), "--db", db).returncode == 0
    assert llm_sidecar("state", "import", str(file), "--db", str(copy), SERVICE_ID="other").returncode == 0
    assert llm_sidecar("state", "export", str(file), "--db", str(copy), SERVICE_ID="other").returncode == 0
    assert "no learnt state" in refused(llm_sidecar("state", "export", str(file), "--db", db, SERVICE_ID="nobody"), 1)
    file.write_text("no json")
    assert "state export" in refused(llm_sidecar("state", "import", str(file), "--db", db), 2)


def test_store(stage: Stage, tmp_path: Path) -> None:
    """Status, a backup that is a whole database, prune, and forgetting a person's rows."""
    db, copy = str(stage.db), tmp_path / "copy.db"
    assert objects(llm_sidecar("store", "status", "--db", db))[0]["decisions"] >= 5
    assert llm_sidecar("store", "backup", str(copy), "--db", db).returncode == 0
    assert "exists already" in refused(llm_sidecar("store", "backup", str(copy), "--db", db), 1)
    key = objects(llm_sidecar("decisions", "--db", str(copy), "--json"))[0]["sticky_key"]
    assert llm_sidecar("store", "forget", "--key", key, "--db", str(copy)).stdout == "1 decisions erased\n"
    assert llm_sidecar("store", "prune", "--db", str(copy)).stdout == "0 rows deleted\n"
    assert "name the new FILE" in refused(llm_sidecar("store", "backup", "--db", db), 2)
    assert "--key" in refused(llm_sidecar("store", "forget", "--db", db), 2)


def test_a_database_that_is_none_is_said(tmp_path: Path) -> None:
    """No file named: exit 2. A missing or foreign file: exit 1, and which."""
    foreign = tmp_path / "foreign.db"
    foreign.write_text("this is no database, and long enough to be seen as none " * 20)
    for verb in (["decisions"], ["explain", "x"], ["export"], ["store", "status"], ["store", "prune"]):
        assert "SIDECAR_DB" in refused(llm_sidecar(*verb), 2)
        assert "no database here" in refused(llm_sidecar(*verb, "--db", str(tmp_path / "none.db")), 1)
        assert str(foreign) in refused(llm_sidecar(*verb, "--db", str(foreign)), 1)
    with closing(sqlite3.connect(tmp_path / "others.db")) as others:
        others.execute("CREATE TABLE theirs (a)")
    for verb in (["state", "export", str(tmp_path / "new")], ["store", "backup", str(tmp_path / "new")]):
        assert "no database here" in refused(llm_sidecar(*verb, "--db", str(tmp_path / "none.db")), 1)
        assert "is it the sidecar's database" in refused(llm_sidecar(*verb, "--db", str(foreign)), 1)
        assert "is it the sidecar's database" in refused(llm_sidecar(*verb, "--db", str(tmp_path / "others.db")), 1)
    assert not (tmp_path / "new").exists()


def test_odd_arguments_are_answered_in_words(stage: Stage, tmp_path: Path) -> None:
    """No traceback, and nothing that looks as if it had been done."""
    db = ["--db", str(stage.db)]
    done = llm_sidecar("replay", "--policy", str(stage.policy), "--since", "9999999d", *db)
    assert "on 5 logged calls" in done.stdout, done.stderr
    assert "name the new FILE" in refused(llm_sidecar("store", "backup", "", *db), 2)
    assert "is no name of a host" in refused(llm_sidecar("simulate-provider", "--host", "a..b"), 2)
    assert "has no *.yaml file" in refused(llm_sidecar("catalogue", "compile", str(tmp_path)), 2)
    assert list(tmp_path.iterdir()) == []


def test_prices(tmp_path: Path) -> None:
    """The list is compiled from the installed package, without the network."""
    target = tmp_path / "prices.json"
    done = llm_sidecar("prices", "refresh", "--to", str(target))
    assert done.returncode == 0, done.stderr
    assert json.loads(target.read_text())
    assert "providers" in done.stdout


def test_a_busy_port_exits_2(stage: Stage) -> None:
    """At once, with the listener and the address (INC-40)."""
    busy = stage.traffic.removeprefix("http://")
    free = {"SIDECAR_HEALTH_LISTEN": "127.0.0.1:0", "SIDECAR_ADMIN_LISTEN": "127.0.0.1:0"}
    told = refused(llm_sidecar("run", SIDECAR_LISTEN=busy, **free), 2)
    assert f"traffic listener {busy}" in told
    port = stage.provider.rpartition(":")[2]
    assert "choose another --port" in refused(llm_sidecar("simulate-provider", "--port", port), 2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--set", "lsten=127.0.0.1:1"], "did you mean 'listen'"),
        (["--set", "listen=0.0.0.0:9090"], "SIDECAR_ALLOW_NON_LOOPBACK"),
        (["--set", "drain=soon"], "drain"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--set", "admin_token_file=missing-token", "--set", "listen=127.0.0.1:0"], "missing-token"),
    ],
)
def test_bad_settings_exit_2(arguments: list[str], told: str) -> None:
    """Before anything is served, with the name of the setting."""
    free = {"SIDECAR_HEALTH_LISTEN": "127.0.0.1:0"}
    assert told in refused(llm_sidecar("run", *arguments, **free), 2)


def test_check_names_an_unknown_upstream(tmp_path: Path) -> None:
    """Exit 2; file, line, key path and the nearest name."""
    file = tmp_path / "bot.yaml"
    file.write_text(f"{POLICY}  - {{name: chat, baseline: {{id: x, upstream: b, model: m}}}}\n")
    assert f"{file}:5: routes[0].baseline.upstream: upstream 'b'" in refused(llm_sidecar("check", str(file)), 2)
    assert "cannot be read" in refused(llm_sidecar("check", str(tmp_path / "missing.yaml")), 2)


def test_a_key_file_that_cannot_be_read_is_in_ready(tmp_path: Path) -> None:
    """The sidecar serves, and `/ready` says which file of which upstream: traffic of other routes goes on."""
    (tmp_path / "bot.yaml").write_text(
        'version: 1\nupstreams:\n  a: {dialect: openai, base_url: "http://127.0.0.1:9", api_key: {file: /no/such/key}}\n'
        "routes:\n  - {name: chat, baseline: {id: x, upstream: a, model: m}}\n"
    )
    with ExitStack() as undo:
        told = ready(tmp_path, undo)
    assert told["ready"] is True
    assert any("upstreams.a: /no/such/key: cannot be read" in note for note in told["notes"])


def ready(policies: Path, undo: ExitStack, **more: str) -> Any:
    """What `/ready` says of a sidecar with these policies; it has to end with 0 on SIGTERM."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    environ = CLEAN | {
        "SIDECAR_LISTEN": "127.0.0.1:0",
        "SIDECAR_HEALTH_LISTEN": f"127.0.0.1:{port}",
        "SIDECAR_ADMIN_LISTEN": "127.0.0.1:0",
        "SIDECAR_POLICIES": str(policies),
        "SIDECAR_DRAIN_IDLE": "10ms",
        **more,
    }
    process = subprocess.Popen([sys.executable, "-m", "sidecar", "run"], env=environ, stderr=subprocess.DEVNULL)
    undo.callback(process.kill)
    end = monotonic() + 20
    while True:
        try:
            told = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=2).read())
            break
        except OSError:
            assert monotonic() < end
            assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    return told


def test_the_verbs_run_in_process_too(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same functions without a process, with the same exit codes: what coverage can see."""
    for key, value in running(stage).items():
        monkeypatch.setenv(key, value)
    newest = rows(stage)[0]["id"]
    copy, state, prices = tmp_path / "copy.db", tmp_path / "state.json", tmp_path / "prices.json"
    state.write_text('{"version": 1}')
    codes = {
        "version": 0,
        "decisions": 0,
        "decisions --json --set nonsense=1": 2,
        f"explain {newest}": 0,
        f"explain {newest} --json": 0,
        "explain unknown": 1,
        "export --format csv": 0,
        "export": 0,
        f"check --json {stage.policy}": 0,
        f"check {stage.policy}": 0,
        f"check {tmp_path / 'missing.yaml'}": 2,
        "rollout status": 0,
        "rollout status --json": 0,
        "rollout pause chat": 0,
        "rollout resume chat --json": 0,
        "rollout pause": 2,
        "rollout pause nowhere": 1,
        f"feedback {newest} --score 0.5": 0,
        "feedback unknown --score 0.5": 1,
        "feedback unknown --score 0.5 --set listen=127.0.0.1:9": 1,
        f"store backup {copy}": 0,
        "store backup": 2,
        "store status": 0,
        f"store prune --db {copy}": 0,
        f"store forget --key 00000000000000ff --db {copy}": 0,
        "store forget": 2,
        "store prune": 0,
        "store forget --key 00000000000000ff": 0,
        "store prune --set admin_listen=127.0.0.1:9": 1,
        f"state import {state}": 1,
        f"decisions --db {copy} --service none": 0,
        f"state import {state} --db {copy}": 0,
        f"state export {state} --db {copy}": 0,
        f"state export {state} --db {copy} --set service=nobody": 1,
        f"state import {tmp_path / 'missing'} --db {copy}": 2,
        f"prices refresh --to {prices}": 0,
    }
    assert {line: main(line.split()) for line in codes} == codes
    out, err = capsys.readouterr()
    assert newest in out
    assert "nonsense" in err


def test_erasing_beside_a_running_sidecar(stage: Stage, tmp_path: Path) -> None:
    """INC-31: the process that writes the file does it when it can be reached; otherwise the verb says what to do, and
    never opens a second writing connection. Import is refused: the process would write over it."""
    db, environ = str(stage.db), running(stage)
    key = rows(stage)[-1]["sticky_key"]
    assert llm_sidecar("store", "prune", **environ).stdout == "0 rows deleted\n"
    nowhere = environ | {"SIDECAR_ADMIN_LISTEN": "127.0.0.1:9"}
    for verb in (["prune"], ["forget", "--key", key]):
        told = refused(llm_sidecar("store", *verb, **nowhere), 1)
        assert f"pid {stage.processes['sidecar'].pid}) writes {db}" in told
        assert "SIDECAR_ADMIN_LISTEN" in told
    before = len(rows(stage))
    assert llm_sidecar("store", "forget", "--key", key, "--db", db, **environ).stdout == "1 decisions erased\n"
    assert len(rows(stage)) == before - 1
    state = tmp_path / "state.json"
    state.write_text('{"version": 1}')
    assert "stop it first" in refused(llm_sidecar("state", "import", str(state), **environ), 1)
    with closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True)) as connection:
        audit = connection.execute("SELECT actor, detail FROM audit WHERE action = 'forget'").fetchall()
    assert audit[-1] == ("admin", '{"decisions":1}')


def test_erasing_asks_the_process_that_holds_the_file(stage: Stage, tmp_path: Path) -> None:
    """A database that another process holds, whose token is the same: the sidecar that answers refuses to touch its own."""
    other = tmp_path / "other.db"
    assert llm_sidecar("store", "backup", str(other), "--db", str(stage.db)).returncode == 0
    token = tmp_path / "token"
    token.write_text(stage.token)
    lock = WriteLock(other)
    lock.take()
    environ = running(stage) | {"SIDECAR_ADMIN_TOKEN_FILE": str(token)}
    told = refused(llm_sidecar("store", "forget", "--key", "f" * 16, "--db", str(other), **environ), 1)
    lock.give()
    assert "409" in told
    assert "Another process" in told


def test_no_decisions_yet(tmp_path: Path) -> None:
    """Before the first row, even before the tables: nothing on standard output, exit 0; `explain` knows no such id."""
    db = tmp_path / "sidecar.db"
    db.touch()
    for arguments in (["decisions"], ["decisions", "--json"], ["export"]):
        done = llm_sidecar(*arguments, "--db", str(db))
        assert (done.returncode, done.stdout) == (0, "")
    assert "no decisions yet" in llm_sidecar("decisions", "--db", str(db)).stderr
    assert "of service x" in llm_sidecar("decisions", "--service", "x", "--db", str(db)).stderr
    assert llm_sidecar("export", "--format", "csv", "--db", str(db)).stdout == ",".join(COLUMNS) + "\n"
    assert "no decision has the id" in refused(llm_sidecar("explain", "x", "--db", str(db)), 1)


def test_a_policy_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    """It would take the routes away; who wants none writes so."""
    file = tmp_path / "bot.yaml"
    file.write_text(POLICY.partition("routes:")[0])
    assert f"{file}:1: routes: is missing; add `routes`" in refused(llm_sidecar("check", str(file)), 2)
    file.write_text(POLICY.replace("routes:", "routes: []"))
    assert llm_sidecar("check", str(file)).returncode == 0


def test_two_sidecars_on_one_database(stage: Stage, tmp_path: Path) -> None:
    """INC-31: the second serves all the same and stores nothing; `/ready` says whose the file is."""
    environ = {"SIDECAR_DB": str(stage.db), "SERVICE_ID": "demo"}
    with ExitStack() as undo:
        (tmp_path / "policies").mkdir()
        told = ready(tmp_path / "policies", undo, **environ)
    assert told["ready"] is True
    pid = stage.processes["sidecar"].pid
    assert any(f"another process (pid {pid}) writes {stage.db}" in note for note in told["notes"])
