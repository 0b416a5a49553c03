"""What tells conversations apart, and what the user said last."""

import json

import pytest

from sidecar.wire.conversation import MAX_KEY_BYTES, Texts, last_user_text, texts_of
from sidecar.wire.request_view import RequestView, SlicedReader, read_request

SYSTEM = {"role": "system", "content": "Be brief."}
FIRST = {"role": "user", "content": [{"type": "text", "text": "Where is it?", "cache_control": {"type": "ephemeral"}}]}
REPLY = {"role": "assistant", "content": "Here."}
NEXT = {"role": "user", "content": "And now?"}


def read_in_slices(body: bytes) -> RequestView | None:
    reader = SlicedReader(body)
    while not reader.step(100):
        pass
    return reader.view


def both(call: dict[str, object]) -> tuple[bytes, str]:
    """The answers for one body, read at once and in slices, which must be the same."""
    body = json.dumps(call).encode()
    view = read_in_slices(body)
    key, text = texts_of(body).beginning, last_user_text(body)
    assert texts_of(body) == texts_of(body, view) == Texts(key, text)
    return key, text


@pytest.mark.parametrize(
    ("call", "key", "text"),
    [
        ({"model": "m", "messages": [SYSTEM, FIRST]}, b"Be brief.\0Where is it?", "Where is it?"),
        ({"messages": [SYSTEM, FIRST, REPLY, NEXT]}, b"Be brief.\0Where is it?", "And now?"),
        ({"system": "Be kind.", "messages": [FIRST]}, b"Be kind.\0Where is it?", "Where is it?"),
        ({"system": [{"type": "text", "text": "Be kind."}], "messages": [NEXT]}, b"Be kind.\0And now?", "And now?"),
        ({"instructions": "Help.", "input": "Hi"}, b"Help.\0Hi", "Hi"),
        (
            {
                "input": [
                    {"role": "developer", "content": "D"},
                    {"role": "user", "content": [{"type": "input_text", "text": "U"}]},
                ]
            },
            b"D\0U",
            "U",
        ),
        (
            {"messages": [NEXT, {"role": "user", "content": [{"type": "tool_result", "content": "x"}]}]},
            b"And now?",
            "And now?",
        ),
        ({"messages": [REPLY]}, b"", ""),
        ({"messages": "text", "input": 7}, b"text", "text"),
        ({"messages": [{"role": 7, "content": "x"}, {"role": "user", "content": 5}, {"role": "user"}]}, b"", ""),
        ({"messages": [{"role": "user", "content": ["x", {"text": None}]}]}, b'"x"\0{"text": null}', ""),
        ({}, b"", ""),
    ],
)
def test_reads_each_dialect(call: dict[str, object], key: bytes, text: str) -> None:
    assert both(call) == (key, text)


def test_unreadable_bodies_say_nothing() -> None:
    for body in (b"", b"[]", b'{"messages":[1,', b'{"messages":[{"role":"user","content":"\xff"}]}'):
        assert texts_of(body).beginning == b""
        assert last_user_text(body) == ""


def test_results_are_bounded() -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "é" * 100_000}]}, ensure_ascii=False).encode()
    assert len(texts_of(body).beginning) == MAX_KEY_BYTES
    assert last_user_text(body + b" ", 10) == "é" * 10
    assert len(last_user_text(body)) == 2048


def test_the_end_of_the_last_text() -> None:
    """A long last message counts by its end, where the question stands; a quick and a complete reading agree."""
    said = "".join(chr(97 + at % 26) for at in range(5000))
    plain = {"messages": [FIRST, {"role": "user", "content": said}]}
    parts = {"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": said}]}
    for call in (plain, parts):
        assert both(call)[1] == said[-2048:]
    assert texts_of(json.dumps(parts).encode(), limit=7).last == said[-7:]


@pytest.mark.parametrize("first", [FIRST, {"role": "user", "content": "Where is it?"}])
def test_only_what_is_asked_for(first: dict[str, object]) -> None:
    """Either text alone, or neither."""
    body = json.dumps({"messages": [first, NEXT]}).encode()
    assert texts_of(body, last=False) == Texts(b"Where is it?", "")
    assert texts_of(body, beginning=False) == Texts(b"", "And now?")
    assert texts_of(body, beginning=False, last=False) == Texts()


def test_very_large_messages_count_by_their_beginning() -> None:
    """A message of a quarter of a megabyte is not decoded; its first 64 KiB still tell conversations apart."""
    large = "x" * 300_000
    one, _ = both({"system": large, "messages": [{"role": "user", "content": "a"}]})
    two, text = both({"messages": [{"role": "user", "content": "a" + large}, {"nothing": large}]})
    three, _ = both({"messages": [{"role": "user", "content": "b" + large}]})
    four, _ = both({"input": "c" + large})
    assert len({one, two, three, four}) == 4
    assert {len(key) for key in (one, two, three, four)} == {MAX_KEY_BYTES}
    assert text.startswith("xxx")


def test_the_quick_way_gives_the_same() -> None:
    """A call of plain texts is read in one decode: the key equals that of the same call written as parts."""
    turns = [
        ("assistant", "old"),
        ("developer", "D"),
        ("system", ""),
        ("system", "é"),
        ("user", "U"),
        ("user", "later"),
    ]
    plain = {"system": "S", "messages": [{"role": role, "content": text} for role, text in turns]}
    parts = {"system": "S", "messages": [{"role": role, "content": [{"text": text}]} for role, text in turns]}
    key, _ = both(plain)
    assert key == both(parts)[0] == "S\0D\0é\0U".encode()
    assert both({"messages": [{"role": "user", "content": ""}]})[0] == b""
    assert both({"messages": []})[0] == b""


@pytest.mark.parametrize("begins", [True, False])
def test_a_plain_call_is_not_read_again(begins: bool) -> None:
    """What was read of it already says the same, system text and all."""
    body = (
        b'{"model":"m","system":"Be kind.","messages":[{"role":"user","content":"Hello"},'
        b'{"role":"assistant","content":"Hi"},{"role":"user","content":"Bye"}]}'
    )
    view = read_request(body)
    assert view is not None
    assert view.plain is not None
    found = texts_of(b"", view, beginning=begins)
    assert found == texts_of(body, beginning=begins)
    assert found.last == "Bye"


def test_messages_under_a_key_with_escapes() -> None:
    """A parser reads no other key there, so a large body is of the same conversation as a small one."""
    body = json.dumps({"messages": [SYSTEM, FIRST, REPLY, NEXT]}).encode().replace(b'"messages"', b'"\\u006dessages"')
    told = Texts(b"Be brief.\0Where is it?", "And now?")
    assert texts_of(body) == texts_of(body, read_in_slices(body)) == told
