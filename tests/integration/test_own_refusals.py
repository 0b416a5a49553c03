"""Calls that the sidecar refuses itself: a clear 4xx in the client's dialect, and a row that says so."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.integration.canary import written
from tests.integration.conftest import Running, Upstream, serving
from tests.integration.raw import Response, ScriptedUpstream, call, connected, ok, post
from tests.integration.test_translation_faults import HELD, WHOLE, asking, policy

_HEAD = b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
_DEEP = b"[" * 100 + b"]" * 100


class Stage:
    """An upstream that nobody should reach, and the folder of a sidecar's files."""

    def __init__(self, folder: Path, far: ScriptedUpstream) -> None:
        self.folder, self.far = folder, far

    @asynccontextmanager
    async def sidecar(self, settings: dict[str, Any], changes: dict[str, Any]) -> AsyncIterator[Running]:
        rules = changes.get("rules", [])
        made = policy(self.far.port, **{name: value for name, value in changes.items() if name != "rules"})
        folder = written(self.folder / "policies", made | {"rules": rules})
        url = f"http://127.0.0.1:{self.far.port}"
        async with serving(url, policies=folder, environ=HELD, db=self.folder / "d", **settings) as side:
            assert side.app.policies.error is None
            yield side
            assert side.balanced

    def rows(self) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(self.folder / "d")) as connection:
            connection.row_factory = sqlite3.Row
            found = connection.execute("SELECT * FROM decisions JOIN outcomes USING (id) ORDER BY id")
            return [dict(row) for row in found]


@pytest.fixture
async def stage(tmp_path: Path, upstream: Upstream) -> Stage:
    return Stage(tmp_path, await upstream([ok(WHOLE)]))


def spoilt(old: bytes, new: bytes) -> bytes:
    """A call of an Anthropic app, with a part of its body replaced."""
    _, _, body = asking().partition(b"\r\n\r\n")
    assert old in body
    return _HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body) - len(old) + len(new), body.replace(old, new))


def message_of(got: Response) -> str:
    said = orjson.loads(got.body)
    assert said["type"] == "error"
    assert said["error"]["type"] == "invalid_request_error"
    return str(said["error"]["message"])


@pytest.mark.parametrize("allow_loss", [False, True])
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'"Hi"', b'"H\xff"', "the body is not valid UTF-8: see byte 71, counted from 0 (malformed)"),
        (b'"Hi"', b"5", "messages[0].content: expected a string or a list, got a number (malformed)"),
        (b'"Hi"', _DEEP, "messages[0].content[0]: expected an object, got a list (malformed)"),
        (b'"messages"', b'"massages"', "messages: expected a list, got null (malformed)"),
        (b'"Hi"', b'"' + b"a" * 300_000 + b'" b', "see line 1, column 300073 (malformed)"),
    ],
    ids=["no UTF-8", "a wrong type", "nested", "a member missing", "no JSON"],
)
async def test_a_malformed_call_is_told_what_is_wrong_and_where(
    stage: Stage, old: bytes, new: bytes, words: str, *, allow_loss: bool
) -> None:
    """And not what the arm's dialect lacks, whether the route allows loss or not; nothing of the body is repeated."""
    async with stage.sidecar({}, {"allow_loss": allow_loss}) as side:
        got = await call(side.port, spoilt(old, new))
        assert (got.status, got.value(b"x-sidecar-error")) == (400, b"malformed")
        assert words in message_of(got)
        assert "dialect" not in message_of(got)
        assert len(got.body) < 300
    assert not stage.far.requests
    (row,) = stage.rows()
    assert (row["outcome"], row["error"], row["status"], row["cost_nusd"]) == ("failed", "refused", 400, None)
    assert (row["route"], row["requested_model"]) == ("all", "auto")


async def test_malformed_calls_without_a_model_go_to_the_apps_own_provider(stage: Stage) -> None:
    """Truncated JSON names no model, so no route takes it: the provider sees the bytes as they came, and judges them."""
    _, _, body = asking().partition(b"\r\n\r\n")
    async with stage.sidecar({}, {}) as side:
        got = await call(side.port, _HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body) - 5, body[:-5]))
        assert got.status == 200
    assert stage.far.requests[0].body == body[:-5]
    assert stage.rows()[0]["requested_model"] is None


