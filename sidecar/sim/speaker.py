"""What a simulated model says to one request: its draws, from one seeded stream per model, and the answer made of them.

Draws come in batches from numpy, because a single one costs a microsecond; the order in which a model answers its
requests is the order of its draws, so the same seed and the same requests give the same answers.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import blake2b

import msgspec
import numpy as np
import orjson
from msgspec import Raw, Struct

from sidecar.sim.knobs import Distribution, SimulatedModel
from sidecar.sim.marker import asked, say
from sidecar.sim.schema import broken, instance

_BATCH = 512
_ASKED_BYTES = 8192  # of a request's end, where skills are looked for
_TEXT = (
    "the answer follows from adding both parts and every step of it can be checked by hand so nothing else is needed "
    "here while these words only fill the length that was drawn for this answer and mean nothing at all"
)
_WORDS = _TEXT.split(" ")
_REFUSAL = "I'm sorry, but I can't help with that request."


class Ask(Struct):
    """The members of a request that change the answer; all dialects in one."""

    model: str = ""
    stream: bool | None = None
    stream_options: dict[str, object] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    messages: Raw = Raw()
    input: Raw = Raw()
    prompt: Raw = Raw()
    tools: Raw = Raw()
    tool_choice: Raw = Raw()
    response_format: Raw = Raw()
    text: Raw = Raw()
    output_format: Raw = Raw()
    encoding_format: str | None = None
    dimensions: int | None = None


read_ask = msgspec.json.Decoder(Ask).decode


class Answer(Struct):
    """What is said: `marker` plus `filler` words, unless `said` (schema output, refusal) or a tool replaces them."""

    id: str
    model_json: str
    marker: tuple[str, ...]
    filler: int
    said: str | None
    tool: tuple[str, str] | None  # name, arguments as JSON text
    refused: bool
    cut: bool  # the token limit ended it
    input_tokens: int
    cached_tokens: int
    output_tokens: int  # reasoning included
    reasoning_tokens: int
    show_reasoning: bool

    def text(self) -> str:
        """The answer's text as one string."""
        return self.said if self.said is not None else "".join(self.marker) + filler_text(self.filler)

    def pieces(self) -> list[str]:
        """The answer's text in tokens."""
        if self.said is not None:
            return [self.said[at : at + 4] for at in range(0, len(self.said), 4)]
        return [*self.marker, *(f" {_WORDS[at % len(_WORDS)]}" for at in range(self.filler))]

    def reasoning(self) -> list[str]:
        """The visible reasoning in tokens; empty when it is only counted."""
        return [f" {_WORDS[at % 7]}" for at in range(self.reasoning_tokens)] if self.show_reasoning else []


class Pace(Struct):
    """When it is said, seconds after the request was complete; `itl_s` None means a draw per gap."""

    ttfb_s: float
    ttfe_s: float
    ttft_s: float
    itl_s: float | None


@lru_cache(maxsize=4096)
def filler_text(count: int) -> str:
    """`count` words, each with its leading blank."""
    return "".join(f" {_WORDS[at % len(_WORDS)]}" for at in range(count))


class Draws:
    """An endless iterator over batches of draws."""

    __slots__ = ("_batch", "_refill")

    def __init__(self, refill: Callable[[], list[float]]) -> None:
        self._refill = refill
        self._batch: list[float] = []

    def next(self) -> float:
        if not self._batch:
            self._batch = self._refill()
            self._batch.reverse()
        return self._batch.pop()


