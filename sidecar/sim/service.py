"""The simulated provider without its sockets: one request in, one plan of bytes and times out.

Wrong requests are answered as the real providers answer them, in the dialect of the path; faults come last.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import msgspec
import numpy as np
import orjson

from sidecar.clock import wall
from sidecar.errors import ConfigError
from sidecar.sim.anthropic_messages import messages_body, messages_events
from sidecar.sim.knobs import Fault, SimConfig, SimulatedModel, parse
from sidecar.sim.openai_chat import chat_body, chat_events, completions_body, completions_events
from sidecar.sim.openai_responses import responses_body, responses_events
from sidecar.sim.plan import LAST_CHUNK, Events, Plan, chunk, spoil
from sidecar.sim.speaker import Answer, Ask, Pace, Speaker, read_ask

Dialect = Literal["openai", "anthropic"]
_SPEAKERS_KEPT = 1024  # model names are a client's text: beyond this they share one speaker
_PATHS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/embeddings": "embeddings",
    "/v1/messages": "messages",
    "/v1/messages/count_tokens": "count_tokens",
}
_NEEDED = {
    "chat": "messages",
    "completions": "prompt",
    "responses": "input",
    "embeddings": "input",
    "messages": "messages",
    "count_tokens": "messages",
}
_OPENAI_TYPES = {401: "invalid_request_error", 429: "requests", 500: "server_error", 503: "server_error"}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "api_error",
    529: "overloaded_error",
}
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"x-request-id: req_%b\r\ntransfer-encoding: chunked\r\n\r\n"
)
_JSON_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_%b\r\nopenai-processing-ms: %d\r\n"
    b"content-length: %d\r\n\r\n%b"
)


class Service:
    """Answers requests. `respond` is the only verb of traffic; `set_faults` and `set_model` act on the next request."""

    def __init__(self, config: SimConfig) -> None:
        self.config = config
        self.faults: tuple[Fault, ...] = config.faults
        self._models = dict(config.models)
        self._speakers: dict[str, Speaker] = {}
        self._fault_rng = np.random.default_rng([config.seed & 0xFFFFFFFF, 0xFA])
        self._count = 0

    def set_faults(self, faults: Sequence[Fault]) -> None:
        """Replaces all faults."""
        self.faults = tuple(faults)

    def set_model(self, name: str, model: SimulatedModel) -> None:
        """Replaces one model's knobs; its draws begin anew."""
        self._models[name] = model
        self._speakers.pop(name, None)

    def respond(self, method: str, target: str, key: str | None, body: bytes) -> Plan:
        """The plan for one request; `key` is the credential without its scheme."""
        path = target.partition("?")[0]
        endpoint = _PATHS.get(path)
        if endpoint is None:
            return self._other(method, path, key, body)
        dialect: Dialect = "anthropic" if path.startswith("/v1/messages") else "openai"
        if self.config.keys and key not in self.config.keys:
            return self.error(dialect, 401, "Incorrect API key provided.", code="invalid_api_key")
        if method != "POST":
            return self.error(dialect, 405, f"Not allowed to {method} on {path}.")
        try:
            ask = read_ask(body)
        except msgspec.ValidationError as error:
            return self.error(dialect, 400, f"Invalid type in the request body: {error}.", code="invalid_type")
        except msgspec.DecodeError:
            return self.error(dialect, 400, "We could not parse the JSON body of your request.")
        missing = self._missing(endpoint, ask)
        if missing is not None:
            return self.error(dialect, 400, f"Missing required parameter: '{missing}'.", code=missing)
        if self.config.known_models_only and ask.model not in self._models:
            return self.error(dialect, 404, f"The model `{ask.model}` does not exist.", code="model_not_found")
        return self._answer(endpoint, dialect, ask, body)

    def error(self, dialect: Dialect, status: int, message: str, code: str | None = None) -> Plan:
        """An error in the dialect's own shape."""
        self._count += 1
        number = f"{self._count:08x}"
        if dialect == "anthropic":
            kind = _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
            shape: dict[str, object] = {
                "type": "error",
                "error": {"type": kind, "message": message},
                "request_id": f"req_{number}",
            }
        else:
            kind = _OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
            shape = {"error": {"message": message, "type": kind, "param": None, "code": code}}
        return _json_plan(number, orjson.dumps(shape), status, b"")

    def _missing(self, endpoint: str, ask: Ask) -> str | None:
        if not ask.model:
            return "model"
        needed = _NEEDED[endpoint]
        if not getattr(ask, needed):
            return needed
        return "max_tokens" if endpoint == "messages" and ask.max_tokens is None else None

    def _speaker(self, name: str) -> Speaker:
        speaker = self._speakers.get(name)
        if speaker is None:
            if len(self._speakers) >= _SPEAKERS_KEPT and name not in self._models:
                name = "other"
            model = self._models.get(name, self.config.default)
            speaker = self._speakers.setdefault(name, Speaker(name, model, self.config.seed))
        return speaker

    def _answer(self, endpoint: str, dialect: Dialect, ask: Ask, body: bytes) -> Plan:
        speaker = self._speaker(ask.model)
        faults = self._drawn(ask.model) if self.faults else ()
        wrong = 0.0
        extra_s = 0.0
        for fault in faults:
            if fault.kind == "status":
                return self._failure(dialect, fault)
            extra_s += fault.extra_s if fault.kind == "slow" else 0.0
            wrong = max(wrong, fault.rate if fault.kind == "wrong" else 0.0)
        if endpoint in ("embeddings", "count_tokens"):
            whole = _embeddings(ask, self.config) if endpoint == "embeddings" else _count_tokens(body)
            plan = _json_plan(speaker.id(), whole, 200, b"", speaker.pace().ttft_s + extra_s)
        else:
            answer = speaker.answer(ask, body, wrong)
            render = self._stream if ask.stream else self._whole
            plan = render(endpoint, ask, answer, speaker, extra_s)
        for fault in faults:
            plan = spoil(plan, fault, _ERROR_EVENTS[dialect])
        return plan

    def _whole(self, endpoint: str, _ask: Ask, answer: Answer, speaker: Speaker, extra_s: float) -> Plan:
        body = _BODIES[endpoint](answer, int(wall()))
        pace = speaker.pace()
        due = pace.ttft_s + extra_s
        if pace.itl_s:
            due += pace.itl_s * max(0, answer.output_tokens - 1)
        elif pace.itl_s is None:
            due += sum(speaker.gap() for _ in range(answer.output_tokens - 1))
        number = answer.id.encode()
        return Plan([(due, _JSON_HEAD % (number, int(due * 1000), len(body), body))], answer.id)

    def _stream(self, endpoint: str, ask: Ask, answer: Answer, speaker: Speaker, extra_s: float) -> Plan:
        pace = speaker.pace()
        events = _events(endpoint, ask, answer, speaker.model)
        head = _STREAM_HEAD % answer.id.encode()
        return _paced(answer.id, head, events, pace, speaker.gap, extra_s)

    def _drawn(self, model: str) -> tuple[Fault, ...]:
        """The faults that strike this request. `wrong` always does: its rate is a loss of quality."""
        return tuple(
            fault
            for fault in self.faults
            if (not fault.models or model in fault.models)
            and (fault.kind == "wrong" or fault.rate >= 1 or self._fault_rng.random() < fault.rate)
        )

    def _failure(self, dialect: Dialect, fault: Fault) -> Plan:
        plan = self.error(dialect, fault.status, _MESSAGES.get(fault.status, "The server had an error."))
        lines = b""
        if fault.retry_after_s is not None:
            lines += b"retry-after: %d\r\n" % max(1, round(fault.retry_after_s))
        if fault.status == 429:
            prefix = b"x-ratelimit" if dialect == "openai" else b"anthropic-ratelimit"
            lines += b"%b-limit-requests: 60\r\n%b-remaining-requests: 0\r\n" % (prefix, prefix)
            lines += b"%b-reset-requests: %dms\r\n" % (prefix, round((fault.retry_after_s or 1) * 1000))
        due, data = plan.steps[0]
        return replace(plan, steps=[(due, data.replace(b"\r\ncontent-length", b"\r\n" + lines + b"content-length", 1))])

    def _other(self, method: str, path: str, key: str | None, body: bytes) -> Plan:
        if path.startswith("/_sim/"):
            return self._control(method, path, body)
        at = path.find("/v1/")
        if at > 0:  # a base URL with a prefix, as gateways and self-hosted servers have
            return self.respond(method, path[at:], key, body)
        if self.config.keys and key not in self.config.keys:
            return self.error("openai", 401, "Incorrect API key provided.", code="invalid_api_key")
        if path == "/v1/models" and method == "GET":
            listed = [_model_object(name) for name in self._models]
            return _json_plan("models", orjson.dumps({"object": "list", "data": listed}), 200, b"")
        name = path.removeprefix("/v1/models/")
        if name in self._models and method == "GET":
            return _json_plan("models", orjson.dumps(_model_object(name)), 200, b"")
        return self.error("openai", 404, f"Invalid URL ({method} {path})")

    def _control(self, method: str, path: str, body: bytes) -> Plan:
        """`/_sim/faults` and `/_sim/models`: GET shows them; POST a JSON list of faults (all of them; `[]` clears), or
        a JSON object from model name to knobs (the others stay)."""
        if path not in ("/_sim/faults", "/_sim/models"):
            return self.error("openai", 404, f"unknown: {path}")
        try:
            if method == "POST":
                self._set(path, orjson.loads(body))
        except (ConfigError, orjson.JSONDecodeError) as error:
            return self.error("openai", 400, str(error))
        shown = self.faults if path == "/_sim/faults" else self._models
        return _json_plan("sim", orjson.dumps(shown), 200, b"")

    def _set(self, path: str, tree: object) -> None:
        if path == "/_sim/faults" and isinstance(tree, list):
            self.set_faults([parse(item, Fault, f"faults[{at}]") for at, item in enumerate(tree)])
        elif path == "/_sim/models" and isinstance(tree, dict):
            for name, model in [(name, parse(item, SimulatedModel, name)) for name, item in tree.items()]:
                self.set_model(name, model)
        else:
            raise ConfigError("POST /_sim/faults takes a JSON list of faults, POST /_sim/models an object of models")


