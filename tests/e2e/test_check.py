"""`llm-sidecar check` as a process: exit codes and messages."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sidecar", "check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)


def test_our_policies_are_fine() -> None:
    """Exit 0, a line for each file, no warning."""
    files = [str(file) for file in sorted((ROOT / "policies").glob("*.yaml"))]
    done = check("--json", *files)
    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line)["file"] for line in done.stdout.splitlines()] == files


def test_a_bad_file_exits_2(tmp_path: Path) -> None:
    """Exit 2; every problem with file, line, key path and remedy; good files are still told."""
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\nservce: x\nrouts: []\n")
    done = check(str(bad), str(ROOT / "policies" / "observe-only.yaml"))
    assert done.returncode == 2
    assert f"{bad}:2: servce: is not a key here; did you mean 'service'?" in done.stderr
    assert f"{bad}:3: routs: is not a key here; did you mean 'routes'?" in done.stderr
    assert "observe-only.yaml: fine" in done.stdout
