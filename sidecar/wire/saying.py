"""What the spokes have in common: marks and extras of a node, contents, tools, data URLs, arguments of calls, schemas that
are closed, and OpenAI's usage.

What it promises: pure functions of JSON and neutral values; what a format does with them is its spoke's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import orjson

from sidecar.core.types import Usage
from sidecar.wire.members import wrong
from sidecar.wire.neutral import AnyPart, Format, Json, Report, Request, Text, Tool, ToolCall
from sidecar.wire.openai import OpenAIUsage, to_usage
from sidecar.wire.reading import read_as
from sidecar.wire.spoke import lose_all

_usage: Final = msgspec.json.Decoder(OpenAIUsage)


@dataclass(frozen=True, slots=True)
class Saying:
    """What a writer asks at each node: whether it comes from the writer's own format, and where to report."""

    format: Format  # that is written
    source: Format  # that the nodes come from
    report: Report

    @property
    def own(self) -> bool:
        return self.source == self.format

    def kept(self, extra: Json, where: str) -> Json:
        """Members to put back; of another format none, and they are reported."""
        if extra and not self.own:
            lose_all(self.report, where, extra)
            return {}
        return extra

    def marks(self, cache: str | None, where: str) -> bool:
        """Whether a mark of what to cache is to be said. Another format's is mapped: servers here cache on their own."""
        if cache is not None and not self.own:
            self.report.map(f"{where}.cache")
        return cache is not None and self.own


def parts_of(value: object, where: str, read: Callable[[Any, str], AnyPart]) -> list[AnyPart]:
    """The parts of a content in OpenAI's formats: a string, a list of parts (for `read`), or nothing. Raises
    TranslationError on anything else."""
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return [Text(text=value)]
    if not isinstance(value, list):
        wrong(where, "a string or a list", value)
    return [read(item, f"{where}[{number}]") for number, item in enumerate(value)]


def tools_of(request: Request, saying: Saying, write: Callable[[Tool, str, Saying], Json]) -> list[Json]:
    """The member `tools` of OpenAI's formats: those that are known by `write`, opaque ones in their own format alone."""
    said = []
    for number, tool in enumerate(request.tools):
        where = f"tools[{number}]"
        if tool.opaque is None:
            said.append(write(tool, where, saying))
        elif saying.own:
            said.append(tool.opaque)
        else:
            saying.report.lose(where)
    return said


def usage_of(said: Json, tier: str | None) -> Usage | None:
    """Inclusive totals of OpenAI's usage; None where they cannot be read. Members of a wrong type count as absent."""
    try:
        counts = read_as(_usage, orjson.dumps(said))
    except TypeError:
        return None  # a number of more than 64 bits, or nested too deeply
    return None if counts is None else to_usage(counts, tier)


def split_data_url(url: str) -> tuple[str, str] | None:
    """Media type and base64 text of a data URL; None where it is another one, or has parameters."""
    head, comma, data = url[:200].partition(";base64,")
    kind = head.removeprefix("data:")
    if not comma or kind == head or not kind or "," in kind or ";" in kind:
        return None
    return kind, data if len(url) <= 200 else url[len(head) + len(comma) :]


def arguments_of(call: ToolCall) -> tuple[Json, bool]:
    """A call's arguments as the object that they must be, and whether they are said in other words then."""
    if not call.arguments and not call.custom:
        return {}, False
    try:
        value = None if call.custom else orjson.loads(call.arguments)
    except orjson.JSONDecodeError:
        value = None
    return (value, False) if isinstance(value, dict) else ({"arguments": call.arguments}, True)


def closed(schema: Any) -> Any:  # noqa: ANN401 - JSON schema: objects, lists and truth values
    """The schema with every object closed, as Anthropic and Bedrock want it; one that says that it is open stays so."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    said = {
        name: value if name in ("enum", "const", "default", "examples") else closed(value)
        for name, value in schema.items()
    }
    kind = said.get("type")
    if (kind == "object" or (isinstance(kind, list) and "object" in kind)) and "additionalProperties" not in said:
        said["additionalProperties"] = False
    return said
