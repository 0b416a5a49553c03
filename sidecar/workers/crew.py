"""The workers of one leader, as it sees them: started, heard, told, started again, ended.

Each worker is a process with a socket to its leader (inherited, without a name). One that ends while nobody told it to is
started again after a pause that doubles with each death in a row; what it had under way is lost with its clients'
connections and is counted as failed.

A worker says something once a second at least. One that is silent for SILENT_S hangs: it is killed, and then is one that
died. Its silence is counted by the leader's own loop, and no more than _LOOK_S for a step: in a time in which the leader did
not run it could have heard nobody, and says nothing of anybody. The last that serves is never killed, and while nobody at
all is heard only one: the next when another serves in its place, which also shows that the leader hears.

To each worker at most one message with a `turn` is on its way: what it has to know next waits until it says that it
obeyed. So a worker that is slow gets less and not more, and a `core.lease` is never told twice.
"""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import astuple
from typing import Final

import structlog

from sidecar.clock import monotonic, offset_s
from sidecar.config.policy import Written
from sidecar.config.settings import Settings
from sidecar.proxy.plane import Books
from sidecar.tasks import Tasks
from sidecar.workers.link import Link
from sidecar.workers.messages import CUT, DRAIN, Counted, Hello, Orders, Report, read_report

log = structlog.get_logger()

_FIRST_PAUSE_S: Final = 0.1
_LAST_PAUSE_S: Final = 10.0
_STEADY_S: Final = 60.0  # one that lived so long did not die in a row
_REAP_S: Final = 5.0  # between the end of its socket and its own
# 5..60; shorter takes a starved machine for a fault, longer leaves clients of a hung one waiting
SILENT_S: Final = 10.0
_BORN_S: Final = 30.0  # of one that has not said anything yet: it imports and reads
_LOOK_S: Final = 0.5  # some looks of the leader: what lies beyond was the leader's own stall


class Member:
    """One worker process, from its start to its end."""

    def __init__(self, index: int, who: int) -> None:
        self.index = index
        self.who = who  # never used again: the next process of this index has another one
        self.began = monotonic()
        self.process: subprocess.Popen[bytes] | None = None
        self.link: Link | None = None
        self.books = Books()
        self.counted = Counted()
        self.lost = 0
        self.serving = False
        self.greeted = False
        self.stand = b""  # that it was told last
        self.written: Written | None = None  # as `stand`
        self.turn = 0  # on its way; 0: none
        self.late = False  # something waits for the next turn
        self.silent_s = 0.0  # since it was heard last
        self.hung = False  # it is killed for that

    @property
    def pid(self) -> int:
        return 0 if self.process is None else self.process.pid

    def send(self, orders: Orders) -> None:
        if self.link is not None:
            self.link.send(orders)


