"""The campaign of faults: runs it in a folder of its own and prints its table.

`python -m bench.campaign --faults N --seed S` starts it; with `--only K` exchange K of the seed runs alone (with those
before it on its client connection). What happens to an exchange is `tests/e2e/fault_plan.py`, what is promised is
`tests/e2e/fault_judge.py`.
"""

import asyncio
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.fault_campaign import CONCURRENCY, Campaign, Told


def run(numbers: Sequence[int], seed: int, concurrency: int = CONCURRENCY, workers: int = 1) -> Told:
    """Runs these exchanges of the seed against a sidecar of their own; see `Campaign` for `workers`."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(Campaign(seed, progress=True, workers=workers).run(Path(folder), numbers, concurrency))


def show(told: Told) -> None:
    """The table by toxic, in Markdown, and the books."""
    print(f"{told.exchanges} exchanges of seed {told.seed} in {told.took_s:.0f} s\n")
    print("| toxic | sent | met it | completed | failed, by kind | aborted | shed | no whole request |")
    print("| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |")
    for what, ends in [*sorted(told.ends.items()), ("all", sum(told.ends.values(), Counter()))]:
        kinds = {name[7:]: count for name, count in sorted(ends.items()) if name.startswith("failed ")}
        failed = ", ".join(f"{name} {count}" for name, count in kinds.items()) or "-"
        met = (told.met.total() if what == "all" else told.met[what]) or "-"
        row = (what, ends.total(), met, ends["completed"], failed, ends["aborted"], ends["shed"], ends["turned away"])
        print(f"| {' | '.join(map(str, row))} |")
    if told.closed_s:
        at = told.closed_s
        middle, late = at[len(at) // 2] * 1000, at[int(len(at) * 0.99)] * 1000
        print(
            f"\nfrom a client's leaving to the end of its upstream's connection: p50 {middle:.1f} ms, p99 {late:.1f} ms"
        )
    if told.books is not None:
        books = told.books
        print(f"\naccepted {books.accepted}; metrics {dict(books.metrics)}")
        print(f"status {dict(books.status)}; rows {dict(books.rows)}; left open {books.rest or 'nothing'}\n")
