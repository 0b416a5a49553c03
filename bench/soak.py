"""The soak of the campaign: traffic as it was recorded, ten times as fast, and whether anything grows.

Arrivals and sizes are those of the traces of `shared/data/arrivals`, one after the other and again. Four kinds of calls:
whole, streamed, translated to another dialect (both ways of answering), embeddings. One in twenty is left by its client in
the middle, one in fifty meets a fault of the upstream; one stream lasts from the beginning to the end. Every two seconds
memory, descriptors, threads, asyncio's tasks, open exchanges and the size of the database are read; beside the traffic a
probe asks the same small question through the sidecar and directly, ten times a second, and the difference is what the
sidecar adds.

Before that FILL calls of the same traffic, as fast as they go, fill what is bounded and would still be filling: remembered
decisions, conversations, the database. These tables forget by halves, each at its own pace, so what is held breathes by
4 MiB; the process keeps the pages of the highest sum that it met, and the filling goes on until it has met that.

What it does not know: what a week would bring. `bench.soak_report` says how far the trends of this hour would lead.
"""

import asyncio
import csv
import gzip
import random  # noqa: TID251 - traffic needs chance; the seed is printed
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from sidecar.clock import monotonic
from tests.e2e.process import Provider, Sidecar
from tests.e2e.rounds import write_policy
from tests.e2e.traffic import CHAT, Connection, chat

TRACES: Final = Path(__file__).resolve().parents[2] / "shared" / "data" / "arrivals"
NAMES: Final = ("azure2023_code.csv.gz", "mooncake_conversation.csv.gz")
MODELS: Final = ("probe:ttft=0", "probe:itl=0")
QUICK: Final = {"ttft": 0.02, "itl": 0.001, "output_tokens": 24}  # 44 ms: who leaves after LEAVE_S is in the middle
SLOW: Final = {"ttft": 0.05, "itl": 0.004, "output_tokens": 24}
NAMED: Final = ("gpt-4o", "gpt-4o-mini", "claude-haiku-4-5", "text-embedding-3-small")
LONG: Final = {"ttft": 0.02, "output_tokens": 100}
FAULTS: Final = (
    {"kind": "status", "status": 500, "rate": 0.01},
    {"kind": "truncate", "after_tokens": 5, "rate": 0.005},
    {"kind": "reset_before", "rate": 0.005},
)
ABORTS: Final = 0.05
LEAVE_S: Final = 0.03
KINDS: Final = (
    ("whole", 0.25),
    ("stream", 0.40),
    ("translated", 0.10),
    ("translated stream", 0.10),
    ("embedding", 0.15),
)
FILL: Final = 140_000  # 135,000..300,000: 32,768 conversations of TURN calls is what the largest table holds
FILLING: Final = 48  # 16..64 connections; more: what they hold at once is a peak that a leak could hide in
TURN: Final = 4  # calls of one conversation
STORE_MAX_MIB: Final = 4  # so that filling reaches the ceiling: then the size must not move
EVERY_S: Final = 2.0
PROBE_S: Final = 0.1
POLICY: Final = """
version: 1
service: bot
upstreams:
  sim: {{dialect: openai, base_url: "{url}/v1", price: {{input_mtok: 1.0, output_mtok: 4.0}}}}
  claude: {{dialect: anthropic, base_url: "{url}", price: {{input_mtok: 1.0, output_mtok: 4.0}}}}
routes:
  - name: probe
    match: {{models: ["probe"]}}
    mode: observe
    baseline: {{id: probe, upstream: sim, model: probe}}
  - name: translated
    match: {{models: ["translated"]}}
    virtual: ["translated"]
    mode: canary
    baseline: {{id: claude, upstream: claude, model: claude-haiku-4-5}}
  - name: support
    match: {{models: ["gpt-4o"]}}
    mode: optimize
    baseline: {{id: gpt-4o, upstream: sim, model: gpt-4o}}
    arms:
      - {{id: mini, upstream: sim, model: gpt-4o-mini}}
    sticky: session
    rollout: {{steps: [5, 25, 50, 100], min_requests: 50, interval: 30s, max_wait: 1h}}
    quality: {{validators: [finish_reason, empty], min_samples: 5}}
"""
# Runs the sidecar and writes, each second, how many tasks its loop has: they are in no metric.
COUNTING: Final = """
import asyncio, runpy, sys, threading, time
from pathlib import Path
file, loops, run = Path(sys.argv.pop(1)), [], asyncio.Runner.run
def running(self, *arguments, **named):
    loops.append(self.get_loop())
    return run(self, *arguments, **named)
def count():
    while True:
        time.sleep(1)
        if loops:
            new = file.with_suffix(".new")
            new.write_text(str(len(asyncio.all_tasks(loops[0]))))
            new.replace(file)
asyncio.Runner.run = running
threading.Thread(target=count, daemon=True).start()
runpy.run_module("sidecar", run_name="__main__", alter_sys=True)
"""


