"""`python -m bench.drift --data DIR --out FILE.json`: how often drift alarms sound while nothing changes, and how soon
when something does.

**Nothing changes.** Each arrival trace is cut into blocks of consecutive requests; the blocks are permuted, again and again,
and streamed one after the other through the real `DriftSet`, which looks after every simulated second. What is between
requests (the gap) and in them (input and output tokens) stays together, so bursts stay bursts. An alarm of either metric
counts; a window counts once, although both metrics are judged in it. The interval is the exact two-sided 95 % one of
Clopper and Pearson.

**Something changes.** After a number of permuted replays the requests change, and the windows until the alarm are
counted: output tokens x 1.3, x 1.1 and x 2; one request in ten ten times as long (a mixture); time to the first token,
made of the input's length, x 1.5. Runs that find nothing in LONGEST windows count as LONGEST.

**What it takes.** `python -m bench.drift --cost` needs no traces: the processor time of `decide` + `settle` + one `tick` a
second in an engine that watches, over that of one that does not, the same calls in the same process, in turns.
"""

import argparse
import csv
import gc
import gzip
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import thread_time_ns
from typing import Any, Final

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from bench.figures import Figure, figure, median_of
from sidecar.core.drift import LEARNING, DriftSet, DriftStatus
from sidecar.core.engine import Engine
from sidecar.core.policy import Anomalies, Arm, Drift, Knob, Match, Policy, Route, Tuning, Upstream
from sidecar.core.types import Clocks, Event, Facts, Outcome, Usage

TRACES: Final = ("azure2023_code", "mooncake_conversation")
BLOCKS: Final = (16, 128, 1024)  # requests of a block: a tenth of a window, about one, and about seven
WINDOWS: Final = 15_000  # of each trace and block size: 90,000 in all
BEFORE: Final = 100  # windows that a change comes after, with those of the reference
LONGEST: Final = 400  # windows that a change is waited for
RUNS: Final = 12  # seeds of each change
GOAL: Final = 1e-4
SPEC: Final = Drift(metrics=("input_tokens", "output_tokens"), window_s=60.0)
PER_TOKEN_S: Final = 0.0002  # of input, before the first token: about what a GPU takes
WATCHERS: Final[dict[str, dict[str, Any]]] = {
    "nothing": {},
    "drift": {"drift": Drift()},
    "anomalies": {"anomalies": Anomalies()},
    "tuning": {"tuning": Tuning((Knob("temperature", 0.3, 1.0, 0.7),))},
}
ROUNDS: Final = 25  # of CALLS calls each
CALLS: Final = 2_000  # of a round, ten a second
Say = Callable[[str], None]


class TraceError(Exception):
    """The folder holds no readable arrival traces."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One arrival trace: the gap before each request, and the outcome that it has."""

    name: str
    gaps_s: NDArray[np.float64]
    outcomes: tuple[Outcome, ...]


def load(folder: Path, name: str) -> Trace:
    """Reads `<folder>/<name>.csv.gz`. Raises TraceError when there is none or its columns are others."""
    path = folder / f"{name}.csv.gz"
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            rows = [
                (float(row["t_s"]), int(row["input_tokens"]), int(row["output_tokens"])) for row in csv.DictReader(file)
            ]
    except (OSError, KeyError, ValueError) as error:
        raise TraceError(f"{path}: no arrival trace ({error}); it needs t_s, input_tokens and output_tokens") from error
    times = np.array([row[0] for row in rows])
    gaps = np.diff(times, prepend=times[0])
    return Trace(name, gaps, tuple(_outcome(row[1], row[2]) for row in rows))


def _outcome(input_tokens: int, output_tokens: int, slower: float = 1.0) -> Outcome:
    ttft_s = (0.2 + PER_TOKEN_S * input_tokens) * slower
    return Outcome(
        kind="completed",
        status=200,
        stream=True,
        clocks=Clocks(sent_s=0.0, ttft_s=ttft_s, duration_s=ttft_s + 0.02 * output_tokens),
        usage=Usage(input_tokens=input_tokens, output_tokens=output_tokens),
    )


