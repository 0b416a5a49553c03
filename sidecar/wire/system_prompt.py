"""Puts another system prompt into a request, in each provider's own place, and changes no other byte.

    chat         the first of `messages` when its role is system or developer; else a system message is put before it
    responses    `instructions`; where there are none, a first item of `input` with such a role; else `instructions`
    messages     `system`, a text or blocks
    generate     `systemInstruction` (or `system_instruction`): its parts

Of a list of blocks or parts the first text changes; the others stay, with their cache_control. Where a request has no
system prompt, or an empty list of blocks or parts, one is inserted, unless the new text is empty. Of keys given twice the
last one counts, as for most parsers, and escapes in keys are read.

A place that has another type than the API knows, and one that is named in two ways, cannot be told apart from a mistake:
then the answer is None, the body goes on as it came, and whoever wanted another prompt knows that it has not got it.
"""

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec.structs import replace

from sidecar.wire.json_scan import Member, MemberScanner
from sidecar.wire.request_view import RequestView

_ROLES: Final = frozenset({"system", "developer"})
_encode = msgspec.json.Encoder().encode
_decode_str = msgspec.json.Decoder(str).decode
_FAULTS: Final = (msgspec.MsgspecError, UnicodeError)
_WRAP: Final = b'{"input":'  # the scanner keeps the places of objects in an array of this name

Rewrite = Callable[[str], str]
Cut = tuple[int, int, bytes]  # (start, end, what stands there instead)
_SAME: Final[Cut] = (0, 0, b"")  # the prompt that there is, is the one that is wanted


def edit_system(
    body: bytes, endpoint: str, rewrite: Rewrite, view: RequestView | None = None
) -> tuple[bytes, RequestView | None] | None:
    """The body with `rewrite(system prompt)` as its system prompt, and `view` as it is of that body.

    `rewrite` gets "" where there is no system prompt. `view` is what the reader gave for this very body: one that was
    read in slices is not scanned again, and what comes back needs no scan either. None: the prompt cannot be put in
    place, because the body is no JSON object, the endpoint has no system prompt, or its place is not understood.
    """
    find = _PLACES.get(endpoint)
    if find is None:
        return None
    scanner = view.layout if view is not None and view.layout is not None else MemberScanner(body).finish()
    cut = find(_Object(scanner), rewrite) if scanner.valid else None
    if cut is None:
        return None
    if cut is _SAME:
        return body, view
    start, end, text = cut
    new = b"".join((body[:start], text, body[end:]))
    if view is not None and view.layout is not None:
        view = replace(view, layout=_moved(scanner, cut, new))
    return new, view


def _moved(scanner: MemberScanner, cut: Cut, body: bytes) -> MemberScanner:
    """The layout of the body after the cut, as far as edits of other members need it."""
    if not scanner.members:  # there was nothing, and now there is one member
        return MemberScanner(body).finish()
    start, end, text = cut
    grown = len(text) - (end - start)
    layout = MemberScanner(body)
    layout.valid = True
    for one in scanner.members:
        after = one.key_start >= end
        holds = one.start <= start and end <= one.end
        by, last = grown * after, grown * (after or holds)
        layout.members.append(Member(one.key_start + by, one.key_end + by, one.start + by, one.end + last))
    return layout


class _Object:
    """One JSON object in a body: where its members stand."""

    def __init__(self, scanner: MemberScanner, offset: int = 0) -> None:
        self.scanner = scanner
        self.text = scanner.body
        self.offset = offset  # of `text` in the whole body
        self.places = {scanner.key(one).decode(errors="replace"): (one.start, one.end) for one in scanner.members}

    def value(self, key: str) -> bytes:
        """The member's text; empty when there is none."""
        start, end = self.places.get(key, (0, 0))
        return self.text[start:end]

    def cut(self, key: str, text: bytes) -> Cut:
        """The member's value replaced."""
        start, end = self.places[key]
        return self.offset + start, self.offset + end, text

    def insert(self, member: bytes) -> Cut:
        """A member put first."""
        at = self.offset + self.text.index(b"{") + 1
        return at, at, member + (b"," if self.places else b"")

    def inner(self, start: int, end: int) -> "_Object":
        """The object that stands at `start`..`end` of this one's text."""
        return _Object(MemberScanner(self.text[start:end]).finish(), self.offset + start)

    def items(self, key: str) -> "list[_Object]":
        """The objects of the array `key`, or the one object that stands in its place."""
        start, end = self.places[key]
        if self.text[start : start + 1] == b"{":
            return [self.inner(start, end)]
        wrapped = MemberScanner(_WRAP + self.text[start:end] + b"}").finish()
        shift = start - len(_WRAP)
        return [self.inner(begin + shift, stop + shift) for begin, stop in wrapped.items(b"input")]

    def first_item(self, key: str) -> "_Object | None":
        """The first object of the array `key`, without a look at the others where the scanner knows it."""
        start, end = self.places.get(key, (0, 0))
        known = [place for place in self.scanner.items(key.encode())[:1] if start < place[0] < end]
        if known:
            return self.inner(*known[0])
        written = self.text[start : start + 1] == b"["  # the scanner has another of its name, or its layout was moved
        return next(iter(self.items(key)), None) if written else None


