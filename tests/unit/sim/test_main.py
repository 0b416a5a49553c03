"""The provider as a process of its own, run inside the test's."""

import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from sidecar.sim.__main__ import main
from sidecar.sim.knobs import SimConfig
from sidecar.sim.provider import run


@pytest.mark.parametrize("uvloop_there", [True, False])
def test_run_announces_its_port_and_ends_on_sigterm(monkeypatch: pytest.MonkeyPatch, uvloop_there: bool) -> None:
    """With and without uvloop it listens on the port it announces, until SIGTERM."""
    if not uvloop_there:
        monkeypatch.setattr("sidecar.sim.provider.find_spec", lambda _name: None)
    ports: list[int] = []

    def announce(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 1):
            ports.append(port)
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()

    run(SimConfig(), announce=announce)
    assert len(ports) == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports[0]), 1)


def test_the_command_says_its_port(capsys: pytest.CaptureFixture[str]) -> None:
    """The first line is the port; the exit code is 0."""
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    assert main(["--set", "seed=2"]) == 0
    assert int(capsys.readouterr().out) > 0


def test_wrong_usage_is_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A configuration that cannot be used, or is not there, is exit code 2 and a message."""
    assert main(["--set", "sed=2"]) == 2
    assert "unknown key 'sed'" in capsys.readouterr().err
    assert main(["--config", str(tmp_path / "absent.yaml")]) == 2
    assert "absent.yaml" in capsys.readouterr().err
