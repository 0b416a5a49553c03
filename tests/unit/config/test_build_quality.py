"""How answers are judged, from the file to the policy."""

import json
from pathlib import Path

import pytest

from sidecar.config.policy import Loaded, load_text, load_written
from sidecar.core.policy import SOURCES, Implicit, Quality, Source
from sidecar.errors import ConfigError

HEAD = """version: 1
upstreams: {o: {dialect: openai, base_url: "http://127.0.0.1:8000/v1"}}
routes:
  - name: r
    baseline: {id: a, upstream: o, model: m}
    quality: """


def load(quality: str, folder: Path = Path()) -> Loaded:
    return load_text(HEAD + quality, folder / "p.yaml", {})


def quality(text: str) -> Quality:
    return load(text).policy.routes[0].quality


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text)
    return str(caught.value)


def test_the_defaults() -> None:
    """A policy that says nothing of sources has the built-in ones, and nobody listens to what nobody sends."""
    assert quality("{}") == Quality(validators=(), sources=SOURCES)
    assert quality("{implicit: false}").implicit is None


def test_validators_and_what_they_need() -> None:
    """Every validator has its settings beside it."""
    made = quality(
        "{validators: [language, regex, refusal_text, json_schema], language: [de, en], "
        "must_match: ['^Dear'], must_not_match: [password, 'PIN: \\d+'], output_schema: {type: object, required: [a]}}"
    )
    assert made.validators == ("language", "regex", "refusal_text", "json_schema")
    assert made.languages == ("de", "en")
    assert (made.must, made.must_not) == (("^Dear",), ("password", "PIN: \\d+"))
    assert made.schema is not None
    assert json.loads(made.schema) == {"type": "object", "required": ["a"]}
    assert quality("{validators: [language]}").languages == ()
    assert quality("{validators: [language], language: prompt}").languages == ()


def test_a_schema_in_a_file(tmp_path: Path) -> None:
    """Its path is relative to the policy's own."""
    (tmp_path / "order.json").write_text('{"type": "object"}')
    loaded = load("{validators: [json_schema], output_schema: order.json}", tmp_path)
    assert loaded.policy.routes[0].quality.schema == b'{"type": "object"}'
    (tmp_path / "order.json").unlink()
    assert loaded.written is not None
    assert load_written(loaded.written, {}) == loaded  # in another process, which has what was read here


def test_sources() -> None:
    """What is not written is as for a source of that name, or as for `other`."""
    made = quality(
        "{sources: {stars: {scale: [0, 10]}, nps: {scale: [0, 10], weight: 0.5, max_share: 0.3},"
        " cost: {scale: [0, 5], better: lower, log: true}, thumbs: {scale: down/up}, other: {weight: 0.25}}}"
    ).sources
    assert made["stars"] == Source(0.0, 10.0)
    assert made["nps"] == Source(0.0, 10.0, weight=0.5, max_share=0.3)
    assert made["cost"] == Source(0.0, 5.0, better="lower", log=True, max_share=0.5)
    assert made["thumbs"] == SOURCES["thumbs"]
    assert made["other"] == Source(weight=0.25, max_share=0.5)
    assert made["revenue"] == SOURCES["revenue"]
    assert quality("{sources: {retry: {better: higher}}}").sources["retry"].better == "higher"


def test_implicit_signals() -> None:
    """On with a word, or with their own time."""
    assert quality("{implicit: true}").implicit == Implicit(30.0)
    assert quality("{implicit: {repeat_within: 1m}}").implicit == Implicit(60.0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{validators: [regex]}", "regex has nothing to look for"),
        ("{validators: [regex], must_match: ['(']}", "must_match[0]: '(' is no regular expression"),
        (
            "{validators: [json_schema], output_schema: nowhere.json}",
            "output_schema: cannot be read (FileNotFoundError)",
        ),
        (
            "{validators: [json_schema], output_schema: {$ref: 'http://a/b'}}",
            "is no JSON schema that can be checked here",
        ),
        ("{validators: [json_schema], output_schema: [1]}", "is no JSON schema"),
        ("{validators: [language], language: klingon}", "language"),
        ("{sources: {stars: {scale: [5, 1]}}}", "sources.stars.scale: is no scale"),
        ("{sources: {stars: {scale: [1]}}}", "is no scale"),
        ("{sources: {stars: {scale: wide}}}", "sources.stars.scale"),
        ("{sources: {stars: {weight: 2}}}", "sources.stars.weight"),
        ("{sources: {stars: {max_share: 0}}}", "sources.stars.max_share"),
        ("{sources: {stars: {wieght: 1}}}", "weight"),
        ("{implicit: {repeat_within: 1s}}", "implicit.repeat_within"),
        ("{implicit: perhaps}", "implicit"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, told: str) -> None:
    """File, line and key path, and how to mend it."""
    message = refused(text)
    assert message.startswith("p.yaml:")
    assert told in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{language: en}", "quality.language: means nothing without the validator language"),
        ("{must_match: [a]}", "quality.must_match: means nothing without the validator regex"),
        ("{must_not_match: [a]}", "quality.must_not_match: means nothing without the validator regex"),
        ("{output_schema: {type: object}}", "quality.output_schema: means nothing without the validator json_schema"),
        ("{validators: [regex], must_match: ['(a+)+b']}", "may be too much work on answers of 4000 characters"),
    ],
)
def test_what_is_doubtful_is_told(text: str, told: str) -> None:
    """Settings that nobody reads, and expressions that will often be unknown."""
    assert told in "\n".join(load(text).warnings)


def test_ordinary_checks_raise_no_doubt() -> None:
    """The validators of the issue, as a policy would list them."""
    text = (
        "{validators: [json_schema, tool_arguments, finish_reason, refusal, empty, regex], must_not_match: ['^Error']}"
    )
    assert load(text).warnings == ()
