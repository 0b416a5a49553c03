"""The bytes of the bench: one small chat request and its answer, and a streamed one, each checkable to the last byte.

Every request carries a number in its user message and every answer carries it back in its id, so an answer that was
given to the wrong caller is found. Streamed events carry two stamps of the upstream's monotonic clock (nanoseconds, 19
digits): when it had read the request, and when it wrote the event. The clock is the machine's, so that the load
generator may subtract.
"""

import json
import re

REQUEST_BYTES = 507
MODEL = b"gpt-4o"
_SYSTEM = "You are the support assistant of a small shop. Answer in two sentences, kindly, and say what happens next. "
_HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: application/json\r\n"
    b"Accept-Encoding: gzip, deflate\r\nUser-Agent: OpenAI/Python 2.8.0\r\n"
    b"Authorization: Bearer sk-bench-0123456789abcdef0123456789abcdef\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)
_KNOBS = re.compile(rb"\[ticket (\d{8}) first (\d{4}) gap (\d{3}) chunks (\d{4})\]")
_PLAIN_TAIL = b'"}],"temperature":0.7,"max_tokens":256,"stream":false}'
_STREAM_TAIL = b'"}],"temperature":0.7,"stream":true,"stream_options":{"include_usage":true}}'
_PIXELS = b"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9Q"
_TICKET = b"[ticket %08d first %04d gap %03d chunks %04d]"
_TICKET_BYTES = len(_TICKET % (0, 0, 0, 0))
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)[ \t]*\r\n", re.IGNORECASE)

_ANSWER = {
    "object": "chat.completion",
    "created": 1763000000,
    "model": "gpt-4o-2024-08-06",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "", "refusal": None, "annotations": []},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 104,
        "completion_tokens": 112,
        "total_tokens": 216,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    },
    "service_tier": "default",
    "system_fingerprint": "fp_b1442291a8",
}
ANSWER_BYTES = 1100


def _middle(tail: bytes) -> bytes:
    """What stands between the model's value and the ticket, padded so that the whole body has REQUEST_BYTES bytes."""
    start = b'","messages":[{"role":"system","content":"'
    turn = b'"},{"role":"user","content":"'
    missing = REQUEST_BYTES - len(b'{"model":"' + MODEL + start + turn + tail) - _TICKET_BYTES
    return start + (_SYSTEM * 9)[:missing].encode() + turn


PLAIN_MIDDLE = _middle(_PLAIN_TAIL)
STREAM_MIDDLE = _middle(_STREAM_TAIL)
_OPEN = b'{"model":"' + MODEL


def _answer_parts() -> tuple[bytes, bytes]:
    """The answer before and after the eight digits of its id."""
    text = json.dumps(_ANSWER, separators=(",", ":"))
    before = '{"id":"chatcmpl-bench'
    filler = ANSWER_BYTES - len(before) - 8 - len('",') - len(text) + 1
    full = text.replace('"content":""', f'"content":"{(_SYSTEM * 9)[:filler]}"')
    return before.encode(), ('",' + full[1:]).encode()


ANSWER_BEFORE, ANSWER_AFTER = _answer_parts()
ANSWER_HEAD = (
    b"HTTP/1.1 200 OK\r\nDate: Fri, 21 Nov 2026 03:00:00 GMT\r\nContent-Type: application/json\r\n"
    b"x-request-id: req_bench\r\nopenai-processing-ms: 1\r\nContent-Length: %d\r\n\r\n" % ANSWER_BYTES
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nDate: Fri, 21 Nov 2026 03:00:00 GMT\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"x-request-id: req_bench\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_EVENT = (
    b'data: {"id":"chatcmpl-bench%08d","object":"chat.completion.chunk","created":1763000000,'
    b'"model":"gpt-4o-2024-08-06","system_fingerprint":"fp_%019d","choices":[%b],"usage":%b}\n\n'
)
_ROLE = b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
_TOKEN = b'{"index":0,"delta":{"content":" %019d"},"logprobs":null,"finish_reason":null}'
_FINISH = b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}'
DONE = b"data: [DONE]\n\n"
TOKEN = re.compile(
    rb'data: \{"id":"chatcmpl-bench(\d{8})","object":"chat.completion.chunk","created":1763000000,'
    rb'"model":"gpt-4o-2024-08-06","system_fingerprint":"fp_(\d{19})","choices":\[\{"index":0,"delta":'
    rb'\{"content":" (\d{19})"\},"logprobs":null,"finish_reason":null\}\],"usage":null\}\n\n'
)


