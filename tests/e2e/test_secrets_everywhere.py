"""Every kind of key, and the words of prompts and answers of every dialect, through a whole process: nothing keeps them."""

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.e2e.secret_stage import ANSWER, KEY, PASSWORD, PROMPT, Stage
from tests.e2e.test_observability import Collector
from tests.fixtures.talk import Talk, talks
from tests.fixtures.waiting import wait_for
from tests.golden.names import ARMS, CLIENTS, SCENARIOS
from tests.integration.raw import SSE_HEAD, Response, Script, ScriptedUpstream, connected, event, get, ok, post

QUOTED = quote(KEY, safe="")
HEADERS = [
    f"{name}: {value}".encode()
    for name, value in (
        ("Authorization", f"Bearer {KEY}"),
        ("x-api-key", KEY),
        ("API-Key", KEY),
        ("X-Goog-Api-Key", KEY),
        ("Proxy-Authorization", f"Basic {KEY}"),
        ("Cookie", f"session={KEY}"),
        ("x-amz-security-token", KEY),
        ("Ocp-Apim-Subscription-Key", KEY),
        ("x-sidecar-session", KEY),
        ("x-prompt", quote(PROMPT)),
        ("User-Agent", f"app/{KEY}"),
        ("Referer", f"https://app/?token={QUOTED}"),
    )
]
GRADE = ok(
    b'{"id":"j","choices":[{"message":{"content":"{\\"score\\": 8}"}}],"usage":{"prompt_tokens":9,"completion_tokens":9}}'
)
ECHO = json.dumps(
    {"error": {"message": f"Incorrect API key provided: {KEY}. {PROMPT}", "type": KEY, "code": PROMPT}}
).encode()
FAILING: dict[str, Script] = {
    "401": [ok(ECHO, b"www-authenticate: Bearer realm=" + QUOTED.encode(), status=b"401 " + KEY.encode())],
    "400": [ok(ECHO, status=b"400 Bad Request")],
    "429": [ok(ECHO, b"Retry-After: 1", status=b"429 Too Many")],
    "500": [ok(PROMPT.encode(), status=b"500 " + KEY.encode())],
    "an error in a 200": [ok(ECHO)],
    "an error in a stream": [SSE_HEAD + event(ECHO) + b"0\r\n\r\n"],
    "a broken stream": [SSE_HEAD + event(b'{"id":"' + KEY.encode()), 0.01, "reset"],
    "no JSON": [ok(b"<html>" + KEY.encode() + PROMPT.encode())],
    "no HTTP": [KEY.encode() + b"\r\n" + PROMPT.encode() + b"\r\n\r\n", "close"],
    "a bad head": [b"HTTP/1.1 200 OK\r\n" + KEY.encode() + b"\r\n\r\n", "close"],
    "a bad length": [b"HTTP/1.1 200 OK\r\nContent-Length: " + KEY.encode() + b"\r\n\r\n", "close"],
    "a reset": ["reset"],
    "silence": [2.0],
}

ROADS = (("chat", None), ("messages", None), ("messages", "chat"), ("chat", "messages"), ("generate", "converse"))
LINES = (b"Origin: https://", b"Broken ", b"Transfer-Encoding: ", b"Expect: ", b"Content-Length: ")


class Traffic:
    """An app that talks TLS with the stage's process, and the upstream behind it."""

    def __init__(self, stage: Stage, up: ScriptedUpstream) -> None:
        self.stage, self.up = stage, up
        self.tls = ssl.create_default_context()
        stage.authority.configure_trust(self.tls)
        self.statuses: Counter[int] = Counter()
        self.script: Script = [GRADE]
        up.by = self._answer

    def _answer(self, head: bytes) -> Script:
        return [GRADE] if b"env-canary" in head else self.script

    async def ask(self, request: bytes, script: Script | None = None) -> Response:
        self.script = script if script is not None else self.script
        async with connected(self.stage.sidecar.port, tls=self.tls) as client:
            client.send(request)
            got = await client.response()
        if got.raw[:5] == b"HTTP/":
            self.statuses[got.status] += 1
        return got

    async def say(self, talk: Talk, arm: str | None, answer: Script) -> Response:
        """One conversation, with the client's key everywhere that a key can be."""
        path = talk.path + ("&" if "?" in talk.path else "?") + "key=" + QUOTED
        lines = HEADERS if arm is None else [*HEADERS, b"x-sidecar-tags: arm=%b" % arm.encode()]
        return await self.ask(post(path, talk.request, *lines), answer)


