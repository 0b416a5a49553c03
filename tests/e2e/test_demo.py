"""The demo as a newcomer starts it: it tells its whole story by itself, and ends cleanly when it is interrupted."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, cast

import pytest

from sidecar.clock import monotonic
from sidecar.demo.stage import SHORTENED
from sidecar.demo.story import play
from sidecar.store import queries


def test_the_story_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0 within three minutes: canary, promotion, takeover, fault, rollback, bill; every figure from the database."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    began = monotonic()
    code = play()
    told = capsys.readouterr().out
    assert code == 0, told
    assert monotonic() - began < 200
    assert SHORTENED in told
    for line in ("mini: promoted", "nano: started, now at 5 %", "nano: rolled back", "Story told."):
        assert line in told
    saved = re.search(r"cost saved +([0-9.]+)%", told)
    rollback = re.search(r"time to rollback +([0-9.]+) s: (\d+) requests on nano, (\d+) of them failed", told)
    assert saved is not None
    assert float(saved[1]) > 5
    assert rollback is not None
    assert float(rollback[1]) < 30
    assert 1 <= int(rollback[3]) <= int(rollback[2])
    (folder,) = tmp_path.glob("llm-sidecar-demo-*")
    rows = queries.decisions(folder / "sidecar.db", "demo", 100)
    row = next(row for row in rows if row["outcome"] == "completed")
    assert f"explain {row['id']} --db {folder / 'sidecar.db'}" in told


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 1)])
def test_an_interrupt_ends_everything(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """The demo ends at once, names its folder, and leaves no child behind."""
    with _begun(tmp_path) as (demo, output):
        demo.send_signal(number)
        rest = output.read()
        assert demo.wait(30) == code
    assert str(tmp_path) in rest
    assert _running_in(tmp_path) == {}


def test_a_stop_before_the_end_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--seconds` shorter than the story: exit 0, and the summary says that it was not told."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert play(3.0) == 0
    assert "The time was over before the story was told." in capsys.readouterr().out


def test_a_story_that_stops_exits_1(tmp_path: Path) -> None:
    """When the sidecar dies the demo says which process ended, with its status, and where the log is."""
    with _begun(tmp_path) as (demo, output):
        (child,) = [pid for pid, text in _running_in(tmp_path).items() if "SIDECAR_DB=" in text]
        os.kill(child, signal.SIGKILL)
        rest = output.read()
        assert demo.wait(30) == 1
    assert "The story stopped: " in rest
    assert str(tmp_path) in rest
    assert _running_in(tmp_path) == {}


@contextmanager
def _begun(folder: Path) -> Iterator[tuple[subprocess.Popen[str], TextIO]]:
    """A demo that keeps its files in the folder and has told the first step of its story, and what it says from then on."""
    command = [sys.executable, "-m", "sidecar", "demo"]
    environ = os.environ | {"TMPDIR": str(folder)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith("-- "):
                break
        yield demo, cast("TextIO", demo.stdout)


def _running_in(folder: Path) -> dict[int, str]:
    """Command line and environment of the processes that name the folder there, by process id."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in text:
            found[int(process.name)] = text.decode("utf-8", "replace")
    return found
