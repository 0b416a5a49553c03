"""docs/cli.md is the command line's own help. After a change: `python -m tests.unit.test_docs_cli` writes it anew."""

import argparse
import os
from pathlib import Path

import pytest

from sidecar.cli import build_parser

FILE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
HEAD = """\
# The command line

Made from the program's own help (`python -m tests.unit.test_docs_cli` writes it). Exit codes: 0 fine, 1 failed, 2 wrong
usage or configuration. `--json` prints one object a line. Settings and their environment variables are in
[operations.md](operations.md), policies in [policies.md](policies.md).
"""


def verbs() -> dict[str, argparse.ArgumentParser]:
    """Every verb's parser."""
    for action in build_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise LookupError("the parser has no verbs")


def page() -> str:
    """The whole file. The width of help depends on COLUMNS: it is 100 here."""
    before, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), "100"
    try:
        parts = [HEAD, f"```\n{build_parser().format_help()}```\n"]
        parts += [f"## {name}\n\n```\n{verb.format_help()}```\n" for name, verb in verbs().items()]
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return "\n".join(parts)


def test_the_page_is_the_help() -> None:
    """When this fails, run `python -m tests.unit.test_docs_cli` and look at the difference."""
    assert FILE.read_text(encoding="utf-8") == page()


def test_the_page_does_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow terminal gives the same page, and keeps its width."""
    expected = page()
    monkeypatch.setenv("COLUMNS", "40")
    assert page() == expected
    assert os.environ["COLUMNS"] == "40"


@pytest.mark.parametrize("verb", list(verbs()))
def test_each_verb_says_what_it_does(verb: str) -> None:
    """One sentence that ends with a full stop."""
    description = verbs()[verb].description
    assert description
    assert description.endswith(".")


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
