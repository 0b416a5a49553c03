"""The bench's bytes are what the documentation says they are, and damage to them is noticed."""

import json

import pytest

from bench import payloads

BODY = payloads.request(7, 9090).partition(b"\r\n\r\n")[2]


def test_sizes_are_the_promised_ones() -> None:
    """507 bytes of JSON in, plain or streamed, and 1,100 bytes of JSON out."""
    streamed = payloads.stream_request(7, 9090, 500, 15, 64).partition(b"\r\n\r\n")[2]
    assert [len(BODY), len(streamed), len(payloads.answer_body(7))] == [507, 507, 1100]
    assert json.loads(BODY)["model"] == "gpt-4o"
    assert json.loads(streamed)["stream_options"] == {"include_usage": True}
    assert json.loads(payloads.answer_body(7))["id"] == payloads.completion_id(7)


def test_every_event_is_json_with_usage_only_at_the_end() -> None:
    """The stream looks like the provider's, so that a meter parses all of it."""
    events = [payloads.role_event(7, 1), payloads.token_event(7, 1, 2), *payloads.last_events(7, 1, 64)]
    parsed = [json.loads(event.removeprefix(b"data: ")) for event in events[:-1]]
    assert [bool(event["usage"]) for event in parsed] == [False, False, False, True]
    assert parsed[-1]["usage"]["completion_tokens"] == 64
    assert events[-1] == b"data: [DONE]\n\n"


def test_ticket_survives_another_model_and_nothing_else() -> None:
    """A router may rename the model; any other change to the body is refused."""
    renamed = BODY.replace(b'"gpt-4o"', b'"gpt-4o-mini"', 1)
    assert payloads.ticket(BODY) == payloads.ticket(renamed) == (7, 0, 0, 0)
    for damaged in (BODY[:-1], BODY[1:], BODY.replace(b"support", b"supporT"), BODY.replace(b"[ticket", b"[tick")):
        assert payloads.ticket(damaged) is None


GOOD = payloads.answer(7)


@pytest.mark.parametrize(
    ("received", "verdict"),
    [
        (GOOD, ""),
        (GOOD[:40], None),
        (GOOD[:-1], None),
        (GOOD + b"x", "bytes after the body"),
        (GOOD.replace(b"Two", b"two").replace(b"kindly", b"kindlY", 1), "wrong body"),
        (payloads.answer(8), "wrong body"),
        (GOOD.replace(b"200 OK", b"502 No", 1), "status 502"),
        (GOOD.replace(b"Content-Length", b"Content-Lengths"), "no content-length"),
        (GOOD.replace(b"Content-Length", b"content-length"), ""),
    ],
)
def test_verify_tells_right_incomplete_and_wrong(received: bytes, verdict: str | None) -> None:
    """Only the answer to this very request, whole and unchanged, is right."""
    assert payloads.verify(received, 7) == verdict
