"""Rows that have a bench of their own: what they give the goal table."""

from pathlib import Path

import pytest

from bench import router_others
from bench.figures import figure
from bench.router_row import Asked


def test_experiments_are_compared_with_uniform_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """750 values against 1,000, both known to 10 %: a quarter fewer, give or take .75 x sqrt(2) x .1."""

    def figures(_: str, means: list[float], *, adaptive: bool, **__: int) -> dict[str, object]:
        if max(means) == min(means):
            return {"false": figure(0.02)}
        mean = 750.0 if adaptive else 1000.0
        return {"samples": figure(mean, None, 0.9 * mean, 1.1 * mean), "right": figure(0.97)}

    monkeypatch.setattr(router_others.experiments, "figures", figures)
    found: dict[str, dict[str, float]] = {}
    for row in router_others.EXPERIMENTS:
        found |= row.run(Asked(Path(), 1), lambda _: None)["experiments"]
    assert {name for name in found if name.endswith("_fewer")} == {f"ab_{variants}_fewer" for variants in (2, 3, 4, 5)}
    assert found["ab_3_fewer"]["mean"] == pytest.approx(0.25)
    assert found["ab_3_fewer"]["hi"] == pytest.approx(0.25 + 0.75 * 2**0.5 * 0.1)
    assert found["ab_3_samples"]["reference"] == 1000.0
    assert found["ab_3_false"]["mean"] == 0.02
    assert router_others._fewer(figure(None), figure(1.0))["mean"] is None


def test_drift_is_left_out_where_there_are_no_traces(tmp_path: Path) -> None:
    """And says so; the folder that is meant lies beside the matrices."""
    said: list[str] = []
    assert router_others.DRIFT.run(Asked(tmp_path / "quality", 1), said.append) == {}
    assert str(tmp_path / "arrivals") in said[0]


def test_runs_follow_the_seeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Twenty seeds give the 10,000 canaries of the goal."""
    asked: list[object] = []
    monkeypatch.setattr(router_others.verdicts, "figures", lambda runs, data, _: asked.append((runs, data)) or {})
    assert router_others.VERDICTS.run(Asked(tmp_path, 20), lambda _: None) == {}
    assert asked == [(10_000, tmp_path)]
