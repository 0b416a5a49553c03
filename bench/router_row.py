"""What a family of rows of the goal table is: metrics, the jobs that they need, and how results become figures.

A job is one stream or a few (seconds at most), so that processes share them evenly; its result is a few numbers. Jobs
are values: equal jobs give equal results, whoever runs them. Rows that need no matrix, or the machine to themselves, are
made in one go.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.figures import Figure
from bench.matrices import Matrix
from bench.tape import Tape

ALL: Final = "all"  # the pseudo matrix of what is said about all matrices together
Values = tuple[float, ...]
Say = Callable[[str], None]
Results = Mapping[str, list[Values]]  # setting -> result of each seed
Figures = dict[str, Figure]


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work. `setting` tells jobs of a family apart, `requests` is how long it takes."""

    family: str
    matrix: str
    setting: str
    seed: int
    requests: int


@dataclass(frozen=True, slots=True)
class Family:
    """Rows that are made from the same streams. `metrics` are all names it may give, a trailing `*` fits any end."""

    name: str
    metrics: tuple[str, ...]
    settings: Callable[
        [Matrix, frozenset[str]], dict[str, int]
    ]  # setting -> requests, for its metrics asked for (or {})
    run: Callable[[Tape, str, int], Values]  # of a setting and a seed
    figures: Callable[[Matrix, Results], Figures]
    overall: Callable[[Sequence[Matrix], Mapping[str, Results]], Figures] = lambda _, __: {}


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line wants."""

    data: Path
    seeds: int


@dataclass(frozen=True, slots=True)
class Alone:
    """Rows that are made in one go, in a process of their own: pseudo matrix -> metric -> figure. Those that measure
    time are made last, one after the other, when nothing else runs."""

    name: str
    metrics: tuple[str, ...]
    run: Callable[[Asked, Say], dict[str, Figures]]
    timed: bool = False


def fits(metric: str, names: Sequence[str]) -> bool:
    """Whether a metric is one of these names; a trailing `*` of a name fits any end."""
    return any(metric.startswith(name[:-1]) if name.endswith("*") else metric == name for name in names)
