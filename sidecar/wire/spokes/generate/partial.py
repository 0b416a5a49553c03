"""Arguments of a call that come piece by piece (`partialArgs`): each piece names its place by a JSON path.

Places of a list come in order, as the model writes them: a path that leaves a gap, or that leads through a text, is ignored.
"""

import re
from itertools import pairwise

from sidecar.wire.members import Json
from sidecar.wire.spokes.generate.members import MAX_DEPTH, GenerateMembers

_STEP = re.compile(r"""\.([^.\[\]]+)|\[(\d{1,9})\]|\['((?:[^'\\]|\\.)*)'\]|\["((?:[^"\\]|\\.)*)"\]""")
_ESCAPE = re.compile(r"\\(.)")
_KINDS = ("stringValue", "numberValue", "boolValue", "nullValue")
_Node = dict[str, object] | list[object]


def add_piece(arguments: Json, piece: GenerateMembers) -> None:
    """Puts one piece into its place; a text is added to the text that is there. Raises TranslationError on wrong types."""
    path = _steps(piece.needed_text("jsonPath"))
    kind = next((kind for kind in _KINDS if piece.has(kind)), None)
    if not path or kind is None:
        return
    value: object = None if kind == "nullValue" else piece.any(kind)
    node: _Node | None = arguments
    for step, following in pairwise(path):
        node = _below(node, step, {} if isinstance(following, str) else [])
        if node is None:
            return
    before = _at(node, path[-1])
    if kind == "stringValue" and isinstance(value, str) and isinstance(before, str):
        value = before + value
    _put(node, path[-1], value)


def _steps(path: str) -> list[str | int]:
    """The names and numbers of a path; empty where it cannot be read."""
    steps, at = list[str | int](), 1
    while path.startswith("$") and at < len(path) and len(steps) < MAX_DEPTH:
        found = _STEP.match(path, at)
        if found is None:
            return []
        name = found[1] if found[1] is not None else found[3] if found[3] is not None else found[4]
        steps.append(int(found[2]) if name is None else name if found[1] else _ESCAPE.sub(r"\1", name))
        at = found.end()
    return steps


def _below(node: _Node | None, step: str | int, fresh: _Node) -> _Node | None:
    """The object or list at a step, made where there is none."""
    below = _at(node, step)
    if below is None and _put(node, step, fresh):
        return fresh
    return below if isinstance(below, dict | list) else None


def _at(node: _Node | None, step: str | int) -> object:
    if isinstance(node, dict) and isinstance(step, str):
        return node.get(step)
    if isinstance(node, list) and isinstance(step, int) and step < len(node):
        return node[step]
    return None


def _put(node: _Node | None, step: str | int, value: object) -> bool:
    """Whether there is such a place."""
    if isinstance(node, dict) and isinstance(step, str):
        node[step] = value
    elif isinstance(node, list) and isinstance(step, int) and step <= len(node):
        node[step : step + 1] = [value]
    else:
        return False
    return True
