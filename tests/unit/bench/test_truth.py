"""Recorded TTFT against the truth."""

from pathlib import Path

import pytest

from bench import truth


def test_errors_are_recorded_minus_true(tmp_path: Path) -> None:
    """Rows are joined by completion id; a missing row is counted, half a line and other members are passed over."""
    log = tmp_path / "requests.jsonl"
    log.write_text(
        '{"completion_id":"a","ttft_s":0.1003,"sent_s":0.0001,"route":"r"}\n'
        '{"completion_id":"b","ttft_s":0.2001,"sent_s":null}\n'
        '{"completion_id":"c","ttft_s":null}\n'
        '{"completion_id":null}\n'
        '{"completion_id":"d","ttf'
    )
    found = truth.compare([("a", 0.1), ("b", 0.2), ("c", 0.3), ("d", 0.4)], truth.recorded(log))
    assert found["ttft_error_p50_us"] == pytest.approx(200.0)
    assert found["ttft_error_max_us"] == pytest.approx(300.0)
    assert found["ttft_after_sent_error_p99_us"] == pytest.approx(200.0)
    assert (found["streams"], found["unrecorded"]) == (4, 2)


def test_no_log_means_nothing_was_recorded(tmp_path: Path) -> None:
    """A missing file is no error of the bench: all are unrecorded."""
    assert truth.compare([("a", 0.1)], truth.recorded(tmp_path / "none")) == {"streams": 1, "unrecorded": 1}
