"""What an answer said, kept for checking: its texts and its tool calls, streamed or whole, of every dialect.

A collector is fed what the meter reads, only for routes whose policy lists a validator that needs it. It keeps at most
MAX_BYTES of one answer; of a longer one, and of one that it cannot read, nothing is known. Nothing of it is stored.
"""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from msgspec import Raw, Struct

from sidecar.core.types import Endpoint
from sidecar.wire.reading import read_as

MAX_BYTES: Final = 65_536  # characters of text and arguments of one answer
_MAX_CALLS: Final = 256  # of one answer, and as many choices
_ABSENT: Final = Raw(b"")
_DONE: Final = b"[DONE]"


class Call(Struct, frozen=True, gc=False):
    """One call of a tool that the request offered. `arguments` is JSON text as the model wrote it."""

    name: str
    arguments: str


class Said(Struct, frozen=True, gc=False):
    """An answer: the text of each choice that has one (no reasoning, no refusal), and the calls of all choices."""

    texts: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()


class Collector:
    """Give it every event of a stream, or one whole body, then ask `said`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._event, self._body = _READERS.get(endpoint, (_nothing, _nothing))
        self._texts: dict[int, list[str]] = {}
        self._calls: dict[tuple[int, int], list[str]] = {}  # name, then pieces of the arguments
        self._counts: dict[int, int] = {}  # calls of each choice
        self._places: dict[tuple[int, int], tuple[int, str | None]] = {}  # by an index: the call it is now, and its id
        self._room = MAX_BYTES
        self._read = False

    def event(self, data: bytes) -> None:
        """The data of one server-sent event."""
        if self._room > 0 and data != _DONE:
            self._read = self._event(self, data) or self._read

    def body(self, data: bytes) -> None:
        """A whole body."""
        self._read = self._body(self, data)

    def lose(self) -> None:
        """Some of the answer was not seen: it is unknown from now on."""
        self._room = 0
        self._texts.clear()
        self._calls.clear()
        self._counts.clear()
        self._places.clear()

    def said(self) -> Said | None:
        """The answer so far; None where it was too long, or nothing of it could be read."""
        if self._room <= 0 or not self._read:
            return None
        texts = tuple("".join(self._texts[at]) for at in sorted(self._texts))
        calls = tuple(Call(parts[0], "".join(parts[1:])) for _, parts in sorted(self._calls.items()))
        return Said(texts, calls)

    def add_text(self, choice: int, text: str | None) -> None:
        """A piece of the text of one choice; an empty one makes that the choice is there."""
        if text is None or not self._spend(len(text)):
            return
        self._texts.setdefault(choice, []).append(text)
        if len(self._texts) > _MAX_CALLS:
            self.lose()

    def add_call(self, choice: int, place: int, name: str | None, arguments: str | None) -> None:
        """A piece of the call at this place of this choice."""
        if not self._spend(len(name or "") + len(arguments or "")):
            return
        parts = self._calls.get((choice, place))
        if parts is None:
            parts = self._calls[choice, place] = [""]
            self._counts[choice] = self._counts.get(choice, 0) + 1
        if name and not parts[0]:
            parts[0] = name
        if arguments:
            parts.append(arguments)
        if len(self._calls) > _MAX_CALLS:
            self.lose()

    @property
    def is_empty(self) -> bool:
        return not (self._texts or self._calls)

    def has_call(self, choice: int, place: int) -> bool:
        return (choice, place) in self._calls

    def next_place(self, choice: int, *, begins: bool) -> int:
        """The place of a call that came without its index: a new one when it begins, else the last one."""
        count = self._counts.get(choice, 0)
        return count if begins or not count else count - 1

    def place_of(self, choice: int, index: int | None, call_id: str | None, *, begins: bool) -> int:
        """The place of a call of this index. There are servers that give all calls the same one."""
        if index is None:
            return self.next_place(choice, begins=begins)
        place, known = self._places.get((choice, index), (index, None))
        if begins and (parts := self._calls.get((choice, place))) is not None:
            other = call_id != (known or call_id) if call_id else _is_object("".join(parts[1:]))
            place = self.next_place(choice, begins=True) if other else place
        self._places[choice, index] = place, call_id or known
        return place

    def _spend(self, size: int) -> bool:
        if self._room > 0:
            self._room -= size
            if self._room <= 0:
                self.lose()
        return self._room > 0


def read_answer(body: bytes, endpoint: Endpoint) -> Said | None:
    """What a whole body said; None where that is unknown."""
    collector = Collector(endpoint)
    collector.body(body)
    return collector.said()


# ---- chat and completions


class _Function(Struct, gc=False):
    """`arguments` is JSON text in a string; some servers send the object itself."""

    name: str | None = None
    arguments: Raw = _ABSENT


class _ToolCall(Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _ChatPart(Struct, gc=False):
    """Mistral: what was thought has no text of its own."""

    text: str | None = None


class _ChatMessage(Struct, gc=False):
    content: str | list[_ChatPart] | None = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None


class _Choice(Struct, gc=False):
    index: int | None = None
    delta: _ChatMessage | None = None
    message: _ChatMessage | None = None
    text: str | None = None


class _Chat(Struct, gc=False):
    choices: list[_Choice] | None = None


_chat = msgspec.json.Decoder(_Chat)
_string = msgspec.json.Decoder(str)
_object = msgspec.json.Decoder(dict[str, Raw])


def _read_chat(to: Collector, data: bytes) -> bool:
    """A chunk or a whole body: they differ in the member's name only."""
    read = read_as(_chat, data)
    if read is None:
        return False
    for at, choice in enumerate(read.choices or ()):
        place = at if choice.index is None else choice.index
        to.add_text(place, choice.text)
        message = choice.delta or choice.message
        if message is not None:
            _add_message(to, place, message)
    return True


