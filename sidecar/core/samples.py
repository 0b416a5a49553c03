"""What of an exchange is watched, and how a window of it becomes a sample of one fixed size.

**Metrics**: `ttft` and `latency` in seconds after the request was sent (a stream and a whole answer never share a
sample), `input_tokens`, `output_tokens`, `cost` in nano-dollars, `quality` 0..1. A failed exchange has no duration and no
tokens worth comparing: `core.thresholds` counts failures. Input tokens are the app's doing and are watched for the
route; everything else is watched for each arm by itself, because the sidecar moves traffic between arms and must not
take its own doing for a change of the world.

**Sample** (`Sample`). A window lasts `window_s` and longer, until it has `size` values. From however many values it
sees, it keeps every s-th; when it holds 2 x size it drops every second one and doubles s (systematic sampling). `take`
gives `size` of them, evenly spread over the window. So a busy window and a quiet one give equally many values, and
their statistics can be compared: a distance between few values is larger by chance alone. Nothing is random. O(1) for a
value, at most 2 x size numbers.

What it does not know: the order of values within a window, and how many calls there were.
"""

from collections.abc import Container, Iterator
from math import isfinite
from typing import Final

from sidecar.core.policy import WatchedMetric
from sidecar.core.types import Outcome

DIGITS: Final = 6  # 3..15 after the point: microseconds; fewer make ties, more make snapshots longer
Key = tuple[WatchedMetric, str]  # the metric, and whose: an arm with " stream" behind streams' durations, or ""


def read(metric: WatchedMetric, arm: str, outcome: Outcome, quality: float | None) -> tuple[Key, float] | None:
    """The metric's value of one completed exchange and under which key it is watched; None when it has none."""
    usage, clocks = outcome.usage, outcome.clocks
    value: float | None = None
    whose = arm
    match metric:
        case "ttft":
            value = clocks.first_token_latency_s if outcome.stream else None
        case "latency":
            value = clocks.latency_s
            whose = f"{arm} stream" if outcome.stream else arm
        case "cost":
            value = outcome.cost_nusd
        case "quality":
            value = quality
        case "input_tokens":
            value, whose = (None if usage is None else usage.input_tokens), ""
        case _:
            value = None if usage is None else usage.output_tokens
    return None if value is None else ((metric, whose), max(0.0, value))


def told_of(key: Key) -> tuple[str, str | None]:
    """For an event: what was watched in words, and the arm that it names."""
    metric, whose = key
    return f"{metric} of {whose}" if whose else metric, whose.removesuffix(" stream") or None


def keys(metrics: tuple[WatchedMetric, ...], arms: tuple[str, ...]) -> Iterator[Key]:
    """Every key that `read` can give for these metrics and arms."""
    for metric in metrics:
        if metric == "input_tokens":
            yield metric, ""
        else:
            for arm in arms:
                yield metric, arm
                if metric == "latency":
                    yield metric, f"{arm} stream"


def is_of(key: Key, arms: Container[str]) -> bool:
    """Whether the key belongs to the route as a whole, or to one of these arms."""
    return not key[1] or key[1].removesuffix(" stream") in arms


class Sample:
    """One window's values; see the head of this file."""

    __slots__ = ("_seen", "_stride", "begun", "size", "values", "window_s")

    def __init__(self, window_s: float, size: int) -> None:
        self.window_s, self.size = window_s, size
        self.begun: float | None = None
        self.clear()

    def add(self, value: float, now: float) -> None:
        """Sees one value >= 0; what is not finite or negative is left out."""
        if not (isfinite(value) and value >= 0.0):
            return
        if self.begun is None:
            self.begun = now
        self._seen += 1
        if self._seen % self._stride == 0:
            self.values.append(value)
            if len(self.values) == 2 * self.size:
                del self.values[::2]
                self._stride *= 2

    def ready(self, now: float) -> bool:
        """Whether the window is over. A clock that went back ends it too: what it holds is old."""
        return (
            len(self.values) >= self.size
            and self.begun is not None
            and not self.begun <= now < self.begun + self.window_s
        )

    def take(self) -> list[float]:
        """`size` of the values, evenly spread; the next window begins with the next value. Only when `ready`."""
        have = len(self.values)
        taken = [round(self.values[at * have // self.size], DIGITS) for at in range(self.size)]
        self.clear()
        return taken

    def clear(self) -> None:
        """Forgets the window; the next one begins with its first value."""
        self.begun = None
        self._seen, self._stride = 0, 1
        self.values: list[float] = []
