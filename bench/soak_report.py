"""What a soak shows: trends with bounds, a table, a picture.

Theory. A trend is the median of the slopes between all pairs of points (Theil and Sen), which a third of wild points
cannot move; its interval of 95 % is Sen's, from the variance of Kendall's statistic. Points are medians of BLOCKS equal
parts of the time after WARM_SHARE of it (and p99 for what the sidecar adds): neighbouring samples resemble each other, and
the interval takes points to be independent. A trend breaks the promise when all of its interval lies above its bound.

The bounds, an hour of this traffic:
- memory: what is left of LIMIT_MIB, in a week; so a pod that is replaced each week never meets its limit.
- descriptors and tasks: one for each thousand calls. Less is no leak of a call but a pool that breathes.
- database: a day until its ceiling is passed by as much again.
- added p50 and p99: a tenth of their own median.

Nothing may be shed, and hardly more calls may end badly than are made to: who answers nothing does not grow either.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import sqrt
from typing import Final

from bench.soak import STORE_MAX_MIB, Soak
from bench.stats import median, percentile
from bench.svg import COLOURS, INK, Frame, Picture, Point, thin

WARM_SHARE: Final = 0.2  # 0.1..0.5: filled or not, the pools follow this traffic; a larger one leaves less to judge
BLOCKS: Final = 30  # 12..60: more are not independent, fewer make the interval wide
LEAST_S: Final = 60.0  # a shorter soak says nothing
LIMIT_MIB: Final = 512.0
WEEK_H: Final = 168.0
BEGIN: Final = "<!-- soak begin -->"
END: Final = "<!-- soak end -->"
PER_CALLS: Final = 1000
SPOILT: Final = 0.12  # 0.07 of the calls meet a fault of the upstream or are left by their client


@dataclass(frozen=True, slots=True)
class Trend:
    """Growth an hour, with its interval of 95 % and the bound that it must not surely pass; `typical` is the median."""

    what: str
    unit: str
    typical: float
    slope: float
    low: float
    high: float
    bound: float

    @property
    def grows(self) -> bool:
        return self.low > self.bound


def theil_sen(points: Sequence[Point]) -> tuple[float, float, float]:
    """The slope, and the ends of its interval of 95 %. Raises ValueError with fewer than three points."""
    slopes = sorted((b[1] - a[1]) / (b[0] - a[0]) for n, a in enumerate(points) for b in points[n + 1 :])
    if len(slopes) < 3:
        raise ValueError("a trend needs three points")
    count = len(points)
    width = 1.96 * sqrt(count * (count - 1) * (2 * count + 5) / 18)
    low, high = int((len(slopes) - width) // 2), int((len(slopes) + width) // 2)
    return median(slopes), slopes[max(0, low)], slopes[min(len(slopes) - 1, high)]


def blocks(points: Sequence[Point], share: float) -> list[Point]:
    """The points after the warm part as BLOCKS points, each at its block's middle: this share (0..1) of its values."""
    begin, end = points[0][0] + (points[-1][0] - points[0][0]) * WARM_SHARE, points[-1][0]
    edges = [begin + (end - begin) * number / BLOCKS for number in range(BLOCKS + 1)]
    found: list[Point] = []
    for low, high in pairwise(edges):
        values = [value for at, value in points if low <= at < high]
        if values:
            found.append(((low + high) / 2, percentile(values, share)))
    return found


def trends(seen: Soak) -> list[Trend]:
    """Of memory, descriptors, tasks, the database and what is added. Raises ValueError when the soak was too short."""
    busy = [one for one in seen.samples if one.at_s <= seen.added[-1][0]] if seen.added else []
    if not busy or busy[-1].at_s < LEAST_S:
        raise ValueError(f"the soak was too short to judge: give it at least {LEAST_S:.0f} s")
    calls_an_hour = busy[-1].calls / busy[-1].at_s * 3600

    def of(what: str, unit: str, points: Sequence[Point], share: float, bound: float | None) -> Trend:
        parts = blocks(points, share)
        typical = median([value for _, value in parts])
        slope, low, high = theil_sen([(at / 3600, value) for at, value in parts])
        return Trend(what, unit, typical, slope, low, high, 0.1 * typical if bound is None else bound)

    memory = [(one.at_s, one.rss_mib) for one in busy]
    return [
        of("memory", "MiB", memory, 0.5, (LIMIT_MIB - memory[-1][1]) / WEEK_H),
        of("descriptors", "", [(s.at_s, float(s.descriptors)) for s in busy], 0.5, calls_an_hour / PER_CALLS),
        of("tasks", "", [(s.at_s, float(s.tasks)) for s in busy], 0.5, calls_an_hour / PER_CALLS),
        of("database", "MiB", [(s.at_s, s.database_mib) for s in busy], 0.5, STORE_MAX_MIB / 24),
        of("added p50", "ms", seen.added, 0.5, None),
        of("added p99", "ms", seen.added, 0.99, None),
    ]


