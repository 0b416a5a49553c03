"""The kinds of values that a policy file may hold: how each is read, named in the docs, and shown as a default.

A reader returns the value or raises Wrong, after it has told the problem with line and key path: so a struct goes on to
its next key, and the person sees everything that is wrong at once.
"""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from sidecar.config import units
from sidecar.config.document import Node, Problems, nearest, quoted

T = TypeVar("T")
_NAME = re.compile(r"[A-Za-z0-9*_][A-Za-z0-9._:@/*-]{0,127}", re.ASCII)


class Wrong(Exception):
    """The value cannot be used, and `Problems` says why already."""


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """`label` names it in messages and docs; `read` raises Wrong; `show` writes a default as one would in the file."""

    label: str
    read: Callable[[Node, Problems], T]
    show: Callable[[T], str] = str


def key(kind: Kind[T], doc: str) -> dict[str, object]:
    """The metadata of one key of the file: its kind, and what it means, in one sentence for the reference."""
    return {"kind": kind, "doc": doc}


def scalar(label: str, parse: Callable[[str], T], show: Callable[[T], str] = str) -> Kind[T]:
    """A kind that `parse` makes of the text; its ValueError says `what; how to fix`."""

    def read(node: Node, problems: Problems) -> T:
        """The scalar's value; raises Wrong for a map, a list, or a text that `parse` refuses."""
        if node.kind != "scalar":
            problems.add(node, f"must be {label}", "write one value here")
            raise Wrong
        try:
            return parse(node.text)
        except ValueError as error:
            what, _, fix = str(error).partition("; ")
            problems.add(node, f"{quoted(node.text)} {what}", fix)
            raise Wrong from None

    return Kind(label, read, show)


def within(kind: Kind[T], low: T, high: T) -> Kind[T]:
    """The same kind inside low..high."""

    def read(node: Node, problems: Problems) -> T:
        """The value; raises Wrong outside low..high, both of them allowed."""
        value = kind.read(node, problems)
        if not cast("float", low) <= cast("float", value) <= cast("float", high):
            between = f"{kind.show(low)}..{kind.show(high)}"
            problems.add(node, f"{quoted(node.text)} is outside {between}", "choose a value between them")
            raise Wrong
        return value

    return Kind(kind.label, read, kind.show)


def choice(*words: str) -> Kind[str]:
    """One of some words, in lower case."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"is not one of {', '.join(words)}; {nearest(text, words)}")
        return text

    return scalar(" or ".join(f"`{word}`" for word in words), parse)


def list_of(kind: Kind[T]) -> Kind[tuple[T, ...]]:
    """A list; one value alone counts as a list of one."""

    def read(node: Node, problems: Problems) -> tuple[T, ...]:
        """Every item's value; raises Wrong after all of them were read, if any was wrong."""
        found, failed = [], False
        for item in node.items if node.kind == "list" else (node,):
            try:
                found.append(kind.read(item, problems))
            except Wrong:
                failed = True
        if failed:
            raise Wrong
        return tuple(found)

    return Kind(f"list of {kind.label}", read, lambda items: f"[{', '.join(map(kind.show, items))}]")


def filled(kind: Kind[tuple[T, ...]]) -> Kind[tuple[T, ...]]:
    """The same list with one item at least, where none would mean nothing, or all."""

    def read(node: Node, problems: Problems) -> tuple[T, ...]:
        """The items; raises Wrong when there is none."""
        items = kind.read(node, problems)
        if not items:
            problems.add(node, "is empty", "write one at least, or remove the key")
            raise Wrong
        return items

    return Kind(kind.label, read, kind.show)


def map_of(kind: Kind[T], label: str) -> Kind[Mapping[str, T]]:
    """A map whose keys are names of the writer's own."""

    def read(node: Node, problems: Problems) -> Mapping[str, T]:
        """Every entry's value by its name; raises Wrong after all of them were read, if any was wrong."""
        if node.kind != "map":
            problems.add(node, f"must be a map of {label}", "write `name: value` below it")
            raise Wrong
        found, failed = {}, False
        for name, below in node.entries.items():
            try:
                found[name] = kind.read(below, problems)
            except Wrong:
                failed = True
        if failed:
            raise Wrong
        return found

    return Kind(f"map of {label}", read, lambda value: "{}" if not value else str(dict(value)))


def struct(cls: type[T], label: str) -> Kind[T]:
    """A map with the keys of a dataclass whose fields carry `key` metadata; its field `node` gets the map itself."""
    about = dataclasses.fields(cls)  # type: ignore[arg-type]  # a type variable cannot say "dataclass"
    fields = {field.name.rstrip("_"): field for field in about if field.metadata}

    def read(node: Node, problems: Problems) -> T:
        """The struct; raises Wrong after all keys were read, if one is unknown, missing or wrong."""
        if node.kind != "map":
            problems.add(node, f"must be {label}, a map", f"write keys of: {', '.join(fields)}")
            raise Wrong
        failed = False
        for name, below in node.entries.items():
            if name not in fields:
                problems.add(below, "is not a key here", nearest(name, fields))
                failed = True
        values: dict[str, object] = {"node": node}
        for name, field in fields.items():
            try:
                _read_field(node, name, field, values, problems)
            except Wrong:
                failed = True
        if failed:
            raise Wrong
        return cast("Callable[..., T]", cls)(**values)

    return Kind(label, read)


def _read_field(
    node: Node, name: str, field: "dataclasses.Field[object]", values: dict[str, object], problems: Problems
) -> None:
    below = node.entries.get(name)
    if below is not None and not below.is_empty:
        values[field.name] = cast("Kind[object]", field.metadata["kind"]).read(below, problems)
    elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        problems.add(below or node, "is missing", f"add `{name}`: {field.metadata['doc']}", "" if below else name)
        raise Wrong


def json_value(node: Node, problems: Problems) -> object:
    """The JSON value that the node stands for; numbers keep their kind, and YAML 1.1's odder readings are text."""
    if node.kind == "map":
        return {name: json_value(below, problems) for name, below in node.entries.items()}
    if node.kind == "list":
        return [json_value(item, problems) for item in node.items]
    if node.is_empty:
        return None
    if node.tag == "bool":
        return units.flag(node.text)
    if node.tag in ("int", "float"):
        return _json_number(node, problems)
    return node.text


def _json_number(node: Node, problems: Problems) -> int | float:
    try:
        value = json.loads(node.text)
    except ValueError:
        value = None  # `.inf`, `0x1F`, `1_000`: YAML only
    if not isinstance(value, int | float) or not math.isfinite(value):
        problems.add(node, f"{quoted(node.text)} is not a JSON number", "write it in plain digits, or quote it")
        raise Wrong
    return value


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("is not a usable name; use letters, digits and . _ : @ / - (at most 128)")
    return text


def _text(text: str) -> str:
    if not text.strip() or len(text) > 4096 or not text.isprintable():
        raise ValueError("is not a line of text; write 1 to 4096 printable characters")
    return text


NAME = scalar("name", _name)
TEXT = scalar("text", _text)
FLAG = scalar("true or false", units.flag, lambda value: str(value).lower())
INTEGER = scalar("whole number", units.integer)
NUMBER = scalar("number", units.number, lambda value: f"{value:g}")
FRACTION = scalar("fraction", units.fraction, lambda value: f"{value:g}")
DURATION = scalar("duration", units.duration_s, units.show_duration)
MONEY = scalar("US dollars", units.usd_to_nusd)
LIST_PRICE = scalar("US dollars per million tokens", units.mtok_to_fusd)
JSON = Kind("JSON value", json_value)
