"""What a request asked its answer to be: the schema of structured output, and the tools that may be called.

Read at the end of an exchange from the body as it was sent, and only where a validator asks. Schemas stay JSON text:
`validators_schema` compiles them once and finds them again by their bytes.
"""

from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec
from msgspec import Raw, Struct

from sidecar.core.types import Endpoint

MAX_REQUEST_BYTES: Final = 1024 * 1024  # of a larger request nothing is known: reading it would hold the loop
ANY_OBJECT: Final = b'{"type":"object"}'  # what `json_object` asks for
_ABSENT: Final = Raw(b"")
_FAULTS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_T = TypeVar("_T")


class Asked(Struct, frozen=True, gc=False):
    """`schema` is JSON text; None where free text was asked for. Of a tool without a schema the text is empty; `tools`
    is None where none was offered, or the list could not be read."""

    schema: bytes | None = None
    tools: Mapping[str, bytes] | None = None


class _Function(Struct, gc=False):
    name: str | None = None
    parameters: Raw = _ABSENT
    parameters_json_schema: Raw = msgspec.field(default=_ABSENT, name="parametersJsonSchema")


class _Tool(Struct, gc=False):
    """Chat wraps it in `function`, Responses and Anthropic do not, Gemini lists several in `functionDeclarations`."""

    name: str | None = None
    function: _Function | None = None
    parameters: Raw = _ABSENT
    input_schema: Raw = _ABSENT
    declarations: list[_Function] | None = msgspec.field(default=None, name="functionDeclarations")


class _Named(Struct, gc=False):
    schema: Raw = _ABSENT


class _Format(Struct, gc=False):
    """`response_format` of chat, `text.format` of Responses, `output_format` of Anthropic."""

    type: str | None = None
    json_schema: _Named | None = None
    schema: Raw = _ABSENT


class _Holder(Struct, gc=False):
    format: _Format | None = None


class _Generation(Struct, gc=False, rename="camel"):
    response_mime_type: str | None = None
    response_schema: Raw = _ABSENT
    response_json_schema: Raw = _ABSENT


class _Body(Struct, gc=False):
    tools: Raw = _ABSENT
    functions: Raw = _ABSENT
    response_format: Raw = _ABSENT
    text: Raw = _ABSENT
    output_format: Raw = _ABSENT
    output_config: Raw = _ABSENT
    generation: Raw = msgspec.field(default=_ABSENT, name="generationConfig")


_body = msgspec.json.Decoder(_Body)
_tools = msgspec.json.Decoder(list[_Tool])
_functions = msgspec.json.Decoder(list[_Function])
_format = msgspec.json.Decoder(_Format)
_holder = msgspec.json.Decoder(_Holder)
_generation = msgspec.json.Decoder(_Generation)


def read_asked(body: bytes, endpoint: Endpoint) -> Asked | None:
    """What this body asks for; None where it is too large or no JSON object."""
    if not 0 < len(body) <= MAX_REQUEST_BYTES:
        return None
    read = _try(_body, body)
    if read is None:
        return None
    return Asked(_schema(read, endpoint), _offered(read))


def _schema(body: _Body, endpoint: Endpoint) -> bytes | None:
    if endpoint == "generate":
        return _of_generation(_try(_generation, body.generation))
    for raw in (body.response_format, body.output_format):
        found = _of_format(_try(_format, raw))
        if found is not None:
            return found
    for raw in (body.text, body.output_config):
        held = _try(_holder, raw)
        found = _of_format(None if held is None else held.format)
        if found is not None:
            return found
    return None


def _of_format(asked: _Format | None) -> bytes | None:
    if asked is None:
        return None
    if asked.type == "json_object":
        return ANY_OBJECT
    if asked.type != "json_schema":
        return None
    return bytes(asked.schema if asked.json_schema is None else asked.json_schema.schema) or None


def _of_generation(asked: _Generation | None) -> bytes | None:
    if asked is None:
        return None
    found = bytes(asked.response_json_schema) or bytes(asked.response_schema)
    if not found and asked.response_mime_type == "application/json":
        return b"true"  # any JSON value
    return found or None


def _offered(body: _Body) -> dict[str, bytes] | None:
    """Every function that the model may call, by name."""
    found: dict[str, bytes] = {}
    tools = _try(_tools, body.tools) if bytes(body.tools) else ()
    functions = _try(_functions, body.functions) if bytes(body.functions) else ()
    if tools is None or functions is None:
        return None
    for tool in tools:
        if tool.function is not None:
            _offer(found, tool.function)
        elif tool.name:
            found[tool.name] = bytes(tool.input_schema) or bytes(tool.parameters)
        for function in tool.declarations or ():
            _offer(found, function)
    for function in functions:
        _offer(found, function)
    return found or None


def _offer(found: dict[str, bytes], function: _Function) -> None:
    if function.name:
        found[function.name] = bytes(function.parameters_json_schema) or bytes(function.parameters)


def _try(decoder: "msgspec.json.Decoder[_T]", raw: bytes | Raw) -> _T | None:
    try:
        return decoder.decode(raw)
    except _FAULTS:
        return None
