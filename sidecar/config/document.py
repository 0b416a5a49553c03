"""A YAML file as a tree of nodes that know their line and key path, and the list of what is wrong with it.

Only the safe, plain part of YAML is read: no own tags, no merge keys, no duplicate keys. Scalars keep their text:
`on`, `4.10` and `15m` mean what was written and not what YAML 1.1 makes of them; who reads a node decides its type.
"""

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml

from sidecar.config.files import content_of, is_endless
from sidecar.errors import ConfigError, UnreadableError
from sidecar.secrecy import guarded

MAX_NODES = 50_000  # a policy has hundreds; aliases of aliases can make billions out of a kilobyte
MAX_DEPTH = 30
_SECOND = "expected a single document in the stream"  # what yaml says where there is another
_PREFIX = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset({"str", "int", "float", "bool", "null", "timestamp", "map", "seq", "merge", "value"})


@dataclass(frozen=True, slots=True)
class Node:
    """One value of the file. `path` is its key path ("" for the whole), `tag` what plain YAML takes a scalar for."""

    path: str
    line: int
    kind: Literal["map", "list", "scalar", "null"]
    text: str = ""
    tag: str = ""
    entries: Mapping[str, "Node"] = field(default_factory=dict)
    items: tuple["Node", ...] = ()

    def find(self, *keys: str | int) -> "Node":
        """The node below, as deep as it exists: the last one reached when a key is absent."""
        node = self
        for key in keys:
            if isinstance(key, str) and key in node.entries:
                node = node.entries[key]
            elif isinstance(key, int) and key < len(node.items):
                node = node.items[key]
            else:
                break
        return node

    @property
    def is_empty(self) -> bool:
        """Nothing was written, or `null`."""
        return self.kind == "null"


@dataclass(slots=True)
class Problems:
    """What is wrong in one file, and what is only doubtful, each with its place; told all together at the end. `named` has
    the files that this one names, as they were when they were read first; `sought` is where they were looked for."""

    file: str
    named: dict[str, bytes] = field(default_factory=dict)
    sought: list[Path] = field(default_factory=list)
    errors: list[tuple[int, str]] = field(default_factory=list)
    warnings: list[tuple[int, str]] = field(default_factory=list)
    kind: type[ConfigError] = ConfigError  # of error; another one where what is wrong may pass

    def add(self, node: Node, what: str, fix: str, key: str = "") -> None:
        self.errors.append((node.line, self._told(node, what, fix, key)))

    def warn(self, node: Node, what: str, fix: str) -> None:
        self.warnings.append((node.line, self._told(node, what, fix)))

    def _told(self, node: Node, what: str, fix: str, key: str = "") -> str:
        path = f"{node.path}.{key}" if key and node.path else key or node.path
        return f"{self.file}:{node.line}: {path or '(file)'}: {what}; {fix}"

    def content(self, name: str) -> bytes:
        """What a file says that this one names by a path relative to its own. Raises OSError when it cannot be read."""
        found = self.named.get(name)
        if found is None:
            path = Path(self.file).parent / name
            self.sought.append(path)
            if is_endless(path):
                raise OSError(errno.EINVAL, "is a pipe or a device")
            try:
                found = self.named[name] = content_of(path)
            except OSError as error:
                self.kind = type(UnreadableError.of(error, ""))
                raise
        return found

    def told(self) -> list[str]:
        """Every error once, in the order of the file."""
        return list(dict.fromkeys(message for _, message in sorted(self.errors, key=lambda found: found[0])))

    def doubts(self) -> tuple[str, ...]:
        """Every warning once, in the order of the file."""
        return tuple(dict.fromkeys(message for _, message in sorted(self.warnings, key=lambda found: found[0])))

    def check(self) -> None:
        """Raises ConfigError with all errors, if there are any."""
        if self.errors:
            error = self.kind("\n".join(self.told()))
            error.named = tuple(self.sought)
            raise error


