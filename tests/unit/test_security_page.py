"""SECURITY.md names a test for each threat, and each of these tests exists."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
PAGE = (TESTS.parent / "SECURITY.md").read_text()
KINDS = (
    "Spoofing",
    "Tampering",
    "Repudiation",
    "Information disclosure",
    "Denial of service",
    "Elevation of privilege",
)
_NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")


def threats(kind: str) -> list[str]:
    """The rows of one table of the page."""
    section = PAGE.partition(f"\n### {kind}\n")[2].partition("\n#")[0]
    return [line for line in section.splitlines() if line.startswith("| ")][2:]


@pytest.mark.parametrize("kind", KINDS)
def test_each_threat_names_tests_that_exist(kind: str) -> None:
    """SEC-SUPPLY and its neighbours: a threat without a living test is a wish."""
    assert threats(kind)
    for row in threats(kind):
        named = _NAMED.findall(row)
        assert named, row
        for file, test in named:
            assert re.search(rf"def {test}\(", (TESTS / file).read_text()), f"{file}::{test} is gone"
