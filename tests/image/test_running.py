"""The image at work under a pod's limits: traffic, drain, a kill for want of memory, and what its verbs say."""

import asyncio
import contextlib
import json
import re
import shlex
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar import __version__
from tests.e2e.process import Provider, ask, free_port
from tests.e2e.test_container import BALLOON
from tests.e2e.traffic import Connection, Load, chat
from tests.fixtures import cgroups
from tests.fixtures.waiting import wait_for
from tests.image.engine import MEMORY_MIB, PYTHON, ROOT, STATE, UID, Container, health_check, podman

READY_S = 30.0
SLOW = ("default:ttft=0.05", "default:itl=0.05", "default:output_tokens=40")  # a stream of two seconds
# Every module of the product, and what the extras bring: a library or a part of Python that was left out is found here.
IMPORTS = """
import importlib, pkgutil, sidecar
names = [one.name for one in pkgutil.walk_packages(sidecar.__path__, "sidecar.") if "__main__" not in one.name]
names += ["cryptography.x509", "cryptography.hazmat.primitives.ciphers.aead", "grpc", "uvloop", "jsonschema",
          "sqlite_utils", "sqlite3", "zoneinfo"]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
HELPS = """
import contextlib, io, re, sys
from sidecar.cli import main
def told(*arguments):
    sys.argv = ["llm-sidecar", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            code = main()
        except SystemExit as end:
            code = end.code
    return code or 0, said.getvalue()
status, text = told("--help")
verbs = re.findall(r"^    ([a-z-]+)  ", text, re.MULTILINE)
print(len(verbs), [verb for verb in verbs if told(verb, "--help")[0] != 0])
"""
ROOT_IS_CLOSED = """
import errno, os
for place in ("/x", "/tmp/x", "/etc/x", "/opt/llm-sidecar/x", "/run/x"):
    try:
        open(place, "w")
        print("open", place)
    except OSError as error:
        assert error.errno in (errno.EROFS, errno.EACCES), error
print([name for name in os.listdir("/var/lib/llm-sidecar")])
"""


class Served(Container):
    """The sidecar's container on ports of the machine, before a provider."""

    def __init__(self, image: str, state: Path, upstream: str, *options: str, **settings: str) -> None:
        """When this returns it is ready. `settings` are environment variables."""
        self.port, self.health_port, self.admin_port = free_port(), free_port(), free_port()
        self.db = state / "sidecar.db"
        environ = {
            "SERVICE_ID": "bot",
            "SIDECAR_LISTEN": f"127.0.0.1:{self.port}",
            "SIDECAR_HEALTH_LISTEN": f"127.0.0.1:{self.health_port}",
            "SIDECAR_ADMIN_LISTEN": f"127.0.0.1:{self.admin_port}",
            "OPENAI_UPSTREAM": upstream,
        }
        super().__init__(image, environ=environ | settings, volumes=[f"{state}:{STATE}"], options=options)
        if not wait_for(lambda: self.health("/ready") == 200, READY_S):
            said = self.output()
            self._remove()
            raise RuntimeError(f"the container did not become ready:\n{said}")

    def health(self, path: str) -> int:
        """The status that this path of the health port answers; 0 when nobody does."""
        try:
            return ask(self.health_port, "GET", path)[0]
        except OSError:
            return 0

    def rows(self) -> set[str]:
        """The ids of the calls in the database, which has to be whole."""
        with contextlib.closing(sqlite3.connect(self.db)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            return {row[0] for row in connection.execute("SELECT id FROM outcomes")}


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    with Provider(tmp_path, *SLOW) as one:
        yield one


async def test_it_serves_under_a_pods_limits(image: str, state: Path, provider: Provider) -> None:
    """GW-46, GW-40: uid 10001 without any capability or way to one, a filter of system calls, a root that nobody can
    write to, and the limit of memory that it was given: 200 streams and ordinary calls, each answered whole and recorded."""
    with Served(image, state, provider.url) as served:
        pid = served.state()["Pid"]
        status = _status(pid)
        assert set(status["Uid"].split()) == set(status["Gid"].split()) == {str(UID)}
        assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        closed = served.python(ROOT_IS_CLOSED)
        assert "open" not in closed
        assert "sidecar.db" in closed
        metrics = ask(served.health_port, "GET", "/metrics")[1].decode()
        limit = re.search(r"^llm_sidecar_memory_limit_bytes (\S+)", metrics, re.MULTILINE)
        assert limit is not None
        assert float(limit[1]) == MEMORY_MIB * 2**20
        connections = [Connection(served.port) for _ in range(200)]
        replies = await asyncio.gather(
            *(one.call(chat("count", stream=number % 2 == 0)) for number, one in enumerate(connections))
        )
        await asyncio.gather(*(one.close() for one in connections))
        assert {reply.status for reply in replies} == {200}
        assert all(reply.body.endswith(b"data: [DONE]\n\n") for reply in replies[::2])
        group = cgroups.around(pid)
        print("peak", round(group.peak_bytes() / 2**20), "MiB")
        assert 0 < group.peak_bytes() < MEMORY_MIB * 2**20
        assert group.oom_kills() == 0
        assert served.stop() == 0
        assert served.rows() == {reply.decision for reply in replies}


async def test_sigterm_drains(image: str, state: Path, provider: Provider) -> None:
    """GW-51: a stream that is under way ends whole, /ready is 503 at once, and the container ends with 0."""
    with Served(image, state, provider.url) as served:
        connection = Connection(served.port)
        status, fields = await connection.begin(chat("count", stream=True))
        assert status == 200
        chunks = connection.chunks(fields)
        body = await anext(chunks)
        await asyncio.to_thread(served.terminate)
        assert await asyncio.to_thread(wait_for, lambda: served.health("/ready") == 503)
        body += b"".join([chunk async for chunk in chunks])
        await connection.close()
        assert body.endswith(b"data: [DONE]\n\n")
        assert await asyncio.to_thread(served.wait) == 0
        assert served.rows() == {fields["x-sidecar-decision"]}


async def test_a_kill_for_want_of_memory(image: str, state: Path, provider: Provider) -> None:
    """INC-20: the kernel kills the container's first process; the next container on the same volume finds a whole
    database with the calls that were answered before, serves, and adds to them."""
    with Served(image, state, provider.url) as served:
        load = Load(served.port, connections=4)
        async with load.running():
            assert await asyncio.to_thread(wait_for, lambda: len(load.replies) >= 8, 30.0)
            # Rows may be 250 ms behind: only what is old is promised.
            await asyncio.sleep(1.0)
            promised, before = {reply.decision for reply in load.replies[:4]}, _oom_kills()
            await asyncio.to_thread(_starve, served)
            load.stop()
        assert served.state()["ExitCode"] == 137
        assert _oom_kills() > before  # podman's own word, OOMKilled, is not to be had with version 1 of control groups
        rows = served.rows()
        assert promised <= rows
    with Served(image, state, provider.url) as again:
        connection = Connection(again.port)
        reply = await connection.call(chat("count"))
        await connection.close()
        assert reply.status == 200
        assert again.stop() == 0
        assert again.rows() == rows | {reply.decision}


def _status(pid: int) -> dict[str, str]:
    """What the kernel says of a process's rights."""
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())


def _oom_kills() -> int:
    """How many processes the kernel has killed for want of memory since it began."""
    pairs = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(pairs["oom_kill"])


def _starve(served: Served) -> None:
    """Has the kernel kill the container's first process, by a neighbour that takes all the group's memory."""
    pid = served.state()["Pid"]
    Path(f"/proc/{pid}/oom_score_adj").write_text("1000")  # this one first
    with subprocess.Popen([sys.executable, "-c", BALLOON, cgroups.around(pid).files, str(pid)]) as balloon:
        try:
            assert served.wait() == 137
            assert balloon.wait(20) in (0, -9)
        finally:
            balloon.kill()


def test_as_it_comes(image: str) -> None:
    """Without a setting, a volume or a network: it starts, its own health check says so in the image's ports, the verbs
    work beside it, and the check fails when nobody listens."""
    check = health_check(image)
    with Container(image, network="none") as alone:
        assert wait_for(lambda: alone.execute(*check).returncode == 0, READY_S, 0.2)
        said = json.loads(alone.execute(PYTHON, "-I", "-m", "sidecar", "store", "status").stdout)
        assert said["decisions"] == 0
        assert "no decisions" in (listed := alone.execute("llm-sidecar", "decisions")).stdout + listed.stderr
        assert (
            alone.python("import ssl; print(ssl.create_default_context().cert_store_stats()['x509_ca'] > 100)")
            == "True\n"
        )
        assert alone.execute("sh", "-c", "true").returncode == 127
        assert alone.stop() == 0
    with Container(image, "simulate-provider", network="none") as other:
        assert wait_for(lambda: other.execute(*check).returncode != 0, 1.0)


def test_the_line_of_the_docs(image: str) -> None:
    """`docker run` as docs/operations.md has it, but for the ports, which need a bridge: it starts under its own flags,
    and a named volume is the image's user's to write to."""
    (line,) = re.findall(r"^docker run ((?:.*\\\n)*.*)$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    words = shlex.split(line.replace("\\\n", " "))
    assert words.pop() == f"llm-sidecar:{__version__}"
    assert {"--read-only", "no-new-privileges", "ALL"} <= set(words)
    ports = [words[at + 1] for at, word in enumerate(words) if word == "-p"]
    assert all(port.startswith("127.0.0.1:") for port in ports)
    volume = f"llm-sidecar-test-{uuid.uuid4().hex[:8]}"
    options = [word.replace("llm-sidecar-state", volume) for word in words if word != "-p" and word not in ports]
    try:
        with Container(image, network="none", options=options) as one:
            assert wait_for(lambda: one.execute(*health_check(image)).returncode == 0, READY_S, 0.2)
            assert one.python("import os; print(os.stat('/var/lib/llm-sidecar/sidecar.db').st_uid)") == f"{UID}\n"
            assert one.stop() == 0
    finally:
        podman("volume", "rm", volume)


def test_every_module_and_verb_is_there(image: str) -> None:
    """`version` says this version; each module and each extra can be imported; each verb has its help."""
    with Container(image, "version", network="none") as one:
        assert one.wait() == 0
        assert one.output().strip() == f"llm-sidecar {__version__}"
    with Container(image, network="none") as other:
        assert int(other.python(IMPORTS)) > 100
        verbs, failed = other.python(HELPS).split(" ", 1)
        assert int(verbs) > 15
        assert failed == "[]\n"
