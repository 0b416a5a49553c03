"""What a model can do as a policy says it of an arm, and a file of the catalogue of its models.

A file of the catalogue names its sources and the day they were read at its head, as comments; `date` is that day.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sidecar.config import kinds
from sidecar.config.document import Node
from sidecar.config.kinds import key, list_of, map_of, scalar, struct, within

_TOKENS = within(kinds.INTEGER, 1, 10**9)
_DATE = re.compile(r"20\d\d-[01]\d-[0-3]\d", re.ASCII)


def _date(text: str) -> str:
    if not _DATE.fullmatch(text):
        raise ValueError("is not a date; write it like 2026-11-21")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a model can do. What nobody states is unknown, and unknown is taken for able."""

    node: Node
    tools: bool | None = field(default=None, metadata=key(kinds.FLAG, "Calls of tools."))
    images: bool | None = field(default=None, metadata=key(kinds.FLAG, "Images in the input."))
    documents: bool | None = field(default=None, metadata=key(kinds.FLAG, "PDFs and other files in the input."))
    audio: bool | None = field(default=None, metadata=key(kinds.FLAG, "Sound in the input."))
    json_schema: bool | None = field(default=None, metadata=key(kinds.FLAG, "Answers that follow a JSON schema."))
    thinking: bool | None = field(
        default=None, metadata=key(kinds.FLAG, "Thinking before the answer, by effort or by budget.")
    )
    context_tokens: int | None = field(
        default=None,
        metadata=key(_TOKENS, "Most tokens of input and output together; for a server of your own, as it was started."),
    )
    max_output_tokens: int | None = field(default=None, metadata=key(_TOKENS, "Most tokens of one answer."))
    languages: tuple[str, ...] = field(
        default=(), metadata=key(list_of(kinds.NAME), "Languages that its maker names, like `de`; for information.")
    )
    regions: tuple[str, ...] = field(
        default=(), metadata=key(list_of(kinds.NAME), "Where it runs; one alone is the fact `model.region`.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """The models of one provider."""

    node: Node
    also: tuple[str, ...] = field(default=(), metadata=key(list_of(kinds.NAME), "Other names of this provider."))
    like: tuple[str, ...] = field(
        default=(), metadata=key(list_of(kinds.NAME), "Providers that know the models which it serves.")
    )
    strip: tuple[str, ...] = field(
        default=(), metadata=key(list_of(kinds.TEXT), "What stands before a model's name here.")
    )
    models: Mapping[str, Capabilities] = field(
        default_factory=dict,
        metadata=key(map_of(struct(Capabilities, "capabilities"), "models"), "By name; `*` at the end is any ending."),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueFile:
    """One file of the catalogue."""

    node: Node
    version: int = field(metadata=key(within(kinds.INTEGER, 1, 1), "Version of this format: 1."))
    date: str = field(metadata=key(scalar("date", _date), "When its sources were read."))
    replace: bool = field(
        default=False, metadata=key(kinds.FLAG, "Whether the catalogue as shipped is not looked at any more.")
    )
    providers: Mapping[str, Provider] = field(
        metadata=key(
            map_of(struct(Provider, "a provider"), "providers"), "Providers by name, as price lists call them."
        )
    )


CATALOGUE_FILE = struct(CatalogueFile, "a catalogue")
"""How such a file is read."""
