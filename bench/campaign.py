"""What is too long for CI: `python -m bench.campaign [--kill-rounds N] [--soak SECONDS] [--faults N] [--out FILE.json]`.

Kill rounds: SIGKILL of a real sidecar under load at random moments, on a database that lives through five of them; what
was lost is measured in rows, in learning and in steps of a rollout. Soak: arrivals of a recorded trace, scaled to the
rate asked for, with aborts and faults; memory, descriptors, threads, open exchanges and the database are sampled each
second. Faults: exchanges through relays that spoil them by a seeded plan (`bench.faults`). Each part is bounded in time,
prints a table, and the exit status is 1 when a promise was broken.
"""

import argparse
import asyncio
import csv
import gzip
import json
import random  # noqa: TID251 - a campaign's moments of death need chance, and are printed
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from bench import faults
from sidecar.clock import monotonic
from tests.e2e.process import Provider, Sidecar
from tests.e2e.rounds import LOSABLE_S, Round, kill_round, write_policy
from tests.e2e.traffic import Connection, chat

SHARED = Path(__file__).resolve().parents[2] / "shared"
TRACE = SHARED / "data" / "arrivals" / "azure2023_code.csv.gz"
ROUNDS_PER_FILE = 5  # then a new database: posteriors fade beyond 5,000 exchanges, and losses could not be counted
MODELS = ("default:ttft=0.02", "default:itl=0.004", "default:output_tokens=24")
FAULTS = (
    {"kind": "status", "status": 500, "rate": 0.01},
    {"kind": "truncate", "after_tokens": 5, "rate": 0.005},
    {"kind": "reset_before", "rate": 0.005},
)
ABORTS = 0.05
SETTLED_SHARE = 1 / 3  # the first third of a soak fills caches and pools; growth is what follows it
RSS_GROWTH = 1.10  # CASES 16: within 10 %


@dataclass(frozen=True, slots=True)
class Sample:
    """One second of a soak."""

    at_s: float
    rss_mib: float
    descriptors: int
    threads: int
    exchanges: int  # open in the sidecar
    open_calls: int  # of the client: what is under way
    database_mib: float
    calls: int
    p99_ms: float  # of the whole calls that ended in this second


@dataclass(slots=True)
class Soak:
    """What a soak's clients saw."""

    ends: Counter[str] = field(default_factory=Counter)
    took_s: list[float] = field(default_factory=list)
    open_calls: int = 0
    samples: list[Sample] = field(default_factory=list)


# ---- kill rounds


async def kill_rounds(count: int, seed: int, folder: Path) -> list[Round]:
    """So many rounds; progress goes to standard error."""
    chance = random.Random(seed)
    rounds: list[Round] = []
    while len(rounds) < count:
        home = folder / f"kill-{len(rounds)}"
        home.mkdir()
        with Provider(home, "default:ttft=0.005", "default:output_tokens=8") as provider:
            policies = write_policy(home, provider)
            with Sidecar(home, provider.url, policies=policies) as sidecar:
                for _ in range(min(ROUNDS_PER_FILE, count - len(rounds))):
                    one = await kill_round(sidecar, len(rounds), chance.uniform(0.5, 3.0))
                    rounds.append(one)
                    _progress(f"kill round {one.number + 1} of {count}: {one.rows_lost} rows lost, {one.integrity}")
                sidecar.stop()
    return rounds


def judge_rounds(rounds: Sequence[Round]) -> list[str]:
    """The promises that were broken."""
    broken = []
    for one in rounds:
        if one.integrity != "ok":
            broken.append(f"round {one.number}: integrity_check says {one.integrity}")
        if (one.oldest_lost_s or 0.0) > LOSABLE_S:
            broken.append(f"round {one.number}: a row {one.oldest_lost_s:.3f} s old is lost")
        if one.step_after < one.step_promised:
            broken.append(f"round {one.number}: the rollout went back from {one.step_promised} to {one.step_after} %")
        if (one.learning_lost_s or 0.0) > 2 * LOSABLE_S:
            broken.append(f"round {one.number}: learning {one.learning_lost_s:.3f} s old is lost")
    return broken


