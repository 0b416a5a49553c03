"""The system prompt of each dialect is changed in its place, and nothing else of the body is."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.wire.json_edit import edit_request
from sidecar.wire.json_scan import MemberScanner
from sidecar.wire.request_view import SlicedReader, read_request
from sidecar.wire.system_prompt import edit_system

NEW = 'be "brief"\n\u00e9\ud83d\ude00'.encode("utf-16", "surrogatepass").decode("utf-16")


def changed(body: bytes, endpoint: str, rewrite: Callable[[str], str]) -> bytes:
    made = edit_system(body, endpoint, rewrite)
    assert made is not None
    assert made[1] is None
    return made[0]


def put(_old: str) -> str:
    return NEW


def upper(old: str) -> str:
    return old.upper()


def edited(body: bytes, endpoint: str) -> Any:
    return json.loads(changed(body, endpoint, put))


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("chat", b'{"messages":[{"role":"system","content":"OLD"},{"role":"user","content":"hi"}]}'),
        ("chat", b'{"messages":[{"content": "OLD" ,"role":"developer"}]}'),
        (
            "chat",
            b'{"messages":[{"role":"system","content":[{"type":"text","text":"OLD"},{"type":"text","text":"b"}]}]}',
        ),
        ("chat", b'{"m\\u0065ssages":1,"messages":[ {"role":"system","content":"OLD"} ]}'),
        ("chat", b'{"m\\u0065ssages":[{"r\\u006fle":"syst\\u0065m","c\\u006fntent":"OLD"}]}'),
        (
            "chat",
            b'{"messages":[{"role":"system","content":"a"}],"\\u006dessages":[{"role":"system","content":"OLD"}]}',
        ),
        ("chat", b'{"messages":{"role":"system"},"messages":[{"role":"system","content":"OLD"}]}'),
        ("responses", b'{"input":"hi","instructions":"OLD"}'),
        ("responses", b'{"input":[{"role":"developer","content":[{"type":"input_text","text":"OLD"}]}]}'),
        ("responses", b'{"\\u0069nput":[{"role":"developer","content":"OLD"}]}'),
        ("messages", b'{"system":"OLD","messages":[]}'),
        ("messages", b'{"\\u0073ystem":"OLD","messages":[]}'),
        (
            "messages",
            b'{"system":[{"type":"text","cache_control":{"type":"ephemeral"},"text":"OLD"},{"type":"text","text":"b"}]}',
        ),
        ("generate", b'{"systemInstruction":{"parts":[{"inlineData":1},{"text":"OLD"},{"text":"b"}]},"contents":[]}'),
        ("generate", b'{"system_instruction":{"parts":{"text":"OLD"}}}'),
        ("generate", b'{"system_instruction":null,"systemInstruction":{"parts":[{"text":"OLD"}]}}'),
        ("generate", b'{"systemInstruction":null,"\\u0073ystem_instruction":{"p\\u0061rts":[{"text":"OLD"}]}}'),
    ],
)
def test_only_the_text_is_replaced(endpoint: str, body: bytes) -> None:
    """The bytes before and after the old text are those of the client."""
    before, _, after = body.partition(b'"OLD"')
    new = changed(body, endpoint, put)
    assert new.startswith(before)
    assert new.endswith(after)
    assert json.loads(new[len(before) : len(new) - len(after)]) == NEW


def test_the_old_text_is_told() -> None:
    """A rewrite gets the text as a parser reads it, escapes and all."""
    body = rb'{"messages":[{"role":"system","content":"a\u00e9\n"}]}'
    assert json.loads(changed(body, "chat", upper))["messages"][0]["content"] == "A\u00c9\n"


@pytest.mark.parametrize(
    ("endpoint", "body", "added"),
    [
        ("chat", b'{"messages":[{"role":"user","content":"hi"}]}', b'{"role":"system","content":"S"},'),
        ("chat", b'{"messages":[ ]}', b'{"role":"system","content":"S"}'),
        ("chat", b'{"messages":["?"]}', b'{"role":"system","content":"S"},'),
        ("responses", b'{"input":"hi"}', b'"instructions":"S",'),
        ("responses", b'{"input":[{"role":"user","content":"x"}]}', b'"instructions":"S",'),
        ("messages", b'{"messages":[]}', b'"system":"S",'),
        ("messages", b"{}", b'"system":"S"'),
        ("generate", b'{"contents":[]}', b'"systemInstruction":{"parts":[{"text":"S"}]},'),
        ("generate", b'{"systemInstruction":{"role":"x"}}', b'"parts":[{"text":"S"}],'),
        ("messages", b'{"system":[]}', b'{"type":"text","text":"S"}'),
        ("chat", b'{"messages":[{"role":"system","content":[]}]}', b'{"type":"text","text":"S"}'),
        ("responses", b'{"input":[{"role":"system","content":[]}]}', b'{"type":"input_text","text":"S"}'),
        ("generate", b'{"system_instruction":{"parts":[]}}', b'{"text":"S"}'),
    ],
)
def test_where_there_is_none_one_is_inserted(endpoint: str, body: bytes, added: bytes) -> None:
    """The body is the old one with one piece more."""
    new = changed(body, endpoint, lambda old: old + "S")
    assert len(new) == len(body) + len(added)
    assert added in new
    assert new.replace(added, b"", 1) == body
    assert isinstance(json.loads(new), dict)


@pytest.mark.parametrize("endpoint", ["chat", "responses", "messages", "generate"])
@pytest.mark.parametrize(
    "body",
    [
        b'{"messages":[]}',
        b'{"instructions":null,"system":null,"systemInstruction":null,"messages":[]}',
        b'{"messages":[{"role":"system","content":[]}],"system":[],"systemInstruction":{"parts":[]}}',
    ],
)
def test_no_text_is_not_inserted(endpoint: str, body: bytes) -> None:
    """An edit of a prompt that is not there changes nothing when it gives none."""
    assert changed(body, endpoint, upper) == body


@pytest.mark.parametrize(
    ("endpoint", "body", "path"),
    [
        ("responses", b'{"instructions":null}', ("instructions",)),
        ("messages", b'{"system":null}', ("system",)),
        ("generate", b'{"system_instruction":null}', ("system_instruction", "parts", 0, "text")),
        ("generate", b'{"systemInstruction":{"parts":null}}', ("systemInstruction", "parts", 0, "text")),
    ],
)
def test_null_is_none(endpoint: str, body: bytes, path: tuple[Any, ...]) -> None:
    """A member that is null is filled, and not given a second time."""
    found = edited(body, endpoint)
    assert len(found) == 1
    for key in path:
        found = found[key]
    assert found == NEW


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("embeddings", b'{"input":"x"}'),
        ("chat", b'{"messages":"x"}'),
        ("chat", b"{}"),
        ("chat", b"[]"),
        ("chat", b'{"messages":[{"role":"system","content":"OLD"}]'),
        ("chat", b'{"messages":[{"role":"system","content":5}]}'),
        ("chat", b'{"messages":[{"role":"system","content":[{"type":"image_url"}]}]}'),
        ("chat", b'{"messages":[{"role":"system"}]}'),
        ("chat", b'{"messages":[{"role":"system","content":"a"}],"messages":"x"}'),
        ("completions", b'{"prompt":"x"}'),
        ("chat", b'{"messages":[{"role":"system","content":"\\ud800\\x"}]}'),
        ("messages", b'{"system":5}'),
        ("messages", b'{"system":[{"text":5}]}'),
        ("responses", b'{"instructions":[]}'),
        ("generate", b'{"systemInstruction":"x"}'),
        ("generate", b'{"systemInstruction":{"parts":"x"}}'),
        ("generate", b'{"systemInstruction":{"parts":[{"inlineData":1}]}}'),
        ("generate", b'{"systemInstruction":{"parts":[{"text":"a"}]},"system_instruction":{"parts":[{"text":"b"}]}}'),
        ("generate", b'{"systemInstruction":{"parts":[{"text":5}]}}'),
    ],
)
def test_what_is_not_understood_is_told(endpoint: str, body: bytes) -> None:
    """Other types than the API knows, other endpoints, a place with two names, and what is no object: there is no edit,
    not even one that would change nothing, so that all variants leave the same calls out."""
    assert edit_system(body, endpoint, put) is None
    assert edit_system(body, endpoint, lambda old: old) is None


def test_the_same_text_changes_no_byte() -> None:
    """Escapes that the client chose stay when the text stays."""
    body = rb'{"system":"\u0061b"}'
    assert changed(body, "messages", lambda old: old) == body


def test_keys_that_no_parser_reads_are_like_no_other() -> None:
    """A broken escape in a key is not our key."""
    body = b'{"syste\\x":"a","messages":[]}'
    assert changed(body, "messages", put).startswith(b'{"system":')


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("chat", b'{"a":1,"messages":[{"role":"system","content":"OLD"}],"model":"m","stream_options":{}}'),
        ("chat", b'{"model":"m" , "messages":[{"role":"user","content":"OLD"}], "temperature" : 1}'),
        ("responses", b'{"input":"x","model":"m"}'),
        ("responses", b'{"instructions":"","input":"OLD","model":"m"}'),
        ("responses", b"{ }"),
    ],
)
def test_a_body_that_was_read_in_slices_is_not_scanned_again(endpoint: str, body: bytes) -> None:
    """Its layout gives the same edit, and what comes back serves the other edits of the new body."""
    reader = SlicedReader(body)
    while not reader.step(16):
        pass
    assert reader.view is not None
    made = edit_system(body, endpoint, put, reader.view)
    assert made is not None
    new, view = made
    assert new == changed(body, endpoint, put)
    assert view is not None
    assert view.layout is not None
    scanned = MemberScanner(new).finish()
    assert {view.layout.key(one): one for one in view.layout.members}.items() <= {
        scanned.key(one): one for one in scanned.members
    }.items()
    edits = {"model": "other", "params": [("temperature", b"0")], "ask_usage": True}
    assert edit_request(new, **edits, view=view) == edit_request(new, **edits)  # type: ignore[arg-type]  # three kinds
    small = read_request(body)
    assert edit_system(body, endpoint, put, small) == (new, small)


texts = st.text(max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
blocks = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": texts}), max_size=3)
contents = texts | blocks
turns = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": contents}), max_size=3
)
leading = st.fixed_dictionaries({"role": st.sampled_from(["system", "developer"]), "content": contents})
parts = st.lists(st.fixed_dictionaries({"text": texts}), max_size=3)


def chat(first: list[Any], rest: list[Any]) -> dict[str, Any]:
    return {"messages": first + rest}


bodies = st.one_of(
    st.tuples(
        st.just("chat"), st.builds(lambda first, rest: {"messages": first + rest}, st.lists(leading, max_size=1), turns)
    ),
    st.tuples(st.just("responses"), st.fixed_dictionaries({"input": turns | texts}, optional={"instructions": texts})),
    st.tuples(st.just("messages"), st.fixed_dictionaries({"messages": turns}, optional={"system": contents})),
    st.tuples(
        st.just("generate"),
        st.fixed_dictionaries(
            {"contents": turns},
            optional={
                "systemInstruction": st.fixed_dictionaries({"parts": st.lists(st.fixed_dictionaries({"text": texts}))})
            },
        ),
    ),
)


def first_text(endpoint: str, body: dict[str, Any]) -> list[Any]:
    """[container, key] of the system text as another reader finds it, and without it what was left."""
    holder: Any = body
    key: Any = {"responses": "instructions", "messages": "system"}.get(endpoint)
    if endpoint == "chat":
        holder, key = body["messages"][0], "content"
    elif endpoint == "generate":
        holder, key = body["systemInstruction"]["parts"][0], "text"
    if isinstance(holder[key], list):
        holder, key = holder[key][0], "text"
    return [holder, key]


def take_away(endpoint: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    """What was inserted goes again: out of the list that was empty, or with its member."""
    if endpoint == "chat":
        if old["messages"] and old["messages"][0]["role"] in ("system", "developer"):
            new["messages"][0]["content"].clear()
        else:
            assert new["messages"].pop(0) == {"role": "system", "content": ""}
    elif endpoint == "messages" and "system" in old:
        new["system"].clear()
    elif endpoint == "generate" and "systemInstruction" in old:
        new["systemInstruction"]["parts"].clear()
    else:
        new.pop({"responses": "instructions", "messages": "system", "generate": "systemInstruction"}[endpoint])


@settings(max_examples=300)
@given(call=bodies, extra=st.dictionaries(texts.map(lambda key: "x" + key), values, max_size=3), plain=st.booleans())
def test_everything_else_is_unchanged(call: tuple[str, dict[str, Any]], extra: dict[str, Any], plain: bool) -> None:
    """Read back, the body is the old one but for its system text; taking that away again gives the old one."""
    endpoint, shape = call
    whole = {**extra, **shape}
    body = json.dumps(whole, ensure_ascii=plain, separators=(",", ":") if plain else None).encode()
    told: list[str] = []

    def record(old: str) -> str:
        told.append(old)
        return NEW

    new = json.loads(changed(body, endpoint, record))
    holder, key = first_text(endpoint, new)
    assert holder[key] == NEW
    holder[key] = told[0]
    if new != whole:  # it was inserted
        assert told == [""]
        take_away(endpoint, whole, new)
    assert new == whole
