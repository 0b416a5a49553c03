"""Good inputs that a fuzzer spoils: recorded answers, policies of the repository, and bodies and streams of every format.

Bodies and streams come from the generators of the tests, always the same ones. What begins with a byte or two that choose
a format has all values of them.
"""

import itertools
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import orjson
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fixtures import said_chat, said_cohere, said_converse, said_generate, said_messages, said_responses
from tests.fixtures.desync import attacks

ROOT: Final = Path(__file__).resolve().parents[1]
CLIENTS: Final = ("chat", "responses", "messages", "generate")
ARMS: Final = (*CLIENTS, "cohere", "converse")
_SAID: Final[dict[str, Any]] = {
    "chat": said_chat, "responses": said_responses, "messages": said_messages, "generate": said_generate,
    "cohere": said_cohere, "converse": said_converse,
}  # fmt: skip
_EACH: Final = 12  # of one format
_MAX_BYTES: Final = 3072  # of a seed: long ones are spoilt slowly


@cache
def _made(form: str, what: str) -> list[bytes]:
    """Some requests, responses or streams of a format, the same at each call."""
    strategy: st.SearchStrategy[Any] = getattr(_SAID[form], what)()
    write: Callable[[Any], bytes] = b"".join if what == "streams" else orjson.dumps
    found: list[bytes] = []

    @settings(
        max_examples=4 * _EACH, database=None, derandomize=True, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def collect(value: Any) -> None:  # noqa: ANN401 - whatever JSON holds
        found.append(write(value))

    collect()
    short = sorted(dict.fromkeys(found), key=len)
    return [one for one in short if len(one) <= _MAX_BYTES][-_EACH:] or short[:_EACH]


def requests() -> list[bytes]:
    """A byte for the format, and a body."""
    made = (_made(form, "requests") for form in CLIENTS)
    return [bytes((number,)) + body for number, bodies in enumerate(made) for body in bodies]


def bodies() -> list[bytes]:
    """Bodies of requests, generated and recorded."""
    recorded = [json.loads(file.read_text())["request"].get("body") or "" for file in _recorded("json")]
    return [one[1:] for one in requests()] + [body.encode() for body in recorded]


def answers() -> list[bytes]:
    """A byte for the client's format, one for the arm's, and a whole answer of the arm."""
    made = [_made(form, "responses") for form in ARMS]
    pairs = itertools.product(range(len(CLIENTS)), enumerate(made))
    return [bytes((client, arm)) + body for client, (arm, bodies) in pairs for body in bodies[client::4]]


def streams() -> list[bytes]:
    """The same with a streamed answer."""
    made = [_made(form, "streams") for form in ARMS]
    pairs = itertools.product(range(len(CLIENTS)), enumerate(made))
    return [bytes((client, arm)) + body for client, (arm, bodies) in pairs for body in bodies[client::4]]


def events() -> list[bytes]:
    """Streams of server-sent events."""
    recorded = [file.read_bytes().partition(b"\r\n\r\n")[2][:_MAX_BYTES] for file in _recorded("http")]
    odd = [b"data: a\r\n\r\ndata:b\r\rdata\n\n", b"\xef\xbb\xbfevent: x\ndata: 1\ndata: 2\nid: 3\nretry: 4\n: c\n\n"]
    return odd + recorded + [one[2:] for one in streams() if one[1] < 5]


def frames() -> list[bytes]:
    """Streams of Bedrock's framing."""
    return [one[2:] for one in streams() if one[1] == len(ARMS) - 1]


def heads() -> list[bytes]:
    """Heads of requests, ordinary and hostile."""
    hostile = [one.to(b"/v1/x") for one in attacks()]
    return [one[: one.find(b"\r\n\r\n") + 4] for one in hostile if len(one) < 2048 and b"\r\n\r\n" in one]


def answer_heads() -> list[bytes]:
    """Heads of answers."""
    return [file.read_bytes().partition(b"\r\n\r\n")[0] + b"\r\n\r\n" for file in _recorded("http")]


def chunks() -> list[bytes]:
    """Chunked bodies, good and bad."""
    return [one.rest for one in attacks() if "chunks" in one.name and len(one.rest) < 2048]


def policies() -> list[bytes]:
    """The examples of the repository."""
    return [file.read_bytes() for file in sorted((ROOT / "policies").glob("*.yaml"))]


def targets() -> list[bytes]:
    """Paths of clients."""
    return [
        b"/v1/chat/completions?x=1", b"/openai/deployments/gpt-4o/chat/completions?api-version=1", b"/openai/v1/responses",
        b"/v1/projects/p/locations/l/publishers/google/models/m:streamGenerateContent?alt=sse&key=k",
        b"/v1beta/models/gemini:generateContent", b"/model/amazon.nova-pro-v1:0/converse-stream", b"/v2/chat",
        b"/v1beta1/projects/p/locations/l/endpoints/openapi/chat/completions", b"/v1/%2e%2e/..;x/%5c..#?a=%zz",
    ]  # fmt: skip


def schemas() -> list[bytes]:
    """A JSON schema, a zero byte, and a text."""
    deep = {"$defs": {"n": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/n"}]}}, "$ref": "#/$defs/n"}
    flat = {
        "type": "object", "required": ["a"], "additionalProperties": False, "properties": {
            "a": {"type": "string", "pattern": "^(a+)+$", "minLength": 1}, "b": {"enum": [1, None]},
            "c": {"type": "array", "items": {"type": "number", "multipleOf": 0.1}, "uniqueItems": True},
        },
    }  # fmt: skip
    texts = (b'{"a":"aaaaaaaaaaaa!"}', b'{"a":"a","b":1,"c":[1,2.5]}', b"null")
    return [orjson.dumps(schema) + b"\0" + text for schema in (deep, flat) for text in texts]


def _recorded(kind: str) -> list[Path]:
    return sorted((ROOT / "tests" / "fixtures" / "recorded").glob(f"*.{kind}"))
