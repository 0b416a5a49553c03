"""A real process whose upstream's name moves to another address under load, as a Service's or a provider's does."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from sidecar.clock import monotonic
from tests.e2e.process import Provider, Sidecar
from tests.e2e.traffic import Load, Reply
from tests.fixtures.waiting import wait_for

NAME = "llm.test"
BUSY_S = 20.0
OLD, NEW = "127.0.0.1", "127.0.0.2"
# Runs a module in a mount namespace of its own, where /etc/hosts is the file that it is given; nobody else sees that.
PRIVATE = """
import ctypes, os, runpy, sys
libc = ctypes.CDLL(None, use_errno=True)
private, recursive, bind = 1 << 18, 1 << 14, 1 << 12
hosts = sys.argv.pop(1).encode()
done = libc.unshare(0x00020000) == 0
done = done and libc.mount(b"none", b"/", None, recursive | private, None) == 0
done = done and libc.mount(hosts, b"/etc/hosts", None, bind, None) == 0
if not done:
    sys.exit(os.strerror(ctypes.get_errno()))
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def _may() -> bool:
    if os.geteuid() != 0 or not Path("/etc/hosts").exists():
        return False
    command = [sys.executable, "-c", PRIVATE, "/etc/hosts", "this"]
    return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0


def point(hosts: Path, address: str) -> None:
    """The name means this address from now on. The file stays the same one: it is mounted."""
    hosts.write_text(f"127.0.0.1 localhost\n{address} {NAME}\n")


def lengths(replies: Sequence[Reply]) -> set[int]:
    """How many tokens these answers had: each provider says another number."""
    return {int(json.loads(reply.body)["usage"]["completion_tokens"]) for reply in replies}


@pytest.mark.skipif(not _may(), reason="a mount namespace of its own needs root and CAP_SYS_ADMIN")
async def test_a_name_that_moves_under_load(tmp_path: Path) -> None:
    """INC-22: connections to the old address serve on while it lives, new ones go to the new address; when the old one
    ends as servers do, at most the calls that were under way there are lost, and all others are answered by the new."""
    hosts = tmp_path / "hosts"
    point(hosts, OLD)
    (tmp_path / "new").mkdir()
    quick = "default:ttft=0.005"
    with Provider(tmp_path, quick, "default:output_tokens=8") as old:
        program = ("-c", PRIVATE, str(hosts), "sidecar")
        with (
            Provider(tmp_path / "new", quick, "default:output_tokens=9", port=old.port, host=NEW) as new,
            Sidecar(tmp_path, f"http://{NAME}:{old.port}", program=program) as sidecar,
        ):
            load = Load(sidecar.port, connections=3, streams=False)
            async with load.running():
                await asyncio.to_thread(wait_for, lambda: len(load.replies) > 50, BUSY_S)
                assert lengths(load.replies) == {8}
                point(hosts, NEW)
                more = Load(sidecar.port, connections=12, pause_s=0.0, streams=False)  # more than there are connections
                async with more.running():
                    await asyncio.to_thread(wait_for, lambda: len(more.replies) > 200, BUSY_S)
                assert lengths(more.replies) == {8, 9}
                assert (load.failed, load.broken, more.failed, more.broken) == ([], {}, [], {})
                assert await asyncio.to_thread(old.stop) == 0
                gone = monotonic()
                count = len(load.replies)
                await asyncio.to_thread(wait_for, lambda: len(load.replies) > count + 50, BUSY_S)
            since = [reply for reply in load.replies if reply.begun > gone]
            assert len(load.failed) + load.broken.total() <= load.connections
            assert {reply.status for reply in since} == {200}
            assert lengths(since) == {9}
            assert new.alive
            assert sidecar.stop() == 0