class Crew:
    """All workers. `on_report` and `on_gone` are the leader's."""

    def __init__(
        self,
        settings: Settings,
        tasks: Tasks,
        on_report: Callable[[Member, Report], None],
        on_gone: Callable[[Member], None],
    ) -> None:
        """`settings` are those of each worker."""
        self.members: dict[int, Member] = {}  # by index
        self.restarts = self.hangs = 0
        self.gone = Books()  # of those that ended
        self.gone_lost = 0
        self.changed = asyncio.Event()  # somebody serves, or has ended
        self.settings = settings
        self.prices: Callable[[], bytes | None] = lambda: None  # the mounted list in force
        self._tasks = tasks
        self._on_report, self._on_gone = on_report, on_gone
        self._stopping = False
        self._leaving: set[subprocess.Popen[bytes]] = set()  # whose socket is closed and that may still be there
        self._whos = 0
        self._turns = 0
        self._looked = 0.0
        self._deaths: dict[int, int] = {}

    @property
    def alive(self) -> int:
        """Processes that have not ended yet."""
        return len(self.members) + len(self._leaving)

    @property
    def serving(self) -> int:
        return sum(member.serving for member in self.members.values())

    async def start(self) -> None:
        """Starts every worker; they serve when they were greeted and have told so."""
        for index in range(self.settings.workers):
            await self._start(index)

    async def _start(self, index: int) -> None:
        self._whos += 1
        member = Member(index, self._whos)
        ours, theirs = socket.socketpair(type=socket.SOCK_STREAM)
        ours.setblocking(False)
        try:
            with theirs:
                member.process = _spawned(theirs.fileno())
        except OSError:
            ours.close()
            raise
        self.members[index] = member
        link = member.link = Link(lambda body: self._hear(member, body), lambda: self._lost(member))
        await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=ours)
        link.send(Hello(index, self.settings.workers, self.settings, offset_s(), self.prices()))
        if self._stopping:  # it was told to end before it could hear
            link.send(Orders(stop=DRAIN))

    # ---- while they live

    def turn(self, member: Member) -> int:
        """A number for orders that `member` has to confirm; 0 while it has not confirmed the last ones."""
        if member.turn:
            member.late = True
            return 0
        self._turns += 1
        member.turn, member.late = self._turns, False
        return self._turns

    def unsaid(self, member: Member) -> None:
        """What the last `turn` was for was not sent: it is free again."""
        member.turn, member.late = 0, True

    def look(self, now: float) -> Member | None:
        """Kills the worker that hangs, if one does and another serves; call it some times a second. See the head."""
        passed, self._looked = min(now - self._looked, _LOOK_S), now
        worst: Member | None = None
        for member in self.members.values():
            member.silent_s += passed
        for member in self.members.values():
            hangs = member.silent_s >= (SILENT_S if member.greeted else _BORN_S) and not member.hung
            longest = worst is None or member.silent_s > worst.silent_s
            if hangs and longest and self._can_spare(member):
                worst = member
        if worst is None:
            return None
        worst.hung = True
        self.hangs += 1
        assert worst.process is not None
        worst.process.kill()
        if worst.link is not None:
            worst.link.abort()  # a process that the kernel holds may outlive its signal, its place may not
        return worst

    def _can_spare(self, member: Member) -> bool:
        """Whether another one serves and is heard, or the crew is complete. While all end nobody is spared."""
        if self._stopping or not member.serving:
            return True
        others = [one for one in self.members.values() if one is not member and one.serving and not one.hung]
        complete = len(others) == self.settings.workers - 1
        return bool(others) and (complete or any(one.silent_s < SILENT_S for one in others))

    def others(self, member: Member) -> Iterable[Member]:
        return [one for one in self.members.values() if one is not member and one.greeted]

    def books(self) -> Books:
        """Everybody's books, added up."""
        every = [self.gone, *(member.books for member in self.members.values())]
        return Books(*(sum(column) for column in zip(*map(astuple, every), strict=True)))

    @property
    def lost(self) -> int:
        return self.gone_lost + sum(member.lost for member in self.members.values())

    def _hear(self, member: Member, body: bytes) -> None:
        report = read_report(body)
        member.silent_s = 0.0
        member.books, member.lost = report.books, report.lost
        if report.counted is not None:
            member.counted = report.counted
        if member.turn and report.turn == member.turn:
            member.turn = 0
        if report.serving != member.serving:
            member.serving = report.serving
            self.changed.set()
        self._on_report(member, report)

    # ---- ends

    def _lost(self, member: Member) -> None:
        if self.members.get(member.index) is not member:
            return
        del self.members[member.index]
        books = member.books
        died = books.accepted - books.completed - books.failed - books.aborted - books.shed  # with it
        books.failed += died
        self.gone = Books(*(a + b for a, b in zip(astuple(self.gone), astuple(books), strict=True)))
        self.gone_lost += member.lost + died
        self._on_gone(member)
        self.changed.set()
        assert member.process is not None
        self._leaving.add(member.process)
        self._tasks.spawn(self._reap(member, member.process), "worker")

    async def _reap(self, member: Member, process: subprocess.Popen[bytes]) -> None:
        """Waits for the process, and starts the next one in its place unless all are to end."""
        try:
            code = await asyncio.to_thread(process.wait, _REAP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = await asyncio.to_thread(process.wait)
        self._leaving.discard(process)
        self.changed.set()
        if self._stopping:
            return
        deaths = 0 if monotonic() - member.began > _STEADY_S else self._deaths.get(member.index, 0)
        self._deaths[member.index] = deaths + 1
        self.restarts += 1
        self.changed.set()
        log.error("worker ended", worker=member.index, code=code, deaths=deaths + 1)
        await asyncio.sleep(min(_LAST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(deaths, 10)))
        await self._replace(member.index)

    async def _replace(self, index: int) -> None:
        while not self._stopping and index not in self.members:
            try:
                await self._start(index)
            except OSError as error:  # the machine has no process or descriptor left
                log.error("worker not started", worker=index, note=str(error))
                await asyncio.sleep(_LAST_PAUSE_S)

    def stop(self, *, cut: bool = False) -> None:
        """Everybody drains, or is cut, and ends."""
        self._stopping = True
        for member in self.members.values():
            member.send(Orders(stop=CUT if cut else DRAIN))

    def kill(self) -> None:
        """Ends at once whoever is left."""
        self._stopping = True
        for process in [*(member.process for member in self.members.values()), *self._leaving]:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()


def _spawned(descriptor: int) -> subprocess.Popen[bytes]:
    """A worker with our environment, whose socket is `descriptor`; it imports from the current folder only if we do."""
    ours = sys.modules["__main__"].__spec__ is not None or sys.path[:1] == [""]  # by `-m` or `-c`, and not by a script
    safe = ["-P"] if sys.flags.safe_path or not ours else []
    command = [sys.executable, *safe, "-m", "sidecar.workers", str(descriptor)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[descriptor])  # noqa: S603 - all of it is ours
