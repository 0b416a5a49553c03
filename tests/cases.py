"""Writes docs/cases.md: every acceptance case, its state and the tests that show it (`python -m tests.cases`).

What a case is and what is missing of it stands in docs/cases.toml; which test covers it stands in the tests, as the case's
id in the test's name or docstring. So the page cannot name a test that is gone, nor call a case covered that nothing covers.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
LIST = ROOT / "docs" / "cases.toml"
PAGE = ROOT / "docs" / "cases.md"
SHOWN = 2  # tests named on the page for each case: enough to start reading
GROUPS = {
    "GW": "Faults of other gateways",
    "FID": "Fidelity on raw sockets",
    "INC": "Incidents",
    "SEC": "Security",
}
STATES = re.compile(
    r"covered|partly: .+|later \((?:translation|hardening|Kubernetes injection)\)|does not apply because .+"
)
_ID = re.compile(r"\b(?:(?:GW|FID|INC)-[0-9]+b?|SEC-[A-Z]+)\b")
_ORDER = ("e2e", "image", "k8s", "integration", "real", "unit")  # the nearer to a user the more it shows

HEAD = """# Acceptance cases

Real faults that users of other proxies and gateways met, each turned into what this one must do. A case is covered when a
test would fail on the faulty behaviour; the test carries the case's id in its docstring (`grep -r GW-07 tests`).
"partly" says what is missing, "later" what is planned and not here yet. Where a case states milliseconds, its tests
print what they measured, and fail only at bounds that a busy machine keeps too.

This page is written by `python -m tests.cases` from `docs/cases.toml` and the tests; do not edit it.
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One case: `tests` as `file::name` below tests/, best first; `state` as on the page."""

    id: str
    what: str
    state: str
    tests: tuple[str, ...]


def tests_of_file(file: Path) -> Iterator[tuple[str, str]]:
    """(name, docstring) of every test function of a file."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node.name, ast.get_docstring(node) or ""


def all_tests() -> dict[str, set[str]]:
    """`file::name` of every test -> the ids that it carries."""
    found: dict[str, set[str]] = {}
    for file in sorted(TESTS.rglob("test_*.py")):
        for name, text in tests_of_file(file):
            carried = set(_ID.findall(text)) | set(_ID.findall(name.upper().replace("_", "-")))
            found[f"{file.relative_to(TESTS).as_posix()}::{name}"] = carried
    return found


def _rank(test: str) -> tuple[int, str]:
    return _ORDER.index(test.partition("/")[0]), test


def cases() -> list[Case]:
    """Every case of the list.

    Raises:
        ValueError: the list names a test that does not exist.
    """
    tests = all_tests()
    made, missing = [], []
    for key, entry in tomllib.loads(LIST.read_text(encoding="utf-8")).items():
        chosen, wrong = entry.get("tests", []), entry.get("not", [])
        missing += [f"{key}: {test}" for test in (*chosen, *wrong) if test not in tests]
        carriers = sorted((test for test, ids in tests.items() if key in ids and test not in wrong), key=_rank)
        shown = tuple(dict.fromkeys([*chosen, *carriers]))
        made.append(Case(key, entry["what"], entry.get("state", "covered"), shown))
    if missing:
        raise ValueError("docs/cases.toml names tests that are not there; name others, or none:\n" + "\n".join(missing))
    return made


def page() -> str:
    """The text of docs/cases.md."""
    found = cases()
    states = [one.state.partition(":")[0].partition(" ")[0] for one in found]
    counts = ", ".join(f"{states.count(word)} {word}" for word in ("covered", "partly", "later", "does"))
    lines = [HEAD, f"{len(found)} cases: {counts} not apply."]
    for prefix, title in GROUPS.items():
        lines += ["", f"## {title}", "", "| id | what | state | test |", "| --- | --- | --- | --- |"]
        for one in found:
            if one.id.startswith(prefix + "-"):
                shown = "<br>".join(f"`{test}`" for test in one.tests[:SHOWN])
                lines.append(f"| {one.id} | {one.what} | {one.state} | {shown} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
