"""Cases of docs/cases.md about what lies below us: the clock, and what an import may do."""

import ast
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import TypeGuard

import numpy as np
import pytest

from sidecar import clock
from sidecar.config.policy import load_text
from sidecar.core.engine import Engine
from sidecar.core.types import Clocks, Facts, Outcome
from sidecar.proxy.dial import client_tls

ROOT = Path(__file__).resolve().parents[2]
POLICY = """
version: 1
service: bot
upstreams: {sim: {dialect: openai, base_url: "http://127.0.0.1:9/v1", price: free}}
routes:
  - name: support
    match: {models: ["m"]}
    mode: canary
    baseline: {id: base, upstream: sim, model: m}
    arms: [{id: new, upstream: sim, model: n}]
    sticky: request
    rollout: {steps: [50, 100], min_requests: 20, interval: 1h}
"""


@pytest.fixture
def stepped(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The machine's wall clock, moved by the sum of the list's items in seconds."""
    steps: list[float] = []
    real = clock.wall
    monkeypatch.setattr(time, "time", lambda: real() + sum(steps))
    monkeypatch.setattr(clock, "wall", lambda: real() + sum(steps))
    return steps


@pytest.mark.parametrize("step_s", [-3600.0, 86_400.0])
def test_steady_time_does_not_follow_the_wall_clock(stepped: list[float], step_s: float) -> None:
    """INC-28: back an hour or forward a day: `steady` and `monotonic` go on as if nothing had happened."""
    before = clock.steady(), clock.monotonic(), clock.wall()
    stepped.append(step_s)
    slack_s = 60.0  # for a busy machine; the steps are an hour and a day
    assert abs(clock.wall() - before[2] - step_s) < slack_s
    assert 0 <= clock.steady() - before[0] < slack_s
    assert 0 <= clock.monotonic() - before[1] < slack_s
    assert 0 <= clock.to_steady(clock.monotonic()) - before[0] < slack_s


@pytest.mark.parametrize("step_s", [-86_400.0, 864_000.0])
def test_what_is_too_old_is_so_by_both_clocks(stepped: list[float], step_s: float) -> None:
    """INC-28: a wall clock put forward makes nothing old, one put back makes nothing new that is not."""
    before = clock.wall()
    stepped.append(step_s)
    slack_s = 60.0  # as above
    assert abs(clock.earlier() - before - min(0.0, step_s)) < slack_s


def test_a_rollout_is_sane_while_the_wall_clock_steps(stepped: list[float]) -> None:
    """INC-28: the engine lives on steady time: the step neither ends early nor goes back when the clock is put on a day."""
    loaded = load_text(POLICY, Path("p.yaml"), {})
    engine = Engine(loaded.policy, np.random.default_rng(1), clock.steady())
    (route,) = engine.status()
    (before,) = route.rollouts
    for step_s in (86_400.0, -90_000.0, 3600.0):
        stepped.append(step_s)
        for number in range(60):
            facts = Facts(
                endpoint="chat",
                dialect="openai",
                path="/v1/chat/completions",
                model="m",
                stream=False,
                key=0,
                draw=number * 2**57,
            )
            decision = engine.decide(facts, clock.steady())
            clocks = Clocks(sent_s=0.001, ttfb_s=0.01, duration_s=0.02)
            engine.settle(facts, decision, Outcome(kind="completed", status=200, clocks=clocks), clock.steady())
        engine.tick(clock.steady())
    (route,) = engine.status()
    (after,) = route.rollouts
    assert after.canary_units + after.control_units == 180, "the traffic never counted"
    assert (after.phase, after.step, after.since) == (before.phase, before.step, before.since), "an hour has not passed"


def _asks_the_time(node: ast.AST) -> TypeGuard[ast.expr | ast.stmt]:
    match node:
        case ast.Import(names=names):
            return any(name.name == "time" for name in names)
        case ast.ImportFrom(module="time"):
            return True
        case ast.Attribute(value=ast.Name(id="time" | "datetime"), attr="now" | "utcnow" | "time" | "monotonic"):
            return True
        case _:
            return False


def test_only_the_clock_reads_the_clock() -> None:
    """INC-28: no other module of ours asks the machine for the time, so none can ask for the wrong one."""
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in (ROOT / "sidecar").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))  # a script that is told to another process is text here
        if file.name != "clock.py" and _asks_the_time(node)
    ]
    assert not found


def test_importing_does_nothing_outside() -> None:
    """GW-46: importing the whole serving process opens no socket, starts no process, writes no file and reads no key."""
    program = """
import sys
bad = []
def hook(name, arguments):
    if name.split(".")[0] == "socket" and name != "socket.gethostname" and name != "socket.__new__" \
        or name in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork"):
        bad.append(name)
    if name == "open" and isinstance(arguments[1], str) and set("wax+") & set(arguments[1]):
        bad.append(f"{name} {arguments[0]}")
sys.dont_write_bytecode = True
sys.addaudithook(hook)
import sidecar.app, sidecar.cli
print(bad)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    )
    assert done.stdout == "[]\n"


def test_tls_has_no_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    """SEC-TLS: TLS 1.2 at least, certificate and host name checked, whatever the environment says to other tools."""
    for name, value in (("PYTHONHTTPSVERIFY", "0"), ("NODE_TLS_REJECT_UNAUTHORIZED", "0"), ("CURL_INSECURE", "1")):
        monkeypatch.setenv(name, value)
    context = client_tls(None)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
