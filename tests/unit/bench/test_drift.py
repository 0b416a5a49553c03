"""The bench of drift: its exact bound, its counting of windows, and its figures from a folder of traces."""

import csv
import gzip
import json
from math import comb
from pathlib import Path

import numpy as np
import pytest

from bench import drift


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """Two small traces: 3,000 requests of lognormal size in an hour, in bursts."""
    rng = np.random.default_rng(1)
    for name in drift.TRACES:
        times = np.sort(rng.uniform(0, 3600, 3000)).round(3)
        sizes = rng.lognormal(5.0, 0.7, (3000, 2)).round().astype(int)
        with gzip.open(tmp_path / f"{name}.csv.gz", "wt", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("t_s", "input_tokens", "output_tokens"))
            rows.writerows((at, *row) for at, row in zip(times.tolist(), sizes.tolist(), strict=True))
    return tmp_path


@pytest.mark.parametrize(("events", "trials", "tail"), [(0, 30_000, 0.025), (2, 50, 0.025), (4, 50, 0.975)])
def test_the_bound_is_the_one_of_the_definition(events: int, trials: int, tail: float) -> None:
    """At the bound, so few events or fewer have exactly the tail's probability, by the plain sum."""
    p = drift.bound(events, trials, tail)
    few = sum(comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(events + 1))
    assert few == pytest.approx(tail, rel=1e-6)


def test_windows_are_counted_as_they_are_judged(traces: Path) -> None:
    """A trace of an hour at 50 calls a minute has about 30 windows of 100 values: each metric is counted once in each."""
    trace = drift.load(traces, drift.TRACES[0])
    stream = drift.Stream(trace, drift.SPEC, 16, 0)
    assert stream.replay(trace.outcomes) == []
    assert 2 * 25 <= stream.windows <= 2 * 31
    assert stream.judged("output_tokens") * 2 == stream.windows


def test_a_change_is_found_and_an_alarm_closes_its_windows(traces: Path) -> None:
    trace = drift.load(traces, drift.TRACES[0])
    assert 1 <= drift.delay(trace, "output_x2", 0) <= 12
    stream = drift.Stream(trace, drift.SPEC, 16, 0)
    for _ in range(4):
        stream.replay(trace.outcomes)
    before = stream.windows
    events = stream.replay(drift.changed(trace, "output_x2", np.random.default_rng(0)))
    assert [event.detail["metric"] for event in events] == ["output_tokens"]
    assert stream.windows - before == pytest.approx(60, abs=4)


def test_what_is_never_found_counts_as_the_longest_wait(traces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "LONGEST", 40)
    monkeypatch.setitem(drift.CHANGES, "nothing", ("output_tokens", 1.0))
    assert drift.delay(drift.load(traces, drift.TRACES[1]), "nothing", 0) == 40


def test_changes_are_what_they_say(traces: Path) -> None:
    trace = drift.load(traces, drift.TRACES[0])
    tenth = drift.changed(trace, "output_tenth_x10", np.random.default_rng(0))
    longer = [a.usage != b.usage for a, b in zip(tenth, trace.outcomes, strict=True)]
    assert sum(longer) / len(longer) == pytest.approx(0.1, abs=0.02)
    slower = drift.changed(trace, "ttft_x1.5", np.random.default_rng(0))
    first, was = slower[0].clocks.ttft_s, trace.outcomes[0].clocks.ttft_s
    assert first is not None
    assert was is not None
    assert first == pytest.approx(1.5 * was)
    assert slower[0].usage == trace.outcomes[0].usage


def test_the_program_writes_and_prints(traces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = traces / "out.json"
    few = ["--windows", "100", "--runs", "1"]
    assert drift.main(["--data", str(traces), "--out", str(out), *few]) == 0
    found = json.loads(out.read_text())["drift"]
    assert found["windows_judged"]["mean"] >= 400
    assert found["false_alarms"]["lo"] <= found["false_alarms"]["mean"] <= found["false_alarms"]["hi"]
    assert found["false_alarms"]["reference"] == drift.GOAL
    assert "windows_until_output_x2_azure2023_code" in capsys.readouterr().out


def test_a_folder_without_traces_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert drift.main(["--data", str(tmp_path), "--out", str(tmp_path / "o")]) == 2
    assert "no arrival trace" in capsys.readouterr().err


def test_what_watching_takes_is_a_ratio_within_one_run() -> None:
    """Every watcher has its processor time and its ratio, and the ratio of nothing to itself is one."""
    made = drift.cost(rounds=2, calls=20)
    assert set(made) == {f"{name}_{what}" for name in drift.WATCHERS for what in ("us", "ratio")}
    assert made["nothing_ratio"] == {"mean": 1.0, "lo": 1.0, "hi": 1.0, "reference": None}
    assert all(one["mean"] is not None and one["mean"] > 0.0 for one in made.values())


def test_the_cost_needs_no_traces(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`--cost` prints a line for each figure; without it the folder and the file are asked for."""
    monkeypatch.setattr(drift.cost, "__defaults__", (1, 10))
    assert drift.main(["--cost"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 * len(drift.WATCHERS)
    with pytest.raises(SystemExit):
        drift.main(["--data", "x"])
