"""Reads the few top-level members of a request that we act on, whole or in slices.

Wrong types never fail a request here: such a member counts as absent, and the upstream says what is wrong with it.
"""

import re
from collections.abc import Callable
from typing import Literal, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, field

from sidecar.wire.json_scan import MemberScanner
from sidecar.wire.needs import Needs, NeedSearch

_T = TypeVar("_T")

SMALL_BODY_BYTES = 262_144  # read in one go: about 0.3 ms at most; larger bodies go through SlicedReader
_STEP_BYTES = SMALL_BODY_BYTES
MOST_TOKENS = (1 << 31) - 1  # of an answer; a client may write any number, and budgets, rules and rows reckon with it

# Whole strings that only calls carry which continue some upstream's state; inside a text the quotes would be escaped.
# One expression, because it costs half of six searches. A "signature" is Anthropic's thinking block's: it is a text
# there, and an object where a tool's schema has a property of that name.
_STATE = re.compile(
    rb'"(?:encrypted_content"|file_id"|item_reference"|redacted_thinking"|thoughtSignature"'
    rb'|signature"[ \t\r\n]{0,8}:[ \t\r\n]{0,8}"|type"[ \t\r\n]{0,8}:[ \t\r\n]{0,8}"reasoning")'
)
_STATE_LONGEST_BYTES = 48  # the longest match and some more: slices overlap by this
_SERVER_TOOL = re.compile(
    rb'"type"\s*:\s*"(?:web_search|web_fetch|file_search|code_interpreter|code_execution|computer|mcp|image_generation)'
)

_PLAIN_BYTES = 16_384  # the texts of a plain call are held twice for a moment
# A text that ends so may be what `_STATE` looks for, quotes and all: then the search has the word.
_STATE_ENDS = ("encrypted_content", "file_id", "item_reference", "redacted_thinking", "thoughtSignature")


class PlainOptions(Struct, gc=False, forbid_unknown_fields=True):
    """The `stream_options` of a plain call."""

    include_usage: bool | None = None


class PlainMessage(Struct, gc=False, forbid_unknown_fields=True):
    """A message of a plain call: one text."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str


class PlainCall(Struct, gc=False, forbid_unknown_fields=True):
    """A chat call of nothing but texts and numbers: there is no place in it for what the searches of a body look for."""

    model: str
    messages: list[PlainMessage]
    system: str = ""
    stream: bool | None = None
    stream_options: PlainOptions | UnsetType | None = UNSET
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    n: int | None = None


class RequestView(Struct, gc=False, kw_only=True):
    """What we read of one request body. None and False also stand for members of a wrong type."""

    model: str | None = None
    stream: bool = False
    has_stream_options: bool = False  # the member is there, whatever its value
    include_usage: bool | None = None  # stream_options.include_usage, or OpenRouter's usage.include
    odd_options: bool = False  # they are of a type that a server refuses: that is between it and its client
    # max_completion_tokens, max_output_tokens or max_tokens; else Gemini's, which is deeper; -1..MOST_TOKENS
    max_tokens: int | None = None
    limit_key: str = "max_tokens"  # which of the first three, where there is one
    tools: bool = False
    stateful: bool = False  # carries an upstream's state, asks it to keep some, or uses the upstream's own tools
    conversation: str | None = None  # conversation id, else previous_response_id, else prompt_cache_key
    layout: MemberScanner | None = None  # of a body read in slices: edits use it again
    needs: Needs | None = None  # of a body read in slices, where they were asked for
    plain: PlainCall | None = None  # the whole body, where it is one; a copy of it, and so not to be kept

    @property
    def askable(self) -> bool:
        """Whether usage may be asked for in the client's place."""
        return not (self.include_usage or self.odd_options)


_ABSENT = Raw(b"")
_FAULTS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _StreamOptions(Struct, gc=False):
    include_usage: bool | None = None


class _Body(Struct, gc=False):
    """As most requests are; read with strict types, because that is the fastest."""

    model: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | UnsetType | None = UNSET
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    tools: Raw = _ABSENT
    functions: Raw = _ABSENT
    conversation: Raw = _ABSENT
    previous_response_id: str | None = None
    prompt_cache_key: str | None = None
    store: bool | None = None
    container: Raw = _ABSENT
    usage: Raw = _ABSENT
    generationConfig: Raw = _ABSENT  # noqa: N815 - as Gemini's clients spell it; the other spelling is understood too
    generation_config: Raw = _ABSENT


