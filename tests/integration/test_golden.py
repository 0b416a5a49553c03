"""The golden conversations through the real sidecar: the client's own SDK sees what it would see from its own provider.

Each conversation goes through twice, as the files of tests/golden/native have it: answered by the client's own provider,
byte for byte, and by an arm of another dialect. The typed objects are the same but for what `tests.golden.declared` lists;
what went over the wire is what tests/golden/expected holds. OpenAI's servers speak both of its dialects, so that no arm is
ever asked in Responses what a client said in another: of these pairs the SDK judges the translation itself.
"""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response as OpenAIResponse
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from sidecar.wire.sse import SseParser
from tests.golden.conversations import Conversation, conversation, owner_of
from tests.golden.crossing import CREATED, ID, crossing
from tests.golden.declared import TOLD
from tests.golden.differences import Case, held
from tests.golden.differing import differing
from tests.golden.judge import judge_of, verdict
from tests.golden.names import MODELS, PAIRS, SCENARIOS, Format
from tests.integration.conftest import Serve, Upstream
from tests.integration.raw import Script, call, post

JUDGED = [pair for pair in PAIRS if pair[0] != "generate"]  # Google's SDK judges in tests/sdk
ASKED = [pair for pair in PAIRS if pair[1] != "responses"]
TYPES: dict[Format, tuple[Any, Any]] = {
    "chat": (ChatCompletion, ChatCompletionChunk),
    "responses": (OpenAIResponse, ResponseStreamEvent),
    "messages": (Message, RawMessageStreamEvent),
}
LOSSY, STRICT = {"x-sidecar-tags": "loss=yes"}, {"x-sidecar-tags": "loss=no"}
named = partial(map, "-".join)
pytestmark = pytest.mark.filterwarnings("ignore:The model 'claude:DeprecationWarning")  # the last that count thoughts


def policy(folder: Path, port: int, client: Format, arm: Format, model: str | None = None) -> Path:
    """One upstream of the arm's dialect, for calls with the tag; `loss=yes` allows loss."""
    dialect, provider = owner_of(client, arm)
    (folder / "key").write_text("AKID:held-key-0123456789\n")
    (folder / "key").chmod(0o600)
    far = {"dialect": dialect, "provider": provider, "base_url": f"http://127.0.0.1:{port}"}
    far |= {"api_key": {"file": f"{folder}/key"}, "price": "free"}
    baseline = {"id": "base", "upstream": "far", "model": model or MODELS[arm]}
    asked = MODELS[client]
    virtual = {} if asked == MODELS[arm] else {"virtual": [asked]}  # the app's own name, unless the arm has that model
    routes = [
        {"name": f"loss-{loss}", "match": {"models": [asked], "tags": {"loss": loss}}, "baseline": baseline}
        | {"allow_loss": loss == "yes"}
        | virtual
        for loss in ("yes", "no")
    ]
    (folder / "policies").mkdir()
    made = {"version": 1, "service": "default", "upstreams": {"far": far}, "routes": routes}
    (folder / "policies" / "p.yaml").write_text(json.dumps(made))  # JSON is YAML
    return folder / "policies"


def answered(dialect: Format, body: bytes, status: int, *, streamed: bool) -> Script:
    """A whole response as the server of this dialect gives it."""
    kind = b"application/vnd.amazon.eventstream" if dialect == "converse" else b"text/event-stream"
    kind = kind if streamed else b"application/json"
    head = b"HTTP/1.1 %d Said\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (status, kind, len(body))
    return [head + body]


def script(said: Conversation, *, streamed: bool) -> Script:
    return answered(said.dialect, said.body(streamed=streamed), 200 if streamed else said.status, streamed=streamed)


@pytest.mark.parametrize(("client", "arm"), JUDGED, ids=named(JUDGED))
async def test_the_sdk_sees_the_same(
    upstream: Upstream, serve: Serve, tmp_path: Path, client: Format, arm: Format
) -> None:
    """Whole answers, what streams add up to, and exceptions: equal types and members, but for what is listed."""
    far = await upstream()
    side = await serve(far, policies=policy(tmp_path, far.port, client, arm))
    sdk, ask = judge_of(client, side.port)
    found: dict[Case, dict[str, str]] = {}
    async with sdk:
        for scenario in SCENARIOS:
            own, other = conversation(scenario, client), conversation(scenario, arm)
            for streamed in (False, True):
                far.scripts[:] = [script(own, streamed=streamed)]
                native = await verdict(ask, own, {}, streamed=streamed)
                asked = json.loads(far.requests[-1].body)
                assert asked == (own.streamed_request if streamed else own.request), "as the SDK puts it on the wire"
                if arm == "responses":
                    told = crossing(client, arm, scenario, streamed)
                    far.scripts[:] = [answered(client, told.told, told.status, streamed=streamed)]
                else:
                    far.scripts[:] = [script(other, streamed=streamed)]
                translated = await verdict(ask, own, {} if arm == "responses" else LOSSY, streamed=streamed)
                found[scenario, "streamed" if streamed else "whole"] = differing(translated, native)
    assert held(TOLD, client, arm, found) == []