def completion_id(number: int) -> str:
    """The id that the answer to request `number` carries."""
    return f"chatcmpl-bench{number:08d}"


def request(number: int, port: int) -> bytes:
    """A whole small request: head and a body of REQUEST_BYTES bytes."""
    body = b"".join((_OPEN, PLAIN_MIDDLE, _TICKET % (number, 0, 0, 0), _PLAIN_TAIL))
    return _HEAD % (port, len(body)) + body


def image_request(number: int, port: int, size: int) -> bytes:
    """A whole request whose second question shows an image of `size` bytes of base64; the answer is the small one."""
    image = b'{"type":"image_url","image_url":{"url":"data:image/png;base64,%b"}}' % (_PIXELS * (size // 64 + 1))[:size]
    asked = b'"},{"role":"user","content":[{"type":"text","text":"What is on it?"},%b]}' % image
    tail = b'],"temperature":0.7,"max_tokens":256,"stream":false}'
    body = b"".join((_OPEN, PLAIN_MIDDLE, _TICKET % (number, 0, 0, 0), asked, tail))
    return _HEAD % (port, len(body)) + body


def stream_request(number: int, port: int, first_ms: int, gap_ms: int, chunks: int) -> bytes:
    """A whole streamed request; the upstream obeys its knobs: first token after `first_ms`, then `chunks` - 1 gaps."""
    body = b"".join((_OPEN, STREAM_MIDDLE, _TICKET % (number, first_ms, gap_ms, chunks), _STREAM_TAIL))
    return _HEAD % (port, len(body)) + body


def ticket(body: bytes) -> tuple[int, int, int, int] | None:
    """Number, first_ms, gap_ms and chunks of a request's body as the upstream got it; None when the body is damaged.

    A proxy may have changed the model's name (that is its job) and nothing else before the ticket.
    """
    cut = body.find(b'"', 10)
    if not body.startswith(b'{"model":"') or not body.endswith(b"}"):
        return None
    if not (body.startswith(PLAIN_MIDDLE, cut) or body.startswith(STREAM_MIDDLE, cut)):
        return None
    found = _KNOBS.search(body, cut)
    return None if found is None else (int(found[1]), int(found[2]), int(found[3]), int(found[4]))


def answer_body(number: int) -> bytes:
    """The body of the answer to request `number`, ANSWER_BYTES long."""
    return ANSWER_BEFORE + b"%08d" % number + ANSWER_AFTER


def answer(number: int) -> bytes:
    """Head and body of the answer to request `number`."""
    return b"".join((ANSWER_HEAD, ANSWER_BEFORE, b"%08d" % number, ANSWER_AFTER))


def role_event(number: int, read_ns: int) -> bytes:
    """The first event: a role and no text."""
    return _EVENT % (number, read_ns, _ROLE, b"null")


def token_event(number: int, read_ns: int, written_ns: int) -> bytes:
    """An event with one token, which is the stamp of its writing."""
    return _EVENT % (number, read_ns, _TOKEN % written_ns, b"null")


def last_events(number: int, read_ns: int, chunks: int) -> list[bytes]:
    """Finish reason, usage and the end of the stream."""
    usage = b'{"prompt_tokens":104,"completion_tokens":%d,"total_tokens":%d}' % (chunks, 104 + chunks)
    return [_EVENT % (number, read_ns, _FINISH, b"null"), _EVENT % (number, read_ns, b"", usage), DONE]


def verify(received: bytes, number: int) -> str | None:
    """Judges what came back for request `number`: None = incomplete, "" = right, else what is wrong with it."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    if not received.startswith(b"HTTP/1.1 200"):
        return "status " + received[9:12].decode("latin-1")
    found = LENGTH.search(received, 0, end + 2)
    if found is None:
        return "no content-length"
    missing = int(found[1]) - (len(received) - end - 4)
    if missing > 0:
        return None
    if missing < 0:
        return "bytes after the body"
    return "" if received[end + 4 :] == answer_body(number) else "wrong body"
