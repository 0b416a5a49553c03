"""What our own include_usage put into a stream is taken out again: the client's bytes are those without us."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire.usage_ask import MAX_HELD_BYTES, UsageStrip, refuses_usage
from tests.unit.wire.recordings import load

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "completion_tokens_details": None}
DONE = b"data: [DONE]\n\n"


def strip(*reads: bytes) -> bytes:
    filtered = UsageStrip()
    return b"".join([*(filtered.feed(read) for read in reads), filtered.finish()])


def chunk(text: str | None, finish: str | None = None, *, usage: str = "", last: bool = True) -> bytes:
    """A chunk in OpenAI's form, with `usage` spelled as given at its end or its beginning."""
    body = json.dumps({"id": "c", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]})
    if usage:
        body = body[:-1] + "," + usage + "}" if last else "{" + usage + "," + body[1:]
    return b"data: " + body.encode() + b"\n\n"


ONLY = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
NULL = '"usage":null'


def test_usage_only_event_goes_and_nothing_else() -> None:
    """GW-02: the extra event is dropped; role, text, finish and [DONE] stay."""
    stream = [chunk("a"), chunk(None, "stop"), ONLY, DONE]
    assert strip(b"".join(stream)) == b"".join((stream[0], stream[1], DONE))
    assert strip(*stream) == b"".join((stream[0], stream[1], DONE))


SAID = b'{"role":"assistant","content":"","tool_calls":[]}'
IDLE = b'data: {"choices":[{"index":0,"delta":%b,"finish_reason":null}],%%b}\n\n' % SAID
COUNTS = b'"usage":{"prompt_tokens":3,"completion_tokens":2,"cost":0.1}'


def test_what_is_no_utf_8_passes() -> None:
    """INC-42: of a broken server: no event of ours, and nothing is raised. Found by `bench.fuzz --target usage-strip`."""
    finish, spoilt = chunk(None, "stop"), chunk("x", "s", usage='"usage":{"completion_tokens":0}')
    spoilt = spoilt.replace(b'"s"', b'"s\xcf"')
    assert b"\xcf" in spoilt
    assert strip(finish, spoilt, DONE) == finish + spoilt + DONE


def test_usage_on_a_choice_that_says_nothing_goes_behind_the_finish_reason() -> None:
    """OpenRouter's last event; before the finish reason, or with anything in it, it is the client's."""
    text, finish, idle = chunk("a"), chunk(None, "stop"), IDLE % COUNTS
    assert strip(text, finish, idle, DONE) == text + finish + DONE
    assert strip(text, idle, finish, DONE) == text + idle + finish + DONE
    for said in (
        idle.replace(b'"content":""', b'"content":"b"'),
        idle.replace(b'"finish_reason":null', b'"finish_reason":"stop"'),
        idle.replace(b'"delta":{', b'"text":"c","delta":{'),
        idle.replace(b'"index":0,"delta"', b'"index":0,"delta":7,"text"'),
        b"data: {" + COUNTS + b"}\n\n",
    ):
        assert strip(text, finish, said, DONE) == text + finish + said + DONE
    assert strip(finish, b'data: {"choices":[{"delta":null}],%b}\n\n' % COUNTS, DONE) == finish + DONE


def test_nulls_go_with_their_comma() -> None:
    for usage, last in ((NULL, True), (NULL, False), (' "usage" : null ', True), ('"usage": null', False)):
        assert strip(chunk("a", usage=usage, last=last)).replace(b" }", b"}") == chunk("a")
    assert strip(b'data: {"usage":null}\n\n') == b"data: {}\n\n"
    assert strip(b'data: {"a":1 , "usage" : null , "b":2}\n\n') == b'data: {"a":1 , "b":2}\n\n'
    assert strip(b'data: {"usage":null,"a":{"usage":1},"usage":null}\n\n') == b'data: {"a":{"usage":1}}\n\n'


