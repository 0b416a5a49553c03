"""Edits of a system prompt do what their one sentence says, the same each time."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.variants import (
    MAX_REMEMBERED,
    Compress,
    Constraints,
    Edit,
    FewShotTrim,
    Keep,
    Replace,
    Structure,
    rewrite,
)

PADDED = """  Please note that you are  a helpful bot.  \n\n\n\nIn order to help, kindly be brief at all times.
Be kind.
Be kind.
```
code    stays  \n\n\n\nplease
```
"""
SHOTS = """You label texts.

Example 1:
Input: good
Output: yes

Example 2:
Input: bad

Output: no

Q: fine
A: yes

Now label."""


def test_replace_is_the_text_of_the_policy() -> None:
    assert Replace("new").apply("old") == "new"


def test_keep_is_the_request_s_own() -> None:
    assert rewrite((Keep(),), " old\n") == " old\n"


def test_compress_keeps_the_content() -> None:
    """White space, padding and repeated lines go; code stays as it is."""
    assert Compress().apply(PADDED) == (
        "you are a helpful bot.\n\nto help, be brief always.\nBe kind.\n```\ncode    stays  \n\n\n\nplease\n```"
    )


def test_compress_keeps_indentation() -> None:
    assert Compress().apply("a:\n    - b  c") == "a:\n    - b c"


@given(st.text(max_size=200))
def test_compress_never_adds_and_is_done_at_once(text: str) -> None:
    """The result is no longer, and its words outside the padding are words of the text in their order."""
    once = Compress().apply(text)
    assert len(once) <= len(text)
    at = 0
    source = text.split()
    for word in once.split():
        if word in ("to", "always"):  # what stays of longer words
            continue
        while at < len(source) and word not in source[at]:
            at += 1
        assert at < len(source)


def test_structure_makes_sections() -> None:
    """Sentences with must, never and the like become rules; examples are last."""
    text = "You are a clerk. Answer questions.\n\n- Never guess. Be brief.\n\nExample: Q\nA: yes"
    assert Structure().apply(text) == (
        "# Role\nYou are a clerk.\n\n# Instructions\nAnswer questions.\nBe brief.\n\n# Rules\n- Never guess.\n\n"
        "# Examples\nExample: Q\nA: yes"
    )


@pytest.mark.parametrize("text", ["", " \n ", "# Title\nx", "<role>x</role>", "x\n```\ny\n```"])
def test_structure_leaves_what_has_one(text: str) -> None:
    assert Structure().apply(text) == text


def test_structure_of_one_sentence() -> None:
    assert Structure().apply("Be brief.") == "# Role\nBe brief."


@given(st.text(alphabet="abc .!\n-", max_size=120))
def test_structure_loses_no_word(text: str) -> None:
    """Letters of the text are those of its sections."""
    made = re.sub(r"^# \w+$", "", Structure().apply(text), flags=re.MULTILINE)
    assert sorted(re.findall("[abc]", made)) == sorted(re.findall("[abc]", text))


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (0, "You label texts.\n\nNow label."),
        (1, "You label texts.\n\nExample 1:\nInput: good\nOutput: yes\n\nNow label."),
        (3, SHOTS),
        (9, SHOTS),
    ],
)
def test_few_shot_trim_keeps_the_first(keep: int, kept: str) -> None:
    assert FewShotTrim(keep).apply(SHOTS) == kept


def test_few_shot_trim_knows_questions_without_titles() -> None:
    """A question is an example of its own; the text around stays."""
    assert FewShotTrim(1).apply("Q: a\nA: b\nQ: c\nA: d") == "Q: a\nA: b"
    assert FewShotTrim(0).apply("no example") == "no example"
    assert FewShotTrim(0).apply("") == ""


def test_constraints_are_added_once() -> None:
    """What stands there already is not said again."""
    edit = Constraints(("Be brief.", "No lists."))
    assert edit.apply("Hi.\n") == "Hi.\n\nConstraints:\n- Be brief.\n- No lists."
    assert edit.apply(edit.apply("Hi.")) == edit.apply("Hi.")
    assert edit.apply(" ") == "Constraints:\n- Be brief.\n- No lists."
    assert edit.apply("Be brief.") == "Be brief.\n\nConstraints:\n- No lists."


def test_edits_are_applied_in_order() -> None:
    """The text of the policy first, then what is generated of it."""
    edits: tuple[Edit, ...] = (Replace("Please  help."), Compress(), Constraints(("X",)))
    for system in ("whatever", "whatever", "x" * (MAX_REMEMBERED + 1)):
        assert rewrite(edits, system) == "help.\n\nConstraints:\n- X"
    assert rewrite((), "same") == "same"


def test_no_text_in_a_repr() -> None:
    """Policies are printed in errors and logs; prompts are not."""
    assert "secret" not in repr([Replace("secret"), Constraints(("secret",))])