def show_rounds(rounds: Sequence[Round]) -> None:
    """The table."""
    lost = sorted(one.oldest_lost_s or 0.0 for one in rounds)
    learning = sorted(one.learning_lost_s or 0.0 for one in rounds)
    restarts = sorted(one.restart_s for one in rounds)
    rows = [
        ("kill rounds", str(len(rounds))),
        ("calls answered", str(sum(one.answered for one in rounds))),
        ("rows lost, all rounds", str(sum(one.rows_lost for one in rounds))),
        ("age of the oldest lost row, median / worst", f"{lost[len(lost) // 2]:.3f} s / {lost[-1]:.3f} s"),
        (
            "age of the oldest lost lesson, median / worst",
            f"{learning[len(learning) // 2]:.3f} s / {learning[-1]:.3f} s",
        ),
        ("sound files", str(sum(one.integrity == "ok" for one in rounds))),
        ("steps that went back", str(sum(one.step_after < one.step_promised for one in rounds))),
        ("steps lost that were younger than 250 ms", str(sum(one.step_after < one.step_seen for one in rounds))),
        ("restart to ready, median / worst", f"{restarts[len(restarts) // 2]:.2f} s / {restarts[-1]:.2f} s"),
    ]
    _table(rows)


# ---- soak


def arrivals(trace: Path, rate_per_s: float, seconds: float) -> list[tuple[float, int]]:
    """(second, input tokens) of the trace, repeated as often as needed and scaled to this mean rate."""
    with gzip.open(trace, "rt") as source:
        rows = [(float(row["t_s"]), int(row["input_tokens"])) for row in csv.DictReader(source)]
    span = max(rows[-1][0], 1.0)
    scale = len(rows) / span / rate_per_s
    found: list[tuple[float, int]] = []
    turn = 0
    while True:
        for at, tokens in rows:
            due = (at + turn * span) * scale
            if due >= seconds:
                return found
            found.append((due, tokens))
        turn += 1


async def soak(seconds: float, rate_per_s: float, seed: int, folder: Path) -> Soak:
    """Mixed traffic for so long; a sample each second."""
    chance, seen = random.Random(seed), Soak()
    due = arrivals(TRACE, rate_per_s, seconds)
    with Provider(folder, *MODELS, f"seed={seed}", faults=FAULTS) as provider:
        policies = write_policy(folder, provider)
        with Sidecar(folder, provider.url, policies=policies) as sidecar:
            begun = monotonic()
            idle: list[Connection] = []
            async with asyncio.TaskGroup() as group:
                sampling = group.create_task(_sample(sidecar, seen, begun))
                calls: list[asyncio.Task[None]] = []
                for number, (at, tokens) in enumerate(due):
                    await asyncio.sleep(max(0.0, begun + at - monotonic()))
                    body = chat("x " * min(tokens, 4000), stream=chance.random() < 0.7, max_tokens=24)
                    gives_up = chance.random() < ABORTS
                    calls.append(group.create_task(_call(sidecar.port, idle, seen, (number, body, gives_up))))
                await asyncio.wait(calls, timeout=60)
                await asyncio.sleep(2.0)
                sampling.cancel()
            for connection in idle:
                await connection.close()
            seen.ends["exit status"] = sidecar.stop()
    return seen


