"""What a simulated model says to one request: its draws, from one seeded stream per model, and the answer made of them.

Draws come in batches from numpy, because a single one costs a microsecond; the order in which a model answers its
requests is the order of its draws, so the same seed and the same requests give the same answers.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import orjson
from msgspec import Struct

from sidecar.sim.ask import Ask, callable_tools, one_call_only, output_schema
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


class Answer(Struct):
    """What is said: `marker` plus `filler` words, unless `said` (schema output, refusal) or tool calls replace them."""

    id: str
    model_json: str
    marker: tuple[str, ...]
    filler: int
    said: str | None
    calls: tuple[tuple[str, str], ...]  # each: name, arguments as JSON text
    refused: bool
    filtered: bool  # a content filter ended it
    blocked: bool  # a content filter refused the prompt: nothing is said
    cut: bool  # the token limit ended it
    input_tokens: int
    cached_tokens: int
    output_tokens: int  # reasoning included
    reasoning_tokens: int
    show_reasoning: bool

    def text(self) -> str:
        """The answer's text as one string."""
        return self.said if self.said is not None else "".join(self.marker) + filler_text(self.filler)

    def call_id(self, at: int, size: int = 24) -> str:
        """`size` characters for the call at that position; no two calls of a model have the same."""
        return self.id[-size:] if at == 0 else chr(ord("g") + at % 20) + self.id[1 - size :]

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
        self.model_json = orjson.dumps(model.version or name).decode()
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
        blocked = model.blocked > 0 and self._chance.next() < model.blocked
        filtered = model.filtered > 0 and self._chance.next() < model.filtered
        said: str | None = _REFUSAL if refused else None
        calls: tuple[tuple[str, str], ...] = ()
        if not refused and ask.structured:
            calls, said = self._structured(ask)
        tokens = max(drawn, len(marker)) if said is None else -(-len(said) // 4)
        if calls:
            tokens, marker = max(1, model.tool_pieces) * len(calls), ()
        ends = _end(ask.limit, reasoning + tokens // 2 if filtered else None, 0 if blocked else None)
        cut = ends is not None and reasoning + tokens > ends
        if cut and ends is not None:
            reasoning = min(reasoning, ends)
            tokens = ends - reasoning
            calls, said, marker = (), (said[: 4 * tokens] if said is not None else None), marker[:tokens]
        input_tokens = max(1, len(body) // 4)
        return Answer(
            id=self.id(),
            model_json=self.model_json,
            marker=marker,
            filler=tokens - len(marker) if said is None and not calls else 0,
            said=said,
            calls=calls,
            refused=refused,
            filtered=filtered,
            blocked=blocked,
            cut=cut and not filtered and not blocked,
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

    def _structured(self, ask: Ask) -> tuple[tuple[tuple[str, str], ...], str | None]:
        """Tool calls, or schema output, or neither."""
        model = self.model
        tools = callable_tools(ask)
        if tools and self._chance.next() < model.tool_rate:
            count = 1 if one_call_only(ask) else max(1, model.tool_calls)
            chosen = [tools[at % len(tools)] for at in range(count)]
            return tuple((name, self._json(_arguments(schema))) for name, schema in chosen), None
        schema = output_schema(ask)
        return (), (None if schema is None else self._json(instance(schema)))

    def _json(self, value: object) -> str:
        if self.model.malformed > 0 and self._chance.next() < self.model.malformed:
            value = broken(value)
        return orjson.dumps(value).decode()


def _end(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _arguments(schema: object) -> object:
    """Arguments are an object, also where the schema says nothing."""
    made = instance(schema)
    return made if isinstance(made, Mapping) else {}


def _draws(distribution: Distribution | None, rng: np.random.Generator) -> Draws:
    if distribution is None:
        return Draws(lambda: [0.0])
    return Draws(lambda: distribution.sample(rng, _BATCH))