def _add_message(to: Collector, choice: int, message: _ChatMessage) -> None:
    if isinstance(message.content, list):
        for part in message.content:
            to.add_text(choice, part.text)
    else:
        to.add_text(choice, message.content)
    for call in message.tool_calls or ():
        if call.function is not None:
            function = call.function
            place = to.place_of(choice, call.index, call.id, begins=bool(function.name))
            to.add_call(choice, place, function.name, _arguments(function.arguments))
    if message.function_call is not None:
        to.add_call(choice, 0, message.function_call.name, _arguments(message.function_call.arguments))


def _is_object(text: str) -> bool:
    if not text.startswith("{"):
        return False
    try:
        _object.decode(text.encode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _arguments(value: Raw) -> str | None:
    text = bytes(value)
    if text[:1] == b'"':
        return read_as(_string, text)
    return _text_of(value) if text[:1] == b"{" else None


# ---- Responses


class _Part(Struct, gc=False):
    type: str | None = None
    text: str | None = None


class _Item(Struct, gc=False):
    type: str | None = None
    content: list[_Part] | None = None
    name: str | None = None
    arguments: str | None = None


class _Response(Struct, gc=False):
    output: list[_Item] | None = None


class _ResponsesEvent(Struct, gc=False):
    type: str | None = None
    item: _Item | None = None
    response: _Response | None = None


_LAST: Final = frozenset({"response.completed", "response.incomplete"})
_response = msgspec.json.Decoder(_Response)
_responses_event = msgspec.json.Decoder(_ResponsesEvent)


def _read_responses_event(to: Collector, data: bytes) -> bool:
    """Whole items come once each, in `response.output_item.done`, and again in the last event, which is enough where a
    server sends only that. The deltas before them are not needed."""
    read = read_as(_responses_event, data)
    if read is None:
        return False
    if read.type == "response.output_item.done" and read.item is not None:
        _add_item(to, read.item)
        return True
    if read.type in _LAST and read.response is not None and to.is_empty:
        for item in read.response.output or ():
            _add_item(to, item)
        return read.response.output is not None
    return False


def _read_response(to: Collector, data: bytes) -> bool:
    read = read_as(_response, data)
    for item in () if read is None else read.output or ():
        _add_item(to, item)
    return read is not None


def _add_item(to: Collector, item: _Item) -> None:
    if item.type == "message":
        for part in item.content or ():
            if part.type == "output_text":
                to.add_text(0, part.text)
    elif item.type == "function_call":
        to.add_call(0, to.next_place(0, begins=True), item.name or "", item.arguments)


# ---- Anthropic


class _Block(Struct, gc=False):
    type: str | None = None
    text: str | None = None
    name: str | None = None
    input: Raw = _ABSENT


class _Delta(Struct, gc=False):
    text: str | None = None
    partial_json: str | None = None


class _MessageEvent(Struct, gc=False):
    type: str | None = None
    index: int = 0
    content_block: _Block | None = None
    delta: _Delta | None = None


class _Message(Struct, gc=False):
    content: list[_Block] | None = None


_message = msgspec.json.Decoder(_Message)
_message_event = msgspec.json.Decoder(_MessageEvent)


def _read_message_event(to: Collector, data: bytes) -> bool:
    """Input pieces that belong to no call of ours (a server's own tool) open no call, so they are dropped."""
    read = read_as(_message_event, data)
    if read is None:
        return False
    if read.type == "content_block_start" and read.content_block is not None:
        _add_block(to, read.index, read.content_block, begins=True)
    elif read.type == "content_block_delta" and read.delta is not None:
        to.add_text(0, read.delta.text)
        if read.delta.partial_json and to.has_call(0, read.index):
            to.add_call(0, read.index, None, read.delta.partial_json)
    return True


def _read_message(to: Collector, data: bytes) -> bool:
    read = read_as(_message, data)
    for at, block in enumerate(() if read is None else read.content or ()):
        _add_block(to, at, block, begins=False)
    return read is not None


def _add_block(to: Collector, place: int, block: _Block, *, begins: bool) -> None:
    """A block as it begins has an empty input, whose pieces follow; a whole one has all of it."""
    if block.type == "text":
        to.add_text(0, block.text)
    elif block.type == "tool_use":
        to.add_call(0, place, block.name or "", None if begins else _text_of(block.input))


# ---- Gemini


class _GeminiCall(Struct, gc=False):
    name: str | None = None
    args: Raw = _ABSENT


class _GeminiPart(Struct, gc=False, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    function_call: _GeminiCall | None = None


class _Content(Struct, gc=False):
    parts: list[_GeminiPart] | None = None


class _Candidate(Struct, gc=False):
    index: int = 0
    content: _Content | None = None


class _Generated(Struct, gc=False):
    candidates: list[_Candidate] | None = None


_generated = msgspec.json.Decoder(_Generated)
_generated_list = msgspec.json.Decoder(list[_Generated])


def _read_generated(to: Collector, data: bytes) -> bool:
    """An event, a whole body, or the JSON array that a stream without `alt=sse` is."""
    if data.lstrip()[:1] == b"[":
        chunks = read_as(_generated_list, data)
    else:
        one = read_as(_generated, data)
        chunks = None if one is None else [one]
    for chunk in chunks or ():
        for candidate in chunk.candidates or ():
            for part in candidate.content.parts or () if candidate.content is not None else ():
                if not part.thought:
                    to.add_text(candidate.index, part.text)
                if part.function_call is not None:
                    call = part.function_call
                    place = to.next_place(candidate.index, begins=True)
                    to.add_call(candidate.index, place, call.name or "", _text_of(call.args))
    return bool(chunks)


def _text_of(value: Raw) -> str:
    return bytes(value).decode("utf-8", "replace")


def _nothing(_to: Collector, _data: bytes) -> bool:
    return False


_Reader = Callable[[Collector, bytes], bool]
_READERS: Mapping[Endpoint, tuple[_Reader, _Reader]] = {
    "chat": (_read_chat, _read_chat),
    "completions": (_read_chat, _read_chat),
    "responses": (_read_responses_event, _read_response),
    "messages": (_read_message_event, _read_message),
    "generate": (_read_generated, _read_generated),
}