async def _call(port: int, idle: list[Connection], seen: Soak, what: tuple[int, object, bool]) -> None:
    """One call on a connection that is free, or on a new one; one in twenty leaves in the middle."""
    number, body, gives_up = what
    connection = idle.pop() if idle else Connection(port)
    seen.open_calls += 1
    begun = monotonic()
    try:
        if gives_up:
            async with asyncio.timeout(0.03):
                await connection.call(body)
        else:
            reply = await connection.call(body, {"x-sidecar-session": str(number // 4)})
            seen.ends[str(reply.status)] += 1
            seen.took_s.append(monotonic() - begun)
        idle.append(connection)
    except OSError:  # a timeout is one too: the abort
        seen.ends["left" if gives_up else "broken"] += 1
        await connection.close()
    finally:
        seen.open_calls -= 1


async def _sample(sidecar: Sidecar, seen: Soak, begun: float) -> None:
    process = psutil.Process(sidecar.process.pid)
    while True:
        await asyncio.sleep(1.0)
        took, seen.took_s = sorted(seen.took_s), []
        files = [file for file in sidecar.db.parent.glob("sidecar.db*") if file.is_file()]
        sample = Sample(
            at_s=round(monotonic() - begun, 1),
            rss_mib=round(process.memory_info().rss / 2**20, 1),
            descriptors=process.num_fds(),
            threads=process.num_threads(),
            exchanges=_exchanges(await asyncio.to_thread(sidecar.metrics)),
            open_calls=seen.open_calls,
            database_mib=round(sum(file.stat().st_size for file in files) / 2**20, 2),
            calls=len(took),
            p99_ms=round(took[int(len(took) * 0.99)] * 1000, 1) if took else 0.0,
        )
        seen.samples.append(sample)
        if len(seen.samples) % 30 == 0:
            _progress(f"soak {sample.at_s:.0f} s: {sample.rss_mib} MiB, {sample.descriptors} descriptors")


def _exchanges(metrics: str) -> int:
    lines = [line for line in metrics.splitlines() if line.startswith("llm_sidecar_open_streams ")]
    return int(float(lines[0].split(" ")[1])) if lines else 0


def judge_soak(seen: Soak) -> list[str]:
    """The promises that were broken: growth after the first third, descriptors that stay, an end that is not clean."""
    samples = [one for one in seen.samples if one.open_calls or one.calls]
    if len(samples) < 10:
        return ["the soak was too short to judge: give it at least 30 s"]
    first = int(len(samples) * SETTLED_SHARE)
    early, late = samples[first : first + 5], samples[-5:]
    broken = []
    rss = [sum(one.rss_mib for one in part) / len(part) for part in (early, late)]
    if rss[1] > rss[0] * RSS_GROWTH + 2.0:
        broken.append(f"memory grew from {rss[0]:.1f} to {rss[1]:.1f} MiB")
    busy = max(one.open_calls for one in seen.samples)
    if seen.samples[-1].descriptors > seen.samples[0].descriptors + 2 * busy + 20:
        broken.append(f"{seen.samples[-1].descriptors} descriptors are open at the end")
    if seen.samples[-1].open_calls or seen.samples[-1].exchanges:
        broken.append(f"{seen.samples[-1].open_calls} calls and {seen.samples[-1].exchanges} exchanges hang")
    if seen.ends["exit status"]:
        broken.append(f"the process ended with {seen.ends['exit status']}")
    return broken


def show_soak(seen: Soak) -> None:
    """The table."""
    samples = seen.samples
    third = samples[int(len(samples) * SETTLED_SHARE)]
    last = samples[-1]
    quantiles = sorted(one.p99_ms for one in samples if one.calls)
    rows = [
        ("soak", f"{last.at_s:.0f} s, {sum(one.calls for one in samples)} whole calls"),
        ("how calls ended", ", ".join(f"{name}: {count}" for name, count in sorted(seen.ends.items()))),
        ("memory after a third / at the end", f"{third.rss_mib} / {last.rss_mib} MiB"),
        ("descriptors after a third / at the end", f"{third.descriptors} / {last.descriptors}"),
        ("threads after a third / at the end", f"{third.threads} / {last.threads}"),
        ("exchanges open at most / at the end", f"{max(one.exchanges for one in samples)} / {last.exchanges}"),
        ("database after a third / at the end", f"{third.database_mib} / {last.database_mib} MiB"),
        ("p99 of a second's calls, median / worst", f"{quantiles[len(quantiles) // 2]} / {quantiles[-1]} ms"),
    ]
    _table(rows)


# ---- shared


def _progress(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _table(rows: Sequence[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name.ljust(width)}  {value}")
    print()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.campaign", description=__doc__)
    parser.add_argument("--kill-rounds", type=int, default=None, metavar="N", help="default 50; 0: none")
    parser.add_argument("--soak", type=float, default=None, metavar="SECONDS", help="default 1200; 0: none")
    parser.add_argument("--faults", type=int, default=None, metavar="N", help="default 5,000 exchanges; 0: none")
    parser.add_argument(
        "--only", type=int, default=None, metavar="K", help="of the faults, exchange K of the seed alone"
    )
    parser.add_argument("--rate", type=float, default=30.0, help="calls a second in the soak, on average")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    options = parser.parse_args(arguments)
    if options.only is not None:
        options.faults = 1
    if options.kill_rounds is None and options.soak is None and options.faults is None:
        options.kill_rounds, options.soak, options.faults = 50, 1200.0, 5000
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what was asked for (naming one part leaves the other out); 1 when a promise was broken."""
    options = _options(arguments)
    broken: list[str] = []
    told: dict[str, object] = {"seed": options.seed}
    with tempfile.TemporaryDirectory() as folder:
        if options.kill_rounds:
            rounds = asyncio.run(kill_rounds(options.kill_rounds, options.seed, Path(folder)))
            show_rounds(rounds)
            broken += judge_rounds(rounds)
            told["kill_rounds"] = [asdict(one) for one in rounds]
        if options.soak and not TRACE.exists():
            print(f"no soak: {TRACE} is not here\n")
        elif options.soak:
            seen = asyncio.run(soak(options.soak, options.rate, options.seed, Path(folder)))
            show_soak(seen)
            broken += judge_soak(seen)
            told["soak"] = {"ends": seen.ends, "samples": [asdict(one) for one in seen.samples]}
    if options.faults:
        numbers = range(options.faults) if options.only is None else [options.only]
        faulted = faults.run(numbers, options.seed)
        faults.show(faulted)
        broken += faulted.broken
        told["faults"] = {what: dict(ends) for what, ends in faulted.ends.items()}
    for line in broken:
        print(f"BROKEN {line}")
    told["broken"] = broken
    if options.out is not None:
        options.out.write_text(json.dumps(told, indent=1))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
