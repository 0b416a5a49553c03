"""Peers: recipes, starting, stopping, and what the machine says of a process."""

import asyncio
import sys
from pathlib import Path

import pytest

from bench import machine, peers, proxy
from bench.job import Job
from bench.rounds import measure


def test_sidecar_recipe_writes_a_policy_and_names_every_listener(tmp_path: Path) -> None:
    """Optimize has three arms, baseline included; log and database lie in the working folder."""
    peer = peers.sidecar("s", "optimize")(tmp_path, 4567)
    assert peer.environ["PYTHONDONTWRITEBYTECODE"] == ""
    policy = (tmp_path / "policies" / "bench.yaml").read_text()
    assert policy.count("{id: ") == 3
    assert "http://127.0.0.1:4567/v1" in policy
    assert peer.environ["SIDECAR_LISTEN"] == f"127.0.0.1:{peer.port}"
    assert peer.environ["SIDECAR_DB"] == str(tmp_path / "sidecar.db")
    assert peer.environ["SIDECAR_REQUEST_LOG"] == str(tmp_path / "requests.jsonl")


def test_settings_of_a_recipe_are_changed_or_taken_away(tmp_path: Path) -> None:
    """What `bench.features` switches off is off."""
    peer = peers.sidecar("s", "", SIDECAR_DB=None, SIDECAR_REQUEST_LOG="off")(tmp_path, 4567)
    assert peer.environ["SIDECAR_REQUEST_LOG"] == "off"
    assert not {"SIDECAR_DB", "SIDECAR_POLICIES"} & peer.environ.keys()


def test_observe_recipe_has_no_arms(tmp_path: Path) -> None:
    """Observe measures the baseline only."""
    peers.sidecar("s", "observe")(tmp_path, 4567)
    policy = (tmp_path / "policies" / "bench.yaml").read_text()
    assert "mode: observe" in policy
    assert "arms:" not in policy


def test_nginx_recipe_writes_a_configuration_or_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker and no buffering; where nginx is missing the error names the package."""
    nginx = tmp_path / "nginx"
    nginx.write_text("#!/bin/sh\n")
    nginx.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    peer = peers.nginx("nginx", log=False)(tmp_path, 4567)
    text = (tmp_path / "nginx.conf").read_text()
    assert "worker_processes 1;" in text
    assert "access_log off;" in text
    assert f"listen 127.0.0.1:{peer.port} " in text
    monkeypatch.setattr(peers.shutil, "which", lambda *_, **__: None)
    with pytest.raises(peers.PeerError, match="nginx-light"):
        peers.nginx("nginx", log=True)(tmp_path, 4567)


def test_custom_peer_fills_its_command_in(tmp_path: Path) -> None:
    """NAME=COMMAND, with port and upstream; anything else is refused with the way to write it."""
    name, recipe = peers.custom("mine=prog --port {port} --to {upstream}")
    peer = recipe(tmp_path, 4567)
    assert (name, peer.command) == ("mine", ("prog", "--port", str(peer.port), "--to", "4567"))
    with pytest.raises(ValueError, match="NAME=COMMAND"):
        peers.custom("mine=prog")


def test_a_peer_that_ends_is_an_error_with_its_output(tmp_path: Path) -> None:
    """The last words of the program are in the message."""
    command = (sys.executable, "-c", "print('no such option'); raise SystemExit(3)")
    peer = peers.Peer("x", command, peers.free_port(), output=tmp_path / "output")
    with pytest.raises(peers.PeerError, match="no such option"):
        peers.start(peer, None)


def test_a_peer_that_is_missing_or_silent_is_an_error(tmp_path: Path) -> None:
    """Nothing to run, and something that never listens."""
    with pytest.raises(peers.PeerError, match="No such file"):
        peers.start(peers.Peer("x", (str(tmp_path / "none"),), peers.free_port()), None)
    sleeper = peers.Peer("x", (sys.executable, "-c", "import time; time.sleep(30)"), peers.free_port())
    with pytest.raises(peers.PeerError, match="gave no right answer"):
        peers.start(sleeper, None, patience_s=0.2)


def test_a_measurement_from_start_to_stop() -> None:
    """A real process is started, loaded by another, its processor time and memory read, and stopped."""
    running = peers.upstream(None)
    try:
        assert running.process is not None
        measured = measure(running, Job("closed", 0, 2, 0.0, count=200), core=None, settle_s=0.01)
        assert (measured.result.requests, measured.result.errors) == (200, {})
        assert measured.cpu_s > 0
        assert measured.other_threads_us() < measured.per_request_us()
        assert measured.per_request_us() == pytest.approx(measured.cpu_s / 200 * 1e6)
        assert measured.per_chunk_us() != measured.per_chunk_us()  # NaN: it did not stream
        assert running.next_number == measured.result.next_number
        assert machine.memory_mib(running.process.pid)["rss"] > 5
    finally:
        running.stop()
        running.stop()
    assert running.process.poll() is not None
    with pytest.raises(peers.PeerError, match="exit code -15"):
        running.check()
    assert not peers.answers(running.peer.port)


async def test_answers_wants_the_right_answer() -> None:
    """A server that closes without a word has not accepted the request."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert await asyncio.to_thread(peers.answers, port) is False
    server.close()


def test_description_names_the_machine(tmp_path: Path) -> None:
    """What a reader needs to judge the figures; steal is unknown where the kernel does not say."""
    about = machine.description(tmp_path / "none")
    assert about["cores"]
    assert about["steal_s"] is None


def test_usage_errors_exit_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """An unknown section, a missing --out and a peer that is none are wrong usage, and say why."""
    with pytest.raises(SystemExit) as ended:
        proxy.main(["--out", str(tmp_path / "x.json"), "--only", "cpu,nonsense"])
    assert ended.value.code == 2
    with pytest.raises(SystemExit):
        proxy.main([])
    assert proxy.main(["--out", str(tmp_path / "x.json"), "--peer", "mine"]) == 2
    assert "NAME=COMMAND" in capsys.readouterr().err
