"""Judges what passed through one exchange of a campaign of faults unseen by its client: what the upstream was asked, and the
header fields of its answer.

The promises are those of docs/clients.md and of the README: who speaks the arm's dialect has its body passed on to the
byte, but for the model and the question about usage; its header fields pass, both ways; the client's key goes nowhere
but to the upstream that it is meant for, and a key of the sidecar's is never told. Each broken promise is a sentence.
It looks at what the sidecar wrote, before a toxic meets it.
"""

import re
from collections.abc import Sequence

from tests.e2e.fault_client import CLIENT_KEY, request
from tests.e2e.fault_plan import Plan
from tests.e2e.fault_stack import HELD_KEY
from tests.fixtures.answers import Answer, read_answer
from tests.fixtures.relay import Passage

_QUESTION = b'"stream_options":{"include_usage":true},'
_MODEL = re.compile(rb'"model": "m-[a-z0-9]+"')
_ASKED_ANEW = {"host", "content-length", "transfer-encoding", "expect", "connection"}  # of the hop, not of the call
_TOLD_ANEW = {"connection", "keep-alive", "transfer-encoding", "content-length", "x-should-retry"}


def judge_requests(plan: Plan, calls: Sequence[Passage], told: bytes) -> list[str]:
    """What is wrong with the calls that the upstreams got, and whether `told`, which the client was sent, has a key in it.
    A client whose bytes were spoilt on their way up is not looked at."""
    broken = ["the client was told a key of the sidecar's"] if HELD_KEY.encode() in told else []
    if any(one.kind == "garbage" and one.direction == "up" for one in plan.client):
        return broken
    for call in calls:
        data = bytes(call.came["up"])
        if b"\r\n\r\n" in data:
            broken += _judge_request(
                plan, _read(request(plan, call.mark[-1])), _read(data), CLIENT_KEY.encode() in data
            )
    return broken


def _read(data: bytes) -> Answer:
    """A request is read as an answer is, but for its first line."""
    return read_answer(b"HTTP/1.1 200 OK" + data[data.find(b"\r\n") :])


def _judge_request(plan: Plan, asked: Answer, got: Answer, has_key: bool) -> list[str]:
    passed_on = plan.shape.route == "plain"  # to an upstream for which the sidecar holds no key
    broken = []
    if has_key != passed_on:
        broken.append(f"the client's key went {'to another upstream' if has_key else 'nowhere'}")
    if got.state == "malformed":
        return [*broken, "the upstream was asked what is no HTTP"]
    if passed_on and (odd := _other(asked, got, _ASKED_ANEW)):
        broken.append(f"the upstream was asked with other fields: {odd}")
    body = _as_asked(plan, asked, got)
    if plan.shape.kin in ("text", "none"):
        text = re.search(rb"mark-[0-9]{6}[a-z] [^\"]*", asked.payload)
        same = got.state != "whole" or text is None or text[0] in body
    else:
        same = body == asked.payload if got.state == "whole" else not passed_on or asked.payload.startswith(body)
    if not same:
        broken.append(f"the upstream was asked {body[:120]!r} ({len(body)} bytes and not {len(asked.payload)})")
    return broken


def _as_asked(plan: Plan, asked: Answer, got: Answer) -> bytes:
    """The body without what the sidecar may put into it."""
    body = got.payload.replace(_QUESTION, b"", 1) if plan.shape.kin == "usage" else got.payload
    found = re.search(rb'"model": "[^"]*"', asked.payload)
    return body if found is None else _MODEL.sub(found[0], body, count=1)


def judge_fields(plan: Plan, given: Answer, sent: Answer) -> list[str]:
    """What is wrong with the fields of an answer that an upstream gave and the client was sent."""
    broken = [] if sent.value("x-sidecar-decision") else ["the answer has no x-sidecar-decision"]
    if plan.shape.kin in ("bytes", "usage") and (odd := _other(given, sent, _TOLD_ANEW)):
        broken.append(f"the client was sent other fields: {odd}")
    length = given.value("content-length")
    if plan.shape.kin == "bytes" and sent.value("content-length") != length:
        broken.append(f"the client was told {sent.value('content-length')!r} bytes and not {length!r}")
    return broken


def _other(one: Answer, other: Answer, but: set[str]) -> str:
    """The names of the fields that differ; those of the sidecar's own aside."""
    names = {name for name in {*one.fields, *other.fields} - but if not name.startswith("x-sidecar-")}
    return ", ".join(sorted(name for name in names if one.fields.get(name) != other.fields.get(name)))