UNTOUCHED = [
    b'data: {"choices":[{"delta":{"usage":null}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"\\"usage\\":null, \\"usage"}}]}\n\n',
    b'data: {"choices":["usage",null]}\n\n',
    b'data: {"choices":[{}],"usage":{"prompt_tokens":1}}\n\n',
    b'data: {"choices":[],"usage":7}\n\n',
    b'data: {"choices":[],"prompt_filter_results":[]}\n\n',
    b'data: not json "usage":null\n\n',
    b'data: {"a":1\ndata: ,"usage":null}\n\n',
    b': "usage":null\n\n',
    b'event: x\nid: "usage"\n\n',
    b'data: {"a":1,"usage":null',
]


def test_everything_else_is_untouched_at_every_cut() -> None:
    """Comments, nested and quoted `usage`, usage beside choices, broken JSON and open ends pass byte for byte."""
    for event in UNTOUCHED:
        filtered = UsageStrip()
        assert filtered.feed(event) + filtered.finish() == event
        assert not filtered.changed
        for at in range(len(event)):
            assert strip(event[:at], event[at:]) == event


def test_comments_of_a_dropped_event_stay() -> None:
    assert strip(chunk("a", "stop"), b": ping\n" + ONLY, DONE) == chunk("a", "stop") + b": ping\n" + DONE


def test_a_partial_event_goes_out_at_once_before_the_finish_reason() -> None:
    """GW-10: nothing waits for its event to be complete, but what may be our own `usage`."""
    filtered = UsageStrip()
    assert filtered.feed(b'data: {"choices":[{"delta":{"content":"abc') == b'data: {"choices":[{"delta":{"content":"abc'
    assert filtered.feed(b'"}}] ,"us') == b'"}}]'
    assert filtered.feed(b'er":1') == b' ,"user":1'
    assert filtered.feed(b',"usage":null,"x"') == b""
    assert filtered.feed(b":1}\n\n") == b',"x":1}\n\n'
    assert filtered.changed


def test_holds_one_event_after_the_finish_reason() -> None:
    filtered = UsageStrip()
    assert filtered.feed(chunk(None, "stop")) == chunk(None, "stop")
    assert filtered.feed(ONLY[:9]) == b""
    assert filtered.feed(ONLY[9:] + DONE[:5]) == b""
    assert filtered.feed(DONE[5:]) == DONE
    assert filtered.finish() == b""


def test_a_large_event_is_let_through() -> None:
    """More than 64 KiB is neither held nor judged, however it arrives; the next event is judged again."""
    big = b'data: {"usage":null,"x":"' + b"y" * 3 * MAX_HELD_BYTES + b'"}\n\n'
    for first in ([], [chunk(None, "stop")]):
        for size in (1000, 70_000, len(big) + 50):
            stream = b"".join([*first, big])
            reads = [stream[i : i + size] for i in range(0, len(stream), size)]
            assert strip(*reads, ONLY if first else b"") == stream


def test_a_usage_only_event_that_is_half_gone_stays_whole() -> None:
    """Before a finish reason its beginning was sent already: half an event would be worse than one too many."""
    assert strip(ONLY[:40], ONLY[40:]) == ONLY


def with_timings(events: list[bytes]) -> list[bytes]:
    """The events without the usage ones, whose timings go to the event before."""
    kept: list[bytes] = []
    for event in events:
        if b'"choices":[]' not in event:
            kept.append(event)
        elif b'"timings":' in event:
            kept[-1] = kept[-1][:-1] + event[event.index(b',"timings":') :]
    return kept


def llama(body: str) -> bytes:
    return b'data: {"choices":[' + body.encode() + b'],"system_fingerprint":"b12-ab"}\n\n'


