"""The native and the plain pair of a pod, simulated with real processes (`pod.py` says how): ended at random moments under
load, again and again. No call is lost, every call has its row, and the sidecar ends last."""

import json
import random  # noqa: TID251 - the moment of each end, from a seed
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import sleep

import pytest

from tests.e2e.pod import NAME, STARTS_S, Ended, Pod
from tests.e2e.process import Provider
from tests.fixtures.waiting import wait_for

KNOBS = ("default:ttft=0.02", "default:itl=0.02", "default:output_tokens=12")  # a call takes a quarter of a second
FEW, ROUNDS = 2, 50
TOGETHER = 3  # pods at once


@dataclass(frozen=True, slots=True)
class Round:
    """What became of one pod."""

    ended: list[Ended]
    lost: list[str]  # errors that the app saw
    made: int
    streams: int
    last: int  # calls that were begun after SIGTERM
    without_row: int
    outcomes: set[str]
    log: str


def a_round(folder: Path, provider: Provider, number: int, *, native: bool, **variables: str) -> Round:
    """A pod that lives for a moment that the number gives."""
    folder.mkdir(parents=True)
    with Pod(folder, provider.url, native=native, **variables) as pod:
        pod.start()
        assert wait_for(pod.app_log.exists, STARTS_S, 0.005), pod.output("app")
        sleep(random.Random(number).uniform(0.0, 1.5))
        ended = pod.end()
        calls = [json.loads(line) for line in pod.app_log.read_text().splitlines()]
        rows = stored(pod.state() / "sidecar.db")
        return Round(
            ended=ended,
            lost=[call["error"] for call in calls if call["error"]],
            made=len(calls),
            streams=sum(call["stream"] for call in calls),
            last=sum(call["last"] for call in calls),
            without_row=len({call["decision"] for call in calls} - rows.keys()),
            outcomes=set(rows.values()),
            log=pod.output() + pod.output("app"),
        )


def stored(db: Path) -> dict[str, str]:
    """Each row's outcome by its id."""
    with closing(sqlite3.connect(db)) as connection:
        return dict(connection.execute("SELECT id, outcome FROM outcomes"))


def rounds(folder: Path, count: int, *, native: bool) -> list[Round]:
    with Provider(folder, *KNOBS) as provider, ThreadPoolExecutor(TOGETHER) as pool:
        made = [pool.submit(a_round, folder / str(number), provider, number, native=native) for number in range(count)]
        return [one.result() for one in made]


def faults(one: Round, *, native: bool) -> list[str]:
    """What is wrong with it, in words. A plain sidecar ends when its app is silent, be that before its app's end."""
    ends = {end.name: end.code for end in one.ended}
    told = [f"call lost: {error}" for error in one.lost]
    told += [f"{name} ended with {code}" for name, code in ends.items() if code]
    told += [f"{end.name} was killed" for end in one.ended if end.killed]
    told += ["the sidecar was not the last to end"] if native and one.ended[-1].name != NAME else []
    told += [f"{one.without_row} calls have no row"] if one.without_row else []
    return told + [f"outcome {outcome}" for outcome in one.outcomes - {"completed"}]


def judge(done: list[Round], *, native: bool) -> None:
    calls, last = sum(one.made for one in done), sum(one.last for one in done)
    name = "native" if native else "plain"
    print(f"{name}: {len(done)} pods, {calls} calls, {sum(one.streams for one in done)} streams, {last} after SIGTERM")
    wrong = {number: (told, one.log) for number, one in enumerate(done) if (told := faults(one, native=native))}
    assert not wrong, "\n".join(f"pod {number}: {told}\n{log}" for number, (told, log) in wrong.items())
    assert last >= 8 * len(done), "the apps made no calls at their ends"


@pytest.mark.parametrize("native", [True, False], ids=["native", "plain"])
def test_a_pod_ends_without_losing_a_call(tmp_path: Path, native: bool) -> None:
    """GW-51, INC-33: a handful of what the campaign does fifty times."""
    judge(rounds(tmp_path, FEW, native=native), native=native)


def test_an_app_may_pause_before_its_last_calls(tmp_path: Path) -> None:
    """INC-33: two and a half seconds of other work after SIGTERM, then calls again: a native sidecar was not told yet, and a
    plain one waits so long."""
    with Provider(tmp_path, *KNOBS) as provider, ThreadPoolExecutor(2) as pool:
        kinds = (True, False)
        made = [
            pool.submit(a_round, tmp_path / str(native), provider, 0, native=native, APP_LULL_S="2.5")
            for native in kinds
        ]
        for native, one in zip(kinds, made, strict=True):
            judge([one.result()], native=native)


@pytest.mark.campaign
@pytest.mark.parametrize("native", [True, False], ids=["native", "plain"])
def test_fifty_pods_end_without_losing_a_call(tmp_path: Path, native: bool) -> None:
    """GW-51, INC-33: fifty pods, each ended at another moment, as native sidecars and as plain containers."""
    judge(rounds(tmp_path, ROUNDS, native=native), native=native)
