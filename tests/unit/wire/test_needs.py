"""What a request needs is found in its bytes: in every dialect, at every cut, and never in what somebody wrote."""

import base64
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.abilities import AUDIO, DOCUMENTS, IMAGES, JSON_SCHEMA, THINKING
from sidecar.wire.needs import (
    BYTES_PER_TOKEN,
    DOCUMENT_TOKENS,
    IMAGE_TOKENS,
    MEDIA_BYTES_PER_TOKEN,
    Needs,
    NeedSearch,
    needs_of,
    text_bytes,
)
from sidecar.wire.request_view import SlicedReader, read_request

BLOB = base64.b64encode(hashlib.shake_256(b"pixels").digest(90_000)).decode()
CALLS: list[tuple[int, Any]] = [
    (IMAGES, {"type": "image_url", "image_url": {"url": "https://a/b.png"}}),
    (IMAGES, {"type": "input_image", "image_url": "data:image/png;base64," + BLOB}),
    (IMAGES, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": BLOB}}),
    (IMAGES, {"inlineData": {"mimeType": "image/png", "data": BLOB}}),
    (IMAGES, {"inline_data": {"mime_type": "image/png", "data": BLOB}}),
    (DOCUMENTS, {"type": "file", "file": {"file_data": "data:application/pdf;base64," + BLOB}}),
    (DOCUMENTS, {"type": "input_file", "file_url": "https://a/b.pdf"}),
    (DOCUMENTS, {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": BLOB}}),
    (DOCUMENTS, {"inlineData": {"mimeType": "application/pdf", "data": BLOB}}),
    (AUDIO, {"type": "input_audio", "input_audio": {"data": BLOB, "format": "wav"}}),
    (AUDIO, {"inlineData": {"mimeType": "audio/wav", "data": BLOB}}),
    (JSON_SCHEMA, {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}),
    (JSON_SCHEMA, {"generationConfig": {"responseSchema": {"type": "OBJECT"}}}),
    (JSON_SCHEMA, {"generationConfig": {"responseJsonSchema": {"type": "object"}}}),
    (JSON_SCHEMA, {"generation_config": {"response_json_schema": {"type": "object"}}}),
    (THINKING, {"reasoning_effort": "high"}),
    (THINKING, {"reasoning": {"effort": "low"}}),
    (THINKING, {"reasoning": {"summary": "auto", "effort": "low"}}),
    (THINKING, {"thinking": {"type": "enabled", "budget_tokens": 2048}}),
    (THINKING, {"thinking": {"type": "adaptive"}}),
    (THINKING, {"thinkingConfig": {"thinkingBudget": 100}}),
    (THINKING, {"thinkingConfig": {"thinkingBudget": -1}}),
    (THINKING, {"thinking_config": {"thinking_level": "HIGH"}}),
    (0, {"reasoning_effort": "none"}),
    (0, {"reasoning": {"effort": "none"}}),
    (0, {"thinking": {"type": "disabled"}}),
    (0, {"thinkingConfig": {"thinkingBudget": 0}}),
    (0, {"response_format": {"type": "json_object"}}),
    (0, {"type": "text", "text": "images and documents"}),
    (0, {"parameters": {"properties": {"reasoning": {"type": "string"}, "image": {"type": "string"}}}}),
    (0, {"content": json.dumps({"type": "image_url", "reasoning_effort": "high"})}),
]


def body(*parts: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": list(parts)}]}).encode()


@pytest.mark.parametrize(("bits", "part"), CALLS, ids=lambda one: str(one)[:60])
def test_every_spelling(bits: int, part: Any) -> None:
    """As the three dialects write it, with and without white space."""
    assert needs_of(body(part)).bits == bits
    assert needs_of(json.dumps(part, separators=(",", ":")).encode()).bits == bits
    assert needs_of(json.dumps(part, indent=2).encode()).bits == bits


def test_the_answers_length() -> None:
    """Where Gemini says it; elsewhere the top level does."""
    assert needs_of(b'{"generationConfig":{"maxOutputTokens": 500}}').output_tokens == 500
    assert needs_of(b'{"generation_config":{"max_output_tokens":7}}').output_tokens == 7
    assert needs_of(b'{"generationConfig":{"maxOutputTokens":"x"}}').output_tokens == 0


def test_text_is_counted_by_its_bytes() -> None:
    """Markup included."""
    text = body({"type": "text", "text": "word " * 1000})
    assert needs_of(text) == Needs(0, int(len(text) / BYTES_PER_TOKEN))
    assert needs_of(b"") == Needs()


@pytest.mark.parametrize(
    ("part", "tokens"),
    [
        (CALLS[1][1], IMAGE_TOKENS),
        (CALLS[2][1], IMAGE_TOKENS),
        (CALLS[3][1], IMAGE_TOKENS),
        (CALLS[0][1], IMAGE_TOKENS),
        (CALLS[5][1], DOCUMENT_TOKENS + len(BLOB) / MEDIA_BYTES_PER_TOKEN),
        (CALLS[9][1], DOCUMENT_TOKENS + len(BLOB) / MEDIA_BYTES_PER_TOKEN),
    ],
)
def test_base64_is_no_text(part: Any, tokens: float) -> None:
    """An image counts the same whatever its bytes; documents and sound by them."""
    made = body(part)
    text = len(made) - (len(BLOB) if BLOB in made.decode() else 0)
    assert needs_of(made).tokens == int(text / BYTES_PER_TOKEN + tokens)


def test_base64_without_an_end() -> None:
    """A body that is cut off in it is no reason to look for ever."""
    made = body(CALLS[1][1])[: -len(BLOB) // 2]
    assert needs_of(made).bits == IMAGES


def test_long_texts_are_texts() -> None:
    """A member `data` with words in it is counted as the text that it is."""
    made = body({"type": "text", "data": "word " * 10_000})
    assert needs_of(made).tokens == int(len(made) / BYTES_PER_TOKEN)


@given(st.lists(st.sampled_from([part for _, part in CALLS]), max_size=8), st.integers(1, 5_000))
def test_slices_find_the_same(parts: list[Any], step: int) -> None:
    """Wherever the body is cut."""
    made = body(*parts)
    search = NeedSearch(made)
    while not search.step(step):
        pass
    assert search.found == needs_of(made)


@pytest.mark.parametrize("state", [b"", b',"metadata":{"file_id":"f"}'])
def test_a_large_body_is_searched_in_slices(state: bytes) -> None:
    """The reader of large bodies finds them beside what it looks for anyway, and only where it is asked."""
    made = body({"type": "text", "text": "word " * 100_000}, CALLS[1][1])[:-1] + state + b"}"
    plain, asked = SlicedReader(made), SlicedReader(made, needs=True)
    while not plain.step(50_000):
        assert plain.view is None
    while not asked.step(50_000):
        assert asked.view is None
    whole = read_request(made)
    assert whole is not None
    assert plain.view is not None
    assert asked.view is not None
    assert plain.view.needs is None
    assert asked.view.needs == needs_of(made)
    assert plain.view.stateful == asked.view.stateful == whole.stateful == bool(state)


def test_text_is_what_is_no_base64() -> None:
    """A mark of base64 in a text, and texts without blanks, are text all the same; so is all behind too many quotes."""
    letters = base64.b64encode(bytes(range(256)) * 20)
    for picture in (b'{"url":"data:image/png;base64,%b"}', b'{"data": "%b","a":"b"}'):
        for spelled in (
            letters,
            letters.replace(b"/", b"\\/"),  # PHP
            letters.replace(b"+", b"\\u002B"),  # .NET
            base64.encodebytes(bytes(range(256)) * 20).replace(b"\n", b"\\n"),  # MIME
        ):
            assert len(picture % b"") - 30 < text_bytes(picture % spelled) <= len(picture % b"")
    whole = [
        b'{"text":"four"}',
        b'{"text":"url(data:image/png;base64,AAAA) %b"}' % (b"word " * 5000),
        b'{"type":"text","data":"%b"}' % (b"word " * 5000),
        b'{"data":"%b"}' % ("\u6587".encode() * 5000),
        json.dumps({"data": "\u6587" * 5000}).encode(),
        b'{"data":"' + letters,
        b'["a"%b,"%b"]' % (b',"a"' * 2100, letters),
    ]
    assert [text_bytes(one) for one in whole] == [len(one) for one in whole]