class Stream:
    """Permuted replays, one after the other, through one detector set."""

    def __init__(self, trace: Trace, spec: Drift, block: int, seed: int) -> None:
        self._trace, self._block = trace, block
        self._rng = np.random.default_rng([seed, block])
        self._drift = DriftSet(Route("bench", Match(), "observe", Arm("arm", "up", "model"), drift=spec))
        self._now = self._due = 0.0
        self._closed = 0

    def replay(self, outcomes: tuple[Outcome, ...]) -> list[Event]:
        """One permutation of the trace's blocks, with these outcomes in place of its own; the alarms."""
        starts = np.arange(0, len(outcomes), self._block)
        events: list[Event] = []
        now, due, observe, tick = self._now, self._due, self._drift.observe, self._drift.tick
        for start in self._rng.permutation(starts).tolist():
            end = start + self._block
            for gap, outcome in zip(self._trace.gaps_s[start:end].tolist(), outcomes[start:end], strict=True):
                now += gap
                observe("arm", outcome, None, now)
                if now >= due:
                    due = now + 1.0
                    events += tick(now)
        self._now, self._due = now, due
        self._closed += sum(int(str(event.detail["windows"])) + LEARNING for event in events)
        return events

    def judged(self, metric: str) -> int:
        """Windows of this metric since it is learnt, with those of the reference."""
        return sum(_judged(one) for one in self._drift.status() if one.metric == metric)

    @property
    def windows(self) -> int:
        """Windows judged so far, summed over the metrics: those of the alarms, and those since."""
        return self._closed + sum(_judged(one) for one in self._drift.status())


def _judged(one: DriftStatus) -> int:
    return one.windows + (LEARNING if one.phase == "watching" else 0)


def quiet(trace: Trace, block: int, seed: int, windows: int) -> tuple[int, int]:
    """(windows judged, alarms of either metric) of replays in which nothing changes."""
    stream = Stream(trace, SPEC, block, seed)
    alarms = 0
    while stream.windows < windows * len(SPEC.metrics):
        alarms += len(stream.replay(trace.outcomes))
    return stream.windows // len(SPEC.metrics), alarms


CHANGES: Final[dict[str, tuple[str, float]]] = {
    "output_x1.1": ("output_tokens", 1.1),
    "output_x1.3": ("output_tokens", 1.3),
    "output_x2": ("output_tokens", 2.0),
    "output_tenth_x10": ("output_tokens", 10.0),
    "ttft_x1.5": ("ttft", 1.5),
}


def changed(trace: Trace, what: str, rng: np.random.Generator) -> tuple[Outcome, ...]:
    """The trace's outcomes after the change."""
    metric, factor = CHANGES[what]
    made = []
    for outcome in trace.outcomes:
        usage = outcome.usage
        assert usage is not None
        assert usage.input_tokens is not None
        assert usage.output_tokens is not None
        hit = what != "output_tenth_x10" or rng.random() < 0.1
        longer = factor if metric == "output_tokens" and hit else 1.0
        slower = factor if metric == "ttft" else 1.0
        made.append(_outcome(usage.input_tokens, round(usage.output_tokens * longer), slower))
    return tuple(made)


def delay(trace: Trace, what: str, seed: int) -> int:
    """Windows of the changed metric from the change to its alarm; LONGEST when none came in that time."""
    metric = CHANGES[what][0]
    stream = Stream(trace, replace(SPEC, metrics=(*SPEC.metrics, "ttft")), BLOCKS[0], seed)
    while stream.judged(metric) < LEARNING + BEFORE:
        stream.replay(trace.outcomes)
    outcomes = changed(trace, what, np.random.default_rng(seed))
    begun = stream.judged(metric) - LEARNING
    while stream.judged(metric) - LEARNING - begun < LONGEST:
        told = [event for event in stream.replay(outcomes) if event.detail["metric"] == metric]
        if told:
            return int(str(told[0].detail["windows"])) - begun
    return LONGEST


def figures(say: Say, folder: Path, windows: int = WINDOWS, runs: int = RUNS) -> dict[str, dict[str, Figure]]:
    """The goal table's row and the delays, under the outer key "drift". Rates are per window judged.

    Raises TraceError when `folder` (the one with `<trace>.csv.gz`) holds no traces.
    """
    made: dict[str, Figure] = {}
    judged = alarms = 0
    for name in TRACES:
        trace = load(folder, name)
        for block in BLOCKS:
            seen, false = quiet(trace, block, 0, windows)
            judged, alarms = judged + seen, alarms + false
            made[f"false_alarms_{name}_block{block}"] = _rate(false, seen)
            say(f"drift {name}, blocks of {block}: {false} false alarms in {seen} windows")
        for what in CHANGES:
            found = [float(delay(trace, what, seed)) for seed in range(runs)]
            made[f"windows_until_{what}_{name}"] = median_of(found)
            say(f"drift {name}, {what}: median {np.median(found):.0f} windows")
    return {"drift": {"false_alarms": _rate(alarms, judged), "windows_judged": figure(float(judged)), **made}}


