"""How answers are judged, from as written to as loaded: the checks of validators, expressions, schema and sources."""

import re
from collections.abc import Mapping
from typing import Final

import orjson

from sidecar.config import written
from sidecar.config.document import Node, Problems, quoted
from sidecar.config.files import fault
from sidecar.config.written_quality import Implicit, Source
from sidecar.core import policy as core
from sidecar.wire import validators_pattern, validators_schema

_LONG_ANSWER: Final = 4_000  # characters; an expression that is too much work on so many is doubted
# Which key means something only beside which validator.
_BELONGS: Final = {
    "output_schema": "json_schema",
    "language": "language",
    "must_match": "regex",
    "must_not_match": "regex",
}


def quality(one: "written.Quality | None", problems: Problems) -> core.Quality:
    """A route's quality without its judge."""
    if one is None:
        return core.Quality()
    for name, validator in _BELONGS.items():
        if name in one.node.entries and validator not in one.validators:
            what = f"means nothing without the validator {validator}"
            problems.warn(one.node.find(name), what, f"add {validator} to `validators`")
    _check_patterns(one, problems)
    implicit = one.implicit
    if isinstance(implicit, Implicit):
        heard: core.Implicit | None = core.Implicit(implicit.repeat_within)
    else:
        heard = core.Implicit() if implicit else None
    return core.Quality(
        validators=one.validators,
        feedback=one.feedback,
        min_samples=one.min_samples,
        schema=_schema(one, problems),
        languages=() if "prompt" in one.language else one.language,
        must=one.must_match,
        must_not=one.must_not_match,
        sources={**core.SOURCES, **{name: _source(name, source) for name, source in one.sources.items()}},
        implicit=heard,
    )


def _source(name: str, one: Source) -> core.Source:
    usual = core.SOURCES.get(name, core.SOURCES[core.OTHER])
    low, high = (usual.low, usual.high) if one.scale is None else one.scale
    better = usual.better if one.better is None else "higher" if one.better == "higher" else "lower"
    return core.Source(
        low=low,
        high=high,
        better=better,
        log=usual.log if one.log is None else one.log,
        weight=usual.weight if one.weight is None else one.weight,
        max_share=usual.max_share if one.max_share is None else one.max_share,
    )


def _check_patterns(one: "written.Quality", problems: Problems) -> None:
    if "regex" in one.validators and not one.must_match + one.must_not_match:
        problems.add(one.node.find("validators"), "regex has nothing to look for", "add must_match or must_not_match")
    for name in ("must_match", "must_not_match"):
        for index, pattern in enumerate(getattr(one, name)):
            node = one.node.find(name, index)
            try:
                re.compile(pattern)
            except (re.error, OverflowError, RecursionError):
                problems.add(node, f"{quoted(pattern)} is no regular expression", "write it as Python's `re` reads it")
                continue
            _doubt(pattern, node, problems)


def _doubt(pattern: str, node: Node, problems: Problems) -> None:
    if validators_pattern.ways(pattern, _LONG_ANSWER) > validators_pattern.MOST_WAYS:
        what = f"may be too much work on answers of {_LONG_ANSWER} characters: the check is then unknown"
        problems.warn(node, what, "make it simpler: one `+` or `*`, no group repeated, or begin with ^")


def _schema(one: "written.Quality", problems: Problems) -> bytes | None:
    """The JSON text of the schema, once it has been shown to be usable."""
    given = one.output_schema
    if given is None:
        return None
    node = one.node.find("output_schema")
    if isinstance(given, Mapping):
        text = orjson.dumps(given)
    else:
        try:
            text = problems.content(given)
        except OSError as error:
            problems.add(node, fault(error), "give the path of a readable JSON file")
            return None
    if validators_schema.compiled(text) is None:
        what = "is no JSON schema that can be checked here"
        fix = f"at most {validators_schema.MAX_SCHEMA_BYTES} bytes of JSON, references inside it only; see docs/quality.md"
        problems.add(node, what, fix)
    return text
