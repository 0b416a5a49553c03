"""What happens in a campaign of faults: for each number one exchange, drawn from the seed and the number alone.

So exchange K of seed N is the same whether it runs alone or among 5,000. An exchange has a shape (who asks what, in which
dialect, by which route), at most one toxic on each leg, and sometimes a client that leaves. Consecutive numbers ride on one
client connection in chains, so that a fault can spoil what comes behind it.
"""

import random  # noqa: TID251 - a campaign of faults is chance by its nature, and every draw comes from a seed
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from tests.fixtures.relay import Kind, Toxic

Kin = Literal["bytes", "usage", "text", "none"]  # how the client's answer and the upstream's are to be alike
Leave = Literal["", "fin", "reset", "half"]

TIMEOUT_S = 2.0  # every timer of the sidecar in a campaign
LONG_S = 4.0  # a stall that no timer waits for
CHAIN = 4  # exchanges in a row on one client connection, while it lives
UPLOAD_BYTES = (30_000, 180_000)
STREAMED_UPLOAD_BYTES = (300_000, 600_000)  # above the campaign's route_body_max
LONG_BYTES = 1_600_000  # of the longest answers
ROUTE_BODY_MAX = 256 * 1024
MAX_BODY = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of call. `route` is the beginning of the model's name, by which the policy finds its route."""

    name: str
    weight: float
    path: str = "/v1/chat/completions"
    route: str = "plain"
    stream: bool = False
    kin: Kin = "bytes"
    upload: Literal["", "length", "chunked", "streamed"] = ""
    twice: bool = False  # two requests in one write, by mistake
    refused: int = 0  # the status with which the sidecar itself has to answer
    broken: Literal["", "chunk", "both", "large"] = ""  # how the request is malformed
    asks_usage: bool = False
    array: bool = False  # Gemini's stream as one JSON array
    minor: int = 1  # of the client's HTTP
    expects: bool = False  # Expect: 100-continue, and does not wait for it


MESSAGES, RESPONSES, GENERATE, MODELS = "/v1/messages", "/v1/responses", "/v1beta/models", "/v1/models"
SHAPES: tuple[Shape, ...] = (
    Shape("chat", 8),
    Shape("chat stream", 10, stream=True, kin="usage"),
    Shape("chat stream, usage asked", 5, stream=True, asks_usage=True),
    Shape("messages", 4, path=MESSAGES),
    Shape("messages stream", 6, path=MESSAGES, stream=True),
    Shape("responses stream", 4, path=RESPONSES, stream=True),
    Shape("generate", 3, path=GENERATE),
    Shape("generate stream", 4, path=GENERATE, stream=True),
    Shape("upload", 4, upload="length"),
    Shape("upload in chunks", 4, upload="chunked"),
    Shape("upload passed on", 3, upload="streamed"),
    Shape("two at once", 4, twice=True),
    Shape("chat to messages", 5, route="far", kin="text"),
    Shape("chat to messages stream", 7, route="far", stream=True, kin="text"),
    Shape("messages to chat", 4, path=MESSAGES, route="near", kin="text"),
    Shape("messages to chat stream", 6, path=MESSAGES, route="near", stream=True, kin="text"),
    Shape("responses to messages stream", 3, path=RESPONSES, route="far", stream=True, kin="text"),
    Shape("generate to chat stream", 3, path=GENERATE, route="near", stream=True, kin="text"),
    Shape("responses", 2, path=RESPONSES),
    Shape("generate stream, one array", 2, path=GENERATE, stream=True, array=True),
    Shape("long stream", 4, route="long", stream=True, kin="usage"),
    Shape("long stream, translated", 3, path=MESSAGES, route="long", stream=True, kin="text"),
    Shape("chat to cohere", 2, route="hear", kin="text"),
    Shape("chat to cohere stream", 3, route="hear", stream=True, kin="text"),
    Shape("chat to converse", 2, route="rock", kin="text"),
    Shape("messages to converse stream", 4, path=MESSAGES, route="rock", stream=True, kin="text"),
    Shape("HTTP/1.0", 2, minor=0),
    Shape("HTTP/1.0 stream", 2, minor=0, stream=True, kin="usage"),
    Shape("list of models", 2, path=MODELS),
    Shape("upload that waits for 100", 2, upload="length", expects=True),
    Shape("fallback from a dead upstream", 3, route="dead"),
    Shape("fallback from 5xx", 3, route="fall", stream=True, kin="usage"),
    Shape("fallback into messages", 3, route="cross", kin="text"),
    Shape("cascade", 4, route="climb"),
    Shape("budget", 2, route="poor", refused=429, kin="none"),
    Shape("upstream 429", 2, route="s429"),
    Shape("upstream 500", 2, route="s500"),
    Shape("upstream 500, translated", 2, path=MESSAGES, route="s500", kin="none"),
    Shape("upstream resets", 2, route="reset", stream=True, kin="usage"),
    Shape("upstream dies in the stream", 3, route="dies", stream=True, kin="usage"),
    Shape("upstream dies in the stream, translated", 3, path=MESSAGES, route="dies", stream=True, kin="text"),
    Shape("upstream without an end", 2, route="nodone", stream=True, kin="usage"),
    Shape("upstream's error event", 2, route="errs", stream=True, kin="usage"),
    Shape("upstream's error event, translated", 2, path=MESSAGES, route="errs", stream=True, kin="none"),
    Shape("bad chunk", 1, refused=400, broken="chunk", kin="none"),
    Shape("two framings", 1, refused=400, broken="both", kin="none"),
    Shape("too large", 1, refused=413, broken="large", kin="none"),
)

