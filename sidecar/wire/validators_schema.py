"""Whether JSON text satisfies a JSON schema, within limits; what goes beyond them is unknown, never wrong.

The schema comes with a request and the text from a model, so both may be hostile. Nothing is ever fetched: a reference
must point into the schema itself. Keywords that can blow up behind the library's back are not evaluated, patterns go
through `validators_pattern`, and every keyword looked at costs a step of MAX_STEPS, in proportion to what it handles.
The library (`jsonschema`: 0.1 s and 4 MiB) is imported when a policy first asks for this validator.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec

from sidecar.wire import validators_pattern

MAX_SCHEMA_BYTES: Final = 32_768
MAX_STEPS: Final = 4_000  # a step is 1 to 2 us: the loop is held for 10 ms at the very most; some 500 members
_REFERENCE_STEPS: Final = 2  # more, for each part of one that is looked up
_STEP_WAYS: Final = 25  # of matching a pattern, see `validators_pattern`
_STEP_PATTERN_CHARS: Final = 8  # of bounding the ways of a pattern
_STEP_COMPARED_CHARS: Final = 16  # of the text, where maps and lists are compared
# These look at each item or name of a value, also where they have nothing to say of it.
_WALKING: Final = frozenset({"items", "additionalItems", "contains", "additionalProperties", "propertyNames"})
_MAX_NODES: Final = 5_000  # maps and lists of a schema
_TOLD_CHARS: Final = 256  # of a value, for a step more: the library writes it into each error
# Evaluated by walking the schema without asking us, or matching expressions that we do not see.
_REFUSED: Final = frozenset(
    {"patternProperties", "unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef", "$anchor"}
)
_OLD_DRAFTS: Final = ("draft-03", "draft-04", "draft-06", "draft-07")
_FAULTS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
Keyword = Callable[[Any, Any, Any, Any], Iterable[Any] | None]


class TooMuchError(Exception):
    """The limits do not allow this check."""


def load() -> None:
    """Imports the library now, so that no call waits for it. Raises ImportError where it is not installed."""
    _classes()


def satisfies(schema: bytes, text: str, *, openapi: bool = False) -> float | None:
    """1 when `text` is JSON and satisfies the schema, 0 when it does not, None where the limits forbid to know.

    `openapi`: Gemini's way of writing a schema, with types in capitals and `nullable`.
    """
    try:
        value = msgspec.json.decode(text)
    except RecursionError:
        return None
    except (msgspec.MsgspecError, UnicodeError):
        return 0.0
    made = compiled(schema, openapi)
    if made is None:
        return None
    budget = _Budget(len(text))
    try:
        return 1.0 if made(budget).is_valid(value) else 0.0
    except Exception:  # noqa: BLE001  # the library raises whatever a malformed schema leads it to
        return None


class _Budget:
    """Steps that one check may still take."""

    def __init__(self, size: int) -> None:
        self.left = MAX_STEPS
        self._error = 1 + size // _TOLD_CHARS
        self._compare = 1 + size // _STEP_COMPARED_CHARS

    def spend(self, value: object, instance: object) -> None:
        """One keyword with this value. Raises TooMuchError."""
        self.left -= 1 + (len(value) if isinstance(value, list | dict) else 0)
        if isinstance(instance, str):
            self.left -= len(instance) // 1024
        if self.left < 0:
            raise TooMuchError

    def compare(self, times: float) -> None:
        """So many comparisons of maps or lists, each with as much of the text as there is. Raises TooMuchError."""
        self.left -= int(times * self._compare)
        self.spend(None, None)

    def told(self, instance: object) -> None:
        """One error that has this value in its text."""
        self.left -= self._error if isinstance(instance, list | dict) else 1


@lru_cache(maxsize=64)
def compiled(schema: bytes, openapi: bool = False) -> Callable[[_Budget], Any] | None:
    """Makes a validator of one check; None for a schema that cannot be used."""
    if len(schema) > MAX_SCHEMA_BYTES:
        return None
    try:
        tree = msgspec.json.decode(schema)
        if not isinstance(tree, dict | bool) or not _is_tame(tree):
            return None
        if openapi:
            tree = _from_openapi(tree)
    except _FAULTS:
        return None
    # The library would go on with its own class, which counts nothing, wherever it comes upon this name again.
    draft = str(tree.pop("$schema", "")) if isinstance(tree, dict) else ""
    old = any(name in draft for name in _OLD_DRAFTS)
    classes, registry = _classes()
    cls = classes["old" if old else "new"]

    def make(budget: _Budget) -> Any:  # noqa: ANN401  # the library gives no types
        return cls(tree, registry=registry, format_checker=budget)

    return make


def _is_tame(tree: object) -> bool:
    """Whether every reference stays inside, nothing refused is used, and it is not too large. The root may have an id."""
    waiting, seen = [tree], 0
    while waiting:
        node = waiting.pop()
        seen += 1
        if seen > _MAX_NODES:
            return False
        if isinstance(node, dict):
            reference = node.get("$ref", "#")
            if isinstance(reference, str) and not (reference == "#" or reference.startswith("#/")):
                return False
            inner = node is not tree and any(isinstance(node.get(name), str) for name in ("$id", "$schema"))
            if inner or any(isinstance(node.get(name), dict | str | bool) for name in _REFUSED):
                return False
        below = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        waiting += [item for item in below if isinstance(item, dict | list)]
    return True


def _from_openapi(node: object) -> Any:  # noqa: ANN401  # a JSON value
    if isinstance(node, list):
        return [_from_openapi(item) for item in node]
    if not isinstance(node, dict):
        return node
    made = {name: _from_openapi(item) for name, item in node.items()}
    if isinstance(node.get("type"), str):
        made["type"] = node["type"].lower()
        if node.get("nullable") is True:
            made["type"] = [made["type"], "null"]
            if isinstance(made.get("enum"), list):
                made["enum"] = [*made["enum"], None]
    return made


@lru_cache(maxsize=1)
def _classes() -> tuple[Mapping[str, Any], Any]:
    """The library's classes with every keyword counted, and an empty registry, which fetches nothing."""
    library: Any = importlib.import_module("jsonschema.validators")
    registry = importlib.import_module("referencing").Registry()
    made = {}
    for name, base in (("new", library.Draft202012Validator), ("old", library.Draft7Validator)):
        keywords = {word: _counted(word, check) for word, check in base.VALIDATORS.items()}
        keywords["pattern"] = _pattern
        made[name] = library.extend(base, keywords)
    return made, registry


