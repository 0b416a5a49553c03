"""`llm-sidecar check` as a process: exit codes and messages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
POLICY = """version: 1
upstreams:
  own: {{dialect: openai, base_url: "https://127.0.0.1:9/v1"{more}}}
routes:
  - {{name: chat, baseline: {{id: a, upstream: own, model: m}}}}
"""


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sidecar", "check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)


def test_our_policies_are_fine() -> None:
    """Exit 0, a line for each file, no warning but for a key that is mounted elsewhere."""
    files = [str(file) for file in sorted((ROOT / "policies").glob("*.yaml"))]
    done = check("--json", *files)
    assert (done.returncode, done.stderr) == (0, "")
    told = list(map(json.loads, done.stdout.splitlines()))
    assert [one["file"] for one in told] == files
    assert all("/var/run/secrets/" in doubt for one in told for doubt in one["warnings"])


def test_a_bad_file_exits_2(tmp_path: Path) -> None:
    """Exit 2; every problem with file, line, key path and remedy; good files are still told."""
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\nservce: x\nrouts: []\n")
    done = check(str(bad), str(ROOT / "policies" / "observe-only.yaml"))
    assert done.returncode == 2
    assert f"{bad}:2: servce: is not a key here; did you mean 'service'?" in done.stderr
    assert f"{bad}:3: routs: is not a key here; did you mean 'routes'?" in done.stderr
    assert "observe-only.yaml: fine" in done.stdout


@pytest.mark.parametrize("more", ["api_key: {file: FILE}", "ca_file: FILE"])
@pytest.mark.parametrize("content", [None, "two\nlines\n"])
def test_files_that_cannot_be_used_here_are_doubted(tmp_path: Path, more: str, content: str | None) -> None:
    """A key or a certificate that is missing, or is none: the file is fine, and the warning names upstream and file."""
    named, policy = tmp_path / "named", tmp_path / "bot.yaml"
    if content is not None:
        named.write_text(content)
    policy.write_text(POLICY.format(more=f", {more.replace('FILE', str(named))}"))
    done = check(str(policy))
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"warning: {policy}: upstreams.own: ")
    assert str(named) in line


def test_settings_are_those_of_run(tmp_path: Path) -> None:
    """What a sidecar with these settings would refuse, or knows from its catalogue, is told as it would tell it."""
    key, policy = tmp_path / "key", tmp_path / "bot.yaml"
    key.write_text("sk-of-the-server")
    policy.write_text(POLICY.format(more=f", api_key: {{file: {key}}}"))
    assert check(str(policy)).returncode == 0
    done = check("--set", "mode=standalone", str(policy))
    assert (done.returncode, "others can reach it" in done.stderr) == (2, True)
    done = check("--set", "listen=127.0.0.1:9", str(policy))
    assert (done.returncode, "is this sidecar itself" in done.stderr) == (2, True)
    assert "cannot be read" in check("--set", f"catalogue={tmp_path / 'none.yaml'}", str(policy)).stderr


def test_two_files_for_one_service_are_refused(tmp_path: Path) -> None:
    """As a folder of both would be; a file that is named twice, and one that no folder shows, are no second one."""
    files = [tmp_path / name for name in ("a.yaml", "b.yaml", ".draft.yaml")]
    for file in files:
        file.write_text(POLICY.format(more=""))
    a, b, draft = map(str, files)
    done = check(a, b, draft)
    assert (done.returncode, done.stderr) == (
        2,
        f"{b}:1: service: {a} is for service '*' too; put the routes into one file\n",
    )
    assert check(a, a, draft).returncode == 0


def test_objects_tell_what_is_wrong(tmp_path: Path) -> None:
    """`--json`: one object for each file in its order, with its problems; nothing besides, also where a name is no text."""
    odd, bad = tmp_path / os.fsdecode(b"odd\xff.yaml"), tmp_path / "bad.yaml"
    odd.write_text(POLICY.format(more=""))
    bad.write_text("version: 1\nrouts: []\n")
    done = check("--json", str(bad), str(odd))
    first, second = map(json.loads, done.stdout.splitlines())
    assert (done.returncode, done.stderr) == (2, "")
    assert first["problems"][1] == f"{bad}:2: routs: is not a key here; did you mean 'routes'?"
    assert (second["file"], second["routes"], second["warnings"]) == (f"{tmp_path}/odd\\udcff.yaml", 1, [])