def test_llama_gets_its_timings_back() -> None:
    """The finish event waits for one event only, and is never lost."""
    finish = llama('{"finish_reason":"stop"}')
    usage = b'data: {"choices":[],"usage":{"a":1},"timings":{"n":1}}\n\n'
    assert strip(finish, usage, DONE) == finish[:-3] + b',"timings":{"n":1}}\n\n' + DONE
    for next_event in (
        b": ping\n\n",
        llama("{}"),
        b'data: {"choices":[],"usage":{"a":1}}\n\n',
        b"data: " + b"x" * 200_000,
    ):
        kept = b"" if b"usage" in next_event else next_event
        assert strip(finish, next_event, DONE) == finish + kept + DONE
        assert strip(finish + next_event[:70], next_event[70:]) == finish + kept
    assert strip(finish) == finish
    assert UsageStrip().feed(finish) == b""
    own = finish[:-3] + b',"timings":{}}\n\n'
    assert UsageStrip().feed(own) == own
    assert strip(finish[:20], finish[20:-2], b"\n\n", usage, DONE) == finish[:-3] + b',"timings":{"n":1}}\n\n' + DONE


def test_recorded_streams_lose_only_the_usage_event(shared: Path) -> None:
    """GW-02: a real server's streams, at many cuts."""
    for name in ("smollm2_chat_stream_usage", "chat_tools_auto_stream", "chat_n2_stream"):
        body = load(shared, name).body
        events = body.split(b"\n\n")
        expected = b"\n\n".join(with_timings(events))
        for size in (1, 3, 50, 333, len(body)):
            assert strip(*(body[i : i + size] for i in range(0, len(body), size))) == expected
    asked_nothing = load(shared, "smollm2_completions_stream").body
    assert strip(asked_nothing) == asked_nothing


def test_refusals_of_stream_options_are_recognised() -> None:
    assert refuses_usage(400, b'{"error":{"message":"Unrecognized request argument: stream_options"}}')
    assert refuses_usage(422, b'{"detail":[{"loc":["body","stream_options"]}]}')
    assert not refuses_usage(400, b'{"error":{"message":"bad model"}}')
    assert not refuses_usage(500, b"stream_options")


# A server's style: how it writes JSON, whether it writes nulls, where `usage` stands, and how lines end.
STYLES = [
    {"separators": (",", ":"), "nulls": True, "first": False, "end": b"\n\n"},  # OpenAI
    {"separators": (", ", ": "), "nulls": False, "first": False, "end": b"\n\n"},  # vLLM and other Python servers
    {"separators": (",", ":"), "nulls": False, "first": False, "end": b"\n\n"},  # llama.cpp
    {"separators": (" , ", " : "), "nulls": True, "first": True, "end": b"\r\n\r\n"},
    {"separators": (", ", ": "), "nulls": True, "first": False, "end": b"\r\r"},
]
TEXT = st.sampled_from(
    ["Hello", '"usage":null', ',"usage"', '"finish_reason":"stop"', "é\n\\", "", ' {"usage":{}}', "data: x"]
)


def _event(style: dict[str, Any], body: dict[str, Any], usage: Any, place: int) -> tuple[bytes, bytes]:
    """The event with and without the usage member."""
    items = list(body.items())
    items.insert(0 if style["first"] else min(place, len(items)), ("usage", usage))
    texts = []
    for members in (dict(items), body):
        text = json.dumps(members, separators=style["separators"], ensure_ascii=False)
        texts.append(b"data: " + text.encode() + style["end"])
    return texts[0], texts[1]


@st.composite
def streams(draw: Any) -> tuple[bytes, bytes]:
    """A stream as it comes when usage was asked for, and as it would have come without."""
    style = draw(st.sampled_from(STYLES))
    asked, plain = b"", b""
    contents = draw(st.lists(TEXT, max_size=6))
    for number, text in enumerate([*contents, None]):
        choice = {"delta": {"content": text, "usage": None}, "finish_reason": "stop" if text is None else None}
        body = {"id": f"c{number}", "choices": [choice], "obfuscation": "x" * draw(st.integers(0, 5))}
        with_usage, without = _event(style, body, None, draw(st.integers(0, 3)))
        asked += with_usage if style["nulls"] else without
        plain += without
        if draw(st.booleans()):
            asked += b": ping" + style["end"]
            plain += b": ping" + style["end"]
    asked += _event(style, {"id": "c", "choices": []}, USAGE, 2)[0]
    done = b"data: [DONE]" + style["end"]
    return asked + done, plain + done