class _Loose(Struct, gc=False):
    """The same members, of any type."""

    model: Raw = _ABSENT
    stream: Raw = _ABSENT
    stream_options: Raw = _ABSENT
    max_tokens: Raw = _ABSENT
    max_completion_tokens: Raw = _ABSENT
    max_output_tokens: Raw = _ABSENT
    tools: Raw = _ABSENT
    functions: Raw = _ABSENT
    conversation: Raw = _ABSENT
    previous_response_id: Raw = _ABSENT
    prompt_cache_key: Raw = _ABSENT
    store: Raw = _ABSENT
    container: Raw = _ABSENT
    usage: Raw = _ABSENT
    generationConfig: Raw = _ABSENT  # noqa: N815 - see above
    generation_config: Raw = _ABSENT


_FIELDS = frozenset(name.encode() for name in _Loose.__struct_fields__)
_decode_plain = msgspec.json.Decoder(PlainCall).decode
_decode_body = msgspec.json.Decoder(_Body).decode
_decode_loose = msgspec.json.Decoder(_Loose).decode
_decode_str = msgspec.json.Decoder(str).decode
_decode_bool = msgspec.json.Decoder(bool).decode
_decode_int = msgspec.json.Decoder(int).decode
_decode_options = msgspec.json.Decoder(_StreamOptions).decode


class _Include(Struct, gc=False):
    include: bool | None = None


_decode_include = msgspec.json.Decoder(_Include).decode


class _Generation(Struct, gc=False):
    max_tokens: int | None = field(default=None, name="maxOutputTokens")
    max_output_tokens: int | None = None


_decode_generation = msgspec.json.Decoder(_Generation).decode


class _Id(Struct, gc=False):
    id: str


_decode_id = msgspec.json.Decoder(_Id).decode


def read_request(body: bytes) -> RequestView | None:
    """Reads a body of at most `SMALL_BODY_BYTES` (any size works, in one go). None: not one JSON object."""
    if len(body) <= _PLAIN_BYTES and b'"type"' not in body:  # tools, parts and schemas have one
        view = _read_plain(body)
        if view is not None:
            return view
    try:
        view = _view(_decode_body(body))
    except _FAULTS:
        try:
            view = _tolerated(_decode_loose(body))
        except _FAULTS:
            return None
    if not view.stateful:
        view.stateful = _STATE.search(body) is not None
    return view


def _read_plain(body: bytes) -> RequestView | None:
    """The same of a plain call, from one reading and without a search; None for any other."""
    try:
        call = _decode_plain(body)
    except _FAULTS:
        return None
    for message in call.messages:
        if message.content.endswith(_STATE_ENDS):
            return None
    if call.model.endswith(_STATE_ENDS) or call.system.endswith(_STATE_ENDS):
        return None
    limit, limit_key = call.max_completion_tokens, "max_completion_tokens"
    if limit is None:
        limit, limit_key = call.max_tokens, "max_tokens"
    if limit is not None and not -1 <= limit <= MOST_TOKENS:
        limit = max(-1, min(limit, MOST_TOKENS))
    view = RequestView(model=call.model, stream=call.stream is True, max_tokens=limit, limit_key=limit_key, plain=call)
    options = call.stream_options
    if options is not UNSET:
        view.has_stream_options = True
        view.include_usage = None if options is None else options.include_usage
    return view


class SlicedReader:
    """Reads a larger body a slice at a time, so that no call holds the loop for more than about 2 ms.

    Call `step` until it returns True; `view` is then what `read_request` would have given (None: not an object, or one
    with more than 4,096 members). Faults deep inside a value are not seen. `needs`: also finds out what it needs.
    """

    def __init__(self, body: bytes, *, needs: bool = False) -> None:
        self.view: RequestView | None = None
        self._scanner = MemberScanner(body)
        self._scanned = False
        self._searched = 0
        self._state: bool | None = None  # not known yet
        self._needs = NeedSearch(body) if needs else None

    def step(self, max_bytes: int = _STEP_BYTES) -> bool:
        """Goes on for about `max_bytes`. True when `view` is final."""
        if not self._scanned:
            self._scanned = self._scanner.step(max_bytes)
            return self._scanned and not self._scanner.valid
        if self._state is None:
            self._look_for_state(max_bytes)
            through = self._state is not None and self._needs is None
        else:
            assert self._needs is not None, "there is nothing else to look for"
            through = self._needs.step(max_bytes)
        if through:
            self.view = self._read()
        return through

    def _look_for_state(self, max_bytes: int) -> None:
        body = self._scanner.body
        start = max(0, self._searched - _STATE_LONGEST_BYTES)
        self._searched += max_bytes
        if _STATE.search(body, start, self._searched) is not None:
            self._state = True
        elif self._searched >= len(body):
            self._state = False

    def _read(self) -> RequestView:
        scanner = self._scanner
        found: dict[str, Raw] = {}
        for member in scanner.members:
            key = scanner.key(member)
            if key in _FIELDS:
                found[key.decode()] = Raw(scanner.body[member.start : member.end])
        view = _tolerated(_Loose(**found))
        view.stateful = view.stateful or bool(self._state)
        view.layout = scanner
        view.needs = None if self._needs is None else self._needs.found
        return view


