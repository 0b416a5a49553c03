"""Request bodies are read without being rebuilt and edited in a few bytes."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire.json_edit import edit_request
from sidecar.wire.json_scan import MAX_MEMBERS, MemberScanner
from sidecar.wire.request_view import MOST_TOKENS, RequestView, SlicedReader, read_request

CHAT = b'{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}],"stream":true,"max_tokens":5}'


def sliced(body: bytes, step: int = 64) -> RequestView | None:
    reader = SlicedReader(body)
    while not reader.step(step):
        pass
    return reader.view


def both(body: bytes) -> RequestView | None:
    """What both readers say, which must be the same."""
    view = read_request(body)
    other = sliced(body)
    if other is not None:
        other.layout = None
    if view is not None:
        view.plain = None  # only the one that reads in one go knows
    assert other == view
    return view


def seen(body: bytes) -> RequestView:
    view = both(body)
    assert view is not None
    return view


def test_reads_the_usual_request() -> None:
    assert seen(CHAT) == RequestView(model="gpt-4o", stream=True, max_tokens=5)


@pytest.mark.parametrize(
    "members",
    [
        b"",
        b',"temperature":0.7,"n":1,"seed":7,"stream":false',
        b',"max_tokens":9,"max_completion_tokens":5',
        b',"max_tokens":99999999999,"stream_options":null',
        b',"stream":true,"stream_options":{"include_usage":true}',
        b',"system":"Be kind."',
    ],
)
def test_a_plain_call_is_read_as_any_other(members: bytes) -> None:
    body = CHAT[:-1].replace(b',"stream":true,"max_tokens":5', b"") + members + b"}"
    view = read_request(body)
    assert view is not None
    assert view.plain is not None
    assert [(message.role, message.content) for message in view.plain.messages] == [("user", "hi")]
    seen(body)


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        (b'"hi"', b'"file_id"'),
        (b'"hi"', rb'"say \"file_id"'),
        (b'"gpt-4o"', b'"file_id"'),
        (b"}],", b'}],"system":"file_id",'),
    ],
)
def test_a_text_that_looks_like_state_is_searched(text: bytes, instead: bytes) -> None:
    """Both readers take it for state, whatever the body is else."""
    view = read_request(CHAT.replace(text, instead))
    assert view is not None
    assert view.plain is None
    assert seen(CHAT.replace(text, instead)).stateful


@pytest.mark.parametrize(
    "members",
    [
        b',"x":1',
        b',"tools":[]',
        b',"stream_options":{"x":1}',
        b',"user":"\xff"',
        b',"messages":[{"role":"tool","content":""}]',
    ],
)
def test_what_a_plain_call_does_not_have_makes_it_another(members: bytes) -> None:
    view = read_request(CHAT[:-1] + members + b"}")
    assert view is None or view.plain is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"a":1,}',
        b'{"a" 1}',
        b'{"a":1 "b":2}',
        b'{"a":}',
        b'{"a":tru}',
        b"{} x",
        b"{a:1}",
        b'{"a":"x',
        b'{"a":"x\\',
        b'{"a":"x\\"',
        b'{"a":[1',
        b'{"a":{"b":"x',
        b'{"a":01}',
        b"{,}",
        b'{"a":1}}',
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_is_no_json_object_is_not_read(body: bytes) -> None:
    assert both(body) is None


def test_wrong_types_count_as_absent() -> None:
    view = seen(
        b'{"model":7,"stream":"yes","max_tokens":1.5,"tools":"x","store":1,"stream_options":[],"prompt_cache_key":{}'
        b',"conversation":5,"previous_response_id":[]}'
    )
    assert view == RequestView(has_stream_options=True, odd_options=True, stateful=True)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ('"max_completion_tokens":9,"max_tokens":5', {"max_tokens": 9, "limit_key": "max_completion_tokens"}),
        ('"max_output_tokens":8', {"max_tokens": 8, "limit_key": "max_output_tokens"}),
        ('"generationConfig":{"stopSequences":["x"],"maxOutputTokens":7}', {"max_tokens": 7}),
        ('"generation_config":{"max_output_tokens":6}', {"max_tokens": 6}),
        ('"generationConfig":{"maxOutputTokens":null},"generation_config":{"maxOutputTokens":5}', {"max_tokens": 5}),
        ('"generationConfig":{"maxOutputTokens":"many"}', {}),
        ('"max_tokens":4,"generationConfig":{"maxOutputTokens":7}', {"max_tokens": 4}),
        (
            '"max_tokens":1' + "0" * 400,
            {"max_tokens": MOST_TOKENS},
        ),  # no number of a client's leaves what others can hold
        ('"max_output_tokens":-1' + "0" * 30, {"max_tokens": -1, "limit_key": "max_output_tokens"}),
        ('"stream_options":{"include_usage":true}', {"has_stream_options": True, "include_usage": True}),
        ('"usage":{"include":true}', {"include_usage": True}),
        ('"usage":{"include":false}', {"include_usage": False}),
        ('"usage":{}', {}),
        ('"usage":7', {}),
        ('"stream_options":null', {"has_stream_options": True}),
        ('"tools":[]', {}),
        ('"tools":null', {}),
        ('"tools":[{"type":"function"}]', {"tools": True}),
        ('"functions":[{"name":"f"}]', {"tools": True}),
        ('"tools":[{"type":"web_search_20250305"}]', {"tools": True, "stateful": True}),
        ('"conversation":"c1"', {"conversation": "c1", "stateful": True}),
        ('"conversation":{"id":"c2"}', {"conversation": "c2", "stateful": True}),
        ('"conversation":null', {}),
        ('"previous_response_id":"r"', {"conversation": "r", "stateful": True}),
        ('"prompt_cache_key":"k"', {"conversation": "k"}),
        ('"store":true', {"stateful": True}),
        ('"store":false', {}),
        ('"container":"x"', {"stateful": True}),
        ('"messages":[{"content":[{"type":"file","file":{"file_id":"f"}}]}]', {"stateful": True}),
        ('"messages":[{"content":[{"type":"thinking","thinking":"t","signature":"s"}]}]', {"stateful": True}),
        ('"input":[{"type":"reasoning","encrypted_content":"x"}]', {"stateful": True}),
        ('"input":[{"type":"reasoning","id":"rs_1"}]', {"stateful": True}),
        ('"messages":[{"content":"say \\"file_id\\" and \\"signature\\": \\"x\\""}]', {}),
        ('"tools":[{"input_schema":{"properties":{"signature":{"type":"string"}}}}]', {"tools": True}),
        ('"model":"a","model":"b"', {"model": "b"}),
        ('"\\u006dodel":"a"', {"model": "a"}),
        ('"model":"\\u00e9"', {"model": "é"}),
    ],
)
def test_reads_what_is_acted_on(members: str, expected: dict[str, Any]) -> None:
    assert seen(b"{" + members.encode() + b"}") == RequestView(**expected)


@pytest.mark.parametrize("body", [b'{"model":"\\ud800"}', b'{"\\ud800":1}', b'{"model":"\xff"}', b'{"a":[1,]}'])
def test_what_only_one_reader_refuses(body: bytes) -> None:
    """Lone surrogates, bad UTF-8, faults inside a value: the slices may read on, but they see no model there."""
    assert read_request(body) in (None, RequestView())
    view = sliced(body)
    assert view is not None
    assert view.model is None
    assert edit_request(body, model="Z", view=view).startswith(b'{"model":"Z"')


def test_state_is_found_across_slices() -> None:
    for pad in range(0, 140, 3):
        body = b'{"a":"' + b"x" * pad + b'","b":[{"file_id":"f"}],"c":"' + b"y" * 300 + b'"}'
        assert seen(body).stateful


def test_large_body_in_small_steps() -> None:
    """INC-38: megabytes with the model at the end are read in slices, and edited where the slices found it."""
    text = 'a "quoted" \\ word \n' * 3000
    body = json.dumps({"messages": [{"role": "user", "content": text}] * 4, "model": "m", "n": 1}).encode()
    view = sliced(body, 1000)
    assert view is not None
    assert view.model == "m"
    edited = edit_request(body, model="other", ask_usage=True, view=view)
    assert json.loads(edited) == json.loads(body) | {"model": "other", "stream_options": {"include_usage": True}}


def test_backslash_runs_of_any_length() -> None:
    for count in (0, 1, 2, 63, 64, 65, 127, 128, 129, 200):
        text = "\\" * count + '"' + "\\" * count
        body = json.dumps({"a": text, "b": [text, {"c": text}], "model": "m"}).encode()
        assert seen(body).model == "m"


def test_limits_of_the_sliced_reader() -> None:
    assert sliced(b"{" + b",".join(b'"k":1' for _ in range(MAX_MEMBERS + 1)) + b"}") is None
    assert sliced(b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}") is None
    many = MemberScanner(b'{"input":[' + b",".join(b'{"i":%d}' % i for i in range(3000)) + b"]}").finish()
    assert len(many.items(b"input")) == 128
    assert many.items(b"messages") == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"a","x":{"model":"n"}}', b'{"model":"Z","x":{"model":"n"}}'),
        (b' {  "x" : {"model":"n"} ,"model" : "a" } \n', b' {  "x" : {"model":"n"} ,"model" : "Z" } \n'),
        (b'{"model":"a","\\u006dodel":"b","mode\\u006C":3}', b'{"model":"Z","\\u006dodel":"Z","mode\\u006C":"Z"}'),
        (b'{"x":"model","model":"a\\"b"}', b'{"x":"model","model":"Z"}'),
        (b'{"x":{"model":"n"}}', b'{"model":"Z","x":{"model":"n"}}'),
        (b'{"x":1e999,"x":1.0,"model":null}', b'{"x":1e999,"x":1.0,"model":"Z"}'),
        (b"{}", b'{"model":"Z"}'),
        (b'{"model":"a\\u0062"}', b'{"model":"Z"}'),
    ],
)
def test_model_is_replaced_in_place(body: bytes, expected: bytes) -> None:
    """INC-38: every top-level `model`, however its key is spelled; nothing else, and never a nested one."""
    assert edit_request(body, model="Z", view=read_request(body)) == expected
    assert edit_request(body, model="Z") == expected
    assert edit_request(body, model="Z", view=sliced(body)) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (b"null", b'{"include_usage":true}'),
        (b"false", b'{"include_usage":true}'),
        (b"{}", b'{"include_usage":true}'),
        (b'{ "a":1}', b'{"include_usage":true, "a":1}'),
        (b'{"include_usage":false,"a":[1]}', b'{"include_usage":true,"a":[1]}'),
        (b'{"include\\u005fusage":null}', b'{"include\\u005fusage":true}'),
        (b'"odd"', b'"odd"'),
    ],
)
def test_usage_is_asked_inside_existing_options(options: bytes, expected: bytes) -> None:
    body = b'{"model":"m","stream_options":%s,"n":1}'
    assert edit_request(body % options, model=None, ask_usage=True) == body % expected


def test_params_are_set_or_inserted() -> None:
    body = b'{"model":"m","temperature":0.1,"temperature" : 0.2}'
    edited = edit_request(body, model=None, params=(("temperature", b"1"), ("top_p", b"0.5")), view=read_request(body))
    assert edited == b'{"top_p":0.5,"model":"m","temperature":1,"temperature" : 1}'
    fresh = edit_request(CHAT, model="Z", params=(("top_p", b"0.5"),), ask_usage=True, view=read_request(CHAT))
    assert fresh == b'{"top_p":0.5,"stream_options":{"include_usage":true},"model":"Z"' + CHAT[17:]
    assert edit_request(CHAT, model=None, ask_usage=True, view=read_request(CHAT)).startswith(b'{"stream_options":')
    twice = edit_request(b'{"model":"m"}', model=None, params=(("a", b"1"), ("a", b"2")), view=read_request(CHAT))
    assert twice == b'{"a":2,"model":"m"}'
    own = edit_request(b'{"model":"m"}', model=None, params=(("stream_options", b"{}"),), ask_usage=True)
    assert own == b'{"stream_options":{},"model":"m"}'


def test_nothing_to_do_changes_nothing() -> None:
    assert edit_request(CHAT, model=None) == CHAT
    assert edit_request(CHAT, model=None, view=read_request(CHAT)) == CHAT


# Bodies as real clients may write them: any key order, duplicate keys, escapes, any white space.
KEY = st.sampled_from(
    [
        '"model"',
        '"\\u006dodel"',
        '"stream"',
        '"messages"',
        '"stream_options"',
        '"max_tokens"',
        '"tools"',
        '"x"',
        '"input"',
        '"temperature"',
        '"t\\u0065mperature"',
        '"conversation"',
        '"store"',
        '"a\\\\"',
        '"é\\n"',
    ],
)
SPACE = st.sampled_from(["", "", "", " ", "\n\t", "  "])
SCALAR = st.sampled_from(
    [
        '"model"',
        '"m"',
        '"\\"model\\":\\"x\\""',
        '"é\\u00e9\\\\"',
        "null",
        "true",
        "false",
        "0",
        "-1.5e+3",
        "12345678901234567890123",
        '""',
        '"file_id"',
        '"\\\\\\\\"',
        '"' + "long " * 60 + '"',
        '"' + '\\"q\\\\ ' * 50 + '"',
        "7",
        '{"include_usage":false}',
    ]
)


def _joined(draw: Any, opening: str, members: list[str], closing: str) -> str:
    space = [draw(SPACE) for _ in range(2)]
    return opening + space[0] + (space[1] + ",").join(members) + space[1] + closing


@st.composite
def _object(draw: Any, value: Any) -> str:
    members = draw(st.lists(st.tuples(KEY, SPACE, SPACE, value), max_size=6))
    return _joined(draw, "{", [f"{key}{a}:{b}{item}" for key, a, b, item in members], "}")


@st.composite
def _array(draw: Any, value: Any) -> str:
    return _joined(draw, "[", draw(st.lists(value, max_size=4)), "]")


VALUE = st.recursive(SCALAR, lambda inner: _object(inner) | _array(inner), max_leaves=8)
BODY = _object(VALUE).map(str.encode)


@given(BODY, st.integers(64, 300))
def test_both_readers_agree(body: bytes, step: int) -> None:
    """The slices and the single decode read the same of any valid body."""
    view = read_request(body)
    assert view is not None
    other = sliced(body, step)
    assert other is not None
    other.layout = view.plain = None
    assert other == view


@given(st.binary(max_size=40) | BODY.flatmap(lambda body: st.integers(0, len(body)).map(lambda cut: body[:cut])))
def test_readers_never_raise(body: bytes) -> None:
    """Any bytes are read or refused, and what is accepted can be edited."""
    view = read_request(body)
    other = sliced(body)
    if view is not None:
        assert other is not None
        assert msgspec.json.decode(
            edit_request(body, model="Z", ask_usage=True, view=view), type=dict[str, msgspec.Raw]
        )


def _pairs(text: bytes) -> Any:
    return json.loads(text, object_pairs_hook=list, parse_float=str, parse_int=str)


@given(
    BODY, st.booleans(), st.booleans(), st.sampled_from([(), (("temperature", b"1"),), (("top_p", b"2"), ("x", b"[]"))])
)
def test_edit_changes_what_is_named_and_no_more(body: bytes, model: bool, ask: bool, params: Any) -> None:
    """INC-38: quick and slow edits give the same bytes; a parser sees the wanted values and all others unchanged."""
    name = "Z" if model else None
    slow = edit_request(body, model=name, params=params, ask_usage=ask)
    assert edit_request(body, model=name, params=params, ask_usage=ask, view=read_request(body)) == slow
    assert edit_request(body, model=name, params=params, ask_usage=ask, view=sliced(body)) == slow
    wanted = {key: json.loads(text, parse_int=str) for key, text in params} | ({"model": "Z"} if model else {})
    touched = set(wanted) | ({"stream_options"} if ask else set())
    before, after = _pairs(body), _pairs(slow)
    assert [pair for pair in after if pair[0] not in touched] == [pair for pair in before if pair[0] not in touched]
    for key, value in wanted.items():
        assert {json.dumps(item) for name, item in after if name == key} == {json.dumps(value)}
    if ask:
        options = json.loads(slow)["stream_options"]
        assert not isinstance(options, dict) or options["include_usage"] is True
