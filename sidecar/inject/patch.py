"""A JSON patch (RFC 6902) that only adds: each operation sets a member of an object or puts an item into a list.

`add` on a member that is there replaces its value, so the two operations that we need are one word. Order counts: each
operation sees what those before it did.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sidecar.inject.tree import Place


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation, with the members of RFC 6902; `path` is a JSON pointer."""

    op: Literal["add"]
    path: str
    value: object


def pointer(*parts: str | int) -> str:
    """The JSON pointer (RFC 6901) of these members."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


@dataclass(slots=True)
class Patch:
    """Operations as they gather. A list or object that is absent is made whole, by the operation that first needs it."""

    operations: list[Operation] = field(default_factory=list)

    def set(self, path: str, value: object) -> None:
        self.operations.append(Operation("add", path, value))

    def put_first(self, found: Place, path: str, value: object) -> None:
        """`value` at index 0 of the list `found`, which stands at `path`."""
        if found.items():
            self.set(f"{path}/0", value)
        else:
            self.set(path, [value])

    def append(self, found: Place, path: str, values: list[object]) -> None:
        """`values` at the end of the list `found`, which stands at `path`; in one operation where the list is empty."""
        if not found.items():
            if values:
                self.set(path, values)
            return
        for value in values:
            self.set(f"{path}/-", value)

    def put_members(self, found: Place, path: str, members: Mapping[str, object]) -> None:
        """Members of the object `found`, which stands at `path`; in one operation where the object is absent."""
        if found.is_absent and members:
            self.set(path, dict(members))
            return
        for name, value in members.items():
            self.set(f"{path}{pointer(name)}", value)
