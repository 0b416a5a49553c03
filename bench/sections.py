"""The sections of the comparison: what is measured, in which order, and how rounds become figures.

Rounds are paired and interleaved: each round measures every peer once, one after the other (A B C, A B C, ...), so that
what the machine does meanwhile hits all of them. A figure is the median over rounds; what a peer ADDS is the median of
its difference from `direct` in the same round.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import sleep
from typing import Any

from bench import machine, stats, truth
from bench.job import SPREAD, Job
from bench.peers import Peer, PeerError, Recipe, Running, start
from bench.rounds import Measured, measure

DIRECT = "direct"
SECTIONS = ("cpu", "latency", "streams", "memory", "start", "ttft")
_LOG_DELAY_S = 1.0  # the last lines of a request log may be written in a batch
Round = dict[str, float]
Cell = dict[str, object]  # {"median": {...}, "rounds": [...]} or {"failed": "..."}


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often. The defaults take about twenty minutes, QUICK about one and a half."""

    cpu_rounds: int = 5
    cpu_s: float = 1.5
    connections: tuple[int, ...] = (1, 16, 64)
    latency_rounds: int = 4
    latency_s: float = 4.0
    rates: tuple[int, ...] = (200, 500, 1000)
    latency_requests: int = 1200  # at least so many per round: a p99 needs them
    stream_rounds: int = 4
    stream_s: float = 2.0
    streams: tuple[int, ...] = (50, 200)
    chunks: int = 64
    gap_ms: int = 15
    memory_requests: int = 1_000_000
    starts: int = 5
    truth_streams: tuple[int, ...] = (1, 50, 200)
    truth_s: float = 6.0
    settle_s: float = 0.3


QUICK = Plan(
    cpu_rounds=1,
    cpu_s=0.5,
    latency_rounds=1,
    latency_s=1.0,
    latency_requests=0,
    stream_rounds=1,
    stream_s=0.6,
    chunks=32,
    rates=(200, 1000),
    memory_requests=5_000,
    truth_streams=(1, 200),
    starts=1,
    truth_s=1.0,
    settle_s=0.12,
)


@dataclass(slots=True)
class Bench:
    """The peers that run, where they run, and what did not work."""

    plan: Plan
    recipes: Mapping[str, Recipe]
    cpu_only: frozenset[str]  # variants that are worth a row in the first section and no more time
    upstream: Running
    folder: Path
    peer_core: int | None
    load_core: int | None
    running: dict[str, Running] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    wrong: list[dict[str, object]] = field(default_factory=list)
    made: int = 0

    def make(self, name: str) -> Peer:
        """A fresh instance's peer, in a working folder of its own. Raises PeerError."""
        self.made += 1
        folder = self.folder / f"{self.made}-{name.replace(' ', '-')}"
        folder.mkdir()
        return self.recipes[name](folder, self.upstream.peer.port)

    def start_all(self) -> None:
        """Starts what can be started; the rest is named in `failed`."""
        for name in self.recipes:
            try:
                self.running[name] = start(self.make(name), self.peer_core)
            except PeerError as error:
                self.failed[name] = str(error)
                say(f"{name}: not measured: {error}")

    def stop_all(self) -> None:
        for running in self.running.values():
            running.stop()
        self.running.clear()

    def proxies(self) -> dict[str, Running]:
        """The peers without the variants, in the order of their recipes."""
        return {name: one for name, one in self.running.items() if name not in self.cpu_only}

    def everyone(self) -> dict[str, Running]:
        """Direct first, then the proxies."""
        return {DIRECT: self.upstream} | self.proxies()

    def measure(self, running: Running, job: Job) -> Measured:
        """One load on one peer; wrong answers are kept by name in `wrong`."""
        running.check()
        measured = measure(running, job, core=self.load_core, settle_s=self.plan.settle_s)
        if measured.result.errors:
            self.wrong.append({"peer": running.peer.name, "job": asdict(job), "errors": measured.result.errors})
            say(f"{running.peer.name}: wrong answers: {measured.result.errors}")
        return measured


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


