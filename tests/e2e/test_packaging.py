"""What a fresh machine gets: the Makefile's first steps, the locks, the wheel, and what CI starts."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from sidecar import __version__
from tests.supply import canonical

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ("run.txt", "image.txt", "dev.txt", "encryption.txt", "uv.txt", "supply.txt", "fuzz.txt")


def _make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", *arguments]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(
        command, cwd=ROOT, env=kept | environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )


@pytest.mark.parametrize(
    "target",
    ["run", "test", "check", "test-real", "supply", "fuzz", "campaign", "bench", "lock", "image", "test-image"],
)
def test_the_makefile_has_the_target_and_help_names_it(target: str) -> None:
    """Each target that the docs name can be planned, and `make help` tells what it does."""
    planned = _make("--dry-run", target)
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.strip()
    assert f"make {target}" in _make("help").stdout


def test_an_old_python_is_refused_in_words(tmp_path: Path) -> None:
    """With an interpreter older than 3.11 nothing is made and the message says what is needed."""
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.2\nexit 1\n')
    old.chmod(0o755)
    venv = tmp_path / "venv"
    refused = _make(f"VENV={venv}", f"PYTHON={old}", "run")
    assert refused.returncode != 0
    assert "needs Python 3.11 or newer" in refused.stdout
    assert "3.9.2" in refused.stdout
    assert not venv.exists()


def test_no_python_at_all_is_refused_in_words(tmp_path: Path) -> None:
    """When no interpreter is found the message says how to name one."""
    refused = _make(f"VENV={tmp_path / 'venv'}", "PYTHON=", "run")
    assert refused.returncode != 0
    assert "make PYTHON=" in refused.stdout


def test_a_distributions_python_comes_first(tmp_path: Path) -> None:
    """Where /usr/bin has a Python that can make environments it is taken, and else the one that the PATH names first."""
    other = tmp_path / "python3.11"
    other.write_text("#!/bin/sh\nexit 0\n")
    other.chmod(0o755)
    probe = [sys.executable, "-c", "import sys; sys.exit(1)"]
    if Path("/usr/bin/python3.11").exists():
        probe = ["/usr/bin/python3.11", "-c", "import ensurepip"]
    able = subprocess.run(probe, capture_output=True, timeout=20, check=False).returncode == 0
    kept = {key: value for key, value in os.environ.items() if key != "PYTHON" and not key.startswith("MAKE")}
    told = subprocess.run(
        ["make", "--no-print-directory", "--eval=told:; @echo $(PYTHON)", "told"],
        cwd=ROOT,
        env=kept | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert told.stdout.strip() == ("/usr/bin/python3.11" if able else "python3.11")


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_by_hash_and_names_no_host(lock: str) -> None:
    """SEC-SUPPLY, GW-46: each requirement has one version and a SHA-256; its source is the machine's own affair."""
    text = (ROOT / "requirements" / lock).read_text()
    assert "://" not in text
    assert "--index" not in text
    entries = [entry for entry in text.replace("\\\n", " ").splitlines() if entry and not entry.startswith("#")]
    assert entries
    assert all(re.match(r"[a-z0-9._-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)


def test_the_locks_hold_what_the_project_asks_for() -> None:
    """A dependency that was added without `make lock` is found here and not on a user's machine."""

    def names(wanted: list[str]) -> set[str]:
        return {canonical(re.split(r"[^A-Za-z0-9._-]", one)[0]) for one in wanted}

    def locked(lock: str) -> set[str]:
        return {canonical(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.MULTILINE)}

    run, dev = ((ROOT / "requirements" / name).read_text() for name in ("run.txt", "dev.txt"))
    groups = PROJECT["dependency-groups"]
    needed = names(PROJECT["project"]["dependencies"])
    assert needed | names(groups["build"]) <= locked(run)
    assert needed | names(groups["test"]) | names([one for one in groups["dev"] if isinstance(one, str)]) <= locked(dev)


def test_runtime_locks_are_the_same_in_both() -> None:
    """What is tested is what is run: each pin of run.txt stands in dev.txt with the same version."""
    run, dev = (
        set(re.findall(r"^(\S+==\S+)", (ROOT / "requirements" / name).read_text(), re.MULTILINE))
        for name in ("run.txt", "dev.txt")
    )
    # dev.txt may pin one version where run.txt pins it under a marker, never another version
    assert run <= dev


def test_the_image_is_what_is_tested_with_its_extras() -> None:
    """No pin of image.txt is another version than dev.txt has, and the extras that serve are in it: the same image
    encrypts at rest, serves the injection webhook and exports traces."""
    image, dev = (
        dict(re.findall(r"^([^\s=]+)==([^\s;]+)", (ROOT / "requirements" / name).read_text(), re.MULTILINE))
        for name in ("image.txt", "dev.txt")
    )
    either = {
        **image,
        **{name: version for name, version in dev.items() if name != "numpy"},
    }  # numpy: one for each Python
    assert {name: either[name] for name in image} == image
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [one for name in ("encryption", "inject", "otel") for one in extras.get(name, ())]
    assert {canonical(re.split(r"[^A-Za-z0-9._-]", one)[0]) for one in wanted} <= image.keys()


def test_the_wheel_holds_the_product_and_runs(tmp_path: Path) -> None:
    """Built without a network: package, prices and licence are in it, tests are not, and it says its version."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert "sidecar/__main__.py" in names
    assert any(re.fullmatch(r"sidecar/prices/.+\.json", name) for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests", "bench")) for name in names)
    said = subprocess.run(
        [sys.executable, "-m", "sidecar", "version"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert __version__ in said.stdout


def test_ci_starts_what_a_person_starts() -> None:
    """`.ci/run` is a strict, executable script that calls the Makefile's targets and needs no input."""
    script = ROOT / ".ci" / "run"
    text = script.read_text()
    assert os.access(script, os.X_OK)
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text
    assert "exec </dev/null" in text
    assert "check" in text
    assert "test-real" in text
    assert "test-image" in text
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=10)


def test_the_licence_is_the_one_that_is_named() -> None:
    """pyproject.toml says Apache-2.0 and the text is there."""
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()
