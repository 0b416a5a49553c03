"""The benchmark against Q-learning: the learner learns, the table has every player, and bad input is told."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench.qlearning import BEGIN, END, ENGINE, LEARNERS, Learner, filled, main, q_learning
from bench.scenes import world
from tests.fixtures.matrices import matrix, write

QUALITY_ALONE = (1.0, 0.0, 0.0)


def test_the_table_of_values_learns() -> None:
    """Without decay a tenth of the calls is random: quality lies between that of chance and that of the best.

    Chance has mean 0.79 and the best choice 0.90 over 3,000 calls with a standard error of .006: 0.85 is 9 of them above
    chance.
    """
    made = world(3000)
    _, quality = q_learning(made, 1, Learner("plain"), QUALITY_ALONE)
    assert made.quality.mean() + 0.04 < quality < made.points[made.best][1]


def test_equal_seeds_give_equal_streams_and_weights_matter() -> None:
    made = world(1000)
    learner = LEARNERS[1]
    assert q_learning(made, 1, learner, QUALITY_ALONE) == q_learning(made, 1, learner, QUALITY_ALONE)
    cost_alone = q_learning(made, 1, learner, (0.0, 1.0, 0.0))
    assert cost_alone[0] < 0.5 * q_learning(made, 1, learner, QUALITY_ALONE)[0]


def test_the_table_goes_between_the_marks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every matrix and player has a row; the JSON has one value a seed."""
    write(tmp_path, matrix())
    page, out = tmp_path / "page.md", tmp_path / "out.json"
    page.write_text(f"before\n{BEGIN}stale\n{END}after\n", encoding="utf-8")
    assert main(["--data", str(tmp_path), "--seeds", "2", "--into", str(page), "--out", str(out)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "stale" not in text
    for player in (ENGINE, *(learner.name for learner in LEARNERS)):
        assert f"| {player} |" in text
    found = json.loads(out.read_text(encoding="utf-8"))
    assert {len(values) for players in found.values() for one in players.values() for values in one.values()} == {2}
    assert np.isfinite([value for players in found.values() for one in players.values() for value in one["loss"]]).all()
    assert "seed 2/2" in capsys.readouterr().err


def test_one_seed_has_no_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, matrix())
    assert main(["--data", str(tmp_path), "--seeds", "1"]) == 0
    assert "±" not in capsys.readouterr().out


def test_what_cannot_be_read_is_told_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path)]) == 2
    write(tmp_path, matrix())
    page = tmp_path / "page.md"
    page.write_text("no marks", encoding="utf-8")
    assert main(["--data", str(tmp_path), "--into", str(page)]) == 2
    assert "marks" in capsys.readouterr().err
    with pytest.raises(ValueError, match="marks"):
        filled("no marks", "")