def _interleaved(
    bench: Bench, peers: Mapping[str, Running], label: str, job: Job, rounds: int, read: Callable[[Measured], Round]
) -> dict[str, Cell]:
    """`rounds` times every peer, one after the other; the cell of each."""
    collected: dict[str, list[Round]] = {name: [] for name in peers}
    failed: dict[str, str] = {}
    for turn in range(rounds):
        for name, running in peers.items():
            try:
                figures = read(bench.measure(running, job))
            except PeerError as error:
                failed[name] = str(error)
                say(f"{label} round {turn + 1}/{rounds} {name}: not measured: {error}")
                continue
            collected[name].append(figures)
            say(f"{label} round {turn + 1}/{rounds} {name}: {_brief(figures)}")
    return {name: cell(one) if one else {"failed": failed.get(name, "no round")} for name, one in collected.items()}


def _brief(figures: Round) -> str:
    return " ".join(f"{key}={value:.1f}" for key, value in list(figures.items())[:5])


def cell(rounds: Sequence[Round]) -> Cell:
    """Rounds and their medians, key by key."""
    keys = list(dict.fromkeys(key for one in rounds for key in one))
    return {"median": stats.medians(rounds, keys), "rounds": list(rounds)}


def add_differences(cells: Mapping[str, Cell], keys: Sequence[str]) -> None:
    """Puts `added_KEY` into each round that has a partner among direct's rounds, and their median into the cell."""
    base = _rounds(cells.get(DIRECT, {}))
    for name, one in cells.items():
        own = _rounds(one)
        if name == DIRECT or not own:
            continue
        for mine, direct in zip(own, base, strict=False):
            mine |= {f"added_{key}": mine[key] - direct[key] for key in keys if key in mine and key in direct}
        one |= cell(own)


def _rounds(one: Cell) -> list[Round]:
    rounds = one.get("rounds")
    return rounds if isinstance(rounds, list) else []


def _small(measured: Measured) -> Round:
    result = measured.result
    return {
        "cpu_us": measured.per_request_us(),
        "other_threads_us": measured.other_threads_us(),
        "requests_per_s": result.requests / result.elapsed_s,
        "p50_us": result.latency_us.get("p50", math.nan),
        "p99_us": result.latency_us.get("p99", math.nan),
        "errors": sum(result.errors.values()),
        "requests": result.requests,
    }


def _open(measured: Measured) -> Round:
    lateness = measured.result.lateness_us
    return _small(measured) | {"own_lateness_p50_us": lateness.get("p50", math.nan)}


def _stream(measured: Measured) -> Round:
    result = measured.result
    return {
        "cpu_ms_per_1000_chunks": measured.per_chunk_us(),
        "ttft_p50_us": result.path_us.get("p50", math.nan),
        "ttft_p99_us": result.path_us.get("p99", math.nan),
        "chunk_p50_us": result.transit_us.get("p50", math.nan),
        "chunk_p99_us": result.transit_us.get("p99", math.nan),
        "chunks": result.chunks,
        "streams": result.requests,
        "errors": sum(result.errors.values()),
    }


def cpu(bench: Bench) -> dict[str, dict[str, Cell]]:
    """Processor microseconds per small request and throughput, closed loop."""
    plan = bench.plan
    peers = {DIRECT: bench.upstream} | bench.running
    found: dict[str, dict[str, Cell]] = {}
    for count in plan.connections:
        job = Job("closed", 0, count, plan.cpu_s)
        found[f"{count} connections"] = _interleaved(bench, peers, f"cpu c={count}", job, plan.cpu_rounds, _small)
    return found


def latency(bench: Bench) -> dict[str, dict[str, Cell]]:
    """Latency that a peer adds to small requests that arrive by schedule."""
    plan = bench.plan
    found: dict[str, dict[str, Cell]] = {}
    for rate in plan.rates:
        job = Job("open", 0, 64, max(plan.latency_s, plan.latency_requests / rate), rate=rate)
        cells = _interleaved(bench, bench.everyone(), f"latency {rate}/s", job, plan.latency_rounds, _open)
        add_differences(cells, ("p50_us", "p99_us"))
        found[f"{rate} requests/s"] = cells
    return found