class Arrival(NamedTuple):
    """One call of a trace: when it is due, and its tokens."""

    at_s: float
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What was read at one moment."""

    at_s: float
    rss_mib: float
    descriptors: int
    threads: int
    tasks: int
    exchanges: int  # open in the sidecar
    open_calls: int  # of the clients: what is under way
    database_mib: float
    calls: int  # ended since the beginning


@dataclass(slots=True)
class Soak:
    """What a soak's clients and its probe saw. `added` is (second, milliseconds through the sidecar minus directly)."""

    seed: int
    speed: float
    ends: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    added: list[tuple[float, float]] = field(default_factory=list)
    calls: int = 0
    open_calls: int = 0
    long_whole: bool = False  # the stream that is as long as the soak
    long_s: float = 0.0
    exit_status: int = 0


@dataclass(slots=True)
class _Run:
    """What the parts of one soak share."""

    seen: Soak
    sidecar: Sidecar
    provider: Provider
    begun: float = 0.0
    first: int = 0  # number of the first call: its conversation is not one of the filling's
    idle: list[Connection] = field(default_factory=list)
    began: asyncio.Event = field(default_factory=asyncio.Event)  # the long stream has


def present() -> bool:
    """Whether the traces are on this machine."""
    return all((TRACES / name).exists() for name in NAMES)


def arrivals(speed: float, seconds: float, folder: Path = TRACES) -> list[Arrival]:
    """The calls of so many seconds, when time in the traces runs `speed` times as fast."""
    found: list[Arrival] = []
    for at, tokens_in, tokens_out in _endless(folder):
        if at / speed >= seconds:
            return found
        found.append(Arrival(at / speed, tokens_in, tokens_out))
    return found


def _endless(folder: Path) -> Iterator[Arrival]:
    traces: list[list[Arrival]] = []
    for name in NAMES:
        with gzip.open(folder / name, "rt") as source:
            rows = csv.DictReader(source)
            traces.append([Arrival(float(r["t_s"]), int(r["input_tokens"]), int(r["output_tokens"])) for r in rows])
    before = 0.0
    while True:
        for trace in traces:
            for one in trace:
                yield one._replace(at_s=before + one.at_s)
            before += trace[-1].at_s


async def soak(seconds: float, speed: float, seed: int, folder: Path, fill: int = FILL) -> Soak:
    """Mixed traffic for so long, after `fill` quick calls; a sample every two seconds. Progress goes to standard error."""
    seen = Soak(seed, speed)
    with Provider(folder, *MODELS, f"seed={seed}") as provider:
        policies = write_policy(folder, provider, POLICY)
        counting = ("-c", COUNTING, str(folder / "tasks"))
        limit = f"{STORE_MAX_MIB}MiB"
        with Sidecar(folder, provider.url, policies=policies, program=counting, store_max=limit) as sidecar:
            run = _Run(seen, sidecar, provider)
            await _fill(run, fill)
            long = LONG | {"itl": seconds / LONG["output_tokens"]}
            await asyncio.to_thread(provider.set_models, **dict.fromkeys(NAMED, SLOW), long=long)
            run.begun = monotonic()
            async with asyncio.TaskGroup() as group:
                lasting = group.create_task(_long(run))
                await asyncio.wait_for(run.began.wait(), 10)  # before the faults: it shall live
                await asyncio.to_thread(provider.set_faults, *FAULTS)
                beside = [group.create_task(_sample(run, folder / "tasks")), group.create_task(_probe(run))]
                await _traffic(run, group, arrivals(speed, seconds), random.Random(seed))
                await asyncio.wait({lasting}, timeout=60)
                await asyncio.sleep(2 * EVERY_S)  # a sample of the end, when nothing is under way
                for one in beside:
                    one.cancel()
            for connection in run.idle:
                await connection.close()
            seen.exit_status = sidecar.stop()
    return seen


async def _fill(run: _Run, count: int) -> None:
    """So many calls without pauses, of all sizes; kinds, conversations, aborts and faults are those of the soak."""
    filling = _Run(Soak(run.seen.seed, run.seen.speed), run.sidecar, run.provider)
    chance, left = random.Random(run.seen.seed), iter(range(count))
    await asyncio.to_thread(run.provider.set_models, **dict.fromkeys(NAMED, QUICK))
    await asyncio.to_thread(run.provider.set_faults, *FAULTS)

    async def ask() -> None:
        for number in left:
            size = Arrival(0.0, number * 37 % 4000, 64)
            await _call(filling, _kind(chance), size, (number, chance.random() < ABORTS))
            if number % 10_000 == 0:
                sys.stderr.write(f"filling: {number} of {count} calls\n")

    await asyncio.gather(*(ask() for _ in range(FILLING)))
    for connection in filling.idle:
        await connection.close()
    await asyncio.to_thread(run.provider.set_faults)
    run.first = count


