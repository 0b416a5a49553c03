"""`python -m tests.supply --tools FOLDER [--out build]`: what is in the image, written down, checked and audited.

Builds the environment of the image by the Dockerfile's own steps, lists it as a CycloneDX file (`sbom.cdx.json`), and
refuses what nobody asked for: a package that is not locked, one without a licence, a `.pth` file (code that runs at each
start of Python), an installer. Then asks the advisory database of PyPI about every locked package (`audit.json`); a
known fault ends with status 1. Where that database cannot be reached, it says how many packages nobody has looked at.

What it does not know: the base image. A scanner of the registry that holds the image looks at that.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
LOCK: Final = ROOT / "requirements" / "image.txt"
OWN: Final = "llm-sidecar"
LICENCES: Final = {"sqlite-fts4": "Apache-2.0"}  # what the repository says where the package does not
INSTALLERS: Final = frozenset({"pip", "pip3", "uv", "easy_install"})
_GONE: Final = re.compile(r"pip --python \S+ uninstall --yes ([a-z -]+?) *\\?$", re.MULTILINE)


def canonical(name: str) -> str:
    """The name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(lock: str) -> dict[str, set[str]]:
    """What a lock file pins: versions by name, several where they depend on the Python."""
    pins: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", lock, re.MULTILINE):
        pins.setdefault(canonical(name), set()).add(version)
    return pins


def uninstalled(dockerfile: str) -> tuple[str, ...]:
    """What the Dockerfile takes out again after the build. Raises ValueError where it takes out nothing."""
    found = _GONE.search(dockerfile)
    if found is None:
        raise ValueError("Dockerfile: no `pip --python ... uninstall --yes NAMES` line")
    return tuple(found[1].split())


def faults(sbom: Mapping[str, Any], pins: Mapping[str, set[str]], files: Sequence[Path]) -> list[str]:
    """What is wrong with an environment of which this is the list, `files` its files and `pins` what has to be in it."""
    parts = {canonical(part["name"]): part for part in sbom["components"]}
    found = [f"{name} {part['version']} is not locked" for name, part in parts.items()
             if part["version"] not in pins.get(name, ())]  # fmt: skip
    found += [f"{name} is not in the list" for name in pins if name not in parts]
    found += [f"{name} states no licence" for name, part in parts.items() if not part.get("licenses", name in LICENCES)]
    found += [f"{file} runs at each start of Python" for file in files if file.suffix == ".pth"]
    found += [f"{file} installs packages" for file in files if file.name in INSTALLERS]
    if sbom["metadata"]["component"]["name"] != OWN:
        found.append(f"the list is not of {OWN}")
    return found


def verdict(audit: Mapping[str, Any]) -> tuple[list[str], int]:
    """(known faults, packages that could not be looked at) of pip-audit's answer."""
    known = [
        f"{one['name']} {one['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'no version yet'}"
        for one in audit["dependencies"]
        for fault in one.get("vulns", ())
    ]
    return known, sum("skip_reason" in one for one in audit["dependencies"])


def _run(*command: str | Path) -> None:
    subprocess.run([*map(str, command)], cwd=ROOT, check=True, stdin=subprocess.DEVNULL)


def build(folder: Path) -> Path:
    """The image's environment in `folder`, by the Dockerfile's steps; its interpreter."""
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--quiet")
    _run(sys.executable, "-m", "venv", "--clear", "--without-pip", folder)
    _run(*pip, "install", "--require-hashes", "--only-binary=:all:", "-r", LOCK)
    _run(*pip, "install", "--no-deps", "--no-build-isolation", ".")
    _run(*pip, "uninstall", "--yes", *uninstalled((ROOT / "Dockerfile").read_text()))
    return python


def audited(tools: Path, out: Path) -> int:
    """Writes the audit and tells of it; 1 where a fault is known."""
    command = (tools / "bin" / "pip-audit", "-r", LOCK, "--disable-pip", "--require-hashes", "-f", "json", "-o", out)
    out.unlink(missing_ok=True)
    asked = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if not out.exists():
        print("not audited: the advisory database cannot be reached:", asked.stderr.strip().splitlines()[-1:])
        return 0
    known, unseen = verdict(json.loads(out.read_text()))
    print(
        f"{out}: {len(known)} known faults" + (f", {unseen} packages that the database does not know" if unseen else "")
    )
    for one in known:
        print("  " + one)
    return 1 if known else 0


def main() -> int:
    """Lists, checks, audits. The status is 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.supply", description=__doc__)
    parser.add_argument("--tools", type=Path, required=True, help="an environment with cyclonedx-bom and pip-audit")
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="the folder to write into (build)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sbom = options.out.resolve() / "sbom.cdx.json"
    python = build(options.out.resolve() / "image-env")
    listing = (
        "environment",
        python,
        "--pyproject",
        "pyproject.toml",
        "--output-reproducible",
        "--of",
        "JSON",
        "-o",
        sbom,
    )
    _run(options.tools / "bin" / "cyclonedx-py", *listing, "--validate")
    gone = {canonical(name) for name in uninstalled((ROOT / "Dockerfile").read_text())}
    pins = {name: versions for name, versions in locked(LOCK.read_text()).items() if name not in gone}
    parts = json.loads(sbom.read_text())
    wrong = faults(parts, pins, [*python.parents[1].rglob("*")])
    print(f"{sbom}: {len(parts['components'])} packages, {len(wrong)} faults")
    for one in wrong:
        print("  " + one)
    return max(audited(options.tools, options.out / "audit.json"), 1 if wrong else 0)


if __name__ == "__main__":
    raise SystemExit(main())