def judge(seen: Soak) -> list[str]:
    """The promises that were broken: what grows, what hangs at the end, an end that is not clean."""
    try:
        found = trends(seen)
    except ValueError as error:
        return [str(error)]
    broken = [
        f"{one.what} grows by {one.slope:.2f} {one.unit} an hour ({one.low:.2f}..{one.high:.2f}), bound {one.bound:.2f}"
        for one in found
        if one.grows
    ]
    spoilt = seen.calls - sum(count for name, count in seen.ends.items() if name.endswith(": 200"))
    if spoilt > SPOILT * seen.calls:
        broken.append(f"{spoilt} of {seen.calls} calls were not answered, more than {SPOILT:.0%}: {dict(seen.ends)}")
    if shed := sum(count for name, count in seen.ends.items() if name.endswith(": 503")):
        broken.append(f"{shed} calls were shed")
    last = seen.samples[-1]
    if last.open_calls or last.exchanges > 1:  # the probe may be under way
        broken.append(f"{last.open_calls} calls and {last.exchanges} exchanges hang")
    if not seen.long_whole:
        broken.append("the stream that was as long as the soak did not end whole")
    if seen.exit_status:
        broken.append(f"the process ended with {seen.exit_status}")
    return broken


def show(seen: Soak) -> str:
    """The tables in Markdown."""
    last = seen.samples[-1]
    run = f"{last.at_s:.0f} s at {seen.speed:g} x speed, seed {seen.seed}"
    lines = [f"{run}: {seen.calls} calls, and a stream of {seen.long_s:.0f} s.", ""]
    lines += ["| calls | " + " | ".join(_ENDS) + " |", "| --- |" + " ---: |" * len(_ENDS)]
    for kind in sorted({name.partition(":")[0] for name in seen.ends}):
        lines.append(f"| {kind} | " + " | ".join(str(seen.ends[f"{kind}: {end}"]) for end in _ENDS) + " |")
    lines += ["", "| what | typical | grows an hour | 95 % | bound |", "| --- | ---: | ---: | ---: | ---: |"]
    for one in trends(seen) if last.at_s > LEAST_S and seen.added else []:
        unit = f" {one.unit}" if one.unit else ""
        interval = f"{one.low:+.2f} to {one.high:+.2f}"
        lines.append(f"| {one.what} | {one.typical:.2f}{unit} | {one.slope:+.2f} | {interval} | {one.bound:.2f} |")
    return "\n".join(lines) + "\n"


def put_into(page: str, seen: Soak) -> str:
    """The page with these tables between its marks. Raises ValueError when it has none."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no {BEGIN} and {END}")
    return (
        f"{head}{begin}\n{show(seen)}\n![Memory, descriptors and the rest over the soak](images/soak.svg)\n{end}{tail}"
    )


_ENDS: Final = ("200", "500", "502", "503", "broken", "left")


def as_json(seen: Soak) -> dict[str, object]:
    """All that was seen, for a file."""
    found = [asdict(one) for one in trends(seen)] if seen.samples and seen.samples[-1].at_s > LEAST_S else []
    samples = [asdict(one) for one in seen.samples]
    said = {"seed": seen.seed, "speed": seen.speed, "calls": seen.calls, "exit_status": seen.exit_status}
    said |= {"long_whole": seen.long_whole, "long_s": seen.long_s}
    return said | {"ends": dict(seen.ends), "trends": found, "samples": samples, "added": seen.added}


def picture(seen: Soak) -> Picture:
    """Five small plots over the time of the soak; what lies left of the mark is the warm part, which is not judged."""
    made = Picture(720, 560, "Memory, descriptors, tasks, database and added latency over a soak")
    plots: list[tuple[str, list[Point]]] = [
        ("memory, MiB", _over(seen, "rss_mib")),
        ("descriptors", _over(seen, "descriptors")),
        ("asyncio tasks", _over(seen, "tasks")),
        ("database with WAL, MiB", _over(seen, "database_mib")),
        ("added p99, ms (of half a minute)", _p99s(seen)),
        ("calls under way", _over(seen, "open_calls")),
    ]
    for number, (title, points) in enumerate(plots):
        _plot(made, number, title, points)
    return made


def _over(seen: Soak, name: str) -> list[Point]:
    return [(one.at_s / 60, float(getattr(one, name))) for one in seen.samples]


def _p99s(seen: Soak) -> list[Point]:
    parts: dict[int, list[float]] = {}
    for at, value in seen.added:
        parts.setdefault(int(at // 30), []).append(value)
    return [((number + 0.5) / 2, percentile(values, 0.99)) for number, values in sorted(parts.items())]


def _plot(made: Picture, number: int, title: str, points: Sequence[Point]) -> None:
    if len(points) < 2:
        return
    across, down = number % 2, number // 2
    top = max(value for _, value in points) * 1.15 or 1.0
    end = points[-1][0]
    frame = Frame((55 + 350 * across, 35 + 180 * down, 280, 105), (0.0, end), (0.0, top), title, ("minutes", ""))
    made.axes(frame, ((0, _round(end * 0.45), _round(end * 0.95)), (0.0, _round(top * 0.45), _round(top * 0.95))))
    warm = end * WARM_SHARE
    made.line(frame, [(warm, 0.0), (warm, top)], INK, width=0.7, dash="3 3")
    made.line(frame, thin(points), COLOURS[number % len(COLOURS)], width=1.5)


def _round(value: float) -> float:
    return round(value) if value >= 10 else round(value, 1)
