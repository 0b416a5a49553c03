"""The simulated provider without its sockets: one request in, one plan of bytes and times out.

Wrong requests are answered as the real providers answer them, in the dialect of the path; faults come last.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
import orjson

from sidecar.clock import wall
from sidecar.errors import ConfigError
from sidecar.sim.ask import Ask, Refused
from sidecar.sim.dialects import counted, events, read, whole
from sidecar.sim.knobs import Fault, SimConfig, SimulatedModel, parse
from sidecar.sim.mistral_chat import FAMILIES
from sidecar.sim.plan import LAST_CHUNK, Events, Manner, Plan, chunk, spoil
from sidecar.sim.problems import Problem, Reason, error_event, fault, limit_lines, lines, said
from sidecar.sim.problems import body as problem_body
from sidecar.sim.routes import MISTRAL, Dialect, Route, find
from sidecar.sim.speaker import Answer, Pace, Speaker

_SPEAKERS_KEPT = 1024  # model names are a client's text: beyond this they share one speaker
_NEEDED = {
    "chat": "messages",
    "completions": "prompt",
    "responses": "input",
    "embeddings": "input",
    "messages": "messages",
    "count_tokens": "messages",
}
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncache-control: no-cache\r\n%b%b\r\ntransfer-encoding: chunked\r\n\r\n"
)
_NUMBER = b"x-request-id: req_"
# the services' own names where clients read them
_NUMBERS: Mapping[Dialect, bytes] = {"bedrock": b"x-amzn-requestid: "}
_SSE = b"text/event-stream; charset=utf-8"
_JSON_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%b%b\r\nopenai-processing-ms: %d\r\n"
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
        route = find(target)
        path = target.partition("?")[0]
        if route is None:
            return self._other(method, path, key, body)
        key = key or route.key
        if self.config.keys and key not in self.config.keys:
            return self._refuse(route, "key" if key else "no_key")
        if method != "POST":
            return self._refuse(route, "method", f"{method} on {path}")
        if not route.found:
            return self._refuse(route, "address")
        try:
            ask = read(route, body)
            route = self._of_model(route, ask)
            missing = self._missing(route, ask)
            if missing is not None:
                return self._refuse(route, "missing", missing)
            if self.config.known_models_only and ask.model not in self._models:
                return self._refuse(route, "model", ask.model)
            return self._answer(route, ask, body)
        except msgspec.ValidationError as error:
            return self._refuse(route, "type", str(error))
        except (msgspec.DecodeError, orjson.JSONEncodeError, UnicodeDecodeError, RecursionError):
            return self._refuse(route, "json")
        except Refused as error:
            return self._problem(route.dialect, Problem(400, str(error)))

    def _of_model(self, route: Route, ask: Ask) -> Route:
        """OpenAI's address is Mistral's too: the model tells."""
        if route.endpoint != "chat" or route.dialect != "openai":
            return route
        knob = self._models.get(ask.model, self.config.default).mistral
        return MISTRAL if knob or (knob is None and ask.model.startswith(FAMILIES)) else route

    def _refuse(self, route: Route, reason: Reason, what: str = "") -> Plan:
        return self._problem(route.dialect, said(route.dialect, reason, what))

    def _problem(
        self, dialect: Dialect, problem: Problem, retry_after_s: float | None = None, extra: bytes = b""
    ) -> Plan:
        """An error in the dialect's own shape."""
        self._count += 1
        number = f"{self._count:08x}"
        own = lines(dialect, problem, number, retry_after_s) + extra
        return _json_plan(number, problem_body(dialect, problem, number, retry_after_s), problem.status, own)

    def _missing(self, route: Route, ask: Ask) -> str | None:
        needed = _NEEDED.get(route.endpoint)
        if needed is None:
            return None  # its reader has looked
        if not ask.model:
            return "model"
        given = getattr(ask, needed)
        if not given or (route.dialect == "mistral" and bytes(given) == b"[]"):
            return needed
        return "max_tokens" if route.endpoint == "messages" and ask.max_tokens is None else None

    def _speaker(self, name: str) -> Speaker:
        speaker = self._speakers.get(name)
        if speaker is None:
            if len(self._speakers) >= _SPEAKERS_KEPT and name not in self._models:
                name = "other"
            model = self._models.get(name, self.config.default)
            speaker = self._speakers.setdefault(name, Speaker(name, model, self.config.seed))
        return speaker

    def _answer(self, route: Route, ask: Ask, body: bytes) -> Plan:
        speaker = self._speaker(ask.model)
        faults = self._drawn(ask.model) if self.faults else ()
        wrong = 0.0
        extra_s = 0.0
        for struck in faults:
            if struck.kind == "status":
                return self._failure(route.dialect, struck)
            extra_s += struck.extra_s if struck.kind == "slow" else 0.0
            wrong = max(wrong, struck.rate if struck.kind == "wrong" else 0.0)
        count = counted(route, ask, body, self.config.embedding_dimensions)
        if count is not None:
            plan = _json_plan(speaker.id(), count, 200, b"", speaker.pace().ttft_s + extra_s)
        else:
            answer = speaker.answer(ask, body, wrong)
            if answer.blocked and route.dialect == "azure":
                return self._refuse(route, "prompt_filtered")
            render = self._stream if ask.stream else self._whole
            plan = render(route, ask, answer, speaker, extra_s)
        for struck in faults:
            plan = spoil(plan, struck, error_event(route))
        return plan

    def _whole(self, route: Route, _ask: Ask, answer: Answer, speaker: Speaker, extra_s: float) -> Plan:
        pace = speaker.pace()
        due = pace.ttft_s + extra_s
        if pace.itl_s:
            due += pace.itl_s * max(0, answer.output_tokens - 1)
        elif pace.itl_s is None:
            due += sum(speaker.gap() for _ in range(answer.output_tokens - 1))
        body = whole(route, answer, _manner(route, speaker.model, due))
        number = answer.id.encode()
        return Plan(
            [(due, _JSON_HEAD % (_NUMBERS.get(route.dialect, _NUMBER), number, int(due * 1000), len(body), body))],
            answer.id,
        )

    def _stream(self, route: Route, ask: Ask, answer: Answer, speaker: Speaker, extra_s: float) -> Plan:
        pace = speaker.pace()
        about = pace.ttft_s + extra_s + speaker.model.itl.mean * max(0, answer.output_tokens - 1)
        streamed = events(route, ask, answer, _manner(route, speaker.model, about))
        kind = b"application/vnd.amazon.eventstream" if route.endpoint == "converse" else _SSE
        number = _NUMBERS.get(route.dialect, _NUMBER)
        head = _STREAM_HEAD % (kind if route.sse else b"application/json; charset=UTF-8", number, answer.id.encode())
        return _paced(answer.id, head, streamed, pace, speaker.gap, extra_s)

    def _drawn(self, model: str) -> tuple[Fault, ...]:
        """The faults that strike this request. `wrong` always does: its rate is a loss of quality."""
        return tuple(
            fault
            for fault in self.faults
            if (not fault.models or model in fault.models)
            and (fault.kind == "wrong" or fault.rate >= 1 or self._fault_rng.random() < fault.rate)
        )

    def _failure(self, dialect: Dialect, struck: Fault) -> Plan:
        wait_s = struck.retry_after_s
        extra = limit_lines(dialect, wait_s) if struck.status == 429 else b""
        return self._problem(dialect, fault(dialect, struck.status), wait_s, extra)

    def _other(self, method: str, path: str, key: str | None, body: bytes) -> Plan:
        if path.startswith("/_sim/"):
            return self._control(method, path, body)
        at = path.find("/v1/models")
        path = path[at:] if at > 0 else path  # a base URL with a prefix, as gateways and self-hosted servers have
        if self.config.keys and key not in self.config.keys:
            return self._problem("openai", said("openai", "key"))
        if path == "/v1/models" and method == "GET":
            listed = [_model_object(name) for name in self._models]
            return _json_plan("models", orjson.dumps({"object": "list", "data": listed}), 200, b"")
        name = path.removeprefix("/v1/models/")
        if name in self._models and method == "GET":
            return _json_plan("models", orjson.dumps(_model_object(name)), 200, b"")
        return self._problem("openai", Problem(404, f"Invalid URL ({method} {path})"))

    def _control(self, method: str, path: str, body: bytes) -> Plan:
        """`/_sim/faults` and `/_sim/models`: GET shows them; POST a JSON list of faults (all of them; `[]` clears), or
        a JSON object from model name to knobs (the others stay)."""
        if path not in ("/_sim/faults", "/_sim/models"):
            return self._problem("openai", Problem(404, f"unknown: {path}"))
        try:
            if method == "POST":
                self._set(path, orjson.loads(body))
        except (ConfigError, orjson.JSONDecodeError) as error:
            return self._problem("openai", Problem(400, str(error)))
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


def _manner(route: Route, model: SimulatedModel, due_s: float) -> Manner:
    return Manner(
        created=int(wall()),
        latency_ms=int(due_s * 1000),
        tokens_per_chunk=model.tokens_per_chunk,
        tool_pieces=model.tool_pieces,
        sse=route.sse,
        vertex=route.dialect == "vertex",
    )


def _model_object(name: str) -> Mapping[str, object]:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "simulated"}