def cost(rounds: int = ROUNDS, calls: int = CALLS) -> dict[str, Figure]:
    """For each of WATCHERS the processor time of a call in microseconds, and as a ratio to that of "nothing": medians
    over the rounds, after one that does not count."""
    rng = np.random.default_rng(1)
    sizes = rng.lognormal(5.5, 0.7, (calls, 2)).astype(int).tolist()
    outcomes = [structs.replace(_outcome(*pair), cost_nusd=sum(pair) * 1_000) for pair in sizes]
    upstreams = {"up": Upstream("up", "openai", "https", "h", 443)}
    took: dict[str, list[float]] = {name: [] for name in WATCHERS}
    engines = {}
    for name, watcher in WATCHERS.items():
        route = Route("bench", Match(), "optimize", Arm("a", "up", "m"), (Arm("b", "up", "n"),), **watcher)
        engines[name] = Engine(Policy("bench", "1", upstreams, (route,)), np.random.default_rng(1), 0.0)
    gc.collect()
    for at in range(rounds + 1):
        for name, engine in engines.items():
            began = thread_time_ns()
            _calls(engine, outcomes, at * calls / 10.0)
            took[name].append((thread_time_ns() - began) / calls / 1e3)
    made: dict[str, Figure] = {}
    for name, times in took.items():
        made[f"{name}_us"] = median_of(times[1:])
        made[f"{name}_ratio"] = median_of(
            [mine / plain for mine, plain in zip(times, took["nothing"], strict=True)][1:]
        )
    return made


def _calls(engine: Engine, outcomes: list[Outcome], began: float) -> None:
    for at, outcome in enumerate(outcomes):
        now = began + at / 10.0
        facts = Facts(
            endpoint="chat", dialect="openai", path="/v1/chat/completions", model="m", stream=True, key=0, draw=at,
            input_bytes=2_000,
        )  # fmt: skip
        engine.settle(facts, engine.decide(facts, now), outcome, now)
        if at % 10 == 9:
            engine.refresh(now)
            engine.tick(now)


def bound(events: int, trials: int, tail: float) -> float:
    """The probability p at which `events` or fewer of `trials` have probability `tail`. By bisection; the sum has
    `events` + 1 terms. Clopper and Pearson's exact 95 % interval (1934) is bound(k - 1, n, .975) .. bound(k, n, .025)."""
    low, high = 0.0, 1.0
    for _ in range(100):
        p = (low + high) / 2
        few = math.fsum(math.exp(_log_binomial(trials, k, p)) for k in range(events + 1))
        low, high = (p, high) if few > tail else (low, p)
    return high


def _log_binomial(n: int, k: int, p: float) -> float:
    choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return choose + k * math.log(p) + (n - k) * math.log1p(-p) if p < 1.0 else -math.inf


def _rate(alarms: int, windows: int) -> Figure:
    lowest = bound(alarms - 1, windows, 0.975) if alarms else 0.0
    return figure(alarms / windows, GOAL, lowest, bound(alarms, windows, 0.025))


def main(arguments: list[str] | None = None) -> int:
    """Runs, writes the JSON, prints a line for each figure. Exit code 2 for a folder without traces."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.drift", description="Drift alarms on permuted arrival traces."
    )
    parser.add_argument("--cost", action="store_true", help="what watching takes of the processor, and nothing else")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with <trace>.csv.gz")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument(
        "--windows", type=int, default=WINDOWS, metavar="N", help="windows of each trace and block size"
    )
    parser.add_argument("--runs", type=int, default=RUNS, metavar="N", help="runs of each change")
    options = parser.parse_args(arguments)
    if options.cost:
        _print(cost())
        return 0
    if options.data is None or options.out is None:
        parser.error("--data and --out are needed")
    try:
        found = figures(
            lambda text: print(text, file=sys.stderr, flush=True), options.data, options.windows, options.runs
        )
    except TraceError as error:
        print(f"bench.drift: {error}", file=sys.stderr)
        return 2
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    _print(found["drift"])
    return 0


def _print(found: dict[str, Figure]) -> None:
    for name, one in found.items():
        between = "" if one["hi"] is None else f"  ({one['lo']:.6g} .. {one['hi']:.6g})"
        print(f"{name:<54}{one['mean']:.6g}{between}")


if __name__ == "__main__":
    sys.exit(main())
