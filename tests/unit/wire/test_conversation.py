"""What tells conversations apart, and what the user said last."""

import json

import pytest

from sidecar.wire.conversation import MAX_KEY_BYTES, last_user_text, system_and_first_user
from sidecar.wire.json_edit import RequestView, SlicedReader

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
    key, text = system_and_first_user(body), last_user_text(body)
    assert (system_and_first_user(body, view), last_user_text(body, view=view)) == (key, text)
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
        assert system_and_first_user(body) == b""
        assert last_user_text(body) == ""


def test_results_are_bounded() -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "é" * 100_000}]}, ensure_ascii=False).encode()
    assert len(system_and_first_user(body)) == MAX_KEY_BYTES
    assert last_user_text(body, 10) == "é" * 10


def test_very_large_messages_count_by_their_beginning() -> None:
    """A message of a quarter of a megabyte is not decoded; its first 64 KiB still tell conversations apart."""
    large = "x" * 300_000
    one, _ = both({"system": large, "messages": [{"role": "user", "content": "a"}]})
    two, text = both({"messages": [{"role": "user", "content": "a" + large}, {"nothing": large}]})
    three, _ = both({"messages": [{"role": "user", "content": "b" + large}]})
    four, _ = both({"input": "c" + large})
    assert len({one, two, three, four}) == 4
    assert {len(key) for key in (one, two, three, four)} == {MAX_KEY_BYTES}
    assert "axxx" in text


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
