"""The routing bench: its geometry is right, a damaged folder is told, and its report has every figure."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench import router_arms, router_drop, router_rows, router_speed
from bench.figures import figure
from bench.matrices import MatrixError, aiq, cost_at, hull, load_all, quality_at, saving
from bench.router_row import Alone
from bench.routing import hyperparameters, main
from tests.fixtures.matrices import arrivals, matrix, write


def test_the_hull_is_what_mixes_reach() -> None:
    """Points below the line between two others, and dearer points that are no better, are not on it."""
    points = [(1.0, 0.5), (2.0, 0.6), (3.0, 0.9), (4.0, 0.9), (5.0, 0.8)]
    assert hull(points) == [(1.0, 0.5), (3.0, 0.9)]
    assert cost_at(points, 0.7) == pytest.approx(2.0)
    assert cost_at(points, 0.4) == 1.0
    assert cost_at(points, 0.95) is None
    assert quality_at(points, 2.0) == pytest.approx(0.7)
    assert quality_at(points, 0.1) == 0.5
    assert quality_at(points, 9.0) == 0.9


def test_aiq_is_the_mean_height_of_the_hull() -> None:
    """A trapezoid and then a rectangle: (0.7 x 2 + 0.9 x 2) / 4; below the cheapest point its own height counts."""
    assert aiq([(1.0, 0.5), (3.0, 0.9)], 1.0, 5.0) == pytest.approx(0.8)
    assert aiq([(2.0, 0.5)], 1.0, 3.0) == pytest.approx(0.5)
    assert aiq([(2.0, 0.5), (2.0, 0.7)], 2.0, 2.0) == 0.7


def test_savings_are_parts_of_what_the_reference_costs() -> None:
    """Nothing can be saved beside what is free."""
    assert saving(1.0, 4.0) == 0.75
    assert saving(1.0, 0.0) == 0.0


def test_a_folder_is_read_and_damage_is_named(tmp_path: Path) -> None:
    """Missing rows, missing prompts and an empty folder end with the file's name and exit code 2."""
    (made,) = load_all(write(tmp_path / "good", matrix()))
    assert made.models == ("m0", "m1", "m2")
    assert (made.quality == matrix().quality).all()
    assert np.isnan(made.latency_s).all()
    assert made.best == 1
    assert made.source == tmp_path / "good" / "m.csv.gz"
    with pytest.raises(MatrixError, match="not every prompt"):
        load_all(write(tmp_path / "gap", matrix(), skip=5))
    (write(tmp_path / "half", matrix()) / "m.prompts.csv.gz").unlink()
    with pytest.raises(MatrixError, match=r"m\.prompts\.csv\.gz"):
        load_all(tmp_path / "half")
    (tmp_path / "empty").mkdir()
    assert main(["--data", str(tmp_path / "empty"), "--out", str(tmp_path / "x.json")]) == 2


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that change are short, and nothing is timed."""
    monkeypatch.setattr(router_drop, "PHASE", 60)
    monkeypatch.setattr(router_drop, "BEFORE", 20)
    monkeypatch.setattr(router_arms, "BEFORE", 60)
    monkeypatch.setattr(router_arms, "AFTER", 120)
    alone = Alone("speed", ("features_*",), lambda _, __: {"all": {"features_p50_us": figure(1.0)}})
    monkeypatch.setitem(router_rows.ALONE, "speed", alone)


@pytest.mark.usefixtures("short")
def test_the_report_has_every_figure_with_its_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON as the manual has it, tables for people and in a page; all families of rows on any matrix, told or not."""
    arrivals(tmp_path / "arrivals", "trace", 150)
    folder = write(tmp_path / "quality", matrix(60, means=(0.6, 0.9), costs=(0.001, 0.01)))
    out, page = tmp_path / "new" / "out.json", tmp_path / "page.md"
    page.write_text("# Page\n<!-- bench.routing begin -->\n<!-- bench.routing end -->\n")
    where = ["--data", str(folder), "--out", str(out), "--seeds", "2", "--jobs", "1"]
    only = "curve,promise,sparse,ceilings,drop,prices,arms,day,speed"
    assert main([*where, "--only", only, "--into", str(page)]) == 0
    report = json.loads(out.read_text())
    assert report["hyperparameters"] == hyperparameters()
    found = report["matrices"]
    assert set(found["m"]["aiq"]) == {"mean", "lo", "hi", "reference"}
    assert 0.3 < found["m"]["aiq"]["mean"] < 1.0
    for metric in ("apgr", "regret", "told_5_percent_kept", "ceiling_7_cost_peak", "drop_loose_reward", "detector_costs",
                   "price_worst_third", "good_arm_tight_streams", "bad_arm_moderate_pulls", "sparse_regret",
                   "day_trace_benefit"):  # fmt: skip
        assert found["m"][metric]["mean"] is not None, metric
    assert {"regret_worst", "told_5_percent_saving_ratio", "day_loss", "features_p50_us"} <= set(found["all"])
    assert "regret, worst matrix" in capsys.readouterr().out
    assert "### Goals" in page.read_text()
    assert main(["--render", str(out), "--goals"]) == 0
    assert "regret, worst matrix" in capsys.readouterr().out


def test_only_what_is_asked_for_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Metrics, families and stars; a metric that is not there is told. Two processes give what one gives."""
    folder, out = write(tmp_path / "m", matrix(40)), tmp_path / "out.json"
    where = ["--data", str(folder), "--out", str(out), "--seeds", "2"]
    assert main([*where, "--only", "regret,sparse_regret", "--jobs", "1"]) == 0
    alone = json.loads(out.read_text())["matrices"]
    assert set(alone) == {"m"}
    assert set(alone["m"]) == {"regret", "sparse_regret"}
    assert "4/4 jobs" in capsys.readouterr().err
    assert main([*where, "--only", "regret,sparse_regret", "--jobs", "2"]) == 0
    assert json.loads(out.read_text())["matrices"] == alone
    assert main([*where, "--only", "price_tight*", "--jobs", "1"]) == 0
    assert set(json.loads(out.read_text())["matrices"]["m"]) == {f"price_tight_third_{third}" for third in (1, 2, 3)}
    assert main([*where, "--only", "fame"]) == 2
    assert "no metric fame" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--seeds", "0"], ["--into", "nowhere.md"], ["--jobs", "0"]])
def test_wrong_usage_ends_with_2(tmp_path: Path, wrong: list[str]) -> None:
    """Before anything is measured."""
    with pytest.raises(SystemExit, match="2"):
        main(["--data", str(tmp_path), "--out", str(tmp_path / "x.json"), *wrong])
    with pytest.raises(SystemExit, match="2"):
        main([])


def test_verbs_are_timed_one_by_one() -> None:
    """Every verb has its percentiles in microseconds, p50 not above p99."""
    found = router_speed.measured("k3", 3, 200, 50)
    assert 0 < found["decide_settle_k3_p50_us"]["mean"] <= found["decide_settle_k3_p99_us"]["mean"]
    assert {"feedback_k3_p50_us", "feedback_k3_p99_us"} <= set(found)
