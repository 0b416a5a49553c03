"""The checks of `make supply` find what they are for; the list itself is made by that target."""

from pathlib import Path
from typing import Any

import pytest

from tests import supply

ROOT = Path(__file__).resolve().parents[2]
LOCK = r"""numpy==2.4.6 ; python_full_version < '3.12' \
    --hash=sha256:00
numpy==2.5.0 ; python_full_version >= '3.12' \
UV.loop==0.23.0 \
"""
MIT = [{"license": {"id": "MIT"}}]


def listing(*parts: tuple[str, str], name: str = supply.OWN) -> dict[str, Any]:
    components = [{"name": part, "version": version, "licenses": MIT} for part, version in parts]
    return {"components": components, "metadata": {"component": {"name": name}}}


GOOD = (("numpy", "2.4.6"), ("uv-loop", "0.23.0"))


def test_a_list_that_is_the_lock_has_no_fault() -> None:
    assert supply.faults(listing(*GOOD), supply.locked(LOCK), [Path("lib/site-packages/numpy/__init__.py")]) == []


@pytest.mark.parametrize(
    ("parts", "files", "told"),
    [
        ((*GOOD, ("left-pad", "1")), [], "left-pad 1 is not locked"),
        ((("numpy", "2.4.7"), GOOD[1]), [], "numpy 2.4.7 is not locked"),
        ((GOOD[0],), [], "uv-loop is not in the list"),
        (GOOD, [Path("lib/site-packages/evil.pth")], "lib/site-packages/evil.pth runs at each start of Python"),
        (GOOD, [Path("bin/pip")], "bin/pip installs packages"),
    ],
)
def test_what_nobody_asked_for_is_found(parts: tuple[tuple[str, str], ...], files: list[Path], told: str) -> None:
    """SEC-SUPPLY, GW-46: another version, a stranger, a gap, code that runs by itself, an installer."""
    assert supply.faults(listing(*parts), supply.locked(LOCK), files) == [told]


def test_a_package_without_a_licence_and_a_list_of_something_else_are_found() -> None:
    bare = listing(*GOOD, name="another")
    del bare["components"][0]["licenses"]
    assert supply.faults(bare, supply.locked(LOCK), []) == ["numpy states no licence", "the list is not of llm-sidecar"]


def test_an_audit_tells_known_faults_and_what_nobody_looked_at() -> None:
    """SEC-SUPPLY: a package that the database does not know counts as unseen, never as sound."""
    fault = {"id": "PYSEC-2026-1", "fix_versions": ["2.4.8", "2.5.1"]}
    audit = {"dependencies": [
        {"name": "numpy", "version": "2.4.6", "vulns": [fault]}, {"name": "uv-loop", "skip_reason": "not found"},
        {"name": "yarl", "version": "1", "vulns": []},
    ]}  # fmt: skip
    assert supply.verdict(audit) == (["numpy 2.4.6: PYSEC-2026-1, mended in 2.4.8, 2.5.1"], 1)


def test_the_image_is_built_by_the_steps_that_are_audited() -> None:
    """What the Dockerfile uninstalls is locked for the build and named nowhere else."""
    gone = supply.uninstalled((ROOT / "Dockerfile").read_text())
    assert {"hatchling", "pip"} <= set(gone)
    assert {supply.canonical(name) for name in gone} - {"pip"} <= supply.locked(supply.LOCK.read_text()).keys()
    with pytest.raises(ValueError, match="uninstall"):
        supply.uninstalled("FROM scratch\n")
