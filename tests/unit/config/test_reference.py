"""docs/policies.md says what the code reads."""

import re
from pathlib import Path

from sidecar.config.policy import load_text
from sidecar.config.reference import tables

DOCS = Path(__file__).parents[3] / "docs" / "policies.md"
BEGIN, END = "<!-- reference: made from sidecar/config/written.py -->\n", "<!-- end of reference -->"


def test_the_reference_is_fresh() -> None:
    """Every key with its type, default and meaning; renew with `python -m tests.unit.config.test_reference`."""
    assert DOCS.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0] == tables()


def test_every_example_loads() -> None:
    """Each policy in the docs is one that loads."""
    examples = re.findall(r"```yaml\n(version: 1\n.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) >= 2
    assert all(load_text(example, DOCS, {}).policy.routes for example in examples)


def test_every_policy_is_explained() -> None:
    """The files of policies/ are named in the docs."""
    text = DOCS.read_text(encoding="utf-8")
    files = [file.name for file in (DOCS.parents[1] / "policies").glob("*.yaml")]
    assert len(files) >= 4
    assert all(name in text for name in files)


if __name__ == "__main__":
    head, begin, rest = DOCS.read_text(encoding="utf-8").partition(BEGIN)
    DOCS.write_text(head + begin + tables() + END + rest.partition(END)[2], encoding="utf-8")
