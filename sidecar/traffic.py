"""The data plane of a process that carries traffic: its parts made, wired, pointed at a policy, opened and ended.

An ordinary sidecar and a worker have the same parts here. They differ in what they do with what these tell (`Told`): the one
learns, stores and answers people, the other tells its leader. What the data plane has besides is added here, once for both.
"""

import asyncio
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog

from sidecar.clock import monotonic, steady
from sidecar.config.policy import default_upstreams
from sidecar.config.secrets import ClientTokens
from sidecar.config.settings import Settings
from sidecar.core.engine import Engine
from sidecar.core.guard import BreakerStatus
from sidecar.core.policy import JUDGE, Policy
from sidecar.core.types import Event, Settled
from sidecar.process import place, salt_of, serve_traffic
from sidecar.proxy.aside import ErrandStatus, JudgesAndShadows
from sidecar.proxy.cascade import Cascades
from sidecar.proxy.keys import Keys
from sidecar.proxy.leaving import drain, end_traffic
from sidecar.proxy.memory import Memory
from sidecar.proxy.origins import Origins
from sidecar.proxy.plane import FeedbackHandler, Plane
from sidecar.tasks import Tasks

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Told:
    """Who is told of what, on the loop's thread: all of them are quick, and raise nothing expected."""

    ended: Callable[[Settled], None]  # an exchange is over, and the engine has its lesson
    feedback: FeedbackHandler  # a client's, to be answered
    events: Callable[[Sequence[Event]], None]
    bug: Callable[[str, BaseException], None]  # where, and what: the process survived it; see `Traffic.survived`
    errand: Callable[[Event], None]  # a call of our own is over
    label: Callable[[str, str, float], None]  # decision, source and score; the decision may be just over
    signal: Callable[[str, str, float], object]  # the same, of a decision that was over a second ago
    shed: Callable[[bool], None]  # rows, log lines and spans are to be given up, or no more


class Traffic:
    """Nothing is open before `open`, and everything is closed after `close`."""

    def __init__(self, settings: Settings, engine: Engine, tasks: Tasks, origins: Origins, told: Told) -> None:
        """Makes and wires the parts; what serves is said by `point` and `judge_by`.

        Raises:
            ConfigError: the listener's certificate, the salt or the clients' tokens cannot be used.
        """
        self.plane = plane = Plane(settings, engine, tasks, told.ended)
        self.aside, self.cascades = JudgesAndShadows(plane), Cascades(plane)
        self.memory = Memory(plane, told.shed)
        self._origins = origins
        self._signal = told.signal
        self._servers: list[asyncio.Server] = []
        plane.keys = Keys(settings.service, salt_of(settings))
        plane.on_feedback = told.feedback
        plane.on_events = told.events
        plane.on_bug = told.bug
        plane.on_errand = told.errand
        plane.on_label = lambda decision_id, score: told.label(decision_id, JUDGE, score)
        plane.on_sweep = self._on_sweep
        if settings.client_tokens_file is not None:
            plane.tokens = ClientTokens(settings.client_tokens_file)
            plane.tokens.check(steady())
        self._defaults = default_upstreams(settings)

    # ---- a policy

    def point(self, policy: Policy) -> None:
        """Calls from now on go to the upstreams of this policy. Raises ConfigError as `Origins.apply`: then nothing has
        changed."""
        self._origins.apply(self.plane, policy, self._defaults)

    def judge_by(self, policy: Policy) -> None:
        """How answers are checked, graded, copied and asked again from now on. Raises ImportError as `Checks.apply`."""
        self.plane.checks.apply(policy)
        self.plane.signals.apply(policy)
        self.aside.apply(policy)
        self.cascades.apply(policy)

    def look_around(self) -> None:
        """Which arms a cascade may ask, and which of them a judge should look at more often: they change with a rollout."""
        if self.plane.cascades is not None or self.plane.aside is not None:
            routes = self.plane.engine.standings()
            self.cascades.refresh(routes)
            self.aside.refresh(routes)

    # ---- up and down

    async def open(self, sockets: Iterable[socket.socket]) -> None:
        """Serves on them."""
        self.plane.start()
        self._servers += await serve_traffic(self.plane, sockets)

    async def drain(self, cut: asyncio.Event) -> None:
        """What is open may end, see `proxy.leaving.drain`; nothing of our own is begun any more."""
        self.plane.draining = True
        self.aside.stop()
        await drain(self.plane, cut)

    async def close(self) -> None:
        """Cuts what is left."""
        await end_traffic(self.plane, self._servers)

    # ---- while serving

    def survived(self, where: str, error: BaseException) -> None:
        """Counts and tells an exception that the process survived. Its text may hold a request's words: only kind and place
        are told."""
        self.plane.books.bugs += 1
        log.error("bug", where=where, kind=type(error).__name__, place=place(error))  # `at` is the time

    def _on_sweep(self) -> None:
        """Signals are told ten times a second: all of a busy second would hold the loop, and overflow the store's queue."""
        self.memory.look()
        for seen in self.plane.signals.due(monotonic()):
            self._signal(seen.decision_id, seen.source, seen.score)

    # ---- for people

    def faults(self, now: float) -> list[str]:
        """Which files of the listener cannot be used as they are now."""
        tokens, certificate = self.plane.tokens, self.plane.certificate
        problem = None if tokens is None else tokens.problem(now)
        found = [] if problem is None else [f"client tokens: {problem}"]
        return found if certificate.error is None else [*found, certificate.error]


def notes_of(breakers: Sequence[BreakerStatus], errands: Sequence[ErrandStatus]) -> list[str]:
    """What people should know of the calls to upstreams, and of our own."""
    notes = [one.text() for one in breakers if one.state != "closed"]
    return notes + [text for one in errands for text in one.notes]
