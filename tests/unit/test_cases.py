"""docs/cases.md tells the truth: it is current, every case has a test or a reason, and no test carries an unknown id."""

import re
from pathlib import Path

import pytest

from tests.cases import PAGE, STATES, all_tests, cases, page


def test_the_page_is_current() -> None:
    """`python -m tests.cases` writes it."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_case_has_a_test_or_a_reason() -> None:
    """Covered and partly covered cases have tests; what is planned or does not apply has none."""
    for one in cases():
        assert STATES.fullmatch(one.state), (one.id, one.state)
        assert bool(one.tests) == one.state.startswith(("covered", "partly")), (one.id, one.state, one.tests)


def test_no_test_carries_an_unknown_id() -> None:
    """A typing error in an id would hide its test."""
    known = {one.id for one in cases()}
    assert not {(test, key) for test, ids in all_tests().items() for key in ids - known}


def test_the_list_is_complete(shared: Path) -> None:
    """Every id of the common list is here."""
    text = (shared / "CASES.md").read_text(encoding="utf-8")
    wanted = set(re.findall(r"^\| (GW-[0-9]+) \|", text, re.MULTILINE))
    fidelity, _, incidents = text.partition("## 2. FID")[2].partition("## 3. INC")
    for numbers in re.findall(r"^\| ([0-9]+b?(?:,[0-9]+)*) \|", fidelity, re.MULTILINE):
        wanted |= {f"FID-{number}" for number in numbers.split(",")}
    wanted |= {
        f"INC-{number}" for number in re.findall(r"^([0-9]+)\. ", incidents.partition("## 4. SEC")[0], re.MULTILINE)
    }
    assert len(wanted) > 115
    assert wanted <= {one.id for one in cases()}


@pytest.mark.parametrize("state", ["", "covered soon", "later", "later (someday)", "partly", "does not apply"])
def test_what_a_state_may_not_say(state: str) -> None:
    """A state is one of four, and all but the first give their reason."""
    assert STATES.fullmatch(state) is None
