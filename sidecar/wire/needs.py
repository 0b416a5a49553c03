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
MEDIA_BYTES_PER_TOKEN: Final = (
    64.0  # of base64: a page of PDF has 100 kB and 1,500 tokens, a second of audio 20..40 kB and 10..32
)

_W: Final = rb"[ \t\r\n]{0,8}"
_IS: Final = _W + rb":" + _W
_SEARCH: Final = re.compile(
    rb'"(?=[tmrfdiu])(?:type"'
    + _IS
    + rb'"(?=i[nm]|fi|do|a[ud]|js|en)(?:((?:input_)?image(?:_url)?")|((?:input_)?file"|document")|((?:input_)?audio")'
    rb'|(json_schema")|(adaptive"|enabled"))'
    rb'|mime_?[tT]ype"' + _IS + rb'"(?:(image/)|(application/)|(audio/))'
    rb'|(response(?:S|_s|JsonS|_json_s)chema"' + _IS + rb"[\[{])"
    rb'|(reasoning_effort"' + _IS + rb'"(?!none")|reasoning"' + _IS + rb'\{[^{}]{0,80}?"effort"' + _IS + rb'"(?!none")'
    rb'|thinking_?[lL]evel"' + _IS + rb'"|thinking_?[bB]udget"' + _IS + rb"-?[1-9])"
    rb'|max_?[oO]utput_?[tT]okens"' + _IS + rb"([0-9]{1,9})"
    rb'|(?:data|file_data|url|image_url)"' + _IS + rb'"(?:data:[^",]{0,120},)?([A-Za-z0-9+/_\-]{256}))'
)
_BITS: Final = (
    0,
    IMAGES,
    DOCUMENTS,
    AUDIO,
    JSON_SCHEMA,
    THINKING,
    IMAGES,
    DOCUMENTS,
    AUDIO,
    JSON_SCHEMA,
    THINKING,
)  # of the expression's groups
_OUTPUT: Final = len(_BITS)
_BLOB: Final = _OUTPUT + 1
_MEDIA: Final = IMAGES | DOCUMENTS | AUDIO
_LONGEST_BYTES: Final = 600  # the longest match and some more: slices overlap by this


class Needs(Struct, gc=False):
    """What was found. `tokens` is the whole input, estimated; `output_tokens` 0 where nothing says how many."""

    bits: int = 0
    tokens: int = 0
    output_tokens: int = 0


class NeedSearch:
    """The search, which may be made in slices. Call `step` until it returns True; `found` is then final."""

    def __init__(self, body: bytes) -> None:
        self.found = Needs()
        self._body = body
        self._at = 0
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
        if group < _OUTPUT:
            bit = _BITS[group]
            self.found.bits |= bit
            if bit & _MEDIA:
                self._kind = bit
                self._tokens += IMAGE_TOKENS if bit == IMAGES else DOCUMENT_TOKENS
        elif group == _OUTPUT:
            self.found.output_tokens = int(match[_OUTPUT])
        else:
            quote = self._body.find(b'"', self._at)
            self._at = len(self._body) if quote < 0 else quote
            size = self._at - match.start(_BLOB)
            self._blobs += size
            if self._kind != IMAGES:
                self._tokens += size / MEDIA_BYTES_PER_TOKEN


def needs_of(body: bytes) -> Needs:
    """What this body needs, found in one go: for bodies of at most some hundred kilobytes."""
    search = NeedSearch(body)
    search.step(len(body))
    return search.found
