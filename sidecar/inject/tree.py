"""Reading JSON of unknown shape: a value together with its path, and one exception that names the path and the types.

A pod comes from the API server, which has checked it, or from someone who tries what we do with less. `null` is the same
as absent, as it is for the API server.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sidecar.errors import SidecarError

_TYPES = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}


class WrongShape(SidecarError):
    """A member has another type than Kubernetes gives it. Says path and types, never the value."""

    code = "shape"


def _found(value: object) -> str:
    return _TYPES.get(type(value), "null")


@dataclass(frozen=True, slots=True)
class Place:
    """One value and where it stands, like `spec.containers[0].env`."""

    value: object
    path: str = ""

    def __getitem__(self, name: str) -> "Place":
        """The member of that name; one without a value where there is none."""
        return Place(self.mapping().get(name), f"{self.path}.{name}" if self.path else name)

    @property
    def is_absent(self) -> bool:
        return self.value is None

    def mapping(self) -> Mapping[str, object]:
        """The members of an object, none where it is absent. Raises WrongShape for any other type."""
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            raise WrongShape(f"{self.path or 'the document'} is {_found(self.value)}, not an object")
        return self.value

    def items(self) -> list["Place"]:
        """The items of a list, none where it is absent. Raises WrongShape for any other type."""
        if self.value is None:
            return []
        if not isinstance(self.value, list):
            raise WrongShape(f"{self.path} is {_found(self.value)}, not a list")
        return [Place(item, f"{self.path}[{index}]") for index, item in enumerate(self.value)]

    def text(self) -> str:
        """A text, "" where it is absent. Raises WrongShape for any other type."""
        if self.value is None:
            return ""
        if not isinstance(self.value, str):
            raise WrongShape(f"{self.path} is {_found(self.value)}, not a text")
        return self.value

    def number(self) -> int | None:
        """A whole number, None where it is absent. Raises WrongShape for any other type."""
        if self.value is None or (isinstance(self.value, int) and not isinstance(self.value, bool)):
            return self.value
        raise WrongShape(f"{self.path} is {_found(self.value)}, not a whole number")

    def flag(self) -> bool:
        """True or false, false where it is absent. Raises WrongShape for any other type."""
        if self.value is None or isinstance(self.value, bool):
            return bool(self.value)
        raise WrongShape(f"{self.path} is {_found(self.value)}, not true or false")