def _counted(word: str, check: Keyword) -> Keyword:
    """The keyword, at its price. The budget of a check travels as its format checker: formats are never checked."""
    if word == "format":
        return _free
    charge = _CHARGES.get(word, _charge_walk if word in _WALKING else None)

    def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:  # noqa: ANN401  # as above
        """What the library calls. Raises TooMuchError."""
        budget: _Budget = validator.format_checker
        if charge is not None:
            charge(budget, value, instance)
        budget.spend(value, instance)
        for error in check(validator, value, instance, schema) or ():
            budget.told(instance)
            yield error

    return counted


def _charge_walk(budget: _Budget, _value: object, instance: object) -> None:
    budget.left -= len(instance) if isinstance(instance, list | dict) else 0


def _charge_reference(budget: _Budget, value: object, _instance: object) -> None:
    budget.left -= _REFERENCE_STEPS * str(value).count("/")


def _charge_unique(budget: _Budget, _value: object, instance: object) -> None:
    """Each item is compared with those before it; in all, half the text once for each item."""
    if isinstance(instance, list):
        budget.left -= len(instance) ** 2 // 8
        if any(isinstance(item, list | dict) for item in instance):
            budget.compare(len(instance) / 2)


def _charge_const(budget: _Budget, _value: object, instance: object) -> None:
    if isinstance(instance, list | dict):
        budget.compare(1)


def _charge_enum(budget: _Budget, value: object, instance: object) -> None:
    if isinstance(instance, list | dict) and isinstance(value, list):
        budget.compare(len(value))


_CHARGES: Final[Mapping[str, Callable[[_Budget, object, object], None]]] = {
    "$ref": _charge_reference,
    "uniqueItems": _charge_unique,
    "const": _charge_const,
    "enum": _charge_enum,
}


def _free(_validator: object, _value: object, _instance: object, _schema: object) -> None:
    return None


def _pattern(validator: Any, value: Any, instance: Any, _schema: Any) -> Iterator[Any]:  # noqa: ANN401  # as above
    if not isinstance(instance, str):
        return
    budget, pattern = validator.format_checker, str(value)
    work = len(pattern) // _STEP_PATTERN_CHARS + validators_pattern.ways(pattern, len(instance)) / _STEP_WAYS
    budget.left -= min(work, MAX_STEPS + 1)
    budget.spend(value, instance)
    found = validators_pattern.search(pattern, instance)
    if found is None:
        raise TooMuchError
    if not found:
        yield importlib.import_module("jsonschema.exceptions").ValidationError("pattern")
