"""Keys, roles and the audit in a real process: steered by names, changed while it runs, killed, looked into afterwards."""

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sidecar.control.access import new_token
from tests.e2e.process import ROOT, Provider, Sidecar, ask
from tests.fixtures.guards import key_file
from tests.fixtures.waiting import wait_for

CANARY = "canary-person-51e"
POLICY = """
version: 1
service: bot
upstreams: {{sim: {{dialect: openai, base_url: "{url}/v1", price: free}}}}
routes:
  - name: support
    match: {{models: ["gpt-4o"]}}
    mode: canary
    baseline: {{id: base, upstream: sim, model: gpt-4o}}
    arms: [{{id: new, upstream: sim, model: quick}}]
    rollout: {{steps: [5, 50, 100], min_requests: 100000, interval: 1h}}
"""


class Guarded:
    """A sidecar with roles, an audit key and an encryption key; each caller's token lies in a file of their name."""

    def __init__(self, folder: Path, provider: Provider) -> None:
        self.folder = folder
        self.roles = folder / "roles"
        self.roles.write_text("".join(self.line(name, role) for name, role in self.callers.items()))
        (folder / "policies").mkdir()
        (folder / "policies" / "p.yaml").write_text(POLICY.format(url=provider.url))
        (folder / "salt").write_bytes(b"salt")
        self.audit_keys, self.field_keys = key_file(folder / "audit-keys", "a1"), key_file(folder / "field-keys", "f1")
        self.sidecar = Sidecar(
            folder,
            provider.url,
            policies=folder / "policies",
            admin_roles_file=self.roles,
            audit_key_file=self.audit_keys,
            encryption_key_file=self.field_keys,
            salt_file=folder / "salt",
        )

    callers = {"vera": "viewer", "otto": "operator", "ada": "admin"}  # noqa: RUF012 - read only

    def line(self, name: str, role: str) -> str:
        """A line for a new token, which is kept for `verb`."""
        token, line = new_token(name, role)
        (self.folder / f"token-{name}").write_text(token + "\n")
        return line + "\n"

    def verb(self, caller: str, *arguments: str) -> tuple[int, str]:
        """Exit status and output of a verb that this caller runs with the settings of the process."""
        command = [sys.executable, "-m", "sidecar", *arguments]
        names = ("db", "service", "admin_listen", "audit_key_file", "encryption_key_file", "salt_file")
        for value in self.sidecar.arguments:
            if value.partition("=")[0] in names:
                command += ["--set", value]
        command += ["--set", f"admin_token_file={self.folder / f'token-{caller}'}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
        return done.returncode, done.stdout + done.stderr

    def call(self, number: int) -> None:
        """One call of an app, with a person's name in its tags, and a score for it."""
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
        tags = {"x-sidecar-tags": f"task=chat-{CANARY}, user={CANARY}-{number}"}
        status, answer = ask(self.sidecar.port, "POST", "/v1/chat/completions", body=body, headers=tags)
        assert status == 200
        score = {"completion_id": json.loads(answer)["id"], "score": 1}
        assert ask(self.sidecar.port, "POST", "/_sidecar/v1/feedback", body=score)[0] == 202

    def heads(self) -> list[str]:
        """The heads that the log has told."""
        return re.findall(r'"message":"(\d+:[0-9a-f]{64})"', self.sidecar.output())

    def on_disk(self) -> bytes:
        return b"".join(file.read_bytes() for file in self.sidecar.db.parent.glob("sidecar.db*"))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guards")
    with Provider(folder, "default:output_tokens=3") as provider:
        one = Guarded(folder, provider)
        with one.sidecar:
            for number in range(8):
                one.call(number)
            yield one


def test_roles_on_the_command_line(guarded: Guarded) -> None:
    """SEC-ADMIN: who may look may not steer, who may steer may not erase; each is told which role is needed."""
    assert guarded.verb("vera", "rollout", "status")[0] == 0
    code, said = guarded.verb("vera", "rollout", "pause", "support")
    assert (code, "needs the role operator; vera has the role viewer" in said) == (1, True)
    code, said = guarded.verb("otto", "rollout", "pause", "support", "--why", "looks odd")
    assert (code, "paused" in said) == (0, True), said
    code, said = guarded.verb("otto", "store", "forget", "--key", "f" * 16)
    assert (code, "needs the role admin" in said) == (1, True)
    assert guarded.verb("ada", "store", "forget", "--key", "f" * 16, "--why", "letter 12")[0] == 0


def test_roles_change_while_it_runs(guarded: Guarded) -> None:
    """A bad file changes nothing and is told in /ready; a good one is in force within seconds, and the old token is not."""
    text = guarded.roles.read_text()
    guarded.roles.write_text("otto is my operator\n")
    assert wait_for(lambda: any("admin_roles_file" in note for note in guarded.sidecar.ready()[1]["notes"]), 10)
    assert guarded.verb("vera", "rollout", "status")[0] == 0
    before = (guarded.folder / "token-vera").read_text()
    changed = "".join(line for line in text.splitlines(True) if not line.startswith("vera"))
    guarded.roles.write_text(changed + guarded.line("vera", "viewer"))
    assert wait_for(lambda: guarded.verb("vera", "rollout", "status")[0] == 0, 10)
    assert not any("admin_roles_file" in note for note in guarded.sidecar.ready()[1]["notes"])
    status = ask(
        guarded.sidecar.admin_port, "GET", "/api/v1/status", headers={"Authorization": f"Bearer {before.strip()}"}
    )[0]
    assert status == 401


def test_nothing_personal_lies_on_the_disk(guarded: Guarded) -> None:
    """SEC-PRIVACY: not in the database, its WAL, or beside it; who has the key exports it, also after a new key."""
    assert wait_for(lambda: len(guarded.sidecar.decisions()) >= 8, 10)
    assert CANARY.encode() not in guarded.on_disk()
    key_file(guarded.field_keys, "f2", "f1")
    assert guarded.verb("ada", "store", "encrypt")[0] == 0
    assert b"sealed:1.f1." not in guarded.on_disk()
    guarded.call(9)
    code, said = guarded.verb("ada", "store", "encrypt", "--why", "a new year")
    assert code == 0, said
    rows = [json.loads(line) for line in guarded.verb("vera", "export")[1].splitlines()]
    assert {row["context"]["tags"]["user"] for row in rows} >= {f"{CANARY}-{number}" for number in range(8)}
    assert {row["context"]["sealed"] for row in guarded.sidecar.decisions()} == {"encrypted"}
    key_file(guarded.field_keys, "f2")
    rows = [json.loads(line) for line in guarded.verb("vera", "export")[1].splitlines()]
    assert all("tags" in row["context"] for row in rows)
    assert CANARY.encode() not in guarded.on_disk()


def test_the_audit_after_a_kill(guarded: Guarded) -> None:
    """SEC-AUDIT: kill -9 amid verbs, start again: the chain holds, knows every name and reason, and has each head that
    the log told. What somebody with another program does then is found."""
    sidecar = guarded.sidecar
    assert guarded.verb("otto", "rollout", "resume", "support")[0] == 0
    assert guarded.verb("otto", "rollout", "promote", "support", "--why", "numbers are good")[0] == 0
    sidecar.kill()
    sidecar.start_again()
    code, said = guarded.verb("vera", "audit", "verify")
    assert code == 0, said
    links = int(re.search(r"(\d+) links, (\d+) of them with a key", said)[1])  # type: ignore[index]
    told = re.search(r"^llm_sidecar_audit_links (\S+)$", sidecar.metrics(), re.MULTILINE)
    assert told is not None
    assert float(told[1]) >= links
    lines = [
        json.loads(line) for line in guarded.verb("vera", "audit", "list", "--json", "--last", "100")[1].splitlines()
    ]
    done = {(line["actor"], line["action"], line["why"]) for line in lines}
    assert {
        ("otto", "rollout.pause", "looks odd"),
        ("ada", "forget", "letter 12"),
        ("ada", "encrypt", "a new year"),
        ("otto", "rollout.promote", "numbers are good"),
    } <= done
    assert {"admin.roles", "rollout.started"} <= {line["action"] for line in lines if line["actor"] == "sidecar"}
    heads = guarded.heads()
    assert len(heads) >= 3
    code, said = guarded.verb("vera", "audit", "verify", *(word for head in heads for word in ("--head", head)))
    assert code == 0, said
    sidecar.kill()
    with closing(sqlite3.connect(sidecar.db)) as connection, connection:
        connection.execute("DELETE FROM audit WHERE seq >= ?", (int(heads[-1].partition(":")[0]),))
    assert guarded.verb("vera", "audit", "verify")[0] == 1
    (sidecar.db.parent / "sidecar.db.audit-head").unlink()
    assert guarded.verb("vera", "audit", "verify")[0] == 0
    code, said = guarded.verb("vera", "audit", "verify", "--head", heads[-1])
    assert (code, "cut" in said) == (1, True)


def test_without_its_key_a_state_is_not_overwritten(guarded: Guarded) -> None:
    """SEC-PRIVACY: a process that cannot open what was learnt serves, says so, and leaves it for one that can."""
    sidecar = guarded.sidecar
    sidecar.kill()
    arguments = sidecar.arguments
    sidecar.arguments = [*arguments, "--set", "encryption_key_file="]
    with closing(sqlite3.connect(sidecar.db)) as connection:
        before = connection.execute("SELECT state FROM arms WHERE route = '*'").fetchone()[0]
    sidecar.start_again()
    guarded.call(10)
    assert "state.sealed" in sidecar.output()
    assert sidecar.stop() == 0
    with closing(sqlite3.connect(sidecar.db)) as connection:
        assert connection.execute("SELECT state FROM arms WHERE route = '*'").fetchone()[0] == before
    sidecar.arguments = arguments
    sidecar.start_again()
    assert "state.restored" in sidecar.output()
