"""Changes few bytes of a request's body in place.

A body is never re-serialised: duplicate keys, escapes, big numbers, order and white space stay as the client wrote
them, except the bytes named by an edit.
"""

import re
from collections.abc import Sequence

import msgspec

from sidecar.wire.json_scan import Member, MemberScanner
from sidecar.wire.request_view import SMALL_BODY_BYTES, RequestView, read_request

_encode = msgspec.json.Encoder().encode


def edit_request(
    body: bytes,
    *,
    model: str | None,
    params: Sequence[tuple[str, bytes]] = (),
    ask_usage: bool = False,
    view: RequestView | None = None,
) -> bytes:
    """The body with these changes and no other, in one piece: see `edit_parts`."""
    if view is None and len(body) <= SMALL_BODY_BYTES:
        view = read_request(body)
    if view is not None and view.layout is None:
        quick = _edit_quickly(body, model, params, view.has_stream_options if ask_usage else None, view)
        if quick is not None:
            return quick
    return b"".join(edit_parts(body, model=model, params=params, ask_usage=ask_usage, view=view))


def edit_parts(
    body: bytes,
    *,
    model: str | None,
    params: Sequence[tuple[str, bytes]] = (),
    ask_usage: bool = False,
    view: RequestView | None = None,
) -> list[bytes | memoryview]:
    """The body with these changes and no other, in parts; what stays is not copied.

    `model` replaces the value of every top-level `model` member (inserted where there is none); each of `params`
    (key, JSON text) likewise; `ask_usage` makes `stream_options.include_usage` true. `view` is what the reader gave for
    this very body: with it the usual request needs no scan. Raises nothing for a body that a reader accepted.
    """
    scanner = view.layout if view is not None and view.layout is not None else MemberScanner(body).finish()
    wanted = [(key.encode(), text) for key, text in params]
    if model is not None:
        wanted.append((b"model", _encode(model)))
    last = dict(wanted)  # of a key given twice, the last one counts
    keys = {member: scanner.key(member) for member in scanner.members}
    present = set(keys.values())
    cuts = [(member.start, member.end, last[key]) for member, key in keys.items() if key in last]
    inserts = [_encode(key.decode()) + b":" + text for key, text in last.items() if key not in present]
    if ask_usage and b"stream_options" not in last:
        if b"stream_options" in present:
            cuts += [cut for member, key in keys.items() if key == b"stream_options" for cut in _ask(body, member)]
        else:
            inserts.append(_ASK_MEMBER)
    return _apply(body, sorted(cuts), inserts, empty=not scanner.members)


_ASK_MEMBER = b'"stream_options":{"include_usage":true}'
_MODEL_VALUE = re.compile(rb'"model"[ \t\r\n]*:[ \t\r\n]*("[^"\\]*+")')


def _edit_quickly(
    body: bytes,
    model: str | None,
    params: Sequence[tuple[str, bytes]],
    has_options: bool | None,
    view: RequestView,
) -> bytes | None:
    r"""The same edit for the usual request, or None where it cannot be proved to be the same.

    The reader saw a top-level string member `model`. If its plain spelling stands in the body exactly once, and no
    escape can spell a letter of it (m, o, d, e, l are all \u006.), that place is the member. A key that stands nowhere
    in quotes, in a body without \u00.. escapes, is no member.
    """
    if has_options is True or view.model is None:  # without a model the object may even be empty
        return None
    if model is not None:
        at = body.find(b'"model"')
        place = _MODEL_VALUE.match(body, at) if at >= 0 else None
        if place is None or body.find(b'"model"', at + 7) >= 0 or body.find(b"\\u006") >= 0:
            return None
        start, end = place.span(1)
        middle = _encode(model)
    else:
        start = end = body.index(b"{") + 1
        middle = b""
    inserts = [_ASK_MEMBER] if has_options is False else []
    if params:
        texts = {_encode(key): text for key, text in params}
        if inserts and b'"stream_options"' in texts:
            return None  # the param wins
        if body.find(b"\\u00") >= 0 or len(texts) != len(params) or any(key in body for key in texts):
            return None
        inserts[:0] = [key + b":" + text for key, text in texts.items()]
    if not inserts:
        return body[:start] + middle + body[end:]
    opening = body.index(b"{") + 1
    return b"".join((body[:opening], b",".join(inserts), b",", body[opening:start], middle, body[end:]))


def _apply(
    body: bytes, cuts: list[tuple[int, int, bytes]], inserts: list[bytes], *, empty: bool
) -> list[bytes | memoryview]:
    """Replaces each (start, end) by its text and puts the inserts right after the opening brace."""
    kept = memoryview(body)
    parts: list[bytes | memoryview] = []
    pos = 0
    if inserts:
        pos = body.index(b"{") + 1
        parts = [kept[:pos], b",".join(inserts), b"" if empty else b","]
    for start, end, text in cuts:
        parts += (kept[pos:start], text)
        pos = end
    parts.append(kept[pos:])
    return parts


def _ask(body: bytes, member: Member) -> list[tuple[int, int, bytes]]:
    """The cuts that make one existing stream_options ask for usage; none where it has an unknown type."""
    text = body[member.start : member.end]
    if text in (b"null", b"false"):
        return [(member.start, member.end, b'{"include_usage":true}')]
    if not text.startswith(b"{"):
        return []
    inner = MemberScanner(text).finish()
    asked = [item for item in inner.members if inner.key(item) == b"include_usage"]
    if not asked:
        at = member.start + 1
        return [(at, at, b'"include_usage":true' + (b"," if inner.members else b""))]
    return [(member.start + item.start, member.start + item.end, b"true") for item in asked]