@pytest.fixture
async def up() -> AsyncIterator[ScriptedUpstream]:
    one = ScriptedUpstream()
    await one.start()
    yield one
    await one.close()


@pytest.fixture
async def proxy() -> AsyncIterator[ScriptedUpstream]:
    """A way out that refuses, and says whom."""
    refused = b"HTTP/1.1 407 canary:" + PASSWORD.encode() + b"\r\nContent-Length: 0\r\n\r\n"
    one = ScriptedUpstream([refused, "close"])
    await one.start()
    yield one
    await one.close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    one.start()
    yield one
    one.stop()


TALKS = {(one.dialect, one.scenario, one.streamed): one for one in talks(PROMPT, ANSWER)}


async def converse(app: Traffic, scenarios: Sequence[str]) -> int:
    """Each conversation with the client's own provider, and with an arm of each other dialect; how many there were."""
    number = 0
    for (dialect, scenario, streamed), talk in TALKS.items():
        if scenario not in scenarios:
            continue
        await app.say(talk, None, [talk.response])
        arms = [arm for arm in ARMS if arm != dialect] if dialect in CLIENTS else []
        for arm in arms:
            answer = TALKS["chat" if arm == "responses" else arm, scenario, streamed]
            await app.say(talk, arm, [answer.response])
        number += 1 + len(arms)
    return number


async def fail(app: Traffic) -> None:
    """Upstreams that echo what they got, die, or are silent; with and without translation."""
    for script in FAILING.values():
        for dialect, arm in ROADS:
            for streamed in (False, True):
                await app.say(TALKS[dialect, "text", streamed], arm, script)


def malformed() -> Iterator[bytes]:
    """Requests that are wrong in every place, each with canaries in it."""
    key, prompt = KEY.encode(), PROMPT.encode()
    word = json.dumps(PROMPT, ensure_ascii=False).encode()
    bodies = [
        prompt,
        word,
        b"[" + word,
        b'{"model":"m","messages":' + word + b"}",
        b'{"model":' + word + b',"messages":[]}',
    ]
    bodies += [
        b'{"model":"' + QUOTED.encode() + b'","messages":[],"stream":true}',
        b'{"model":' + json.dumps(KEY).encode() + b',"messages":[]}',
    ]
    bodies += [b'{"model":"m","messages":[{"role":' + word + b',"content":' + word + b"}]}"]
    bodies += [b'{"model":"m","messages":[{"role":"user","content":[{"type":' + word + b"}]}]}"]
    bodies += [b'{"model":"m","tools":[{"type":' + word + b'}],"temperature":' + word + b',"messages":[]}']
    bodies += [
        b'{"model":"m","messages":[' + b"[" * 200 + word,
        b'{"model":"m\\ud800","messages":[{"role":"user","content":"\\ud800' + word[1:] + b"}]}",
    ]
    bodies += [b'{"model":"m","max_tokens":1' + b"0" * 5000 + b',"messages":[{"content":' + word + b"}]}"]
    paths = ("/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1beta/models/m:generateContent")
    for body in bodies:
        for path in paths:
            yield post(path, body, *HEADERS)
            yield post(path, body, *HEADERS, b"x-sidecar-tags: arm=converse")
    good = post("/v1/chat/completions", b"{}", *HEADERS)
    yield post(f"/v1beta/models/{quote(PROMPT)}:generateContent?key={QUOTED}", b"{}", *HEADERS)
    yield post(f"/v1beta/models/{QUOTED}:streamGenerateContent", b"{}", b"x-sidecar-tags: arm=chat")
    yield from (
        get(path + QUOTED, *HEADERS) for path in ("/nothing/", "/v1/files/", "/v1/../", "//", "/_sidecar/v1/", "/v1/x?")
    )
    yield good.replace(b"localhost", key)
    yield good.replace(b"POST", key)
    yield good.replace(b"HTTP/1.1", key)
    yield from (post("/v1/messages", b"{}", *HEADERS, line + key) for line in LINES)
    yield post("/v1/messages", b"{}", b"X-" + b"k" * 70_000 + b": " + key)
    yield post("/v1/chat/completions", prompt, *HEADERS, b"Content-Encoding: gzip")
    feedback = (
        b'{"id":' + word + b',"score":1}',
        word,
        prompt,
        b'{"completion_id":' + word + b',"score":' + word + b"}",
    )
    yield from (post("/_sidecar/v1/feedback", body, *HEADERS) for body in feedback)


