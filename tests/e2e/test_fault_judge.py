"""The judge of a campaign of faults sees what it looks for: a good exchange, and the same with one thing wrong."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.e2e.fault_client import CLIENT_KEY, View, requests
from tests.e2e.fault_judge import CLOSED_S, judge
from tests.e2e.fault_plan import SHAPES, Plan
from tests.e2e.fault_row import judge_row
from tests.e2e.fault_stack import HELD_KEY
from tests.fixtures.relay import Passage

BODY = b'{"model":"m","choices":[{"message":{"content":"4"}}],"usage":{"prompt_tokens":7,"completion_tokens":9}}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: r\r\ncontent-length: %d\r\n" % len(BODY)
OWN = b"x-sidecar-decision: d\r\n"
ROW: dict[str, Any] = {
    "id": "d", "outcome": "completed", "error": None, "status": 200, "upstream": "chat", "input_tokens": 7,
    "output_tokens": 9, "usage_source": "provider", "cost_nusd": 43_000, "cost_kind": "exact", "sent_s": 0.01,
    "ttfb_s": 0.02, "ttfe_s": None, "ttft_s": None, "ttfa_s": None, "duration_s": 0.03,
}  # fmt: skip


def made(route: str = "plain", **changes: bytes) -> tuple[Plan, Passage, list[Passage], View]:
    """One whole exchange of a chat call without a toxic. `changes`: what the upstream was `asked`, the `head` and the
    `body` that the client was sent."""
    plan = Plan(1, 7, replace(next(one for one in SHAPES if one.name == "chat"), route=route))
    asked = requests(plan)
    client, call = Passage("mark-000007a"), Passage("mark-000007a")
    client.went["up"] += asked
    call.came["up"] += changes.get(
        "asked", asked if route == "plain" else asked.replace(CLIENT_KEY.encode(), HELD_KEY.encode())
    )
    call.went["down"] += HEAD + b"\r\n" + BODY
    told = changes.get("head", HEAD + OWN) + b"\r\n" + changes.get("body", BODY)
    client.came["down"] += told
    return plan, client, [call], View(told, "whole", 0.1)


def test_a_good_exchange_is_good() -> None:
    for route in ("plain", "s429"):
        seen = judge(*made(route))
        assert seen.broken == []
        assert judge_row(seen, ROW) == []


ASKED = requests(made()[0])
WRONG: dict[str, tuple[dict[str, bytes], str]] = {
    "a word of the prompt": ({"asked": ASKED.replace(b"what", b"whet")}, "the upstream was asked b"),
    "a field less": ({"asked": ASKED.replace(b"X-Mark", b"X-Mork")}, "other fields: x-mark, x-mork"),
    "no key": ({"asked": ASKED.replace(CLIENT_KEY.encode(), b"none")}, "key went nowhere"),
    "no HTTP": ({"asked": ASKED.replace(b"Host:", b"Host")}, "no HTTP"),
    "a field of the answer": ({"head": HEAD.replace(b"x-request-id: r\r\n", b"") + OWN}, "other fields: x-request-id"),
    "no decision": ({"head": HEAD}, "no x-sidecar-decision"),
    "a key told": ({"head": HEAD + OWN + b"x-sidecar-a: " + HELD_KEY.encode() + b"\r\n"}, "a key of the sidecar"),
    "a byte of the answer": ({"body": BODY.replace(b"4", b"5")}, "they differ at"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_passed_wrong_is_seen(what: str) -> None:
    changes, sentence = WRONG[what]
    broken = judge(*made(**changes)).broken
    assert any(sentence in one for one in broken), broken


def test_the_key_of_the_client_at_another_upstream_is_seen() -> None:
    broken = judge(*made("s429", asked=ASKED)).broken
    assert any("key went to another upstream" in one for one in broken), broken


def test_bytes_that_a_cut_should_have_left_are_seen() -> None:
    """The upstream died after ten bytes of its body, and the client has four of them."""
    plan, client, [call], view = made()
    call.went["down"][:] = HEAD + b"\r\n" + BODY[:10]
    call.told["down"] = client.left["down"] = "fin"
    view.end = "fin"
    for size, broken in ((10, []), (4, ["cut, and 6 bytes are missing that the upstream had sent"])):
        client.came["down"][:] = view.raw = HEAD + OWN + b"\r\n" + BODY[:size]
        assert judge(plan, client, [call], view).broken == broken


def test_an_answer_without_a_length_is_not_whole_where_its_client_reset_it() -> None:
    """The end of the connection is the relay's own then; any other end is the sidecar's word."""
    plan, client, [call], view = made()
    plain = (HEAD + OWN).replace(b"content-length: %d\r\n" % len(BODY), b"") + b"\r\n"
    call.went["down"][:] = plain.replace(OWN, b"") + BODY[:10]
    client.came["down"][:] = view.raw = plain + BODY[:10]
    client.left["down"], view.end = "fin", "left"
    for told, broken in (("reset", []), ("fin", ["a complete answer, but the upstream's was cut"])):
        client.told["up"] = told
        assert judge(plan, client, [call], view).broken == broken


def test_an_upstream_that_learns_late_of_a_client_that_left_is_seen() -> None:
    plan, client, [call], view = made()
    call.went["down"][:] = client.came["down"][:] = view.raw = b""
    client.told["up"], client.told_at, view.end = "fin", 10.0, "left"
    for later_s, late in ((0.01, False), (CLOSED_S + 0.1, True)):
        call.left["up"], call.left_at = "fin", 10.0 + later_s
        assert any("learnt" in one for one in judge(plan, client, [call], view).broken) == late


@pytest.mark.parametrize(
    "change",
    [
        {"output_tokens": 8}, {"usage_source": "estimate"}, {"cost_nusd": 86_000}, {"cost_kind": "estimate"},
        {"ttfb_s": 0.005}, {"sent_s": -0.1}, {"duration_s": 30.0}, {"outcome": "aborted"}, {"status": 201},
    ],
    ids=str,
)  # fmt: skip
def test_a_row_that_tells_something_else_is_seen(change: Mapping[str, Any]) -> None:
    assert judge_row(judge(*made("s429")), {**ROW, **change})


def test_a_stream_without_a_first_token_is_seen() -> None:
    seen = judge(*made("s429"))
    seen.plan = replace(seen.plan, shape=replace(seen.plan.shape, stream=True))
    first: Callable[[float | None], dict[str, Any]] = lambda at: {**ROW, "ttft_s": at}  # noqa: E731 - said twice
    assert judge_row(seen, first(0.02)) == []
    assert judge_row(seen, first(None)) == ["row of a stream without a first token"]
