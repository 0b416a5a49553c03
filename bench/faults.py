"""A campaign of faults: `python -m bench.campaign --faults N --seed S`, or `python -m bench.faults` with the same.

`--only K` runs exchange K of the seed alone (with those before it on its client connection). What is promised is judged in
`tests/e2e/fault_judge.py`; this prints the table by toxic and gives 1 when a promise was broken.
"""

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.fault_campaign import CONCURRENCY, Campaign, Told


def run(numbers: Sequence[int], seed: int, concurrency: int = CONCURRENCY) -> Told:
    """Runs these exchanges of the seed against a sidecar of their own."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(Campaign(seed, progress=True).run(Path(folder), numbers, concurrency))


def show(told: Told) -> None:
    """The table by toxic, in Markdown, and the books."""
    print(f"{told.exchanges} exchanges of seed {told.seed} in {told.took_s:.0f} s\n")
    print("| toxic | sent | completed | failed, by kind | aborted | shed | no row |")
    print("| --- | ---: | ---: | --- | ---: | ---: | ---: |")
    for what, ends in [*sorted(told.ends.items()), ("all", sum(told.ends.values(), Counter()))]:
        kinds = {name[7:]: count for name, count in sorted(ends.items()) if name.startswith("failed ")}
        failed = ", ".join(f"{name} {count}" for name, count in kinds.items()) or "-"
        row = (what, ends.total(), ends["completed"], failed, ends["aborted"], ends["shed"], ends["turned away"])
        print(f"| {' | '.join(map(str, row))} |")
    if told.books is not None:
        books = told.books
        print(f"\naccepted {books.accepted}; metrics {dict(books.metrics)}")
        print(f"status {dict(books.status)}; rows {dict(books.rows)}; left open {books.rest or 'nothing'}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what was asked for; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__)
    parser.add_argument("--faults", type=int, default=5000, metavar="N", help="exchanges")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, metavar="K", help="begin with exchange K")
    parser.add_argument("--only", type=int, default=None, metavar="K", help="exchange K alone")
    parser.add_argument("--concurrency", type=int, default=CONCURRENCY)
    options = parser.parse_args(arguments)
    numbers = range(options.first, options.first + options.faults) if options.only is None else [options.only]
    told = run(numbers, options.seed, options.concurrency)
    show(told)
    for line in told.broken:
        print(f"BROKEN {line}")
    return 1 if told.broken else 0


if __name__ == "__main__":
    sys.exit(main())