def _json_plan(number: str, body: bytes, status: int, lines: bytes, due: float = 0.0) -> Plan:
    reason = _REASONS.get(status, "Error").encode()
    head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\nx-request-id: req_%b\r\n%bcontent-length: %d\r\n\r\n"
    return Plan([(due, head % (status, reason, number.encode(), lines, len(body)) + body)], number)


def _paced(number: str, head: bytes, events: Events, pace: Pace, gap: Callable[[], float], extra_s: float) -> Plan:
    """Head, lead, tokens and tail at their times; what is due together is written together."""
    due = pace.ttft_s + extra_s
    steps = [(pace.ttfb_s, head), (pace.ttfe_s, chunk(events.lead))]
    itl_s = pace.itl_s
    for data in events.tokens:
        steps.append((due, chunk(data)))
        due += gap() if itl_s is None else itl_s
    steps.append((steps[-1][0], chunk(events.tail) + LAST_CHUNK))
    return Plan(steps, number, first=2 if events.tokens else -1, tail=len(steps) - 1)


def _events(endpoint: str, ask: Ask, answer: Answer, model: SimulatedModel) -> Events:
    created = int(wall())
    size = model.tokens_per_chunk
    match endpoint:
        case "chat":
            return chat_events(answer, ask, created, size, model.tool_pieces)
        case "completions":
            return completions_events(answer, ask, created, size)
        case "responses":
            return responses_events(answer, created, size, model.tool_pieces)
        case _:
            return messages_events(answer, size, model.tool_pieces)


