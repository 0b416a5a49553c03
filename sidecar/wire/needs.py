"""Finds out what a request needs of a model, without parsing it: one search over its bytes.

Inside a JSON text quotes are escaped, so `"type":"image_url"` in plain quotes is a part of the call and never what somebody
wrote. What is found: images, documents and audio in the input, an answer by a JSON schema, thinking, the answer's length
where Gemini says it, and how much of the body is base64. (That there are tools, and the length of the answer elsewhere, is
known from the body's top level: `json_edit`.)

The size in tokens is an estimate: BYTES_PER_TOKEN of text to a token, markup included; IMAGE_TOKENS for an image, whatever
its bytes; for documents and audio their base64 by MEDIA_BYTES_PER_TOKEN, and DOCUMENT_TOKENS for each, which is all that is
counted where the call only links to it. A tool's arguments that look like a part are taken for one: a request may seem to
need more than it does, and then fewer arms are offered it.

What it does not know: videos, images that the answer shall hold, what a linked file weighs.
"""

import re
from typing import Final

from msgspec import Struct

from sidecar.core.abilities import AUDIO, DOCUMENTS, IMAGES, JSON_SCHEMA, THINKING

BYTES_PER_TOKEN: Final = 4.0  # English text in today's vocabularies, with JSON's markup; other scripts have 2..3
IMAGE_TOKENS: Final = 1_000  # 85..1,600 by provider, detail and size
DOCUMENT_TOKENS: Final = 1_000  # a page or two
# of base64: a page of PDF has 100 kB and 1,500 tokens, a second of audio 20..40 kB and 10..32
MEDIA_BYTES_PER_TOKEN: Final = 64.0

_W: Final = rb"[ \t\r\n]{0,8}"
_IS: Final = _W + rb":" + _W
_BASE64: Final = rb'"' + _IS + rb'"(?:data:[^",]{0,120},)?([A-Za-z0-9+/_\-]{256})'
_SEARCH: Final = re.compile(
    rb'"(?:t(?:ype"' + _IS + rb'"(?=i[nm]|fi|do|a[ud]|js|en)'
    rb'(?:((?:input_)?image(?:_url)?")|((?:input_)?file"|document")|((?:input_)?audio")|(json_schema")|(adaptive"|enabled"))'
    rb'|(hinking_?(?:[lL]evel"' + _IS + rb'"|[bB]udget"' + _IS + rb"-?[1-9])))"
    rb'|m(?:ime_?[tT]ype"' + _IS + rb'"(?:(image/)|(application/)|(audio/))'
    rb'|ax_?[oO]utput_?[tT]okens"' + _IS + rb"([0-9]{1,9}))"
    rb'|r(?:(esponse(?:S|_s|JsonS|_json_s)chema"' + _IS + rb"[\[{])"
    rb'|(easoning(?:_effort"' + _IS + rb'"(?!none")|"' + _IS + rb'\{[^{}]{0,80}?"effort"' + _IS + rb'"(?!none"))))'
    rb"|d(?:ata"
    + _BASE64
    + rb")|f(?:ile_data"
    + _BASE64
    + rb")|i(?:mage_url"
    + _BASE64
    + rb")|u(?:rl"
    + _BASE64
    + rb"))"
)  # alternatives that begin with one letter each: the others are passed over without trying them
_BITS: Final = (
    0,
    IMAGES,
    DOCUMENTS,
    AUDIO,
    JSON_SCHEMA,
    THINKING,
    THINKING,
    IMAGES,
    DOCUMENTS,
    AUDIO,
    0,
    JSON_SCHEMA,
    THINKING,
)  # of the expression's groups; those behind are base64
_OUTPUT: Final = 10
_MEDIA: Final = IMAGES | DOCUMENTS | AUDIO
# Letters of base64 and of what stands before it in a URL of data, as JSON has them: PHP writes `\/`, .NET `\u002B`.
_LETTERS: Final = re.compile(rb"(?:[A-Za-z0-9+/_=:;,.\-]|\\(?:[/nr]|u002[BbFf])){256}")
_BLOB_BYTES: Final = 1024  # 256..4,096; shorter ones weigh little, however they are counted
_MOST_QUOTES: Final = 4096  # 1 ms; fewer: pictures behind many texts count as text, more: who hangs up holds the loop
_LONGEST_BYTES: Final = 600  # the longest match and some more: slices overlap by this


class Needs(Struct, gc=False):
    """What was found. `tokens` is the whole input, estimated; `output_tokens` 0 where nothing says how many."""

    bits: int = 0
    tokens: int = 0
    output_tokens: int = 0


class NeedSearch:
    """The search, which may be made in slices. Call `step` until it returns True; `found` is then final."""

    def __init__(self, body: bytes, begin: int = 0) -> None:
        """Before `begin` there is known to be nothing."""
        self.found = Needs()
        self._body = body
        self._at = begin
        self._kind = 0  # of the part that was begun last
        self._blobs = 0  # bytes of base64
        self._tokens = 0.0  # of what is not text

    def step(self, max_bytes: int) -> bool:
        """Goes on for about `max_bytes`; base64 is leapt over. True when it is through."""
        body, end = self._body, self._at + max_bytes
        while self._at < end:
            match = _SEARCH.search(body, self._at, end + _LONGEST_BYTES)
            if match is None or match.start() >= end:
                self._at = end
                break
            self._at = match.end()
            self._take(match)
        if self._at < len(body):
            return False
        self.found.tokens = int((len(body) - self._blobs) / BYTES_PER_TOKEN + self._tokens)
        return True

    def _take(self, match: re.Match[bytes]) -> None:
        """One find."""
        group = match.lastindex or 0
        if group == _OUTPUT:
            self.found.output_tokens = int(match[_OUTPUT])
        elif group < len(_BITS):
            bit = _BITS[group]
            self.found.bits |= bit
            if bit & _MEDIA:
                self._kind = bit
                self._tokens += IMAGE_TOKENS if bit == IMAGES else DOCUMENT_TOKENS
        else:
            quote = self._body.find(b'"', self._at)
            self._at = len(self._body) if quote < 0 else quote
            size = self._at - match.start(group)
            self._blobs += size
            if self._kind != IMAGES:
                self._tokens += size / MEDIA_BYTES_PER_TOKEN


def text_bytes(body: bytes) -> int:
    """How many bytes of this JSON body are text: what the base64 of pictures, files and sounds weighs is not known. It is
    told by what stands between two quotes: long, without a blank, and of its letters. Behind thousands of quotes nobody
    looks, and all is text."""
    size, begin = len(body), 0
    for _ in range(_MOST_QUOTES):
        end = body.find(b'"', begin)
        if end < 0:
            break
        if end - begin >= _BLOB_BYTES and _LETTERS.match(body, begin) and body.find(b" ", begin, end) < 0:
            size -= end - begin
        begin = end + 1
    return size


def needs_of_text(body: bytes) -> Needs:
    """The same of a body that is known to have nothing but texts and numbers."""
    return Needs(0, int(len(body) / BYTES_PER_TOKEN))


def needs_of(body: bytes) -> Needs:
    """What this body needs, found in one go: for bodies of at most some hundred kilobytes."""
    first = _SEARCH.search(body)
    if first is None:  # most calls are text alone
        return needs_of_text(body)
    search = NeedSearch(body, first.start())
    search.step(len(body))
    return search.found