class Speaker:
    """One simulated model at work."""

    def __init__(self, name: str, model: SimulatedModel, seed: int) -> None:
        self.name = name
        self.model = model
        self.model_json = orjson.dumps(name).decode()
        digest = blake2b(name.encode(), digest_size=8, salt=seed.to_bytes(8, "little", signed=True)).digest()
        self._prefix = digest.hex()
        self._count = 0
        streams = np.random.default_rng(int.from_bytes(digest, "little")).spawn(7)
        self._ttft = _draws(model.ttft, streams[0])
        self._itl = _draws(model.itl, streams[1])
        self._tokens = _draws(model.output_tokens, streams[2])
        self._reasoning = _draws(model.reasoning_tokens, streams[3])
        self._chance = Draws(lambda: streams[4].random(_BATCH).tolist())
        self._beta = streams[5]
        self._heads = (_draws(model.ttfb, streams[6]), _draws(model.ttfe, streams[6]))
        self._steady: Pace | None = None
        times = (model.ttft, model.ttfb, model.ttfe, model.itl)
        if all(time is None or time.kind == "constant" for time in times):
            self._steady = self.pace()  # the same for every answer: drawn once

    def id(self) -> str:
        """29 characters, unique per provider, equal for equal seeds."""
        self._count += 1
        return f"{self._prefix}{self._count:013x}"

    def answer(self, ask: Ask, body: bytes, wrong_rate: float = 0.0) -> Answer:
        """Draws one answer. `wrong_rate` lowers the true quality (fault `wrong`)."""
        model = self.model
        drawn = max(1, round(self._tokens.next()))
        reasoning = round(self._reasoning.next())
        marker = self._marker(body, wrong_rate)
        refused = model.refusal > 0 and self._chance.next() < model.refusal
        said: str | None = _REFUSAL if refused else None
        tool: tuple[str, str] | None = None
        if not refused and (ask.tools or ask.response_format or ask.text or ask.output_format):
            tool, said = self._structured(ask)
        tokens = max(drawn, len(marker)) if said is None else -(-len(said) // 4)
        if tool is not None:
            tokens, marker = max(1, model.tool_pieces), ()
        limit = ask.max_tokens or ask.max_completion_tokens or ask.max_output_tokens
        cut = limit is not None and reasoning + tokens > limit
        if cut and limit is not None:
            reasoning = min(reasoning, limit)
            tokens = limit - reasoning
            tool, said, marker = None, (said[: 4 * tokens] if said is not None else None), marker[:tokens]
        input_tokens = max(1, len(body) // 4)
        return Answer(
            id=self.id(),
            model_json=self.model_json,
            marker=marker,
            filler=tokens - len(marker) if said is None and tool is None else 0,
            said=said,
            tool=tool,
            refused=refused,
            cut=cut,
            input_tokens=input_tokens,
            cached_tokens=int(input_tokens * model.cached_fraction),
            output_tokens=tokens + reasoning,
            reasoning_tokens=reasoning,
            show_reasoning=model.reasoning_visible,
        )

    def pace(self) -> Pace:
        """Draws the times of one answer; head and first event are never later than the first token."""
        if self._steady is not None:
            return self._steady
        model = self.model
        ttft = self._ttft.next()
        ttfe = ttft if model.ttfe is None else min(ttft, self._heads[1].next())
        ttfb = ttfe if model.ttfb is None else min(ttfe, self._heads[0].next())
        constant = model.itl.kind == "constant"
        return Pace(ttfb_s=ttfb, ttfe_s=ttfe, ttft_s=ttft, itl_s=model.itl.mean if constant else None)

    def gap(self) -> float:
        """One draw of the time between two token chunks."""
        return self._itl.next()

    def _marker(self, body: bytes, wrong_rate: float) -> tuple[str, ...]:
        model = self.model
        quality = model.quality
        if model.skills:
            asked_of = body[-_ASKED_BYTES:]
            quality = next((skill for word, skill in model.skills.items() if word.encode() in asked_of), quality)
        if model.quality_concentration is not None and 0 < quality < 1:
            k = model.quality_concentration
            quality = float(self._beta.beta(quality * k, (1 - quality) * k))
        quality *= 1 - wrong_rate
        wanted = asked(body)
        tokens: tuple[str, ...] = ()
        for at in range(model.sums):
            chance = self._chance.next()
            a, b = wanted if wanted and at == 0 else (10 + int(chance * 9e4) % 90, 10 + int(chance * 9e6) % 90)
            said = say(a, b, chance < quality)
            tokens = said if at == 0 else (*tokens, " " + said[0], *said[1:])
        return tokens

    def _structured(self, ask: Ask) -> tuple[tuple[str, str] | None, str | None]:
        """A tool call, or schema output, or neither."""
        model = self.model
        chosen = choose_tool(ask)
        if chosen is not None and self._chance.next() < model.tool_rate:
            return (chosen[0], self._json(instance(chosen[1]))), None
        schema = output_schema(ask)
        return None, (None if schema is None else self._json(instance(schema)))

    def _json(self, value: object) -> str:
        if self.model.malformed > 0 and self._chance.next() < self.model.malformed:
            value = broken(value)
        return orjson.dumps(value).decode()


def _draws(distribution: Distribution | None, rng: np.random.Generator) -> Draws:
    if distribution is None:
        return Draws(lambda: [0.0])
    return Draws(lambda: distribution.sample(rng, _BATCH))


def choose_tool(ask: Ask) -> tuple[str, object] | None:
    """Name and argument schema of the tool to call; None when none may be called or a tool has already answered."""
    tools = _load(ask.tools)
    choice = _load(ask.tool_choice)
    if not isinstance(tools, list) or choice == "none" or _member(choice, "type") == "none" or _tool_answered(ask):
        return None
    wanted = _member(choice, "name") or _member(_member(choice, "function"), "name")
    for tool in tools:
        function = _member(tool, "function") or tool
        name = _member(function, "name")
        if isinstance(name, str) and wanted in (None, name):
            return name, _member(function, "parameters") or _member(function, "input_schema") or {}
    return None


def output_schema(ask: Ask) -> object:
    """The JSON schema that the answer's text must satisfy; None when plain text is asked for."""
    for raw in (ask.response_format, _raw_member(ask.text, "format"), ask.output_format):
        shape = _load(raw) if isinstance(raw, Raw) else raw
        match _member(shape, "type"):
            case "json_schema":
                return _member(_member(shape, "json_schema"), "schema") or _member(shape, "schema") or {}
            case "json_object":
                return {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
            case _:
                continue
    return None


def _tool_answered(ask: Ask) -> bool:
    messages = _load(ask.messages) or _load(ask.input)
    last = messages[-1] if isinstance(messages, list) and messages else None
    content = _member(last, "content")
    first = content[0] if isinstance(content, list) and content else None
    return (
        _member(last, "role") == "tool"
        or _member(last, "type") == "function_call_output"
        or _member(first, "type") == "tool_result"
    )


def _load(raw: Raw) -> object:
    loaded: object = orjson.loads(bytes(raw)) if raw else None
    return loaded


def _raw_member(raw: Raw, key: str) -> object:
    return _member(_load(raw), key)


def _member(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, Mapping) else None