@pytest.mark.parametrize(("client", "arm"), ASKED, ids=named(ASKED))
async def test_the_wire_is_as_expected(
    upstream: Upstream, serve: Serve, tmp_path: Path, client: Format, arm: Format
) -> None:
    """The real process asks and answers with the bytes of the files; a policy without loss refuses what they refuse."""
    far = await upstream()
    side = await serve(far, policies=policy(tmp_path, far.port, client, arm))
    for scenario in SCENARIOS:
        own, other = conversation(scenario, client), conversation(scenario, arm)
        for streamed in (False, True):
            expected = crossing(client, arm, scenario, streamed)
            path = own.streamed_path if streamed else own.path
            body = json.dumps(own.streamed_request if streamed else own.request).encode()
            far.scripts[:] = [script(other, streamed=streamed)]
            far.requests.clear()
            got = await call(side.port, post(path, body, *lines(LOSSY)))
            assert (got.status, unnamed(got.body)) == (expected.status, unnamed(expected.told))
            changed = (got.value(b"x-sidecar-changed") or b"").decode()
            assert words(changed) <= words(expected.changed)
            assert words(changed) >= words(expected.changed_before if streamed else expected.changed)
            assert far.requests[0].line.split()[1].decode() == expected.path
            assert json.loads(far.requests[0].body) == expected.body
            strict = await call(side.port, post(path, body, *lines(STRICT)))
            if expected.refused:
                assert (strict.status, strict.body) == (400, expected.refused)
                assert len(far.requests) == 1, "nothing is sent"
            else:
                assert (strict.status, far.requests[1].body) == (expected.status, far.requests[0].body)


@pytest.mark.parametrize(
    ("arm", "model", "scenario", "lost"),
    [
        ("converse", "amazon.nova-pro-v1:0", "thinking", "reasoning"),
        ("messages", "claude-opus-4-7", "text", "temperature"),
        ("messages", "claude-sonnet-4-5", "text", ""),
    ],
)
async def test_what_can_be_said_depends_on_the_arms_model(
    upstream: Upstream, serve: Serve, tmp_path: Path, arm: Format, model: str, scenario: str, lost: str
) -> None:
    """And not on the name that the app asks for: Nova does not think, later models of Anthropic's take no temperature."""
    far = await upstream()
    side = await serve(far, policies=policy(tmp_path, far.port, "chat", arm, model))
    far.scripts[:] = [script(conversation(scenario, arm), streamed=False)]
    own = conversation(scenario, "chat")
    got = await call(side.port, post(own.path, json.dumps(own.request).encode(), *lines(STRICT)))
    assert (got.status, len(far.requests)) == ((400, 0) if lost else (200, 1))
    assert f"cannot say: {lost};".encode() in got.body or not lost


def words(changed: str) -> set[str]:
    """The names of a list; a stream's head has at least those that were known before the answer began."""
    return set(changed.split(", ")) - {""}


def lines(headers: dict[str, str]) -> list[bytes]:
    return [f"{name}: {value}".encode() for name, value in headers.items()]


def unnamed(body: bytes) -> bytes:
    """Without what the process makes up: ids of answers that have none, the second of the call."""
    body = re.sub(rb"[0-9a-f]{26}", ID.encode(), body)
    body = re.sub(rb'("created(?:_at)?":)17[0-9]{8}', b"\\g<1>%d" % CREATED, body)
    return re.sub(rb'("createTime":)"[^"]*"', rb"\1", body)


@pytest.mark.parametrize("client", TYPES)
def test_the_recordings_are_of_the_sdks_types(client: Format) -> None:
    """Every member of a native answer and of each event of its stream is one that the SDK knows."""
    whole, event = TYPES[client]
    for scenario in SCENARIOS:
        said = conversation(scenario, client)
        if said.status == 200:
            known(TypeAdapter(whole).validate_python(said.answer))
        for one in SseParser().feed(said.stream):
            value = None if one.data == b"[DONE]" else json.loads(one.data)
            if value and "error" not in value and value["type" if "type" in value else "object"] != "ping":
                known(TypeAdapter(event).validate_python(value))


def known(value: Any) -> None:
    """Raises AssertionError where a typed object has a member that its type has not."""
    if isinstance(value, BaseModel):
        assert not value.model_extra, type(value).__name__
        for member in value.__dict__.values():
            known(member)
    elif isinstance(value, list):
        for one in value:
            known(one)
