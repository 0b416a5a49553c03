"""What a policy file says of scores and of what answers must be like: more classes of the kind that `written` describes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sidecar.config import kinds
from sidecar.config.document import Node, Problems
from sidecar.config.kinds import Kind, Wrong, choice, filled, json_value, key, list_of, map_of, struct, within
from sidecar.core import policy as core
from sidecar.wire.validators_language import LANGUAGES

VALIDATORS = (
    "json_schema", "tool_arguments", "finish_reason", "refusal", "refusal_text", "empty", "language", "regex",
)  # fmt: skip
_IMPLICIT = core.Implicit()
_PROMPTS = "prompt"  # instead of a language: the one of the prompt
_numbers = list_of(kinds.NUMBER)


def _read_scale(node: Node, problems: Problems) -> tuple[float, float]:
    """Two numbers that rise, or `down/up`; raises Wrong when it is neither."""
    if node.kind == "scalar" and node.text == "down/up":
        return 0.0, 1.0
    ends = _numbers.read(node, problems)
    if len(ends) != 2 or ends[0] >= ends[1]:
        problems.add(node, "is no scale", "write [lowest, highest], like [1, 5], or down/up")
        raise Wrong
    return ends[0], ends[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the scores of one source mean. What is not written is as [quality](quality.md) has it for this name."""

    node: Node
    scale: tuple[float, float] | None = field(
        default=None,
        metadata=key(
            Kind("[lowest, highest] or `down/up`", _read_scale), "What its `value` may be; others are refused."
        ),
    )
    better: str | None = field(default=None, metadata=key(choice("higher", "lower"), "Which end of the scale is good."))
    log: bool | None = field(
        default=None,
        metadata=key(kinds.FLAG, "Whether equal ratios count alike, not equal steps: for money and times."),
    )
    weight: float | None = field(
        default=None, metadata=key(within(kinds.FRACTION, 0.0, 1.0), "What one score counts; 0: it is only stored.")
    )
    max_share: float | None = field(
        default=None,
        metadata=key(
            within(kinds.FRACTION, 0.01, 1.0), "Largest part of a label that it decides while another has spoken."
        ),
    )


SOURCES = map_of(struct(Source, "a source"), "sources")


@dataclass(frozen=True, slots=True, kw_only=True)
class Implicit:
    """Signals that the proxy sees by itself."""

    node: Node
    repeat_within: float = field(
        default=_IMPLICIT.repeat_within_s,
        metadata=key(
            within(kinds.DURATION, 2.0, 600.0), "The same prompt again so soon after its answer speaks against that."
        ),
    )


def _read_implicit(node: Node, problems: Problems) -> Implicit | bool:
    if node.kind == "scalar":
        return kinds.FLAG.read(node, problems)
    return struct(Implicit, "implicit signals").read(node, problems)


IMPLICIT = Kind("true, false or a map", _read_implicit, lambda value: str(value).lower())


def _read_schema(node: Node, problems: Problems) -> str | Mapping[str, object]:
    """A path, or the schema itself; raises Wrong when it is neither."""
    if node.kind == "scalar":
        return kinds.TEXT.read(node, problems)
    found = json_value(node, problems)
    if not isinstance(found, Mapping):
        problems.add(node, "is no JSON schema", "write the schema as a map, or the path of a file that holds it")
        raise Wrong
    return found


SCHEMA = Kind("JSON schema or path", _read_schema)
LANGUAGE = filled(list_of(choice(_PROMPTS, *LANGUAGES)))
PATTERNS = list_of(kinds.TEXT)
