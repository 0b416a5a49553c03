"""Row 10: what a decision and its settling cost on one core, with text features and tasks, at 3 and at 10 arms.

Timed one call at a time after a warm-up, on the machine's nanosecond clock and (`*_cpu_*`, in a run of its own) on the
thread's processor time, which neighbours do not disturb; the score comes in between, and the refresh runs outside, as
it does behind the answers in the proxy. Both are reported apart, and so is making the features of a text. The garbage
collector is left on; what the bench itself holds is taken out of its sight. The only rows that differ from one run to
the next.
"""

import gc
from collections.abc import Callable
from time import perf_counter_ns, thread_time_ns
from typing import ClassVar, Final

import numpy as np

from bench.figures import figure
from bench.matrices import Matrix
from bench.replay import Phase, Told, replay
from bench.router_row import ALL, Alone, Asked, Figures, Say
from bench.stats import percentile
from bench.tape import tape
from sidecar.core.engine import Engine
from sidecar.core.features import features
from sidecar.core.settle import Verdict
from sidecar.core.types import Decision, Event, Facts, Feedback, Outcome

Clock = Callable[[], int]
ARMS: Final = (3, 10)
WARM: Final = 2_000  # calls before the first that counts
CALLS: Final = 20_000
TASKS: Final = 8
WORDS: Final = ("sum", "list", "python", "table", "why", "price", "{}", "1,024", "translate", "error", "def", "total")
TEXT_WORDS: Final = 120  # about 700 bytes


def _run(_: Asked, say: Say) -> dict[str, Figures]:
    found: Figures = {}
    for arms in ARMS:
        say(f"timing {CALLS:,} calls with {arms} arms")
        found |= measured(f"k{arms}", arms, CALLS, WARM)
        found |= measured(f"k{arms}_cpu", arms, CALLS, WARM, thread_time_ns)
    texts = _texts(np.random.default_rng(0), 2_000)
    found |= _spread("features", [_timed(text) for text in texts])
    return {ALL: found}


def measured(name: str, arms: int, calls: int, warm: int, clock: Clock = perf_counter_ns) -> Figures:
    """p50 and p99 of decide + settle in microseconds, and of the other verbs, over `calls` calls after `warm`."""
    _Timed.clock = clock
    _Timed.took_ns = {"decide": [], "settle": [], "feedback": [], "refresh": []}
    made = tape(_matrix(arms, warm + calls))
    gc.collect()
    gc.freeze()
    try:
        replay(made, 0, Told(max_quality_loss=0.05), [Phase(np.arange(warm + calls))], make=_Timed)
    finally:
        gc.unfreeze()
    counted = {verb: took[len(took) * warm // (warm + calls) :] for verb, took in _Timed.took_ns.items()}
    both = [sum(pair) for pair in zip(counted["decide"], counted["settle"], strict=True)]
    found = _spread(f"decide_settle_{name}", both)
    for verb in ("feedback", "refresh"):
        found |= _spread(f"{verb}_{name}", counted[verb])
    return found


class _Timed(Engine):
    """An engine that notes how long its verbs take."""

    took_ns: ClassVar[dict[str, list[int]]] = {}
    clock: ClassVar[Clock] = perf_counter_ns

    def decide(self, facts: Facts, now: float) -> Decision:
        before = _Timed.clock()
        made = super().decide(facts, now)
        self.took_ns["decide"].append(_Timed.clock() - before)
        return made

    def settle(self, facts: Facts, decision: Decision, outcome: Outcome, now: float, *, call: bool = True) -> Verdict:
        before = _Timed.clock()
        made = super().settle(facts, decision, outcome, now, call=call)
        self.took_ns["settle"].append(_Timed.clock() - before)
        return made

    def feedback(self, feedback: Feedback, now: float) -> list[Event]:
        before = _Timed.clock()
        made = super().feedback(feedback, now)
        self.took_ns["feedback"].append(_Timed.clock() - before)
        return made

    def refresh(self, now: float) -> None:
        before = _Timed.clock()
        super().refresh(now)
        self.took_ns["refresh"].append(_Timed.clock() - before)


def _spread(name: str, times_ns: list[int]) -> Figures:
    if not times_ns:
        return {}
    shares = {"p50": 0.5, "p99": 0.99}
    return {f"{name}_{label}_us": figure(percentile(times_ns, share) / 1e3) for label, share in shares.items()}


def _timed(text: str) -> int:
    before = perf_counter_ns()
    features(text)
    return perf_counter_ns() - before


def _matrix(arms: int, prompts: int) -> Matrix:
    """Made up: TASKS tasks, arms between .6 and .9, costs over two orders of magnitude."""
    rng = np.random.default_rng(7)
    means = np.clip(np.linspace(0.6, 0.9, arms) + rng.normal(0, 0.05, (TASKS, arms)), 0, 1)
    tasks = rng.integers(TASKS, size=prompts)
    tokens = np.full((prompts, arms), 200.0)
    cost = np.tile(np.geomspace(1e-5, 1e-3, arms), (prompts, 1))
    texts = _texts(rng, 500)
    return Matrix(
        "speed",
        tuple(f"m{arm}" for arm in range(arms)),
        tuple(f"task {task}" for task in tasks),
        tuple(texts[at % len(texts)] for at in range(prompts)),
        (rng.random((prompts, arms)) < means[tasks]).astype(np.float64),
        cost,
        tokens,
        tokens,
        np.full((prompts, arms), np.nan),
    )


def _texts(rng: np.random.Generator, count: int) -> list[str]:
    return [" ".join(rng.choice(WORDS, TEXT_WORDS).tolist()) for _ in range(count)]


ALONE: Final = Alone("speed", ("decide_settle_*", "feedback_*", "refresh_*", "features_*"), _run, timed=True)
