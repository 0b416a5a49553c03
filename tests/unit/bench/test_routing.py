"""The routing bench: its geometry is right, a damaged folder is told, and a stream teaches the engine what it shows."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from bench.matrices import Matrix, MatrixError, aiq, cost_at, hull, load_all
from bench.replay import Told, replay
from bench.routing import main

COSTS = {"cheap": 0.001, "dear": 0.01, "bad": 0.02}
MEANS = {"cheap": 0.6, "dear": 0.9, "bad": 0.3}


def written(folder: Path, prompts: int = 120, *, seed: int = 3, skip: int | None = None) -> Path:
    """A matrix of three models with ten tokens in and out of each call; `skip` leaves one row out."""
    rng = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    rows = [
        [f"p{n}", "one", model, int(rng.random() < MEANS[model]), 10, 10, COSTS[model], ""]
        for n in range(prompts)
        for model in COSTS
    ]
    if skip is not None:
        del rows[skip]
    names = ["prompt_id", "task", "model", "quality", "input_tokens", "output_tokens", "cost_usd", "latency_s"]
    texts = [[f"p{n}", "one", "what is it?"] for n in range(prompts)]
    for file, head, lines in (("m", names, rows), ("m.prompts", [*names[:2], "prompt"], texts)):
        with gzip.open(folder / f"{file}.csv.gz", "wt", newline="") as target:
            csv.writer(target).writerows([head, *lines])
    return folder


def test_the_hull_is_what_mixes_reach() -> None:
    """Points below the line between two others, and dearer points that are no better, are not on it."""
    points = [(1.0, 0.5), (2.0, 0.6), (3.0, 0.9), (4.0, 0.9), (5.0, 0.8)]
    assert hull(points) == [(1.0, 0.5), (3.0, 0.9)]
    assert cost_at(points, 0.7) == pytest.approx(2.0)
    assert cost_at(points, 0.4) == 1.0
    assert cost_at(points, 0.95) is None


def test_aiq_is_the_mean_height_of_the_hull() -> None:
    """A trapezoid and then a rectangle: (0.7 x 2 + 0.9 x 2) / 4; below the cheapest point its own height counts."""
    assert aiq([(1.0, 0.5), (3.0, 0.9)], 1.0, 5.0) == pytest.approx(0.8)
    assert aiq([(2.0, 0.5)], 1.0, 3.0) == pytest.approx(0.5)


def test_a_folder_is_read_and_damage_is_named(tmp_path: Path) -> None:
    """Missing rows, missing prompts and an empty folder end with the file's name and exit code 2."""
    (matrix,) = load_all(written(tmp_path / "good"))
    assert matrix.models == ("cheap", "dear", "bad")
    assert matrix.quality.shape == (120, 3)
    assert np.isnan(matrix.latency_s).all()
    assert matrix.best == 1
    with pytest.raises(MatrixError, match="not every prompt"):
        load_all(written(tmp_path / "gap", skip=5))
    (written(tmp_path / "half") / "m.prompts.csv.gz").unlink()
    with pytest.raises(MatrixError, match=r"m\.prompts\.csv\.gz"):
        load_all(tmp_path / "half")
    (tmp_path / "empty").mkdir()
    assert main(["--data", str(tmp_path / "empty"), "--out", str(tmp_path / "x.json")]) == 2


def test_a_stream_learns_what_it_is_told_to_want(tmp_path: Path) -> None:
    """Quality alone finds the good model, cost alone the cheap one; equal seeds give equal streams."""
    (matrix,) = load_all(written(tmp_path / "m", prompts=600))
    best, cheap = replay(matrix, 1, Told(cost_weight=0.0)), replay(matrix, 1, Told(cost_weight=0.9))
    assert best[1] > 0.8
    assert cheap[0] < 0.004 < best[0]
    assert replay(matrix, 1, Told(cost_weight=0.0)) == best


def test_prices_are_fitted_and_never_negative(tmp_path: Path) -> None:
    """A matrix without token counts leaves costs to be learnt; the stream runs all the same."""
    (matrix,) = load_all(written(tmp_path / "m", prompts=60))
    blank = np.full_like(matrix.input_tokens, np.nan)
    unknown = Matrix(
        matrix.name, matrix.models, matrix.tasks, matrix.prompts, matrix.quality, matrix.cost_usd, blank, blank, blank
    )
    assert 0.001 <= replay(unknown, 0, Told())[0] <= 0.02
    falling = np.tile(np.arange(60.0)[:, None], (1, 3))
    odd = Matrix(
        matrix.name, matrix.models, matrix.tasks, matrix.prompts, matrix.quality, matrix.cost_usd, falling,
        60.0 - falling / 2, blank,
    )  # fmt: skip
    assert 0.001 <= replay(odd, 0, Told())[0] <= 0.02


def test_the_report_has_every_figure_with_its_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON as DESIGN 2.7 has it, a table for people, and a metric that is not there is told."""
    folder, out = written(tmp_path / "m", prompts=40), tmp_path / "out.json"
    assert main(["--data", str(folder), "--out", str(out), "--seeds", "2"]) == 0
    report = json.loads(out.read_text())
    assert set(report) == {"matrices", "hyperparameters"}
    figure = report["matrices"]["m"]["aiq"]
    assert set(figure) == {"mean", "lo", "hi", "reference"}
    assert 0.3 < figure["mean"] < 1.0
    assert "aiq" in capsys.readouterr().out
    assert main(["--data", str(folder), "--out", str(out), "--seeds", "1", "--only", "aiq,regret"]) == 0
    assert set(json.loads(out.read_text())["matrices"]["m"]) == {"aiq", "regret"}
    assert main(["--data", str(folder), "--out", str(out), "--seeds", "1", "--only", "fame"]) == 2
