"""What a model can do, and what a request needs of it: the two sides that `core.fitting` compares.

A need is one bit, so that all needs of a request are one whole number. What is not known of a model is None, and unknown
is taken for able: only what is known to be missing keeps a request away.
"""

from collections.abc import Mapping
from math import inf
from typing import Final

from msgspec import Struct

TOOLS: Final = 1
IMAGES: Final = 2
DOCUMENTS: Final = 4
AUDIO: Final = 8
JSON_SCHEMA: Final = 16
THINKING: Final = 32
NEEDS: Final[Mapping[str, int]] = {
    "tools": TOOLS,
    "images": IMAGES,
    "documents": DOCUMENTS,
    "audio": AUDIO,
    "json_schema": JSON_SCHEMA,
    "thinking": THINKING,
}  # by the name of the capability


class Limits(Struct, frozen=True, gc=False):
    """What a model is known not to serve, ready to be compared with a request."""

    lacks: int = 0  # needs that it does not meet
    context_tokens: float = inf
    output_tokens: float = inf

    @property
    def any(self) -> bool:
        """Whether there is any such request."""
        return self != NONE


NONE: Final = Limits()


class Capabilities(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is known of one model. `context_tokens` is input and output together."""

    tools: bool | None = None
    images: bool | None = None
    documents: bool | None = None
    audio: bool | None = None
    json_schema: bool | None = None
    thinking: bool | None = None
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    languages: tuple[str, ...] = ()  # that its maker names, as ISO 639-1
    regions: tuple[str, ...] = ()  # where it is known to run

    @property
    def limits(self) -> Limits:
        """What it is known not to serve."""
        return Limits(
            sum(bit for name, bit in NEEDS.items() if getattr(self, name) is False),
            inf if self.context_tokens is None else self.context_tokens,
            inf if self.max_output_tokens is None else self.max_output_tokens,
        )

    def over(self, other: "Capabilities") -> "Capabilities":
        """This one, with what it does not know as `other` says."""
        said = {name: getattr(self, name) for name in FIELDS}
        return Capabilities(
            **{name: getattr(other, name) if value in (None, ()) else value for name, value in said.items()}
        )

    def facts(self) -> dict[str, str | float | bool]:
        """What rules may ask as `model.<name>`: plain values only. `region` is there where exactly one is known."""
        known: dict[str, str | float | bool] = {}
        for name in (*NEEDS, "context_tokens", "max_output_tokens"):
            value = getattr(self, name)
            if value is not None:
                known[name] = value if isinstance(value, bool) else float(value)
        if len(self.regions) == 1:
            known["region"] = self.regions[0]
        return known


FIELDS: Final = Capabilities.__struct_fields__
UNKNOWN: Final = Capabilities()


def named(needs: int) -> list[str]:
    """The names of these needs."""
    return [name for name, bit in NEEDS.items() if needs & bit]
