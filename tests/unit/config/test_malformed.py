"""Malformed policies: each message names file, line and key path, says what is wrong and how to fix it."""

from pathlib import Path

import pytest
import yaml

from sidecar.config.policy import load_text
from sidecar.errors import ConfigError

# 13 lines; a case replaces some text by another.
GOOD = """version: 1
service: bot
upstreams:
  openai: {dialect: openai, base_url: "https://api.openai.com/v1", api_key: {from: client}}
  claude: {dialect: anthropic, base_url: "https://api.anthropic.com", api_key: {file: /key}}
routes:
  - name: support
    match: {models: [gpt-4o, auto]}
    mode: canary
    baseline: {id: base, upstream: openai, model: gpt-4o}
    arms:
      - {id: mini, upstream: openai, model: gpt-4o-mini}
    sticky: conversation
"""
ROUTE = "    sticky: conversation\n"

CASES = yaml.safe_load((Path(__file__).parent / "malformed.yaml").read_text(encoding="utf-8"))


def refused(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_text(text, Path("bad.yaml"), {})
    return str(caught.value).splitlines()


@pytest.mark.parametrize("name", CASES)
def test_each_message_names_place_and_remedy(name: str) -> None:
    """file:line: key.path: what; how to fix."""
    case = CASES[name]
    text = case["replace"].pop("all", GOOD)
    for old, new in case["replace"].items():
        assert old in text
        text = text.replace(old, new, 1)
    told = refused(text)
    place = f"bad.yaml:{case['line']}: {case['path'] or '(file)'}: "
    assert any(line.startswith(place) and case["what"] in line and f"; {case['fix']}" in line for line in told), told


def test_enough_cases() -> None:
    """The table is not cut short by accident."""
    assert len(CASES) >= 80


def test_the_good_one_is_good() -> None:
    """The table's base loads, so that each case shows one fault."""
    assert load_text(GOOD, Path("good.yaml"), {}).warnings == ()


def test_all_problems_of_a_file_at_once() -> None:
    """Three faults in three places give three messages, in the order of the file."""
    text = GOOD.replace("dialect: openai", "dialect: x").replace("mode: canary", "mode: y").replace("conversation", "z")
    assert [line.split(":")[1] for line in refused(text)] == ["4", "9", "13"]


def test_all_contradictions_of_a_file_at_once() -> None:
    """What is well-formed and wrong in three places gives three messages too."""
    text = GOOD.replace("upstream: openai", "upstream: nowhere").replace(ROUTE, "    virtual: [gpt-4o]\n")
    assert [line.split(":")[1] for line in refused(text)] == ["10", "12", "13"]
