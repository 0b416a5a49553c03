"""Bad input on the way through a translation: a clear error in the client's dialect, a row in the database, balanced books.

`serving` fails a test whose sidecar swallowed an exception of its own (`books.bugs`).
"""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import orjson
import pytest

from tests.integration.conftest import Running, Upstream, serving
from tests.integration.raw import SSE_HEAD, Response, Script, call, event, ok, post
from tests.integration.test_translation import policy

_DEEP = b"[" * 100 + b"]" * 100
_WHERE = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "generate": "/v1beta/models/auto:generateContent",
}
_GOOD = {
    "chat": b'{"model":"auto","messages":[{"role":"user","content":"Hi"}]}',
    "responses": b'{"model":"auto","input":"Hi"}',
    "messages": b'{"model":"auto","max_tokens":9,"messages":[{"role":"user","content":"Hi"}]}',
    "generate": b'{"contents":[{"role":"user","parts":[{"text":"Hi"}]}]}',
}
_ARM = {"chat": "anthropic", "responses": "anthropic", "messages": "openai", "generate": "openai"}


@asynccontextmanager
async def between(folder: Path, upstream: Upstream, client: str, *scripts: Script) -> AsyncIterator[Running]:
    """A sidecar before a scripted arm that speaks another dialect than the client."""
    far = await upstream(*scripts)
    async with serving(
        f"http://127.0.0.1:{far.port}", policies=policy(folder, far.port, _ARM[client]), db=folder / "d"
    ) as up:
        yield up


async def asked(running: Running, client: str, body: bytes) -> Response:
    lines = [b"anthropic-version: 2023-06-01"] if client == "messages" else []
    return await call(running.port, post(_WHERE[client], body, b"authorization: Bearer k", *lines))


def message_of(response: Response, client: str) -> str:
    """The error's message, where the client's SDK looks for it."""
    said = orjson.loads(response.body)
    if client == "messages":
        assert said["type"] == "error"
    if client == "generate":
        assert said["error"]["code"] == response.status
    message = said["error"]["message"]
    assert isinstance(message, str)
    return message


def rows(folder: Path) -> list[tuple[str, str | None]]:
    with closing(sqlite3.connect(folder / "d")) as connection:
        return connection.execute("SELECT outcome, error FROM outcomes ORDER BY id").fetchall()


_UNREADABLE = {
    "truncated": lambda good: good[:-1],
    "no object": lambda _: b"[]",
    "very deep": lambda good: good.replace(b'"Hi"', b"[" * 5000 + b"]" * 5000),
    "lone surrogate": lambda good: good.replace(b"Hi", b"\\ud800"),
}
_BODIES = {
    "invalid UTF-8": lambda good: good.replace(b"Hi", b"\xff\xfe"),
    "wrong type": lambda good: good.replace(b'"Hi"', b"5"),
    "deep": lambda good: good.replace(b'"Hi"', _DEEP),
}


@pytest.mark.parametrize("client", _WHERE)
async def test_bad_calls_are_refused_in_the_clients_words(tmp_path: Path, upstream: Upstream, client: str) -> None:
    """Nothing is sent to the arm, whatever is wrong in the body."""
    async with between(tmp_path, upstream, client) as running:
        for what, spoil in _BODIES.items():
            response = await asked(running, client, spoil(_GOOD[client]))
            assert response.status == 400, (what, response.body)
            assert len(message_of(response, client)) < 300, what
        assert running.balanced
        assert running.books.bugs == 0


@pytest.mark.parametrize("client", _WHERE)
async def test_what_nobody_can_read_goes_to_the_clients_own_provider(
    tmp_path: Path, upstream: Upstream, client: str
) -> None:
    """No model is known, so no route matches: the provider of the client's dialect gets the bytes, and answers."""
    async with between(tmp_path, upstream, client, *([ok(b"{}")] for _ in _UNREADABLE)) as running:
        for spoil in _UNREADABLE.values():
            response = await asked(running, client, spoil(_GOOD[client]))
            assert response.status == 200
            assert response.value(b"x-sidecar-changed") is None
        assert running.balanced
    assert [outcome for outcome, _ in rows(tmp_path)] == ["completed"] * len(_UNREADABLE)


_HUGE = {
    "generate": b',"generationConfig":{"maxOutputTokens":1e400}}',
    "responses": b',"max_output_tokens":1%b}' % (b"0" * 400),
}