def streams(bench: Bench) -> dict[str, dict[str, Cell]]:
    """What a peer adds to the first token and to every token of concurrent streams, and what a token costs it."""
    plan = bench.plan
    found: dict[str, dict[str, Cell]] = {}
    for count in plan.streams:
        job = Job("streams", 0, count, plan.stream_s, chunks=plan.chunks, gap_ms=plan.gap_ms)
        cells = _interleaved(bench, bench.everyone(), f"streams n={count}", job, plan.stream_rounds, _stream)
        add_differences(cells, ("ttft_p50_us", "ttft_p99_us", "chunk_p50_us", "chunk_p99_us"))
        found[f"{count} streams"] = cells
    return found


def memory(bench: Bench) -> dict[str, dict[str, Cell]]:
    """Resident memory of a fresh process tree, idle, and after many requests over 64 connections."""
    count = bench.plan.memory_requests

    def once(running: Running) -> Round:
        assert running.process is not None
        sleep(1.0)
        idle = machine.memory_mib(running.process.pid)
        before = machine.cpu_s(running.process.pid)
        sleep(1.0)
        idle_cpu_ms = (machine.cpu_s(running.process.pid) - before) * 1e3
        result = bench.measure(running, Job("closed", 0, 64, 0.0, count=count)).result
        sleep(1.0)
        after = machine.memory_mib(running.process.pid)
        both = {"idle_cpu_ms_per_s": idle_cpu_ms}
        both |= {f"{key}_idle_mib": value for key, value in idle.items()}
        both |= {f"{key}_after_mib": value for key, value in after.items()}
        return both | {"requests": result.requests, "errors": sum(result.errors.values())}

    return {f"{count} requests": {name: _fresh(bench, name, 1, once) for name in bench.proxies()}}


def starting(bench: Bench) -> dict[str, dict[str, Cell]]:
    """Milliseconds from exec to the first request that was answered right."""
    plan = bench.plan

    def once(running: Running) -> Round:
        return {"start_ms": running.started_s * 1e3}

    return {"start": {name: _fresh(bench, name, plan.starts, once) for name in bench.proxies()}}


def _fresh(bench: Bench, name: str, times: int, once: Callable[[Running], Round]) -> Cell:
    """`once` on each of `times` fresh instances of a peer."""
    rounds: list[Round] = []
    for _ in range(times):
        try:
            running = start(bench.make(name), bench.peer_core)
            try:
                rounds.append(once(running))
            finally:
                running.stop()
        except PeerError as error:
            return {"failed": str(error)}
        say(f"{name}: {_brief(rounds[-1])}")
    return cell(rounds)


def ttft(bench: Bench) -> dict[str, dict[str, Cell]]:
    """The TTFT that a peer RECORDS against the first-token time that the upstream really kept (0 to 500 ms)."""
    plan = bench.plan
    found: dict[str, dict[str, Cell]] = {}
    for count in plan.truth_streams:
        job = Job("streams", 0, count, plan.truth_s, chunks=8, gap_ms=10, first_ms=SPREAD)
        cells: dict[str, Cell] = {}
        for name, running in bench.running.items():
            if running.peer.request_log is None:
                continue
            try:
                result = bench.measure(running, job).result
            except PeerError as error:
                cells[name] = {"failed": str(error)}
                continue
            sleep(_LOG_DELAY_S)
            figures = truth.compare(result.truth, truth.recorded(running.peer.request_log))
            cells[name] = cell([figures | {"errors": sum(result.errors.values())}])
            say(f"ttft n={count} {name}: {_brief(figures)}")
        found[f"{count} streams"] = cells
    return found


RUNNERS: Mapping[str, Callable[[Bench], dict[str, dict[str, Cell]]]] = {
    "cpu": cpu,
    "latency": latency,
    "streams": streams,
    "memory": memory,
    "start": starting,
    "ttft": ttft,
}


def cpu_command(about: str | None, run: Callable[[Plan], Mapping[str, Any]], show: Callable[[Any], str]) -> int:
    """The command line of a benchmark that is the first section with peers of its own: `show` makes the report markdown.
    Status 1 where a peer did not run or gave a wrong answer."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--out", type=Path, help="write the report there as JSON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of load in a round (1.5)")
    options = parser.parse_args()
    report = run(Plan(cpu_rounds=options.rounds, cpu_s=options.seconds, connections=(16, 64)))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(show(report))
    return 1 if report["failed"] or report["wrong"] else 0
