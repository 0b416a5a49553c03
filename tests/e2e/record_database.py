"""Records a database of this version for the tests of upgrades: `python -m tests.e2e.record_database NAME`.

To be run once, before a change of the schema or of what a snapshot holds, and never again for the same name: the file
stands for what that version wrote. It goes to `tests/fixtures/databases/NAME.db.gz`; add the name to `OLDER` of
`test_upgrades.py`.
"""

import asyncio
import gzip
import sqlite3
import sys
import tempfile
from pathlib import Path

from tests.e2e.process import Provider, Sidecar, ask
from tests.e2e.rounds import write_policy
from tests.e2e.test_upgrades import CALLS, DATABASES, POLICY, SCORES, STEP
from tests.e2e.traffic import Connection, chat

PEOPLE = 12


async def talk(sidecar: Sidecar) -> None:
    """The calls and scores that every recording has."""
    connection = Connection(sidecar.port)
    for number in range(CALLS):
        headers = {"x-sidecar-session": f"person-{number % PEOPLE}"}
        reply = await connection.call(chat(f"question {number}", stream=number % 3 == 0), headers)
        assert reply.status == 200
        if number % (CALLS // SCORES) == 0:
            body = {"id": reply.decision, "score": 1.0, "source": "task"}
            assert ask(sidecar.port, "POST", "/_sidecar/v1/feedback", body=body)[0] < 300
    await connection.close()


def record(folder: Path) -> bytes:
    """A database after the calls, with its rollout one step further, as one file."""
    with Provider(folder, "default:ttft=0.002", "default:output_tokens=8") as provider:
        policies = write_policy(folder, provider, POLICY)
        with Sidecar(folder, provider.url, policies=policies) as sidecar:
            answer = sidecar.admin("POST", "/api/v1/routes/support/rollout", {"action": "promote"})
            assert answer["events"][0]["detail"]["step"] == STEP
            asyncio.run(talk(sidecar))
            assert sidecar.stop() == 0
            connection = sqlite3.connect(sidecar.db)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("VACUUM")
            connection.close()
            return sidecar.db.read_bytes()


def main(name: str) -> None:
    """Writes the file; an existing one is not touched."""
    target = DATABASES / f"{name}.db.gz"
    if target.exists():
        raise SystemExit(f"{target} exists: it stands for what its version wrote")
    with tempfile.TemporaryDirectory() as folder:
        target.write_bytes(gzip.compress(record(Path(folder)), 9, mtime=0))


if __name__ == "__main__":
    main(sys.argv[1])