def _string(text: bytes) -> str | None:
    try:
        return _decode_str(text)
    except _FAULTS:
        return None


def _changed(owner: _Object, key: str, rewrite: Rewrite, block: bytes = b'{"type":"text","text":') -> Cut | None:
    """The cut that rewrites the text in `key`: a string, or the first text among blocks; `block` begins a new one."""
    value = owner.value(key)
    if value[:1] == b'"':
        old = _string(value)
        new = old if old is None else rewrite(old)
        return _SAME if new is not None and new == old else None if new is None else owner.cut(key, _encode(new))
    if value[:1] != b"[":
        return None
    if not value[1:-1].strip():
        new = rewrite("")
        return owner.cut(key, b"[" + block + _encode(new) + b"}]") if new else _SAME
    return _first_text(owner, key, rewrite)


def _first_text(owner: _Object, key: str, rewrite: Rewrite) -> Cut | None:
    """The cut that rewrites the first text among the objects in `key`; None when none of them has one."""
    texts = (one for one in owner.items(key) if one.value("text")[:1] == b'"')
    first = next(texts, None)
    return None if first is None else _changed(first, "text", rewrite)


def _inserted(owner: _Object, key: str, rewrite: Rewrite, form: str = "%s") -> Cut:
    """The cut that gives a text to an object that has none: the member is absent or null. `form` is what stands around."""
    new = rewrite("")
    if not new:
        return _SAME
    before, _, after = form.encode().partition(b"%s")
    value = before + _encode(new) + after
    return owner.cut(key, value) if key in owner.places else owner.insert(_encode(key) + b":" + value)


def _lacks(owner: _Object, key: str) -> bool:
    return owner.value(key) in (b"", b"null")


def _leading(owner: _Object, key: str) -> _Object | None:
    """The first message of the array `key` if it is the system's."""
    first = owner.first_item(key)
    return first if first is not None and _string(first.value("role")) in _ROLES else None


def _in_chat(body: _Object, rewrite: Rewrite) -> Cut | None:
    leading = _leading(body, "messages")
    if leading is not None:
        return _changed(leading, "content", rewrite)
    value = body.value("messages")
    if value[:1] != b"[":
        return None
    new = rewrite("")
    if not new:
        return _SAME
    at = body.offset + body.places["messages"][0] + 1
    others = b"," if value[1:-1].strip() else b""
    return at, at, b'{"role":"system","content":' + _encode(new) + b"}" + others


def _in_responses(body: _Object, rewrite: Rewrite) -> Cut | None:
    if not _lacks(body, "instructions"):
        return _changed(body, "instructions", rewrite) if body.value("instructions")[:1] == b'"' else None
    leading = _leading(body, "input")
    if leading is None:
        return _inserted(body, "instructions", rewrite)
    return _changed(leading, "content", rewrite, b'{"type":"input_text","text":')


def _in_messages(body: _Object, rewrite: Rewrite) -> Cut | None:
    return _inserted(body, "system", rewrite) if _lacks(body, "system") else _changed(body, "system", rewrite)


def _in_generate(body: _Object, rewrite: Rewrite) -> Cut | None:
    names = ("systemInstruction", "system_instruction")
    given = [name for name in names if not _lacks(body, name)]
    if not given:
        key = next((name for name in names if name in body.places), names[0])
        return _inserted(body, key, rewrite, '{"parts":[{"text":%s}]}')
    if len(given) > 1 or body.value(given[0])[:1] != b"{":
        return None
    content = body.inner(*body.places[given[0]])
    parts = content.value("parts")
    if parts in (b"", b"null") or (parts[:1] == b"[" and not parts[1:-1].strip()):
        return _inserted(content, "parts", rewrite, '[{"text":%s}]')
    return _first_text(content, "parts", rewrite) if parts[:1] in (b"[", b"{") else None


_PLACES: Final[dict[str, Callable[[_Object, Rewrite], Cut | None]]] = {
    "chat": _in_chat,
    "responses": _in_responses,
    "messages": _in_messages,
    "generate": _in_generate,
}
