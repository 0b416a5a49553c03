"""Request lines, events and the sink that never waits."""

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import structlog

from sidecar.app import Sidecar
from sidecar.config.settings import Settings
from sidecar.core.record import COLUMNS, row
from sidecar.errors import ConfigError
from sidecar.telemetry.log import RequestLog, configure, lines
from sidecar.telemetry.sink import Sink
from tests.unit.telemetry.records import settled


def test_a_line_is_one_json_object_with_the_columns() -> None:
    """Keys are `event` and the store's columns in order, without those that are null; eligible and context are JSON."""
    values = row(settled(), "bot")
    text = lines([values])
    record = orjson.loads(text)
    known = [name for name, value in zip(COLUMNS, values, strict=True) if value is not None]
    assert list(record) == ["event", *known] != ["event", *COLUMNS]
    assert (record["event"], record["service"], record["cost_nusd"]) == ("request", "bot", 1500)
    assert record["eligible"] == []
    assert record["context"]["endpoint"] == "chat"
    assert text.count(b"\n") == 1


@pytest.mark.parametrize(
    "evil", ["a\r\nb", "a\x1b[31mb", "a\u2028b\u2029", "a\x9b31mb", "a\x85b", "a\x7fb", "\u00e9\u2013"]
)
def test_text_of_others_breaks_neither_line_nor_terminal(evil: str) -> None:
    """SEC-INJECTION: CR, LF, ANSI, C1 and Unicode line separators arrive escaped, é as it is; parsed they are as before."""
    text = lines([row(settled(model=evil), "bot")])
    assert orjson.loads(text)["model"] == evil
    decoded = text.decode()
    assert len(decoded.splitlines()) == 1
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in decoded[:-1])


def test_lines_go_to_a_file_that_may_be_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A renamed file is noticed within a second, an absent one made again, SIGHUP reopens at once; mode 0600."""
    clock = [100.0]
    monkeypatch.setattr("sidecar.telemetry.sink.monotonic", lambda: clock[0])
    path = tmp_path / "requests.log"
    log = RequestLog(str(path))
    log.observe([row(settled(), "bot"), row(settled(), "bot")])
    assert len(path.read_bytes().splitlines()) == 2
    assert path.stat().st_mode & 0o777 == 0o600
    path.rename(tmp_path / "old.log")
    log.observe([row(settled(), "bot")])
    assert not path.exists()
    clock[0] += 1.0
    log.observe([row(settled(), "bot")])
    assert len(path.read_bytes().splitlines()) == 1
    path.rename(tmp_path / "older.log")
    path.touch()
    clock[0] += 1.0
    log.observe([row(settled(), "bot")])
    assert len(path.read_bytes().splitlines()) == 1
    log.sink.reopen()
    log.observe([])
    log.close()
    assert log.dropped == 0


def test_off_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """The target `off` costs and writes nothing."""
    log = RequestLog("off")
    log.observe([row(settled(), "bot")])
    log.close()
    assert (capfd.readouterr().out, log.dropped) == ("", 0)


def test_standard_output_is_a_target(capfd: pytest.CaptureFixture[str]) -> None:
    """`-` writes to standard output."""
    log = RequestLog("-")
    log.observe([row(settled(), "bot")])
    log.close()
    assert orjson.loads(capfd.readouterr().out)["event"] == "request"


def test_a_blocked_pipe_hangs_nobody_and_tears_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that stops costs lines, which are counted whole; what it reads later are whole lines in order."""
    reader, writer = os.pipe()
    monkeypatch.setitem(__import__("sidecar.telemetry.sink", fromlist=["STREAMS"]).STREAMS, "pipe", writer)
    sink = Sink("pipe", backlog_bytes=200_000)
    began = time.perf_counter()
    for number in range(600):
        sink.put(b"%06d %b\n" % (number, b"x" * 993), 1)
    assert time.perf_counter() - began < 10, "a put waited for the reader"
    assert sink.dropped > 0
    assert sink.waiting_bytes > 0
    assert os.get_blocking(writer)  # the stream of others stays as it was
    received = b""
    while sink.waiting_bytes:
        received += os.read(reader, 65536)
        sink.flush()
    sink.reopen()
    sink.put(b"last\n", 1)
    sink.close()
    os.close(writer)
    while piece := os.read(reader, 65536):
        received += piece
    os.close(reader)
    *lines, last = received.splitlines()
    assert last == b"last"
    assert {len(found) for found in lines} == {1000}
    assert len(lines) == 600 - sink.dropped
    assert lines == sorted(lines)