FLOOD = Shape("more than there is room for", 0, route="slow")
MAX_STREAMS = 64  # more than the campaign's clients, less than the flood at its end
_FLOOD_FROM = 900_000  # numbers of the flood

KINDS: tuple[Kind, ...] = (
    "latency", "rate", "slice", "reset", "black_hole", "stall", "half_close", "truncate", "garbage",
)  # fmt: skip
PLACES = ("client up", "client down", "upstream up", "upstream down")


@dataclass(frozen=True, slots=True)
class Plan:
    """One exchange."""

    seed: int
    number: int
    shape: Shape
    client: tuple[Toxic, ...] = ()
    upstream: tuple[Toxic, ...] = ()
    spoiled: int = 0  # which of the calls to an upstream meets `upstream`: the first, or the next one
    leave: Leave = ""
    leave_after: int = 0  # bytes of the answer
    size: int = 0  # of an upload's text

    @property
    def what(self) -> str:
        """What it is reported under: where its toxic is and of which kind."""
        if self.shape is FLOOD:
            return "none, but too many at once"
        if self.client and self.upstream:
            return "one on each leg"
        if self.client:
            return f"client {self.client[0].direction}: {self.client[0].kind}"
        if self.upstream:
            return f"upstream {self.upstream[0].direction}: {self.upstream[0].kind}"
        return f"client leaves: {self.leave}" if self.leave else "none"

    @property
    def model(self) -> str:
        """The model that the client asks for: no two exchanges ask for the same, so that rows are told apart."""
        return f"{self.shape.route}-{self.number:06d}"

    @property
    def told(self) -> str:
        """For a report: what runs, and how to run it again."""
        toxics = "; ".join(f"{where} {one}" for where in ("client", "upstream") for one in getattr(self, where))
        leaves = f"; leaves by {self.leave} after {self.leave_after} bytes" if self.leave else ""
        again = f"python -m bench.campaign --seed {self.seed} --only {self.number}"
        return f"exchange {self.number}: {self.shape.name}; {toxics or 'no toxic'}{leaves}; again: {again}"


def flood(seed: int) -> list[Plan]:
    """Calls that come all at once, a third more than the sidecar may carry, to a model that is slow."""
    return [plan(seed, _FLOOD_FROM + at) for at in range(MAX_STREAMS * 4 // 3)]


def plan(seed: int, number: int) -> Plan:
    """Exchange `number` (0..999,999) of this seed."""
    if number >= _FLOOD_FROM:
        return Plan(seed, number, FLOOD)
    chance = random.Random(f"{seed}/{number}")
    shape = chance.choices(SHAPES, [one.weight for one in SHAPES])[0]
    low, high = STREAMED_UPLOAD_BYTES if shape.upload == "streamed" else UPLOAD_BYTES
    size = chance.randrange(low, high) if shape.upload else 0
    drawn = chance.random()
    if drawn < 0.3 or shape.broken:
        return Plan(seed, number, shape, size=size)
    if drawn < 0.4:
        leave: Leave = chance.choice(("fin", "reset", "half"))
        after = chance.choice((0, 0, chance.randrange(1, 400), chance.randrange(400, 4000)))
        return Plan(seed, number, shape, leave=leave, leave_after=after, size=size)
    toxic = _toxic(chance, shape, size)
    if drawn > 0.92:
        return Plan(seed, number, shape, client=(_toxic(chance, shape, size),), upstream=(toxic,), size=size)
    if drawn < 0.65:
        return Plan(seed, number, shape, client=(toxic,), size=size)
    return Plan(seed, number, shape, upstream=(toxic,), spoiled=int(chance.random() < 0.25), size=size)


def _toxic(chance: random.Random, shape: Shape, size: int) -> Toxic:
    kind = chance.choice(KINDS)
    if kind in ("black_hole", "stall") and chance.random() < 0.5:
        kind = chance.choice(KINDS)  # silence takes its time
    direction = chance.choice(("up", "down", "down"))
    bulk = size if direction == "up" else LONG_BYTES if shape.route == "long" else 0
    reach = (1, 30, 250, 2500, max(bulk, 3000))
    after = chance.choice((0, *(chance.randrange(low, high) for low, high in pairwise(reach))))
    return Toxic(kind, direction, after, _amount(chance, kind, bulk))


def _amount(chance: random.Random, kind: Kind, bulk: int) -> float:
    match kind:
        case "latency":
            return round(chance.uniform(0.005, 0.06) / (10 if bulk else 1), 4)
        case "rate":
            return float(chance.randrange(5_000, 50_000) + bulk)
        case "slice":
            return float(chance.randrange(1, 60) + bulk // 200)
        case "stall":
            return chance.choice((0.2, 0.2, LONG_S))
        case "garbage":
            return float(chance.choice((1, 2, 7, 100)))
        case _:
            return 0.0


def chains(seed: int, numbers: Sequence[int]) -> list[list[Plan]]:
    """The plans in rows of `CHAIN`, each for one client connection. Who runs one number alone gets those before it in its
    row, because they may be why it fails."""
    if len(numbers) == 1:
        first = numbers[0] - numbers[0] % CHAIN
        return [[plan(seed, number) for number in range(first, numbers[0] + 1)]]
    return [[plan(seed, number) for number in numbers[at : at + CHAIN]] for at in range(0, len(numbers), CHAIN)]