def _view(body: _Body) -> RequestView:
    options = body.stream_options
    limit, limit_key = _limit(body)
    if limit is not None and not -1 <= limit <= MOST_TOKENS:
        limit = max(-1, min(limit, MOST_TOKENS))
    view = RequestView(model=body.model, stream=body.stream is True, max_tokens=limit, limit_key=limit_key)
    if options is not UNSET:
        view.has_stream_options = True
        if options is not None:
            view.include_usage = options.include_usage
    if body.usage is not _ABSENT and not view.include_usage:
        asked = _try(_decode_include, body.usage)
        view.include_usage = view.include_usage if asked is None or asked.include is None else asked.include
    if body.tools is not _ABSENT or body.functions is not _ABSENT:
        _read_tools(view, body)
    view.conversation = body.previous_response_id or body.prompt_cache_key
    if body.conversation is not _ABSENT:
        view.conversation = _conversation(body.conversation) or view.conversation
        view.stateful = view.stateful or _given(body.conversation)
    if body.previous_response_id is not None or body.store or _given(body.container):
        view.stateful = True
    return view


def _limit(body: _Body) -> tuple[int | None, str]:
    """How long the answer may be, and the member of the top level that says so."""
    if body.max_completion_tokens is not None:
        return body.max_completion_tokens, "max_completion_tokens"
    if body.max_output_tokens is not None:
        return body.max_output_tokens, "max_output_tokens"
    limit = body.max_tokens
    for raw in (body.generationConfig, body.generation_config):
        if limit is None and raw is not _ABSENT and (said := _try(_decode_generation, raw)) is not None:
            limit = said.max_output_tokens if said.max_tokens is None else said.max_tokens
    return limit, "max_tokens"


def _read_tools(view: RequestView, body: _Body) -> None:
    for raw in (bytes(body.tools), bytes(body.functions)):
        if raw[:1] == b"[" and raw[1:-1].strip():
            view.tools = True
            view.stateful = view.stateful or _SERVER_TOOL.search(raw) is not None


def _given(raw: Raw) -> bool:
    return bytes(raw) not in (b"", b"null")


def _conversation(raw: Raw) -> str | None:
    """The id in `conversation`, which is a string or an object with an id."""
    named = _try(_decode_id, raw)
    return _try(_decode_str, raw) if named is None else named.id


def _tolerated(body: _Loose) -> RequestView:
    view = _view(_tolerate(body))
    options = body.stream_options
    view.odd_options = bytes(options) not in (b"", b"null", b"false") and _try(_decode_options, options) is None
    return view


def _tolerate(body: _Loose) -> _Body:
    """The members whose type is right; the others count as absent."""
    strict = _Body(tools=body.tools, functions=body.functions, container=body.container, usage=body.usage)
    strict.conversation = body.conversation
    strict.generationConfig, strict.generation_config = body.generationConfig, body.generation_config
    strict.model = _try(_decode_str, body.model)
    strict.stream = _try(_decode_bool, body.stream)
    strict.max_tokens = _try(_decode_int, body.max_tokens)
    strict.max_completion_tokens = _try(_decode_int, body.max_completion_tokens)
    strict.max_output_tokens = _try(_decode_int, body.max_output_tokens)
    strict.previous_response_id = _try(_decode_str, body.previous_response_id)
    strict.prompt_cache_key = _try(_decode_str, body.prompt_cache_key)
    strict.store = _try(_decode_bool, body.store)
    if body.stream_options is not _ABSENT:
        strict.stream_options = _try(_decode_options, body.stream_options)
    return strict


def _try(decode: Callable[[Raw], _T], raw: Raw) -> _T | None:
    try:
        return decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
