"""Whether OpenAI's strict mode takes a JSON schema.

Anthropic and Gemini hold an answer to its schema always, OpenAI only where `strict` is said, and it refuses a call whose
schema is not of a certain kind: every object lists all of its properties as required and allows no others, the root is an
object, and only some keywords are used (its guide to structured outputs, 2026-11). So a schema that fits is sent as strict,
and one that does not is sent without, which is told.

It is careful: what fine-tuned or older models are known to refuse (`pattern`, lengths of strings) does not fit.
"""

from typing import Any, Final

from sidecar.wire.neutral import Json

_MAX_LEVELS: Final = 10
_MAX_SCHEMAS: Final = 5000  # OpenAI counts properties, of which each is one
_MAX_CHOICES: Final = 1000  # in all enums together
_KINDS: Final = frozenset({"type", "enum", "const", "anyOf", "$ref"})  # one of these says what a value is
_KNOWN: Final = _KINDS | {
    "properties", "required", "additionalProperties", "items", "$defs", "definitions", "$schema", "title", "description",
    "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems",
}  # fmt: skip
_FORMATS: Final = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})


def fits_strict(schema: Json) -> bool:
    """Whether a call with this schema and `strict` is taken. Reads at most 5,000 schemas, 10 levels deep."""
    if schema.get("type") != "object" or "anyOf" in schema:
        return False
    left: list[tuple[Any, int]] = [(schema, 0)]
    schemas = choices = 0
    while left:
        node, level = left.pop()
        schemas += 1
        if not isinstance(node, dict) or level > _MAX_LEVELS or schemas > _MAX_SCHEMAS or not _is_known(node):
            return False
        choices += len(node.get("enum", ()))
        inner = [*_values(node, "properties"), *_values(node, "$defs"), *_values(node, "definitions")]
        inner += [*node.get("anyOf", ()), *([node["items"]] if "items" in node else [])]
        left += [(one, level + 1) for one in inner]
    return choices <= _MAX_CHOICES


def _is_known(node: Json) -> bool:
    """Whether one schema, without those in it, is of the kind that is taken."""
    kinds = node.get("type")
    types = kinds if isinstance(kinds, list) else [kinds]
    form = node.get("format", "date")
    if not (node.keys() <= _KNOWN and node.keys() & _KINDS and isinstance(form, str) and form in _FORMATS):
        return False
    if not all(isinstance(node.get(name, []), list) for name in ("enum", "anyOf", "required")):
        return False
    if "array" in types and "items" not in node:
        return False
    return ("object" not in types and "properties" not in node) or _is_closed(node)


def _is_closed(node: Json) -> bool:
    properties, required = node.get("properties"), node.get("required", [])
    if not isinstance(properties, dict) or node.get("additionalProperties") is not False:
        return False
    return all(isinstance(one, str) for one in required) and sorted(required) == sorted(properties)


def _values(node: Json, name: str) -> list[Any]:
    """The schemas under a name; something that is none where they are no object."""
    found = node.get(name, {})
    return list(found.values()) if isinstance(found, dict) else [None]