def admin(stage: Stage) -> list[bytes]:
    """What the admin port answers to wrong tokens, paths and bodies; these have no canary in them that it may repeat."""
    found = [stage.admin("GET", "/api/v1/status", token=KEY), stage.admin("GET", f"/api/v1/{QUOTED}")]
    found += [stage.admin("GET", f"/api/v1/decisions?last={QUOTED}", token=stage.tokens["vera"])]
    found += [stage.admin("POST", "/api/v1/store/forget", {"key": PROMPT}, token=stage.tokens["otto"])]
    found += [stage.admin("POST", f"/api/v1/routes/{QUOTED}/rollout", {"action": PROMPT})]
    found += [stage.admin("POST", "/api/v1/feedback", [PROMPT])]
    return [body for _, body in found]


async def others(app: Traffic) -> dict[str, bytes]:
    """What a client without any secret gets for its own mistakes, and while the upstream fails."""
    asked = [get("/nothing"), post("/v1/messages", b"[1"), post("/v1/chat/completions"), b"HELLO\r\n\r\n"]
    asked += [post("/v1/chat/completions", b'{"model":"m","messages":5}', b"x-sidecar-tags: arm=messages")]
    asked += [
        post("/_sidecar/v1/feedback", b'{"id":"none","score":1}'),
        post("/v1beta/models/m:generateContent", b"{}"),
    ]
    return {f"answer {number} to another": (await app.ask(one, ["reset"])).raw for number, one in enumerate(asked)}


@pytest.mark.parametrize(("workers", "scenarios"), [(1, SCENARIOS), (2, ("tool", "error"))], ids=["one", "leader"])
async def test_nothing_keeps_a_secret(
    tmp_path: Path,
    up: ScriptedUpstream,
    proxy: ScriptedUpstream,
    collector: Collector,
    workers: int,
    scenarios: Sequence[str],
) -> None:
    """SEC-KEYS, SEC-PRIVACY, GW-45: keys of clients (each header, the query, cookies), of the sidecar (files of every
    provider, the environment, a signing pair), of operators (roles, audit, salt, TLS), of the proxy on the way out and in
    URLs; prompts and answers of each dialect, translated and not, streamed, tools, pictures; errors that echo them, bodies
    and heads that are wrong: in no output, log, database, WAL, backup, export, explanation, metric, span, state, answer to
    others or process argument, in no form that `tests/fixtures/canaries.py` knows."""
    stage = await asyncio.to_thread(
        Stage, tmp_path, up.port, proxy=proxy.port, collector=collector.url, workers=workers
    )
    try:
        app = Traffic(stage, up)
        talked = await converse(app, scenarios)
        await fail(app)
        for request in malformed():
            await app.ask(request, [GRADE])
        answers = await asyncio.to_thread(admin, stage)
        artefacts = {f"admin answer {number}": text for number, text in enumerate(answers)}
        artefacts |= await others(app)
        sent = b"".join(seen.raw for seen in up.requests)
        _went_through(stage, sent)
        assert stage.secrets["proxy's credentials"] in proxy.requests[0].head
        assert app.statuses[200] > talked / 2, app.statuses
        assert await asyncio.to_thread(wait_for, lambda: len(collector.bodies) > 1, 15)
        artefacts |= await asyncio.to_thread(stage.shown)
        artefacts |= await asyncio.to_thread(stage.told)
        assert len(stage.rows) > talked / 2
        artefacts |= {f"running/{name}": text for name, text in stage.files().items()}  # the WAL goes with the process
        assert await asyncio.to_thread(stage.sidecar.stop) == 0
        artefacts |= stage.files() | {f"spans {at}": body for at, body in enumerate(collector.bodies)}
    finally:
        stage.close()
    assert {"store/sidecar.db", "backup.db", "state.json", "sidecar.log", "requests.jsonl"} <= set(artefacts)
    large = ("store/sidecar.db", "running/store/sidecar.db-wal", "requests.jsonl", "sidecar.log", "spans 0")
    assert all(len(artefacts[name]) > 400 for name in large)
    assert stage.canaries.sweep(artefacts) == []


def _went_through(stage: Stage, sent: bytes) -> None:
    """The sweep means something: the upstreams got the words and each of the keys that they were meant to get."""
    assert KEY.encode() in sent
    assert PROMPT.split('"')[0].encode() in sent
    for arm in ARMS:
        key = stage.secrets[f"key of {arm}"]
        assert (key.partition(b":")[0] if arm == "converse" else key) in sent or arm == "responses", arm
    assert stage.secrets["key in the environment"] in sent