def _count_tokens(body: bytes) -> bytes:
    return orjson.dumps({"input_tokens": max(1, len(body) // 4)})


def _embeddings(ask: Ask, config: SimConfig) -> bytes:
    """One unit vector per input, the same for the same text; base64 of float32 when the SDK asks for that."""
    given = orjson.loads(bytes(ask.input))
    inputs = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    size = ask.dimensions or config.embedding_dimensions
    rows = []
    for at, text in enumerate(inputs):
        seed = int.from_bytes(orjson.dumps(text)[-64:], "little")
        vector = np.random.default_rng(seed).normal(size=size).astype(np.float32)
        vector /= np.linalg.norm(vector)
        packed = ask.encoding_format == "base64"
        value = base64.b64encode(vector.tobytes()).decode() if packed else vector.tolist()
        rows.append({"object": "embedding", "index": at, "embedding": value})
    tokens = max(1, len(ask.input) // 4)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return orjson.dumps({"object": "list", "data": rows, "model": ask.model, "usage": usage})


def _model_object(name: str) -> Mapping[str, object]:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "simulated"}


_BODIES: Mapping[str, Callable[[Answer, int], bytes]] = {
    "chat": chat_body,
    "completions": completions_body,
    "responses": responses_body,
    "messages": lambda answer, _created: messages_body(answer),
}
_MESSAGES = {
    429: "Rate limit reached for requests",
    500: "The server had an error while processing your request. Sorry about that!",
    503: "The engine is currently overloaded, please try again later",
    529: "Overloaded",
}
_ERROR_EVENTS: Mapping[Dialect, bytes] = {
    "openai": b'data: {"error":{"message":"The server had an error while processing your request. Sorry about that!",'
    b'"type":"server_error","param":null,"code":null}}\n\n',
    "anthropic": b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n',
}
