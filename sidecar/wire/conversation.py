"""Finds the texts of a request that tell conversations apart, and the latest thing its user said.

A conversation repeats its system text and its first user message in every call, whoever serves it. Markers that move
from call to call (cache_control) stand beside the texts and are not read.
"""

import re

import msgspec
from msgspec import Raw, Struct

from sidecar.wire.json_scan import MemberScanner
from sidecar.wire.request_view import PlainCall, RequestView

MAX_KEY_BYTES = 65_536
_QUICK_BYTES = 65_536  # up to here decoding all messages is cheaper than looking for the first ones
_MAX_ITEM_BYTES = 262_144  # a larger message counts by its first bytes as written: decoding it would hold the loop
_ROLE_NEAR = 4096  # where the role of a very large message is looked for, from either end
_PART_BYTES = 4096
_ROLE = re.compile(rb'"role"\s*:\s*"([a-z]{1,16})"')
_SYSTEM_ROLES = frozenset({"system", "developer"})


class _Item(Struct, gc=False):
    role: str = ""
    content: Raw = Raw(b"")


class _Part(Struct, gc=False):
    text: str | None = None


class _Body(Struct, gc=False):
    messages: Raw = Raw(b"")
    input: Raw = Raw(b"")
    system: Raw = Raw(b"")
    instructions: Raw = Raw(b"")


class _QuickItem(Struct, gc=False):
    role: str
    content: str


class _Quick(Struct, gc=False):
    """The usual call: every message is one text. Anything else fails to decode, and is read piece by piece."""

    messages: list[_QuickItem]
    system: str = ""
    input: None = None
    instructions: None = None


_decode_quick = msgspec.json.Decoder(_Quick).decode
_decode_body = msgspec.json.Decoder(_Body).decode
_decode_items = msgspec.json.Decoder(list[Raw]).decode
_decode_item = msgspec.json.Decoder(_Item).decode
_decode_str = msgspec.json.Decoder(str).decode
_decode_part = msgspec.json.Decoder(_Part).decode
_FAULTS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Texts(Struct, frozen=True, gc=False):
    """What was asked for of one body; empty where it was not, or where there is none."""

    beginning: bytes = b""  # the system or developer text and the first user message, at most 64 KiB
    last: str = ""  # the end of the last user message that has a text


def texts_of(
    body: bytes, view: RequestView | None = None, *, beginning: bool = True, last: bool = True, limit: int = 2048
) -> Texts:
    """The texts of a chat, messages or Responses body, both from one reading.

    `last` is the last `limit` characters at most. With the `view` of a body read in slices nothing is scanned again.
    """
    call = _quick(body, view)
    if call is not None:
        return Texts(_quick_beginning(call) if beginning else b"", _quick_last(call)[-limit:] if last else "")
    fields = _fields(body, view)
    items = _items(body, fields, view)
    return Texts(_beginning(fields, items) if beginning else b"", _last(items)[-limit:] if last else "")


def last_user_text(body: bytes, limit: int = 2048, view: RequestView | None = None) -> str:
    """The last user text alone."""
    return texts_of(body, view, beginning=False, limit=limit).last


def _quick(body: bytes, view: RequestView | None) -> _Quick | PlainCall | None:
    """The usual call; None for one of another shape: the complete way follows."""
    if view is not None and view.plain is not None:
        return view.plain
    if len(body) > _QUICK_BYTES:
        return None
    try:
        return _decode_quick(body)
    except _FAULTS:
        return None


def _quick_beginning(call: _Quick | PlainCall) -> bytes:
    texts = [call.system] if call.system else []
    for message in call.messages:
        role = message.role
        if message.content and (role == "user" or role in _SYSTEM_ROLES):
            texts.append(message.content)
        if role == "user":
            break
    beginning = "\0".join(texts).encode("utf-8", "surrogatepass")
    return beginning if len(beginning) <= MAX_KEY_BYTES else beginning[:MAX_KEY_BYTES]


def _quick_last(call: _Quick | PlainCall) -> str:
    for message in call.messages[::-1]:
        if message.role == "user" and message.content:
            return message.content
    return ""


def _beginning(fields: _Body, items: list[Raw]) -> bytes:
    texts = _texts(fields.system) + _texts(fields.instructions)
    for item in items:
        role, content = _role(item)
        if role in _SYSTEM_ROLES or role == "user":
            texts += _texts(content)
        if role == "user":
            break
    return b"\0".join([text.encode("utf-8", "surrogatepass") for text in texts])[:MAX_KEY_BYTES]


def _last(items: list[Raw]) -> str:
    for item in reversed(items):
        role, content = _role(item)
        if role == "user":
            text = "\n".join(_texts(content, last=True))
            if text:
                return text
    return ""


def _fields(body: bytes, view: RequestView | None) -> _Body:
    if view is not None and view.layout is not None:
        return _from_layout(view.layout)
    try:
        return _decode_body(body)
    except _FAULTS:
        return _Body()


def _from_layout(layout: MemberScanner) -> _Body:
    fields = _Body()
    for member in layout.members:
        key = layout.key(member)
        if key in (b"messages", b"input", b"system", b"instructions"):
            setattr(fields, key.decode(), Raw(memoryview(layout.body)[member.start : member.end]))
    return fields


def _items(body: bytes, fields: _Body, view: RequestView | None) -> list[Raw]:
    """The messages in order. A Responses `input` that is a text is one user message."""
    found: list[Raw] = []
    for key, value in (("messages", fields.messages), ("input", fields.input)):
        start = bytes(memoryview(value)[:1])
        if start == b'"':
            text = bytes(memoryview(value)[: _MAX_ITEM_BYTES + 1])
            found.append(Raw(b'{"role":"user","content":' + text + b"}"))
        elif start != b"[":
            continue
        elif view is not None and view.layout is not None:
            found += [Raw(memoryview(body)[begin:end]) for begin, end in view.layout.items(key.encode())]
        else:
            found += _decode_items(value)
    return found


def _role(item: Raw) -> tuple[str, Raw]:
    """The role and the content of one message; of a very large one the whole message stands for its content."""
    if len(memoryview(item)) > _MAX_ITEM_BYTES:
        ends = bytes(memoryview(item)[:_ROLE_NEAR]) + bytes(memoryview(item)[-_ROLE_NEAR:])
        named = _ROLE.search(ends)
        return ("" if named is None else named[1].decode()), item
    try:
        message = _decode_item(item)
    except _FAULTS:
        return "", Raw(b"")
    return message.role, message.content


def _texts(content: Raw, *, last: bool = False) -> list[str]:
    """The texts of a content: one string, or a list of parts. An image part counts by its beginning as written, and
    not at all where the `last` text is wanted; of a very large content the beginning, or the end, is taken as written.
    """
    size = len(memoryview(content))
    if size > _MAX_ITEM_BYTES:
        written = memoryview(content)[-MAX_KEY_BYTES:] if last else memoryview(content)[:MAX_KEY_BYTES]
        return [bytes(written).decode("utf-8", "replace")]
    try:
        if bytes(memoryview(content)[:1]) == b'"':
            texts = [_decode_str(content)]
        else:
            texts = [_part_text(part, raw=not last) for part in _decode_items(content)]
    except _FAULTS:
        return []
    return [text for text in texts if text]


def _part_text(part: Raw, *, raw: bool) -> str:
    try:
        text = _decode_part(part).text
    except _FAULTS:
        text = None
    if text is None and raw:
        return bytes(memoryview(part)[:_PART_BYTES]).decode("utf-8", "replace")
    return text or ""
