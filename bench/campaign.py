"""What is too long for CI: `python -m bench.campaign [--kill-rounds N] [--soak SECONDS] [--faults N] [--out FILE.json]`.

Kill rounds: SIGKILL of a real sidecar under load at random moments, on a database that lives through five of them; what
was lost is measured in rows, in learning and in steps of a rollout. Soak: mixed traffic of recorded arrivals, with aborts
and faults; whether anything grows (`bench.soak`, `bench.soak_report`). Faults: exchanges through relays that spoil them
by a seeded plan (`bench.faults`). Each part is bounded in time, prints a table, and the exit status is 1 when a promise
was broken.
"""

import argparse
import asyncio
import json
import random  # noqa: TID251 - a campaign's moments of death need chance, and are printed
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench import faults, soak, soak_report
from tests.e2e.process import Provider, Sidecar
from tests.e2e.rounds import LOSABLE_S, Round, kill_round, write_policy

ROUNDS_PER_FILE = 5  # then a new database: posteriors fade beyond 5,000 exchanges, and losses could not be counted


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
    parser.add_argument("--kill-rounds", type=int, default=None, metavar="N", help="default 200; 0: none")
    parser.add_argument("--soak", type=float, default=None, metavar="SECONDS", help="default 1200; 0: none")
    parser.add_argument("--faults", type=int, default=None, metavar="N", help="default 5,000 exchanges; 0: none")
    parser.add_argument(
        "--only", type=int, default=None, metavar="K", help="of the faults, exchange K of the seed alone"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="of the faults: of the sidecar")
    parser.add_argument("--speed", type=float, default=10.0, help="of the soak: how fast time runs in the traces")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="of the soak")
    parser.add_argument("--into", type=Path, metavar="FILE.md", help="the page that gets the tables of the soak")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    options = parser.parse_args(arguments)
    if options.only is not None:
        options.faults = 1
    if options.kill_rounds is None and options.soak is None and options.faults is None:
        options.kill_rounds, options.soak, options.faults = 200, 1200.0, 5000
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
        if options.soak and not soak.present():
            print(f"no soak: the traces of {soak.TRACES} are not here\n")
        elif options.soak:
            seen = asyncio.run(soak.soak(options.soak, options.speed, options.seed, Path(folder)))
            print(soak_report.show(seen))
            broken += soak_report.judge(seen)
            told["soak"] = soak_report.as_json(seen)
            if options.picture is not None:
                options.picture.write_text(soak_report.picture(seen).svg())
            if options.into is not None:
                options.into.write_text(soak_report.put_into(options.into.read_text(), seen))
    if options.faults:
        numbers = range(options.faults) if options.only is None else [options.only]
        faulted = faults.run(numbers, options.seed, workers=options.workers)
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
