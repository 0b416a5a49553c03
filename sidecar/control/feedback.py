"""Feedback on past decisions: checked, bounded, joined with its decision, told to the engine and stored.

Each score comes from a named source, whose scale, weight and largest share the policy states (`core.reward` has the
formula). All sources of one decision teach one label: a later score, of whichever source, replaces what was taught
before. Recent decisions are found in memory; older ones in the database, with the scores that they were given, read by
its own thread. What comes in is untrusted: the size is bounded by the caller, the rate and the number of sources here,
and nothing of it reaches a log.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import lru_cache
from typing import Final, Literal

import msgspec
import orjson
from msgspec import Struct

from sidecar.clock import earlier, steady, wall
from sidecar.core.policy import JUDGE, OTHER, OWN_SOURCES, SOURCES, Source
from sidecar.core.reward import label, scaled
from sidecar.core.types import LABEL, Event, Features, Feedback, Settled
from sidecar.errors import StoreError

MAX_AGE_S: Final = 7 * 86400.0
_REMEMBERED: Final = 8_192  # decisions, in two halves, 2 to 5 MiB; older ones are looked up in the database
_MAX_SOURCES: Final = 64
_MAX_SOURCES_EACH: Final = 16  # of one decision
_RATE_PER_S: Final = 1000.0  # per source; a service that scores every answer stays below, a loop gone wild does not
_BURST: Final = 2000.0
_MAX_TEXT: Final = 128
_WORDS: Final = {"up": 1.0, "down": 0.0}  # the ends of every scale: good and bad, whichever of its numbers is which

Answer = Callable[[int, bytes], None]


class Kind(Struct, frozen=True, gc=False):
    """What thousands of decisions have in common: those that are remembered share one of these."""

    route: str
    arm: str | None = None
    rollout_id: str | None = None
    rollout_step: int | None = None
    task: str = ""
    served: tuple[str, str] | None = None  # upstream and model, where both are known
    tenant: str = ""
    bound: bool = False  # whether the key is what its arm was drawn for


class Known(Struct, frozen=True, gc=False):
    """What has to be known of a decision to teach with it. `given` are the scores that the database has of it."""

    id: str
    at: float
    kind: Kind
    key: int = 0
    text: Features | None = None
    given: tuple[tuple[str, float], ...] = ()


class _Written(Struct, forbid_unknown_fields=True):
    """Feedback as a client writes it: a score of 0..1, or a value on its source's scale."""

    score: float | None = None
    value: float | bool | str | None = None
    id: str | None = None
    completion_id: str | None = None
    source: str = "user"
    label: str | None = None


class _Label:
    """The last score of each source of one decision, what they made together, and whether that was taught."""

    __slots__ = ("score", "scores", "taught", "weight")

    def __init__(self) -> None:
        self.scores: dict[str, float] = {}
        self.score = 0.0
        self.weight = 1.0
        self.taught = False

    def join(self, sources: Mapping[str, Source], labelled: bool) -> None:
        """Makes one label of the scores. A weak one is not learnt before the route is `labelled`."""
        self.score, self.weight = label(self.scores, sources)
        self.taught = self.weight >= LABEL or (labelled and self.weight > 0.0)


class _Half:
    """Decisions by their id, and the ids by the hash of the provider's completion id (keyed, and half as large)."""

    __slots__ = ("by_completion", "known")

    def __init__(self) -> None:
        self.known: dict[str, Known] = {}
        self.by_completion: dict[int, str | Literal[False]] = {}  # False: several decisions have this id


