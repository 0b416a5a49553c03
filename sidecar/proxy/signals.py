"""Signals that nobody sends: a prompt that comes again, and a stream that is left; told as scores of past decisions.

| source | 0 | 1 |
| --- | --- | --- |
| repeat | the same body under the same sticky key began 1 s .. `repeat_within` after this answer had ended | it did not |
| abandoned | the client left a stream after its first token | the stream was read to its end |

Both ends of each scale are told, because signals of bad answers alone would speak against whoever serves more calls.
What is no opinion is left out: SDKs that try again (`x-stainless-retry-count` above 0), calls that had failed, streams that
nobody read on (`client_stalled`), repeats within a second (a program asks for several answers), and every repeat after the
first (a program in a loop).
"""

import re
from collections import OrderedDict, deque
from collections.abc import Mapping
from hashlib import blake2b
from typing import Final

from msgspec import Struct

from sidecar.core.policy import ABANDONED, REPEAT, Implicit, Policy
from sidecar.core.types import Decision, Facts, Outcome

# 512..4,096 calls: with fewer a busy service sees fewer repeats; of more the feedback desk, which remembers 4,096 decisions
# for sure, has forgotten those that were fine, and only bad ends would count
WATCHED: Final = 2_048
MAX_TOLD: Final = 16_384  # scores that wait for the next look
MAX_BODY_BYTES: Final = 262_144  # hashed in a quarter of a millisecond; larger prompts are not told apart
_HUMAN_S: Final = 1.0  # nobody reads an answer and asks again in less
SETTLED_S: Final = 1.0  # a score is told so long after its exchange: by then its decision is known


_RETRIES: Final = re.compile(rb"\nx-stainless-retry-count:[ \t]{0,8}([0-9]{1,4})[ \t]{0,8}\r", re.IGNORECASE)


def retries_of(head: bytes) -> int:
    """How often the SDK says that it has tried this call before; 0 where it says nothing."""
    found = _RETRIES.search(head)
    return 0 if found is None else int(found[1])


class Signal(Struct, frozen=True, gc=False):
    decision_id: str
    source: str
    score: float


class Heard(Struct, frozen=True):
    """What is looked at of one exchange that has ended. `retries`: how often the SDK says that it has tried before."""

    id: str
    facts: Facts
    decision: Decision
    outcome: Outcome
    body: bytes
    retries: int = 0


class _Answer(Struct, frozen=True, gc=False):
    id: str
    ended: float
    until: float
    number: int  # among all calls
    again: bool  # it was itself a repeat


class Signals:
    """Give it every exchange that ended, and take what is due some times a second. Times are the monotonic clock's.

    An answer waits for a repeat until `repeat_within` is over, or `watched` calls have come after it.
    """

    def __init__(self) -> None:
        self.watched = WATCHED
        self._calls = 0
        self._routes: Mapping[str, Implicit] = {}
        self._answers: OrderedDict[tuple[str, int, bytes], _Answer] = OrderedDict()
        self._told: deque[tuple[float, Signal]] = deque(maxlen=MAX_TOLD)
        self.active = False

    def apply(self, policy: Policy) -> None:
        """Listens on the routes of this policy that ask for it."""
        self._routes = {route.name: route.quality.implicit for route in policy.routes if route.quality.implicit}
        self.active = bool(self._routes)

    def over(self, call: Heard, now: float) -> None:
        """One exchange has ended."""
        self._calls += 1
        spec = self._routes.get(call.decision.route)
        outcome = call.outcome
        if spec is None or call.decision.arm is None:
            return
        left = outcome.kind == "aborted"
        judged = outcome.kind != "failed" and outcome.error != "client_stalled"
        if judged and call.facts.stream and outcome.clocks.ttft_s is not None:
            self._tell(call.id, ABANDONED, 0.0 if left else 1.0, now)
        if call.facts.key and 0 < len(call.body) <= MAX_BODY_BYTES:
            self._compare(call, spec, now)

    def due(self, now: float) -> list[Signal]:
        """What may be told by now, oldest first."""
        while self._answers:
            answer = next(iter(self._answers.values()))
            if answer.until > now and self._calls - answer.number < self.watched:
                break
            self._end_first(now)
        found = []
        while self._told and self._told[0][0] <= now - SETTLED_S:
            found.append(self._told.popleft()[1])
        return found

    def _compare(self, call: Heard, spec: Implicit, now: float) -> None:
        digest = blake2b(call.body, digest_size=16).digest()
        place = (call.decision.route, call.facts.key, digest)
        before = self._answers.pop(place, None)
        if call.outcome.kind == "failed":
            return  # whoever asks again now asks because of this
        began = now - call.outcome.clocks.duration_s
        again = before is not None and began <= before.until
        if before is not None and again and not before.again and not call.retries:
            if began >= before.ended + _HUMAN_S:
                self._tell(before.id, REPEAT, 0.0, now)
        elif before is not None and not again:
            self._tell(before.id, REPEAT, 1.0, now)
        if call.outcome.kind == "completed":
            self._answers[place] = _Answer(call.id, now, now + spec.repeat_within_s, self._calls, again)
            if len(self._answers) > self.watched:
                self._end_first(now)

    def _end_first(self, now: float) -> None:
        """Nobody has repeated the oldest answer."""
        _, answer = self._answers.popitem(last=False)
        self._tell(answer.id, REPEAT, 1.0, min(answer.until, now) - SETTLED_S)

    def _tell(self, decision_id: str, source: str, score: float, now: float) -> None:
        self._told.append((now, Signal(decision_id, source, score)))