@given(streams(), st.lists(st.integers(0, 2500), max_size=12))
def test_the_client_gets_what_it_would_have_got(pair: tuple[bytes, bytes], cuts: list[int]) -> None:
    """GW-02: for any server style and any cuts, strip(with) == without, and a second pass changes nothing."""
    asked, plain = pair
    places = sorted({0, len(asked), *(cut for cut in cuts if cut < len(asked))})
    assert strip(*(asked[a:b] for a, b in pairwise(places))) == plain
    assert strip(*(asked[i : i + 1] for i in range(len(asked)))) == plain
    assert strip(plain) == plain


PLAIN_TEXT = st.text(st.sampled_from("abc ,:{}[]usagenull_0"), min_size=1, max_size=12)


@given(
    st.lists(st.one_of(PLAIN_TEXT, TEXT), min_size=2, max_size=12),
    st.sampled_from([style for style in STYLES if style["end"] == b"\n\n"]),
    st.lists(st.integers(0, 3), min_size=12, max_size=12),
    st.integers(0, 3),
)
def test_events_that_come_alone(contents: list[str], style: dict[str, Any], hidden: list[int], place: int) -> None:
    """GW-02: of one stream's events most differ in their text alone, and in what hides its length; some have another
    shape. Each loses what it would have lost as the first one of its stream."""
    filtered = UsageStrip()
    for number, text in enumerate(contents):
        odd = number % 5 == 4
        choice = {"delta": {"content": text} | ({"role": "assistant"} if odd else {}), "finish_reason": None}
        body = {"id": "c", "choices": [choice], "obfuscation": "x" * hidden[number]}
        asked, plain = _event(style, body, None, place)
        assert filtered.feed(asked) == plain
    assert filtered.changed
    assert filtered.finish() == b""


def test_alike_events_are_cut_alike() -> None:
    """Before a finish reason, and up to the size that is judged at all."""
    filtered = UsageStrip()
    assert filtered.feed(chunk("one", usage=NULL)) == chunk("one")
    assert filtered.feed(chunk("two three", usage=NULL)) == chunk("two three")
    assert filtered.feed(chunk("a" * MAX_HELD_BYTES, usage=NULL)) == chunk("a" * MAX_HELD_BYTES, usage=NULL)
    assert filtered.feed(chunk(None, "stop", usage=NULL)) == chunk(None, "stop")
    assert filtered.feed(chunk("late", usage=NULL)) == chunk("late")
    assert filtered.feed(ONLY) == b""


def test_a_cut_before_the_text_has_no_likeness() -> None:
    """And what has no text has none."""
    filtered = UsageStrip()
    for text in ("one", "two"):
        assert filtered.feed(chunk(text, usage=NULL, last=False)) == chunk(text)
    assert filtered.feed(chunk("", usage=NULL)) == chunk("")


def test_line_ends_of_two_kinds_in_one_read() -> None:
    """A server that pings in another style than it answers: what goes does not depend on how the bytes were cut."""
    said, ended = chunk("a", usage=NULL), chunk(None, "stop", usage=NULL)
    crlf = said.replace(b"\n", b"\r\n")
    for stream in (crlf + said + DONE, said + ended.replace(b"\n", b"\r\n") + ONLY, ended + b": ping\r\n\r\n" + ONLY):
        assert strip(stream) == strip(*(stream[at : at + 1] for at in range(len(stream))))
    assert strip(crlf + said) == chunk("a").replace(b"\n", b"\r\n") + chunk("a")
    assert strip(ended, b": ping\r\n\r\n" + ONLY) == chunk(None, "stop") + b": ping\r\n\r\n"


def test_an_error_that_comes_with_usage_stays() -> None:
    """The client must not take what failed for whole."""
    failed = b'data: {"choices":[],"usage":{"prompt_tokens":3},"error":{"message":"out of memory"}}\n\n'
    fine = failed.replace(b'{"message":"out of memory"}', b"null")
    assert strip(chunk("a"), chunk(None, "stop"), failed) == chunk("a") + chunk(None, "stop") + failed
    assert strip(chunk("a"), chunk(None, "stop"), fine) == chunk("a") + chunk(None, "stop")
