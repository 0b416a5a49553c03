"""The pictures: well-formed, small, without fonts of their own, and true to the code that they show."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import scenes
from bench.pictures import FOLDER, MAX_BYTES, PICTURES, main
from bench.svg import Frame, Picture, thin


def test_every_picture_of_the_page_has_its_script_and_the_other_way_round() -> None:
    """docs/decisions.md shows each picture that is drawn; the only other one is the soak's, of docs/benchmarks.md."""
    page = (FOLDER.parent / "decisions.md").read_text(encoding="utf-8")
    assert {file.stem for file in FOLDER.glob("*.svg")} == {*PICTURES, "soak"}
    assert "](images/soak.svg)" in (FOLDER.parent / "benchmarks.md").read_text(encoding="utf-8")
    assert all(f"](images/{name}.svg)" in page for name in PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_small_and_say_what_they_show(name: str) -> None:
    text = (FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    title = root.find("{http://www.w3.org/2000/svg}title")
    assert title is not None
    assert len(title.text or "") > 20
    assert len(text) <= MAX_BYTES
    assert "url(" not in text
    assert "@font-face" not in text


def test_drawing_writes_files_and_refuses_large_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures that need no run are the same each time."""
    assert main(["--to", str(tmp_path), "--only", "cycle,canary"]) == 0
    for name in ("cycle", "canary"):
        assert (tmp_path / f"{name}.svg").read_text() == (FOLDER / f"{name}.svg").read_text()
    monkeypatch.setattr("bench.pictures.MAX_BYTES", 10)
    assert main(["--to", str(tmp_path), "--only", "cycle"]) == 1


def test_a_frame_maps_its_corners() -> None:
    frame = Frame((10, 20, 100, 50), (0, 2), (0, 1))
    assert frame.at(0, 0) == (10, 70)
    assert frame.at(2, 1) == (110, 20)


def test_words_cannot_break_the_picture() -> None:
    picture = Picture(10, 10, "a < b & c")
    picture.text(0, 0, "<script>")
    assert ElementTree.fromstring(picture.svg()) is not None


def test_long_lines_are_thinned_and_keep_their_end() -> None:
    line = [(float(at), 0.0) for at in range(1000)]
    made = thin(line, 100)
    assert len(made) == 101
    assert made[-1] == (999.0, 0.0)


def test_harmless_canaries_are_rolled_back_by_thresholds_and_not_by_the_e_process() -> None:
    """What the page says of its picture: 200 runs; the e-process's share is at most 2 % plus 4.2 standard deviations of
    a binomial (6.2 %), the threshold's is near one half (at least 30 %: 4.6 below 47 %)."""
    found = scenes.peeking(runs=200, canary=1500)
    ends = [line[-1][1] for line in found.values()]
    assert ends[0] > 0.30
    assert ends[1] > 0.2
    assert ends[2] < 0.062


def test_answers_hold_the_truth() -> None:
    """Three questions, three estimators, 95 % each at a fixed seed: within twice the interval (3.9 standard errors)."""
    for _, truth, answer in scenes.questions():
        for estimate in (answer.ips, answer.snips, answer.dr):
            assert abs(estimate.value - truth) <= estimate.high - estimate.low


def test_who_is_in_at_a_step_stays_in() -> None:
    places = scenes.places()
    assert {place for place in places if place < 0.05} <= {place for place in places if place < 0.25}
    assert all(0 <= place < 1 for place in places)


def test_a_run_keeps_its_promise_and_saves() -> None:
    """The engine in the world of the pictures: less than 5 % lost, more than 20 % saved."""
    found = scenes.promise(calls=2500)
    best_cost, best_quality = found.matrix.points[0]
    cost, quality = found.trail.point
    assert quality > 0.95 * best_quality
    assert cost < 0.8 * best_cost
    assert sorted(set(found.weighted)) == [0, 1, 2]
