"""The whole comparison, very short; a program that answers by itself stands in for a proxy. No figure is judged."""

import json
import sys
from pathlib import Path

import pytest

from bench import proxy, sections
from bench.sections import Plan

TINY = Plan(
    cpu_rounds=1,
    cpu_s=0.05,
    connections=(2,),
    latency_rounds=1,
    latency_s=0.1,
    rates=(100,),
    latency_requests=0,
    stream_rounds=1,
    stream_s=0.0,
    streams=(2,),
    chunks=3,
    gap_ms=1,
    starts=1,
    settle_s=0.01,
)
MINE = f"mine={sys.executable} -m bench.upstream --port {{port}}"


def test_a_run_measures_everyone_in_every_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Report, table and exit code of a run with a peer that works and one that does not."""
    monkeypatch.setattr(proxy, "QUICK", TINY)
    out = tmp_path / "deep" / "report.json"
    left_out = "nginx,sidecar observe,sidecar optimize"
    usual = ["--out", str(out), "--quick", "--without", left_out, "--only", "cpu,latency,streams,start,ttft"]
    code = proxy.main([*usual, "--peer", MINE, "--peer", "broken=/nonexistent/program {port}"])
    report = json.loads(out.read_text())
    assert code == 1  # "broken" did not start
    assert report["failed"] == {"broken": "/nonexistent/program: No such file or directory"}
    assert report["wrong"] == []
    assert list(report["sections"]["cpu"]["2 connections"]) == [sections.DIRECT, "mine"]
    assert report["sections"]["cpu"]["2 connections"]["mine"]["median"]["cpu_us"] > 0
    assert "added_p99_us" in report["sections"]["latency"]["100 requests/s"]["mine"]["median"]
    assert report["sections"]["streams"]["2 streams"]["mine"]["rounds"][0]["chunks"] == 6
    assert report["sections"]["start"]["start"]["mine"]["median"]["start_ms"] > 0
    assert "Streams (SSE)" in capsys.readouterr().out


def test_a_report_is_rendered_again_and_put_into_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the JSON alone, without measuring; a run without failures exits 0."""
    about = {"cpu": "X", "cores": 2, "system": "Linux", "python": "3.11", "load_average": [0.5, 0, 0]}
    cells = {"start": {"mine": sections.cell([{"start_ms": 12.0}])}}
    report = {"at": "2026", "machine": about, "sections": {"start": cells}, "failed": {}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    page = tmp_path / "page.md"
    page.write_text("# Page\n<!-- bench.proxy begin -->\nold\n<!-- bench.proxy end -->\n")
    assert proxy.main(["--render", str(tmp_path / "report.json"), "--markdown", "--into", str(page)]) == 0
    assert "| start | mine | 12 |" in page.read_text()
    assert "| start | mine | 12 |" in capsys.readouterr().out
