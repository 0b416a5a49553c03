"""What is counted under one set of labels: integers at once, clocks and scores in bulk.

A histogram's arithmetic costs half a microsecond a value in Python and a twentieth of that for a whole column in numpy,
so a series keeps what it is given and digests it when it has a batch, or when it is scraped.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TypeAlias

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from sidecar.core.types import Clocks, Settled, Usage
from sidecar.telemetry.catalogue import FINE_SECONDS

_DIGEST_AT = 256  # exchanges kept before their arithmetic is done: a tenth of a millisecond of work; 50 kB each at most

CLOCKS = ("sent_s", "ttfb_s", "ttfe_s", "ttft_s", "ttfa_s", "duration_s", "itl_s", "gap_p50_s", "gap_p95_s")
_TOKENS = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
SCORES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_clocks_of: Callable[[Clocks], tuple[float | None, ...]] = attrgetter(*CLOCKS)
_tokens_of: Callable[[Usage], tuple[int | None, ...]] = attrgetter(*_TOKENS)

Floats: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]


class Histograms:
    """Some histograms with the same edges: counts per bucket (rows are histograms) and sums."""

    __slots__ = ("counts", "edges", "sums")

    def __init__(self, rows: int, edges: Sequence[float]) -> None:
        self.edges = np.asarray(edges, dtype=np.float64)
        self.counts: Counts = np.zeros((rows, len(edges) + 1), dtype=np.int64)
        self.sums: Floats = np.zeros(rows)

    def add(self, row: int, values: Floats) -> None:
        at = np.searchsorted(self.edges, values, side="left")
        self.counts[row] += np.bincount(at, minlength=self.counts.shape[1])
        self.sums[row] += values.sum()

    def merge(self, other: "Histograms") -> None:
        self.counts += other.counts
        self.sums += other.sums


class Series:
    """One set of labels. `digest` before reading anything but `requests`."""

    __slots__ = (
        "_clocks",
        "_qualities",
        "_rewards",
        "_usages",
        "cost_nusd",
        "histograms",
        "qualities",
        "requests",
        "rewards",
        "tokens",
        "unknown_cost",
        "unknown_usage",
    )

    def __init__(self) -> None:
        self.requests = 0
        self.unknown_cost = 0
        self.unknown_usage = 0
        self.cost_nusd: dict[str, int] = {}
        self.tokens = [0] * len(_TOKENS)
        self.histograms = Histograms(len(CLOCKS), FINE_SECONDS)
        self.rewards = Histograms(1, SCORES)
        self.qualities: dict[str, Histograms] = {}
        self._clocks: list[Clocks] = []
        self._usages: list[Usage] = []
        self._rewards: list[float] = []
        self._qualities: list[tuple[str, float]] = []

    def add(self, settled: Settled) -> None:
        """Takes one exchange in."""
        outcome = settled.outcome
        self.requests += 1
        answered = outcome.kind == "completed" and outcome.status < 400
        if answered:
            clocks = outcome.clocks
            self._clocks.append(clocks if _asked_once(settled) else replace(clocks, sent_s=None))
        usage = outcome.usage
        if usage is not None:
            self._usages.append(usage)
        elif answered and settled.facts.endpoint != "count_tokens" and _reached_a_model(settled):
            self.unknown_usage += 1
        cost_nusd = outcome.cost_nusd
        if cost_nusd is not None:
            kind = outcome.cost_kind or "exact"
            self.cost_nusd[kind] = self.cost_nusd.get(kind, 0) + cost_nusd
        elif outcome.status < 400 and (outcome.kind != "failed" or outcome.status) and _reached_a_model(settled):
            self.unknown_cost += 1
        if settled.reward is not None:
            self._rewards.append(settled.reward)
        if settled.quality is not None:
            self._qualities.append((settled.quality_source or "unknown", settled.quality))
        if self.requests % _DIGEST_AT == 0:
            self.digest()

    def digest(self) -> None:
        """Does the arithmetic of what was only kept."""
        for row, column in enumerate(zip(*map(_clocks_of, self._clocks), strict=True)):
            known = [value for value in column if value is not None]
            if known:
                self.histograms.add(row, np.array(known, dtype=np.float64))
        for at, counts in enumerate(zip(*map(_tokens_of, self._usages), strict=True)):
            self.tokens[at] += sum(filter(None, counts))
        if self._rewards:
            self.rewards.add(0, np.array(self._rewards))
        for source in {source for source, _ in self._qualities}:
            scores = np.array([score for given, score in self._qualities if given == source])
            self.qualities.setdefault(source, Histograms(1, SCORES)).add(0, scores)
        for kept in (self._clocks, self._usages, self._rewards, self._qualities):
            kept.clear()


def _asked_once(settled: Settled) -> bool:
    """Whether no arm was asked before the one that served: else `sent` holds that arm's time, and is none of ours."""
    return settled.stages is None and settled.outcome.served_arm in (None, settled.decision.arm)


def _reached_a_model(settled: Settled) -> bool:
    """Whether something was asked and left us: not a list of models, nor a call that was given up before."""
    asked = settled.facts.input_bytes > 0 or settled.outcome.status == 101  # a tunnel's calls have no body of their own
    return asked and settled.outcome.clocks.sent_s is not None
