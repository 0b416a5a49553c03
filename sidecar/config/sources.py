"""Values for the fields of a settings class from a file, the environment and `--set`, and what is wrong with them.

The class says all there is to know in its fields' metadata (see `about`); nothing here knows a setting by name.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sidecar.config.document import Node, Problems, nearest, quoted, read_document
from sidecar.config.files import content_of, fault
from sidecar.config.scalars import Parse

# Kubernetes and Docker put these into every container when a Service is called "sidecar..."; they are not ours.
_LINKS = re.compile(r"SIDECAR_(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
_UNIT = re.compile(r"_(s|bytes)$")


def about(parse: Parse, why: str, env: str = "", secret: bool = False) -> dict[str, object]:
    """A field's metadata: its parser, the reason of its default, its own environment variables (blank-separated, the
    strongest first) besides SIDECAR_<FIELD>, and whether its value may hold a password and is never shown."""
    return {"parse": parse, "why": why, "env": tuple(env.split()), "secret": secret}


@dataclass(frozen=True, slots=True)
class Given:
    """One value as written: which field, where it stands, its text."""

    name: str
    where: str
    text: str


class Sources:
    """Collects values and problems; of what is taken, the later wins."""

    def __init__(self, settings: type) -> None:
        self.values: dict[str, object] = {}
        self.problems: list[str] = []
        self._where: dict[str, str] = {}
        self._fields = {field.name: field for field in dataclasses.fields(settings)}
        self.spellings: dict[str, str] = {}  # every accepted key -> the field
        self.variables: dict[str, str] = {}  # every environment variable -> the field; of one field the weaker first
        for name, field in self._fields.items():
            short = _UNIT.sub("", name)
            names = (*field.metadata["env"], f"SIDECAR_{short}".upper(), f"SIDECAR_{name}".upper())
            self.variables.update(dict.fromkeys(reversed(names), name))
            self.spellings.update(dict.fromkeys((name, short, *(one.lower() for one in names)), name))

    def from_environ(self, environ: Mapping[str, str]) -> Iterable[Given]:
        """Known variables that are not empty. An unknown SIDECAR_... is a problem: it is a typing error."""
        for variable in sorted(environ):
            if variable.startswith("SIDECAR_") and variable not in self.variables and not _LINKS.fullmatch(variable):
                fix = nearest(variable, (name for name in self.variables if name.startswith("SIDECAR_")))
                self._tell(f"environment: {variable}", "is not a setting", fix)
        for variable, name in self.variables.items():
            if environ.get(variable, "").strip():
                yield Given(name, f"environment: {variable}", environ[variable])

    def from_overrides(self, overrides: Sequence[str]) -> Iterable[Given]:
        """`key=value`; the last one of a key wins."""
        for override in overrides:
            key, equals, text = override.partition("=")
            where = f"--set {key.strip()}"
            if not equals:
                self._tell(where, "has no value", "write --set key=value")
            elif name := self._known(key.strip(), where):
                yield Given(name, where, text)

    def from_file(self, file: Path | None) -> Iterable[Given]:
        """Keys of a YAML file; `store: {max_bytes: 1GiB}` is the same as `store_max_bytes: 1GiB`."""
        if file is None:
            return
        try:
            text = content_of(file).decode()
        except (OSError, ValueError) as error:
            self._tell(str(file), fault(error), "name a readable UTF-8 file with --config")
            return
        problems = Problems(str(file))
        root = read_document(text, problems)
        if root is not None and root.kind not in ("map", "null"):
            problems.add(root, "is not a map", "write settings as `key: value` lines")
        self.problems += problems.told()
        seen: dict[str, str] = {}
        for key, node in _flat(root):
            where = f"{file}:{node.line}: {node.path}"
            name = self._known(key, where)
            if name and seen.setdefault(name, where) != where:
                self._tell(where, f"is set twice (also at {seen[name]})", "keep one of the two")
            elif name and node.kind == "map":
                self._tell(where, "is an empty map", "write a value, or remove the key")
            elif name and any(item.kind != "scalar" for item in node.items):
                self._tell(where, "is a list of more than plain values", "write each as one value, like [a, b]")
            elif name and not node.is_empty:
                yield Given(name, where, _flat_text(node))

    def take(self, given: Iterable[Given]) -> None:
        """Parses and keeps; a value that its parser refuses is a problem."""
        for one in given:
            metadata = self._fields[one.name].metadata
            try:
                self.values[one.name] = metadata["parse"](one.text)
                self._where[one.name] = one.where
            except ValueError as error:
                shown = "the value" if metadata["secret"] else quoted(one.text)
                self.problems.append(f"{one.where}: {shown} {error}")

    def refuse(self, name: str, what: str, fix: str) -> None:
        """A problem of a value that is fine by itself, told where it was written."""
        self._tell(self._where.get(name, f"default of {name}"), what, fix)

    def _known(self, key: str, where: str) -> str | None:
        name = self.spellings.get(key.lower())
        if name is None:
            self._tell(where, "is not a setting", nearest(key.lower(), (_UNIT.sub("", one) for one in self._fields)))
        return name

    def _tell(self, where: str, what: str, fix: str) -> None:
        self.problems.append(f"{where}: {what}; {fix}")


def _flat(root: Node | None, above: str = "") -> Iterable[tuple[str, Node]]:
    for key, node in root.entries.items() if root is not None else ():
        if node.entries:
            yield from _flat(node, f"{above}{key}_")
        else:
            yield f"{above}{key}", node


def _flat_text(node: Node) -> str:
    return ",".join(item.text for item in node.items) if node.kind == "list" else node.text