async def _long(run: _Run) -> None:
    """One stream as long as the soak; it has to end whole."""
    connection = Connection(run.sidecar.port)
    text = b""
    try:
        status, fields = await connection.begin(chat("count slowly", model="long", stream=True))
        async for chunk in connection.chunks(fields):
            run.began.set()
            text += chunk
        run.seen.long_whole = status == 200 and text.endswith(b"data: [DONE]\n\n")
        run.seen.long_s = monotonic() - run.begun
    except OSError as error:
        run.seen.ends[f"long: {type(error).__name__}"] += 1
    finally:
        await connection.close()


async def _traffic(run: _Run, group: asyncio.TaskGroup, due: Sequence[Arrival], chance: random.Random) -> None:
    calls: set[asyncio.Task[None]] = set()
    for number, one in enumerate(due, run.first):
        await asyncio.sleep(max(0.0, run.begun + one.at_s - monotonic()))
        call = group.create_task(_call(run, _kind(chance), one, (number, chance.random() < ABORTS)))
        calls.add(call)
        call.add_done_callback(calls.discard)
    if calls:
        await asyncio.wait(calls, timeout=60)


def _kind(chance: random.Random) -> str:
    return chance.choices([kind for kind, _ in KINDS], [share for _, share in KINDS])[0]


def _body(kind: str, one: Arrival) -> tuple[object, str]:
    """What is asked, and where."""
    text = "x " * min(one.tokens_in, 4000)
    if kind == "embedding":
        return {"model": "text-embedding-3-small", "input": text}, "/v1/embeddings"
    model = "translated" if kind.startswith("translated") else "gpt-4o"
    return chat(text, model=model, stream="stream" in kind, max_tokens=max(1, min(one.tokens_out, 64))), CHAT


async def _call(run: _Run, kind: str, one: Arrival, how: tuple[int, bool]) -> None:
    """One call on a connection that is free, or on a new one; who gives up leaves in the middle."""
    number, gives_up = how
    seen, connection = run.seen, run.idle.pop() if run.idle else Connection(run.sidecar.port)
    body, path = _body(kind, one)
    seen.open_calls += 1
    try:
        async with asyncio.timeout(LEAVE_S if gives_up else None):
            reply = await connection.call(body, {"x-sidecar-session": str(number // TURN)}, path)
        seen.ends[f"{kind}: {reply.status}"] += 1
        run.idle.append(connection)
    except OSError:  # a timeout is one too: the abort
        seen.ends[f"{kind}: {'left' if gives_up else 'broken'}"] += 1
        await connection.close()
    finally:
        seen.open_calls -= 1
        seen.calls += 1


async def _probe(run: _Run) -> None:
    """The same small call both ways, again and again; those that meet a fault are not counted."""
    ways = [Connection(run.sidecar.port), Connection(run.provider.port)]
    body = chat("what is 2 + 2?", model="probe", max_tokens=1)
    try:
        while True:
            took: list[float] = []
            for way in ways:
                try:
                    reply = await way.call(body)
                except OSError:
                    await way.close()
                    continue
                if reply.status == 200:
                    took.append(reply.ended - reply.begun)
            if len(took) == len(ways):
                run.seen.added.append((monotonic() - run.begun, (took[0] - took[1]) * 1000))
            await asyncio.sleep(PROBE_S)
    finally:
        for way in ways:
            await way.close()


async def _sample(run: _Run, tasks: Path) -> None:
    process, seen = psutil.Process(run.sidecar.process.pid), run.seen
    while True:
        await asyncio.sleep(EVERY_S)
        sample = Sample(
            at_s=round(monotonic() - run.begun, 1),
            rss_mib=round(process.memory_info().rss / 2**20, 2),
            descriptors=process.num_fds(),
            threads=process.num_threads(),
            tasks=_tasks(tasks),
            exchanges=_exchanges(await asyncio.to_thread(run.sidecar.metrics)),
            open_calls=seen.open_calls,
            database_mib=round(_size(run.sidecar.db) / 2**20, 2),
            calls=seen.calls,
        )
        seen.samples.append(sample)
        if len(seen.samples) % 15 == 0:
            line = f"soak {sample.at_s:.0f} s: {sample.calls} calls, {sample.rss_mib} MiB, {sample.descriptors} descriptors"
            sys.stderr.write(f"{line}, {sample.tasks} tasks\n")


def _tasks(file: Path) -> int:
    return int(file.read_text()) if file.exists() else 0


def _size(db: Path) -> int:
    return sum(file.stat().st_size for file in db.parent.glob("sidecar.db*") if file.is_file())


def _exchanges(metrics: str) -> int:
    lines = [line for line in metrics.splitlines() if line.startswith("llm_sidecar_open_streams ")]
    return int(float(lines[0].split(" ")[1])) if lines else 0