class FeedbackDesk:
    """Takes feedback from the traffic port, the admin API and the command line, and signals of our own."""

    def __init__(
        self,
        teach: Callable[[Feedback, float], Sequence[Event]],
        store: Callable[[Feedback, float], None],
        look_up: Callable[[str, str], Awaitable[list[Known]]],
        spawn: Callable[[Callable[[], Coroutine[object, object, None]]], None],
        on_events: Callable[[Sequence[Event]], None],
    ) -> None:
        """`teach` is the engine's verb, `store` keeps it with its wall time, `look_up` finds older decisions by
        an id and whose they are ("": anybody's)."""
        self._teach = teach
        self._store = store
        self._look_up = look_up
        self._spawn = spawn
        self._on_events = on_events
        self._newer, self._older = _Half(), _Half()
        self._labels: OrderedDict[str, _Label] = OrderedDict()  # by decision
        self._buckets: dict[str, tuple[float, float]] = {}
        self.sources: Mapping[str, Mapping[str, Source]] = {}  # by route; others have SOURCES
        self.labelled: Callable[[str], bool] = lambda _: True  # whether a route learns weak signals by now
        self.accepted = 0
        self.refused = 0
        self.lost = 0  # scores of our own whose decision is not found

    def remember(self, batch: Sequence[Settled]) -> None:
        """New decisions, so that feedback on them needs no database."""
        if len(self._newer.known) + len(batch) > _REMEMBERED // 2:
            self._newer, self._older = _Half(), self._newer
        newer, older = self._newer, self._older.by_completion
        for settled in batch:
            known = known_of(settled)
            newer.known[known.id] = known
            if settled.outcome.completion_id:
                for whose in {"", known.kind.tenant}:  # anybody's, for who may score all; and its tenant's own
                    completion = hash((whose, settled.outcome.completion_id))
                    several = completion in newer.by_completion or completion in older
                    newer.by_completion[completion] = False if several else known.id

    def forget(self, key: int) -> None:
        """Drops the decisions of this sticky key, and what they were taught."""
        for half in (self._newer, self._older):
            for gone in [known.id for known in half.known.values() if known.key == key]:
                del half.known[gone]
                self._labels.pop(gone, None)

    def handle(self, body: bytes, answer: Answer, tenant: str = "") -> None:
        """Reads one body and answers it, at once or when the database has been asked. A `tenant` learns nothing of others'
        decisions, not even that there are any; without one all are its own."""
        try:
            written = msgspec.json.decode(body, type=_Written)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._refuse(answer, 422, f"not a feedback object: {error}")
            return
        problem = _problem(written)
        if problem is not None:
            self._refuse(answer, 422, problem)
        elif not self._admit(written.source):
            self._refuse(answer, 429, "too much feedback of this source: send less, or less often")
        else:
            self._find(written, answer, tenant)

    def signal(self, decision_id: str, source: str, score: float) -> bool:
        """A score of our own, 0..1: of a judge, or of what the proxy saw. False for a decision that is not remembered: of a
        judge, which may have taken long and was paid for, the database is asked then."""
        known = self._newer.known.get(decision_id) or self._older.known.get(decision_id)
        if known is None and source == JUDGE:
            self._spawn(lambda: self._signal_stored(decision_id, source, score))
            return False
        learnt = known is not None and self._learn(known, source, score, None)
        self.lost += not learnt
        return learnt

    async def _signal_stored(self, decision_id: str, source: str, score: float) -> None:
        try:
            found = await self._look_up(decision_id, "")
        except StoreError:
            found = []
        if not (found and self._learn(found[0], source, score, None)):
            self.lost += 1

    def _find(self, written: _Written, answer: Answer, tenant: str) -> None:
        newer, older = self._newer, self._older
        key = written.id
        if key is None:
            assert written.completion_id is not None
            completion = hash((tenant, written.completion_id))
            found = newer.by_completion.get(completion)
            found = older.by_completion.get(completion) if found is None else found
            if found is False:
                self._refuse(answer, 409, "several decisions have this completion id: name the decision by id")
                return
            key = found or ""
        known = newer.known.get(key) or older.known.get(key)
        if known is not None and tenant in ("", known.kind.tenant):
            self._take(written, known, answer)
        else:
            self._spawn(lambda: self._find_stored(written, answer, tenant))

    async def _find_stored(self, written: _Written, answer: Answer, tenant: str) -> None:
        try:
            found = await self._look_up(written.id or written.completion_id or "", tenant)
        except Exception as error:
            self._refuse(answer, 503, "decisions cannot be looked up now: send it again later")
            if isinstance(error, StoreError):
                return
            raise
        if not found:
            self._refuse(answer, 404, "no decision has this id, or it is older than seven days")
        elif len(found) > 1:
            self._refuse(answer, 409, "several decisions have this completion id: name the decision by id")
        else:
            self._take(written, found[0], answer)

    def _take(self, written: _Written, known: Known, answer: Answer) -> None:
        if earlier() - known.at > MAX_AGE_S:
            self._refuse(answer, 404, "the decision is older than seven days")
            return
        score = written.score
        if score is None:
            sources = self._sources_of(known.kind.route)
            source = sources.get(written.source) or sources.get(OTHER, SOURCES[OTHER])
            score = _scored(source, written.value)
            if score is None:
                text = f"value must be a number of {source.low:g}..{source.high:g} (the scale of this source), or up or down"
                self._refuse(answer, 422, text)
                return
        if not self._learn(known, written.source, score, written.label):
            self._refuse(answer, 422, f"a decision takes scores of {_MAX_SOURCES_EACH} sources at most")
            return
        self.accepted += 1
        answer(202, orjson.dumps({"id": known.id, "accepted": True}))

    def _learn(self, known: Known, source: str, score: float, note: str | None) -> bool:
        """Teaches the decision's new label and keeps the score; False when it has too many sources already."""
        kind = known.kind
        sources = self._sources_of(kind.route)
        held = self._label_of(known, sources)
        if source not in held.scores and len(held.scores) >= _MAX_SOURCES_EACH:
            return False
        held.scores[source] = score
        previous, before = held.score if held.taught else None, held.weight
        held.join(sources, self.labelled(kind.route))
        feedback = Feedback(
            decision_id=known.id,
            route=kind.route,
            arm=kind.arm or "",
            score=held.score,
            source=source,
            label=note,
            context_key=known.key if kind.bound else 0,
            rollout_id=kind.rollout_id,
            rollout_step=kind.rollout_step,
            previous=previous,
            weight=held.weight,
            previous_weight=before,
            task=kind.task,
            text=known.text,
            served=kind.served,
        )
        if kind.arm is not None and held.weight:
            self._on_events(self._teach(feedback, steady()))
        self._store(msgspec.structs.replace(feedback, score=score, text=None), wall())
        return True

    def _label_of(self, known: Known, sources: Mapping[str, Source]) -> _Label:
        """What the decision was taught so far; of one that was forgotten, what the database makes of it."""
        held = self._labels.pop(known.id, None)
        if held is None:
            held = _Label()
            if known.given:
                held.scores = dict(known.given[:_MAX_SOURCES_EACH])
                held.join(sources, self.labelled(known.kind.route))
        self._labels[known.id] = held
        if len(self._labels) > _REMEMBERED:
            gone, _ = self._labels.popitem(last=False)
            for half in (self._newer, self._older):  # the next score of it is joined with what the database has
                half.known.pop(gone, None)
        return held

    def _sources_of(self, route: str) -> Mapping[str, Source]:
        return self.sources.get(route, SOURCES)

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
    decision, facts = settled.decision, settled.facts
    kind = _kind(
        decision.route,
        settled.outcome.served_arm or decision.arm,
        decision.rollout_id,
        decision.rollout_step,
        facts.task,
        (settled.upstream, settled.sent_model) if settled.sent_model else None,
        facts.tags.get("tenant", ""),
        decision.unit != "request",
    )
    return Known(settled.id, settled.at, kind, facts.key, facts.text)


_kind = lru_cache(maxsize=1_024)(Kind)  # a few for each arm, and those of a rollout's steps, times the tasks


def _scored(source: Source, value: float | bool | str | None) -> float | None:
    """The score of a value as it was sent: a number, true and false as 1 and 0, or one end of the scale in words."""
    if isinstance(value, str):
        return _WORDS.get(value)
    return None if value is None else scaled(source, float(value))


def _problem(written: _Written) -> str | None:
    """What is wrong with it, or None."""
    if (written.score is None) == (written.value is None):
        return "give either score (0 to 1) or value (on the scale of its source)"
    if written.score is not None and not 0.0 <= written.score <= 1.0:
        return "score must lie between 0 and 1"
    if (written.id is None) == (written.completion_id is None):
        return "give either id or completion_id"
    if written.source in OWN_SOURCES:
        return f"{', '.join(sorted(OWN_SOURCES))} are sources of the sidecar's own: choose another name"
    texts = (written.id, written.completion_id, written.source, written.label)
    if any(text is not None and not 0 < len(text) <= _MAX_TEXT for text in texts):
        return f"id, completion_id, source and label have 1 to {_MAX_TEXT} characters"
    return None