def chat(model: str, **more: Any) -> bytes:
    return post(body=orjson.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}], **more}))


_DENIED = {"rules": [{"id": "no", "when": "daily_cost >= 0", "action": "deny", "message": "closed"}]}
_CALLS: dict[str, tuple[Callable[[], bytes], dict[str, Any], tuple[int, bytes], str | None]] = {
    "a loss": (lambda: asking(top_k=5, brand_new=1), {}, (400, b"translation"), "all"),
    "a path": (
        lambda: chat(".."),
        {"far": {"provider": "azure-deployments"}, "match": {}, "virtual": []},
        (400, b"target"),
        "all",
    ),
    "dots": (lambda: post("/v1/../x"), {"match": {}, "virtual": []}, (400, b"target"), "all"),
    "an array": (
        lambda: post("/v1beta/models/auto:streamGenerateContent", b'{"contents":[{"parts":[{"text":"Hi"}]}]}'),
        {},
        (400, b"translation"),
        "all",
    ),
    "a rule": (asking, _DENIED, (403, b"rule"), "all"),
    "a budget": (
        asking,
        {"budget": {"per_request_usd": 0.000000001, "on_exceeded": "deny"}},
        (429, b"budget"),
        "all",
    ),
}


@pytest.mark.parametrize("what", _CALLS)
async def test_a_refused_call_leaves_its_row(stage: Stage, what: str) -> None:
    """Whoever refused it: with the status that the client saw, and without a cost or an upstream's answer."""
    make, changes, (status, code), route = _CALLS[what]
    if what == "dots":
        changes = {**changes, "far": {"base_url": f"http://127.0.0.1:{stage.far.port}/some/where"}}
    async with stage.sidecar({}, changes) as side:
        got = await call(side.port, make())
        assert (got.status, got.value(b"x-sidecar-error")) == (status, code), got.body
        told = (got.value(b"x-sidecar-decision") or b"").decode()
    assert not stage.far.requests
    (row,) = stage.rows()
    assert (row["id"], row["route"]) == (told, route)
    assert (row["outcome"], row["error"], row["status"]) == ("failed", "refused", status)
    assert (row["cost_nusd"], row["sent_s"], row["input_tokens"]) == (None, None, None)


@pytest.mark.parametrize(
    ("rest", "status", "error"),
    [
        (b"Content-Length: 99999999\r\n\r\n{", 413, "too_large"),
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nzz\r\n", 400, "bad_request_body"),
        (b"Content-Length: 99\r\n\r\n{", 408, "timeout_body"),
    ],
)
async def test_a_body_that_never_was_whole_leaves_a_row(stage: Stage, rest: bytes, status: int, error: str) -> None:
    """There was nothing to decide on, so nothing but the path is known of it; the answer is in the client's dialect."""
    async with stage.sidecar({"body_stall_timeout": "50ms"}, {}) as side, connected(side.port) as client:
        client.send(_HEAD + rest)
        got = await client.response()
        assert got.status == status
        assert orjson.loads(got.body)["type"] == "error"
    assert not stage.far.requests
    (row,) = stage.rows()
    assert (row["outcome"], row["error"], row["status"]) == ("failed", error, status)
    assert (row["dialect"], row["requested_model"], row["arm"], row["upstream"]) == ("anthropic", None, None, None)


async def test_a_client_that_leaves_before_its_body_is_whole_leaves_a_row(stage: Stage) -> None:
    async with stage.sidecar({}, {}) as side:
        async with connected(side.port) as client:
            client.send(_HEAD + b"Content-Length: 99\r\n\r\n{")
            assert await stage.far.until(lambda: bool(side.app.plane.exchanges))
        assert await stage.far.until(lambda: not side.app.plane.exchanges)
    (row,) = stage.rows()
    assert (row["outcome"], row["error"], row["status"]) == ("aborted", "client_closed", None)