def quoted(text: str) -> str:
    """A value for a message: short, and not at all when it may hold a secret (`user:password@host`, `?key=`)."""
    if "@" in text or ("?" in text and "/" in text) or guarded(text) != text:
        return "the value"
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def nearest(name: str, known: Iterable[str]) -> str:
    """Advice for an unknown name: the nearest known one, or the list of them."""
    names = sorted(known)
    import difflib  # for a mistake alone

    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    if not names or len(names) > 20:
        return "see the docs for the names there are" if names else "remove it"
    return f"use one of: {', '.join(names)}"


def read_document(text: str, problems: Problems) -> Node | None:
    """The tree of a file's text, or None when it is no YAML that we read (the reason is in `problems`)."""
    top = Node("", 1, "null")
    try:
        root = yaml.compose(text, Loader=_Composer)
        return _Reader(problems).read(root, "", ()) if root is not None else top
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        fix = "check quotes and indentation here"
        if error.context == _SECOND:
            fix = "write one document a file: what follows this `---` belongs into another"
        problems.add(Node("", line, "null"), f"is not valid YAML ({error.problem})", fix)
    except yaml.YAMLError as error:
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        what = "holds a character that YAML does not allow"
        problems.add(Node("", line, "null"), what, "remove it, and save the file as UTF-8 text")
    except RecursionError:
        problems.add(top, "is nested too deeply", f"use at most {MAX_DEPTH} levels")
    except _TooLarge as error:
        problems.add(Node("", error.line, "null"), f"has more than {MAX_NODES:,} values", "split it by service")
    return None


class _TooLarge(Exception):
    """No policy is as large as what was read up to this line."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line


class _Composer(yaml.SafeLoader):
    """Ends where a file is larger than any that is read on: a mebibyte of junk would take a quarter of a minute."""

    composed = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.composed += 1
        if self.composed > 2 * MAX_NODES:  # keys are nodes of YAML too
            raise _TooLarge(self.line + 1)
        return super().compose_node(parent, index)


@dataclass(slots=True)
class _Reader:
    problems: Problems
    count: int = 0

    def read(self, node: yaml.Node, path: str, above: Sequence[yaml.Node], line: int = 0) -> Node:
        """The tree below `node`; `line` is that of its key, where a reader looks first."""
        line = line or node.start_mark.line + 1
        empty = Node(path, line, "null")
        self.count += 1
        tag = node.tag.removeprefix(_PREFIX)
        if self.count > MAX_NODES or len(above) > MAX_DEPTH or any(node is other for other in above):
            if self.count <= MAX_NODES + 1:
                self.problems.add(empty, "is too large, too deep, or contains itself", "write it out without aliases")
            return empty
        if tag not in _PLAIN_TAGS:
            self.problems.add(empty, f"has the tag {node.tag}", "remove the tag")
            return empty
        if isinstance(node, yaml.MappingNode):
            return Node(path, line, "map", entries=dict(self._entries(node, path, (*above, node))))
        if isinstance(node, yaml.SequenceNode):
            inner = (*above, node)
            items = tuple(self.read(item, f"{path}[{index}]", inner) for index, item in enumerate(node.value))
            return Node(path, line, "list", items=items)
        plain = isinstance(node, yaml.ScalarNode) and node.style is None
        return Node(
            path, line, "null" if plain and tag == "null" else "scalar", str(node.value), tag if plain else "str"
        )

    def _entries(self, node: yaml.MappingNode, path: str, above: Sequence[yaml.Node]) -> Iterator[tuple[str, Node]]:
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            here = Node(path, line, "null")
            if not isinstance(key, yaml.ScalarNode):
                self.problems.add(here, "has a key that is a list or a map", "write plain words as keys")
                continue
            name = str(key.value)
            told = guarded(name if name.isprintable() else ascii(name))
            below = f"{path}.{told}" if path else told
            if name == "<<":
                self.problems.add(Node(below, line, "null"), "merge keys are not read", "write the keys out")
            elif name in seen:
                what = f"is written twice (first in line {seen[name]})"
                self.problems.add(Node(below, line, "null"), what, "keep one of the two")
            else:
                seen[name] = line
                yield name, self.read(value, below, above, line)