@pytest.mark.parametrize("client", _WHERE)
async def test_odd_but_legal_calls_are_told_by_name(tmp_path: Path, upstream: Upstream, client: str) -> None:
    """Unknown members and numbers out of range: a 400 that names the member, or the call goes on."""
    script = [ok(orjson.dumps({"id": "a", "model": "m", "type": "message", "role": "assistant", "content": []}))]
    async with between(tmp_path, upstream, client, script) as running:
        odd = _GOOD[client][:-1] + b',"brand_new_member":{"a":1}}'
        response = await asked(running, client, odd)
        assert response.status == 400
        assert "brandnewmember" in message_of(response, client).lower().replace("_", "")
        huge = _GOOD[client][:-1] + _HUGE.get(client, b',"top_p":1e400}')
        response = await asked(running, client, huge)
        assert response.status == 400, response.body
        message_of(response, client)
        assert running.balanced


_ANSWERS = {
    "truncated": b'{"id":"a","content":[{"type":"te',
    "another dialect": b'{"candidates":[{"content":{"parts":[{"text":"Hi"}]}}]}',
    "no object": b"[1]",
    "a page": b"<html>Bad gateway</html>",
    "invalid UTF-8": b'{"id":"\xff\xfe"}',
    "wrong types": b'{"id":5,"content":7,"choices":"x"}',
    "deep": b'{"content":' + b"[" * 5000 + b"]" * 5000 + b"}",
}


@pytest.mark.parametrize("client", _WHERE)
async def test_answers_of_a_wrong_kind_are_errors(tmp_path: Path, upstream: Upstream, client: str) -> None:
    """A 502 in the client's words that shows nothing of the answer, and a failed outcome for each."""
    scripts = [[ok(body)] for body in _ANSWERS.values()]
    async with between(tmp_path, upstream, client, *scripts) as running:
        for what in _ANSWERS:
            response = await asked(running, client, _GOOD[client])
            assert response.status == 502, (what, response.body)
            assert "Hi" not in message_of(response, client)
        assert running.balanced
    assert [outcome for outcome, _ in rows(tmp_path)] == ["failed"] * len(_ANSWERS)


@pytest.mark.parametrize("status", [400, 401, 429, 500, 529])
@pytest.mark.parametrize("client", _WHERE)
async def test_errors_of_any_shape_are_told(tmp_path: Path, upstream: Upstream, client: str, status: int) -> None:
    """The arm's status stays, whatever its body is."""
    bodies = [b"", b"<html>", b'{"error":[1]}', b'{"error":{"message":"no such thing","type":"x"}}']
    scripts = [[ok(body, status=b"%d Sorry" % status)] for body in bodies]
    async with between(tmp_path, upstream, client, *scripts) as running:
        told = []
        for _ in bodies:
            response = await asked(running, client, _GOOD[client])
            assert response.status == status
            told.append(message_of(response, client))
        assert told[-1] == "no such thing"
        assert running.balanced


_STREAMS = {
    "cut": [SSE_HEAD, event(b'{"id":"a","model":"m","choices":[{"index":0,"delta":{"content":"He"}}]}'), "close"],
    "another dialect": [SSE_HEAD, event(b'{"candidates":[{"content":{"parts":[{"text":"Hi"}]}}]}'), b"0\r\n\r\n"],
    "no JSON": [SSE_HEAD, event(b"Hi"), b"0\r\n\r\n"],
    "nothing": [SSE_HEAD, b"0\r\n\r\n"],
    "no stream": [ok(b'{"id":"a","choices":[]}')],
}


@pytest.mark.parametrize("what", _STREAMS)
async def test_streams_of_a_wrong_kind_do_not_end_well(tmp_path: Path, upstream: Upstream, what: str) -> None:
    """Nothing is told that looks like a whole answer: an error before the first event, a visible cut after."""
    async with between(tmp_path, upstream, "messages", _STREAMS[what]) as running:
        body = _GOOD["messages"][:-1] + b',"stream":true}'
        response = await asked(running, "messages", body)
        assert (what, response.status, response.end) in [
            (what, 502, "whole"),
            ("cut", 200, "eof"),
            ("cut", 200, "reset"),
        ]
        assert b"message_stop" not in response.raw
        assert running.balanced
    assert [outcome for outcome, _ in rows(tmp_path)] == ["failed"]
