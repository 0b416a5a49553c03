"""What a worker has to tell its leader, gathered and sent in batches; traffic never waits for it.

Calls that ended are sent after FLUSH_S, or when BATCH of them wait. While the leader does not read, they wait here, at most
MOST of them: then the oldest lose their row and lesson, are counted in `lost`, and what they cost is told all the same.
Everything else is small and bounded by its own sources. Without a leader nothing is kept.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from sidecar.clock import steady
from sidecar.core.following import Follower
from sidecar.core.types import Event, Settled
from sidecar.proxy.plane import Plane
from sidecar.workers.link import Link
from sidecar.workers.messages import Counted, Exchange, Report, exchange_of, lessons_alone, lessons_of, written

# with the leader's own batches and the store's group commit, a kill loses less than 300 ms of rows
FLUSH_S: Final = 0.02
BATCH: Final = 64
MOST: Final = 10_000  # some 30 MB
FULL_BYTES: Final = 4 * 1024 * 1024  # that the leader has not read: no more is sent until it does
_MOST_OTHERS: Final = 1_000


class Telling:
    """The reports of one worker."""

    def __init__(self, engine: Follower, link: Link) -> None:
        self.turn = 0  # of the newest orders that were obeyed
        self.serving = False
        self.lost = 0
        self.plane: Plane | None = None  # whose books are told
        self._engine = engine
        self._link = link
        self._exchanges: deque[Exchange] = deque()
        self._events: list[Event] = []
        self._errands: list[Event] = []
        self._scores: list[tuple[str, str, float]] = []
        self._asked: list[tuple[int, bytes, str]] = []
        self._timer: asyncio.TimerHandle | None = None

    # ---- what happens

    def ended(self, settled: Settled) -> None:
        """One call is over, and the engine has its lesson."""
        lessons, self._engine.lessons = self._engine.lessons, []
        self._exchanges.append(exchange_of(settled, lessons))
        if len(self._exchanges) > MOST:
            self._forgo(self._exchanges.popleft())
        if len(self._exchanges) == BATCH:
            self.flush()
        else:
            self._soon()

    def events(self, events: Sequence[Event]) -> None:
        self._events += events[: _MOST_OTHERS - len(self._events)]
        self._soon()

    def errand(self, event: Event) -> None:
        self._errands += [event][: _MOST_OTHERS - len(self._errands)]
        self._soon()

    def score(self, decision_id: str, source: str, score: float) -> None:
        """A score of our own. Those of what the proxy saw come together, and a busy worker may have thousands then."""
        if len(self._scores) == _MOST_OTHERS:
            self.flush()
        self._scores += [(decision_id, source, score)][: _MOST_OTHERS - len(self._scores)]
        self._soon()

    def ask(self, number: int, body: bytes, tenant: str) -> None:
        """A client's feedback, told at once."""
        self._asked.append((number, body, tenant))
        self.flush()

    # ---- telling

    def _soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self, counted: Counted | None = None) -> None:
        """Sends a report, if the leader reads."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        engine, link = self._engine, self._link
        if not link.open:
            self._drop()
            return
        if link.waiting > FULL_BYTES:
            self._soon()
            return
        if engine.lessons:
            self._exchanges.append(lessons_alone(engine.lessons))
            engine.lessons = []
        report = self._report(counted)
        self._exchanges = deque()
        self._events, self._errands, self._scores, self._asked, engine.charges = [], [], [], [], {}
        try:
            link.send(report)
        except Exception as bug:  # noqa: BLE001 - what cannot be written must not keep all that follows from being told
            self._bug(bug)
            report.exchanges = [one for one in report.exchanges if self._is_writable(one)]
            report.lost = self.lost
            link.send(report)

    async def told(self) -> None:
        """Returns when nothing waits any more."""
        while self._timer is not None:  # noqa: ASYNC110 - what it waits for is a timer of as long
            await asyncio.sleep(FLUSH_S)

    def _report(self, counted: Counted | None) -> Report:
        assert self.plane is not None
        engine = self._engine
        return Report(
            turn=self.turn,
            books=self.plane.books,
            spending=engine.spending,
            exchanges=list(self._exchanges),
            charges=engine.charges,
            bound=engine.bound(),
            events=self._events,
            errands=self._errands,
            scores=self._scores,
            asked=self._asked,
            counted=counted,
            lost=self.lost,
            serving=self.serving,
        )

    def _is_writable(self, exchange: Exchange) -> bool:
        """Whether a call can be told; one that cannot is lost, and what it cost is told next time."""
        try:
            written(exchange)
        except Exception:  # noqa: BLE001 - as in `flush`, which told it
            self._forgo(exchange)
            return False
        return True

    def _bug(self, error: Exception) -> None:
        assert self.plane is not None
        self.plane.on_bug("tell", error)

    def _forgo(self, exchange: Exchange) -> None:
        self.lost += exchange.settled is not None
        for lesson in lessons_of(exchange):
            self._engine.forgo(lesson, steady())

    def _drop(self) -> None:
        """Nobody listens any more."""
        engine = self._engine
        self.lost += sum(one.settled is not None for one in self._exchanges)
        self._exchanges.clear()
        engine.lessons, engine.charges = [], {}
        engine.bound()
        self._events, self._errands, self._scores, self._asked = [], [], [], []
