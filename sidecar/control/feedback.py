"""Feedback on past decisions: checked, bounded, joined with its decision, told to the engine and stored.

Recent decisions are found in memory; older ones in the database, read by its own thread. What comes in is untrusted: the
size is bounded by the caller, the rate and the number of sources here, and nothing of it reaches a log.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Final, Literal

import msgspec
import orjson
from msgspec import Struct

from sidecar.clock import steady, wall
from sidecar.core.types import Event, Feedback, Settled

MAX_AGE_S: Final = 7 * 86400.0
_REMEMBERED: Final = 8_192  # decisions, in two halves; about 4 MB; older ones are looked up in the database
_MAX_SOURCES: Final = 64
_RATE_PER_S: Final = 1000.0  # per source; a service that scores every answer stays below, a loop gone wild does not
_BURST: Final = 2000.0
_MAX_TEXT: Final = 128

Answer = Callable[[int, bytes], None]


class Known(Struct, frozen=True, gc=False):
    """What has to be known of a decision to teach with it."""

    id: str
    at: float
    route: str
    arm: str | None
    completion_id: str | None
    key: int
    rollout_id: str | None
    rollout_step: int | None


class _Written(Struct, forbid_unknown_fields=True):
    """Feedback as a client writes it."""

    score: float
    id: str | None = None
    completion_id: str | None = None
    source: str = "user"
    label: str | None = None


class _Half:
    """Decisions by their id, and the ids by the provider's completion id."""

    __slots__ = ("by_completion", "known")

    def __init__(self) -> None:
        self.known: dict[str, Known] = {}
        self.by_completion: dict[str, str | Literal[False]] = {}  # False: several decisions have this id


class FeedbackDesk:
    """Takes feedback from the traffic port, the admin API and the command line."""

    def __init__(
        self,
        teach: Callable[[Feedback, float], Sequence[Event]],
        store: Callable[[Feedback, float], None],
        look_up: Callable[[str], Awaitable[list[Known]]],
        spawn: Callable[[Callable[[], Coroutine[object, object, None]]], None],
        on_events: Callable[[Sequence[Event]], None],
    ) -> None:
        """`teach` is the engine's verb, `store` keeps it with its wall time, `look_up` finds older decisions."""
        self._teach = teach
        self._store = store
        self._look_up = look_up
        self._spawn = spawn
        self._on_events = on_events
        self._newer, self._older = _Half(), _Half()
        self._given: OrderedDict[tuple[str, str], float] = OrderedDict()  # last score per decision and source
        self._buckets: dict[str, tuple[float, float]] = {}
        self.accepted = 0
        self.refused = 0

    def remember(self, batch: Sequence[Settled]) -> None:
        """New decisions, so that feedback on them needs no database."""
        if len(self._newer.known) + len(batch) > _REMEMBERED // 2:
            self._newer, self._older = _Half(), self._newer
        for settled in batch:
            known = known_of(settled)
            self._newer.known[known.id] = known
            completion = known.completion_id
            if completion:
                several = completion in self._newer.by_completion or completion in self._older.by_completion
                self._newer.by_completion[completion] = False if several else known.id

    def handle(self, body: bytes, answer: Answer) -> None:
        """Reads one body and answers it, at once or when the database has been asked."""
        try:
            written = msgspec.json.decode(body, type=_Written)
        except msgspec.MsgspecError as error:
            self._refuse(answer, 422, f"not a feedback object: {error}")
            return
        problem = _problem(written)
        if problem is not None:
            self._refuse(answer, 422, problem)
        elif not self._admit(written.source):
            self._refuse(answer, 429, "too much feedback of this source: send less, or less often")
        else:
            self._find(written, answer)

    def _find(self, written: _Written, answer: Answer) -> None:
        newer, older = self._newer, self._older
        key = written.id
        if key is None:
            assert written.completion_id is not None
            found = newer.by_completion.get(written.completion_id)
            found = older.by_completion.get(written.completion_id) if found is None else found
            if found is False:
                self._refuse(answer, 409, "several decisions have this completion id: name the decision by id")
                return
            key = found or ""
        known = newer.known.get(key) or older.known.get(key)
        if known is not None:
            self._take(written, known, answer)
        else:
            self._spawn(lambda: self._find_stored(written, answer))

    async def _find_stored(self, written: _Written, answer: Answer) -> None:
        found = await self._look_up(written.id or written.completion_id or "")
        if not found:
            self._refuse(answer, 404, "no decision has this id, or it is older than seven days")
        elif len(found) > 1:
            self._refuse(answer, 409, "several decisions have this completion id: name the decision by id")
        else:
            self._take(written, found[0], answer)

    def _take(self, written: _Written, known: Known, answer: Answer) -> None:
        now = wall()
        if now - known.at > MAX_AGE_S:
            self._refuse(answer, 404, "the decision is older than seven days")
            return
        place = (known.id, written.source)
        feedback = Feedback(
            decision_id=known.id,
            route=known.route,
            arm=known.arm or "",
            score=written.score,
            source=written.source,
            label=written.label,
            context_key=known.key,
            rollout_id=known.rollout_id,
            rollout_step=known.rollout_step,
            previous=self._given.pop(place, None),
        )
        self._given[place] = written.score
        if len(self._given) > _REMEMBERED:
            self._given.popitem(last=False)
        if known.arm is not None:
            self._on_events(self._teach(feedback, steady()))
        self._store(feedback, now)
        self.accepted += 1
        answer(202, orjson.dumps({"id": known.id, "accepted": True}))

    def _admit(self, source: str) -> bool:
        """A token bucket per source; sources beyond the limit share one."""
        name = source if source in self._buckets or len(self._buckets) < _MAX_SOURCES else "other"
        now = steady()
        tokens, last = self._buckets.get(name, (_BURST, now))
        tokens = min(_BURST, tokens + (now - last) * _RATE_PER_S)
        self._buckets[name] = (max(tokens - 1.0, 0.0), now)
        return tokens >= 1.0

    def _refuse(self, answer: Answer, status: int, message: str) -> None:
        self.refused += 1
        answer(status, orjson.dumps({"error": {"message": message, "type": "feedback_error", "code": status}}))


def known_of(settled: Settled) -> Known:
    """What has to be remembered of a finished exchange."""
    decision, outcome = settled.decision, settled.outcome
    return Known(
        settled.id,
        settled.at,
        decision.route,
        outcome.served_arm or decision.arm,
        outcome.completion_id,
        settled.facts.key if decision.unit != "request" else 0,
        decision.rollout_id,
        decision.rollout_step,
    )


def _problem(written: _Written) -> str | None:
    """What is wrong with it, or None."""
    if not 0.0 <= written.score <= 1.0:
        return "score must lie between 0 and 1"
    if (written.id is None) == (written.completion_id is None):
        return "give either id or completion_id"
    texts = (written.id, written.completion_id, written.source, written.label)
    if any(text is not None and not 0 < len(text) <= _MAX_TEXT for text in texts):
        return f"id, completion_id, source and label have 1 to {_MAX_TEXT} characters"
    return None