def test_what_cannot_be_written_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such directory, a full disk and a reader that is gone are counted; nothing is raised."""
    absent = Sink(str(tmp_path / "no" / "such" / "file"))
    absent.put(b"a\n", 1)
    absent.close()
    assert (absent.errors > 0, absent.dropped) == (True, 1)
    full = Sink("/dev/full")
    full.put(b"a\n", 1)
    full.close()
    assert (full.errors > 0, full.dropped) == (True, 1)
    reader, writer = os.pipe()
    monkeypatch.setitem(__import__("sidecar.telemetry.sink", fromlist=["STREAMS"]).STREAMS, "pipe", writer)
    monkeypatch.setattr(os, "open", _refuse)
    gone = Sink("pipe")
    os.close(reader)
    gone.write(b"a\n")
    gone.close()
    os.close(writer)
    assert gone.dropped == 1


def test_a_line_of_which_a_full_file_took_a_part_begins_the_next_one(tmp_path: Path) -> None:
    """The disk is full amid the second of three lines, as a limit on the size of files has it; then logrotate comes. What
    is never written is counted by lines."""
    file, former = tmp_path / "log", resource.getrlimit(resource.RLIMIT_FSIZE)
    sink = Sink(str(file))
    resource.setrlimit(resource.RLIMIT_FSIZE, (15, former[1]))
    try:
        sink.put(b"one......\ntwo......\nthree....\n", 3)
        assert file.read_bytes() == b"one......\ntwo.."
        assert sink.waiting_bytes == 15
        sink.reopen()  # the same file: it goes on
        assert sink.waiting_bytes == 15
        file.rename(tmp_path / "log.1")
        sink.reopen()
        assert file.read_bytes() == b"two......\nthree"
        assert sink.waiting_bytes == 5
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    file.unlink()
    sink.reopen()
    assert file.read_bytes() == b"three....\n"
    assert sink.waiting_bytes == 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (15, former[1]))
    try:
        sink.put(b"four\nfive\nsix\n", 3)
        sink.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert file.read_bytes() == b"three....\nfour\n"
    assert sink.dropped == 2


def test_a_file_that_cannot_be_opened_is_noted(tmp_path: Path) -> None:
    """A request log in a folder that is not there: `/ready` says so until the file can be opened, and no line is lost."""
    file = tmp_path / "logs" / "requests.jsonl"
    app = Sidecar(Settings.load({}, None, [f"request_log={file}"]), {})
    app.request_log.observe([row(settled(), "bot")])
    [note] = app.readiness().notes
    assert note.startswith(f"request log: {file} cannot be opened (No such file or directory); ")
    file.parent.mkdir()
    app.request_log.reopen()
    assert app.readiness().notes == []
    assert file.read_text().count("\n") == 1
    app.request_log.close()
    assert RequestLog("off").notes() == []


def test_a_file_that_cannot_be_written_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: `/ready` says so until there is room, and what waited is written then."""
    app = Sidecar(Settings.load({}, None, ["request_log=/dev/full"]), {})
    app.request_log.observe([row(settled(), "bot")])
    [note] = app.readiness().notes
    assert note.startswith("request log: /dev/full cannot be written (No space left on device); ")
    with monkeypatch.context() as room:
        room.setattr(os, "write", lambda _fd, lines: len(lines))
        app.request_log.observe([row(settled(), "bot")])
    assert app.readiness().notes == []
    app.request_log.close()
    assert app.request_log.dropped == 0


def _refuse(*_arguments: object) -> int:
    raise OSError("no /proc here")


@pytest.fixture
def _fresh_structlog() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("_fresh_structlog")
def test_events_are_json_without_secrets(tmp_path: Path) -> None:
    """GW-45, SEC-KEYS: secrets are hidden by name and by shape, also in exceptions and nested values; levels are obeyed."""
    path = tmp_path / "events.log"
    sink = configure("info", str(path))
    log = structlog.get_logger()
    log.debug("quiet")
    log.info("hello\u2028", api_key="abc", note="Bearer abcdefghijkl", deep={"token": 1, "raw": b"sk-abcdefghijklmnop"})
    try:
        raise ValueError("key sk-abcdefghijklmnopqrstuv is wrong")
    except ValueError:
        log.exception("failed", values=["sk-abcdefghijklmnop", 3], missing_key=None)
    sink.close()
    first, second = path.read_bytes().splitlines()
    event = orjson.loads(first)
    assert (event["level"], event["api_key"], event["note"]) == ("info", "[hidden]", "[hidden]")
    assert event["deep"] == {"token": "[hidden]", "raw": "[hidden]"}
    failed = orjson.loads(second)
    assert "ValueError: key [hidden] is wrong" in failed["exception"]
    assert (failed["values"], failed["missing_key"]) == (["[hidden]", 3], None)


@pytest.mark.usefixtures("_fresh_structlog")
def test_terminals_get_readable_lines_that_cannot_move_the_cursor(tmp_path: Path) -> None:
    """SEC-INJECTION: on a terminal events are for people, and control characters of others are shown as escapes."""
    path = tmp_path / "events.log"
    sink = configure("debug", str(path), terminal=True)
    structlog.get_logger().debug("hello", model="a\x1b[2Jb", count=3)
    sink.close()
    text = path.read_text()
    assert "\x1b[2J" not in text
    assert "\\x1b[2J" in text
    assert "hello" in text


def test_an_unknown_level_is_an_error() -> None:
    """The message names the setting and the levels."""
    with pytest.raises(ConfigError, match="SIDECAR_LOG_LEVEL: 'loud' is no level"):
        configure("loud")
