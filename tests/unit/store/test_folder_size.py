"""How large the state folder gets: what an emptyDir's `sizeLimit` has to hold, or the kubelet evicts the pod.

Derived. The file: `max_bytes` of pages in use, and what comes between two prunes (CHORE_S). Its WAL: CHECKPOINT_BYTES until
it is copied, what one commit adds, and what readers hold back meanwhile. Beside them at most one copy of the file in
ordinary use, as `store backup` makes it, or as damage leaves it (`.corrupt-...`, of which KEPT_CORRUPT are kept). The test
has a cap of 12 MiB for the 256 of production; what does not grow with it (the WAL) is allowed for in full.
"""

from pathlib import Path

import pytest

from sidecar.config.settings import Settings
from sidecar.inject.options import Defaults
from sidecar.store import queries
from sidecar.store.database import CHECKPOINT_BYTES, open_reader
from sidecar.store.retention import Limits
from sidecar.store.writer import CHORE_S, Writer
from tests.fixtures.settled import as_rows, settled

MIB = 2**20
CAP = 12 * MIB
BATCH = 250  # a quarter of a second of 1,000 calls/s
ROWS = 56_000  # twice what the cap holds
WAL = 3 * CHECKPOINT_BYTES  # until it is copied, and while a backup reads
SLACK = 0.10  # of the cap: pages that a prune has freed and that are not used again yet
CALLS_PER_S = 2000  # what one process carries
STATE_SIZE = 1024 * MIB  # of the injector's emptyDir


def folder_bytes(folder: Path) -> int:
    """What the kubelet adds up."""
    return sum(one.stat().st_size for one in folder.iterdir() if one.is_file())


def test_the_folder_stays_below_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filled beyond its cap twice and read meanwhile: alone it stays below cap + WAL, and below twice the cap + WAL with a
    backup in the same folder. By the same sum the file of production fits into the volume, with two copies beside it and not
    with three (docs/kubernetes-lifecycle.md)."""
    monkeypatch.setattr("sidecar.store.writer.CHORE_S", 0.0)  # rows come a hundred times as fast as chores else would
    path = tmp_path / "sidecar.db"
    writer = Writer(path, service="bot", limits=Limits(max_bytes=CAP), commit_s=0.005)
    writer.start()
    alone = beside = 0
    try:
        for number in range(0, ROWS, BATCH):
            writer.put(as_rows([settled(one, key=one) for one in range(number, number + BATCH)]))
            assert writer.flush(30)
            alone = max(alone, folder_bytes(tmp_path))
        assert writer.rows_pruned > ROWS // 3, "the cap was not reached"
        reader = open_reader(path)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM decisions").fetchone()
        queries.backup(path, tmp_path / "backup.db")
        for number in range(ROWS, ROWS + 10 * BATCH, BATCH):
            writer.put(as_rows([settled(one, key=one) for one in range(number, number + BATCH)]))
            assert writer.flush(30)
            beside = max(beside, folder_bytes(tmp_path))
        reader.close()
    finally:
        writer.close(10)
    print("alone", round(alone / MIB, 1), "with a backup", round(beside / MIB, 1), "MiB; cap", CAP // MIB)
    file = CAP * (1 + SLACK)
    assert CAP * 0.9 < alone < file + WAL
    assert beside < 2 * file + WAL
    production = Settings().store_max_bytes * (1 + SLACK) + int(CHORE_S * CALLS_PER_S) * alone // (ROWS // 3) + WAL
    copy = Settings().store_max_bytes
    assert production + 2 * copy < STATE_SIZE < production + 3 * copy
    assert sized(Defaults().state_size) == STATE_SIZE


def sized(quantity: str) -> int:
    """Bytes of a quantity in Gi, as Kubernetes writes them."""
    assert quantity.endswith("Gi")
    return int(quantity[:-2]) * 2**30
