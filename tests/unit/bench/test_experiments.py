"""The benchmark plays the product's rule, and its table says what was measured."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench.experiments import figures, fixed_horizon, main, play
from bench.races import Bets, Mixture, Ratio
from sidecar.core.race import Race


@pytest.mark.parametrize("variants", [2, 4])
def test_many_runs_are_many_races(variants: int) -> None:
    """The same draws and values give the same winners and evidence as `core.race.Race`, with changing shares."""
    rng = np.random.default_rng(variants)
    many, races = Bets(3, variants, 0.05), [Race(variants, 0.05) for _ in range(3)]
    means = np.linspace(0.2, 0.9, variants)
    shares = np.full((3, variants), 1.0 / variants)
    for at in range(400):
        if at % 50 == 49:
            shares = rng.dirichlet(np.full(variants, 5.0), 3)
        drawn = rng.integers(0, variants, 3)
        values = (rng.random(3) < means[drawn]).astype(float)
        many.observe(drawn, values, shares)
        for race, variant, value, share in zip(races, drawn, values, shares, strict=True):
            race.observe(int(variant), float(value), share.tolist())
        winners = [-1 if race.winner() is None else race.winner() for race in races]
        assert many.winner().tolist() == winners
    assert max(many.winner()) == variants - 1
    for run, race in enumerate(races):
        best = np.array(race.to_state()["parts"][2])  # type: ignore[index]  # a list of lists
        assert np.log(many.best[run]) == pytest.approx(best, abs=0.01)


@pytest.mark.parametrize("rule", [Bets, Ratio, Mixture])
def test_rules_find_the_best(rule: type[Bets | Ratio | Mixture]) -> None:
    """.9 against .5: every run is decided within 3,000 values, and each wrong with probability <= .05: of 20, more than 6
    have probability < 1e-3; with the allocation of the product and without."""
    for adaptive in (False, True):
        rng = np.random.default_rng(1)
        taken, won = play([0.5, 0.9, 0.5], rule(20, 3, 0.05), adaptive=adaptive, horizon=3000, rng=rng)
        assert taken.max() < 3000
        assert (won != 1).sum() <= 6


def test_equal_variants_count_false_winners() -> None:
    """Equal means give the share of runs with any winner, others samples and the share of right ones."""
    assert set(figures("ratio", [0.7, 0.7], adaptive=False, horizon=50, runs=5, seed=1)) == {"false"}
    assert set(figures("ratio", [0.7, 0.7, 0.5], adaptive=True, horizon=50, runs=5, seed=1)) == {"tied"}
    assert set(figures("mixture", [0.9, 0.5], adaptive=True, horizon=50, runs=5, seed=1)) == {"samples", "right"}


def test_the_fixed_horizon_is_the_textbook_one() -> None:
    """Two variants, alpha .05 two-sided, power 80 %: 1,248 each by n = (1.96 + .8416)^2 (.1875 + .21) / .05^2."""
    assert fixed_horizon(2, 0.8) == 2 * 1248


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A report can be shown again; what was not measured is empty."""
    one = {"mean": 100.0, "lo": 90.0, "hi": 110.0, "reference": None}
    half = {"mean": 0.5, "lo": 0.4, "hi": 0.6, "reference": None}
    report = {
        "2/bets/uniform": {"samples": one, "right": half},
        "2/bets/adaptive": {"samples": {**one, "mean": 63.0}, "false": half},
        "2/fixed": {"samples": 4134.0},
    }
    file = tmp_path / "r.json"
    file.write_text(json.dumps(report))
    assert main(["--render", str(file), "--out", str(tmp_path / "again.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| 2 | ours | uniform | 100 ± 10 |  | 50.00% (40.00%..60.00%) |  |  |"
    assert lines[3] == "| 2 | ours | adaptive | 63 ± 47 (37% fewer) |  |  | 50.00% (40.00%..60.00%) |  |"
    assert "4,134" in lines[4]
    assert json.loads((tmp_path / "again.json").read_text()) == report


def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two runs of one rule end to end: told while they go on, written, and shown as a table."""
    out = tmp_path / "r.json"
    assert main(["--runs", "2", "--only", "samples", "--variants", "2", "--rules", "ratio", "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert "2/ratio/uniform: samples" in told.err
    assert "TensorZero's rule" in told.out
    assert set(json.loads(out.read_text())) == {"2/ratio/uniform", "2/ratio/adaptive", "2/fixed"}
