"""The store as the process uses it: one writer when a database is configured, else nothing; never a fault for traffic."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar

import orjson

from sidecar.clock import earlier, steady, wall
from sidecar.config.files import LARGEST_STATE, content_of
from sidecar.config.settings import Settings
from sidecar.control.feedback import Kind, Known
from sidecar.control.ownership import Ownership, Whose
from sidecar.core.engine import Engine
from sidecar.core.memory import VERSION, version_of
from sidecar.core.record import Row
from sidecar.core.types import Event, Feedback
from sidecar.errors import StoreError
from sidecar.store import queries
from sidecar.store.audit import ITSELF, Audit, Head, lasting
from sidecar.store.keys import NO_STORE_KEYS, StoreKeys
from sidecar.store.lock import is_held
from sidecar.store.retention import KEPT, Forgetting, Limits, empty_log, forget, prune, rewrite, vacuum
from sidecar.store.sealing import Progress, step
from sidecar.store.vault import Sealed, Spoilt, Vault
from sidecar.store.writer import Writer

Found = TypeVar("Found")
_MOST_SEARCHES: Final = 16  # 4..64 by completion id; fewer refuse a burst, more end when nobody waits for them
# Events that change what is done with traffic. Others tell what was seen; they stand in `events` only.
CHANGES: Final = (
    "policy.",
    "rollout.",
    "arm.",
    "experiment.",
    "threshold.",
    "change.",
    "tuning.moved",
    "prices.",
    "admin.",
)

_NOT_REWRITTEN: Final = (
    "the file was not rewritten, as it is larger than a third of store_max, or half of what its disk has free: its pages "
    "may hold copies of rows that were moved; to be rid of them, make room or stop the sidecar, and do it again"
)


class Archive:
    """Puts rows, events, feedback and engine state into the database, and finds old decisions in it."""

    def __init__(self, settings: Settings, keys: StoreKeys = NO_STORE_KEYS) -> None:
        self._path = settings.db
        self._service = settings.service
        self._keys = keys
        self._priors = settings.priors
        self._limits = limits = Limits(settings.store_max_bytes, settings.store_raw_s, settings.store_aggregates_s)
        self.writer: Writer | None = None
        if settings.db is not None:
            self.writer = Writer(settings.db, service=settings.service, limits=limits, keys=keys)
        self._stored = Ownership()
        self._state = b""  # of ours, put last
        self._told_aside: Path | None = None
        self._searching = asyncio.Lock()
        self._searches = 0  # under way, and waiting

    async def open(self, engine: Engine) -> Sequence[Event]:
        """Restores what the engine had learnt, then starts the writer. A database that cannot be read costs only that."""
        state: bytes | None = None
        events: list[Event] = []
        if self._path is not None and self.writer is not None:
            other = await asyncio.to_thread(self.writer.claim)
            state, events = await self._load(self._path)
            if other is not None:
                self._stored.held()
                message = f"{other}: rows wait in memory until it ends; give each sidecar its own SIDECAR_DB"
                events.append(Event(kind="store.held", severity="high", message=message))
            self.writer.start()
            if self._stored.whose is Whose.OURS:
                events += await self._keep_newer(state)
        if state is None and self._priors is not None:
            state, missing = await asyncio.to_thread(_read_priors, self._priors)
            events += missing
        return [*events, *engine.restore(state, steady())] if state else events

    @property
    def may_take_over(self) -> bool:
        """Whether the database is ours by now and what is stored in it still to be read."""
        writer = self.writer
        return writer is not None and self._stored.may_take_over(holds=writer.holds, unseen=writer.unseen)

    async def take_over(self, engine: Engine) -> Sequence[Event]:
        """Restores what could not be read or was not there at the start, or what the other process stored last: steps,
        rollbacks and spending of after our own start. Until then no state of ours is stored."""
        if not self.may_take_over or self._path is None:
            return []
        self._stored.begin()
        try:
            state, events = await self._load(self._path)
            if self._stored.whose is Whose.COMING:
                events += await self._keep_newer(state)
                self._stored.end()
                self._state = b""
                self._writing.seen()
        finally:
            self._stored.give_up()
        return [*events, *engine.restore(state, steady())] if state else events

    async def _load(self, path: Path) -> tuple[bytes | None, list[Event]]:
        """What is stored. What is encrypted and cannot be opened stays as it is, and nothing is written over it; nor over
        what cannot be read now."""
        state, events = None, list[Event]()
        try:
            state = await asyncio.to_thread(self._read, path)
        except (Sealed, Spoilt) as error:
            self._stored.bar()
            text = f"the stored state cannot be opened ({error}); it stays, and nothing that is learnt now is stored"
            events.append(Event(kind="state.sealed", severity="high", message=text))
        except StoreError as error:
            why = f"what was learnt before is not read yet, and nothing is stored over it: {error}"
            is_news = self._stored.unread(why)
            return None, [Event(kind="state.unread", severity="high", message=why)] if is_news else []
        self._stored.read()
        return state, events

    def _read(self, path: Path) -> bytes | None:
        """The stored state; raises StoreError while nobody can tell whether there is one."""
        self._writing.empty_at = None
        state = queries.load_state(path, self._service, vault=self._reader)
        if state is None and not (self._writing.holds or is_held(path)):
            raise StoreError(
                f"{path}: not there, and nothing can be made there; is its volume mounted, and ours to write?"
            )
        if state is None:
            self._writing.empty_at = wall()
        return state

    async def _keep_newer(self, state: bytes | None) -> list[Event]:
        """Sets a snapshot of a newer program aside before ours is written in its place; without that ours is not stored."""
        version = None if state is None else version_of(state)
        if version is None or version <= VERSION:
            return []
        said = f"the stored state is of version {version}, this program writes version {VERSION}"
        try:
            vault = self._writing.vault
            await self._ask(lambda db: queries.set_aside(db, self._service, version, vault))
        except StoreError as error:
            self._stored.bar()
            text = f"{said}; it cannot be set aside ({error}), so nothing that is learnt now is stored"
            return [Event(kind="state.not_stored", severity="high", message=text)]
        text = f"{said}; it is kept: `llm-sidecar state export FILE --version {version}` writes it"
        return [Event(kind="state.set_aside", severity="high", message=text, detail={"version": version})]

    def poll(self) -> Sequence[Event]:
        """Whether the file was found damaged since the last call, and lies elsewhere now: its rows are in no answer more,
        and nobody else would say so."""
        aside = None if self.writer is None else self.writer.moved_aside
        if aside == self._told_aside or aside is None:
            return ()
        self._told_aside = aside
        message = (
            f"the database was damaged and is {aside} now; the new one has nothing of it but what this process knows"
        )
        return [Event(kind="store.moved_aside", severity="high", message=message, detail={"file": aside.name})]

    def put(self, rows: Sequence[Row]) -> None:
        if self.writer is not None:
            self.writer.put(rows)

    def events(self, events: Sequence[Event]) -> None:
        """Keeps them; those that changed what is done with traffic stand in the audit too."""
        if self.writer is not None and events:
            now = wall()
            self.writer.put_events([(now, event) for event in events])
            changes = [_change(now, event) for event in events if event.kind.startswith(CHANGES)]
            if changes:
                self.writer.put_audit(changes)

    def feedback(self, feedback: Feedback, at: float) -> None:
        if self.writer is not None:
            self.writer.put_feedback([(at, feedback)])

    @property
    def audit_head(self) -> Head | None:
        """The newest link of the audit's chain that is known to be committed."""
        return None if self.writer is None else self.writer.chain.head

    def audit(self, line: Audit) -> None:
        if self.writer is not None:
            self.writer.put_audit([line])

    def state(self, state: bytes) -> None:
        """The engine's snapshot, when it has changed; never over that of another process that is still at work, or of a
        newer program that is not kept elsewhere."""
        writer = self.writer
        if writer is not None and state != self._state and self._stored.may_store(unseen=writer.unseen):
            self._state = state
            writer.put_state(state)

    def now(self) -> None:
        """What was put is committed at once: a step of a rollout must not go back with a process that dies."""
        if self.writer is not None:
            self.writer.hurry()

    async def stored(self, timeout_s: float) -> bool | None:
        """Waits until all that was put is committed; whether it was in time, None without a database."""
        return None if self.writer is None else await asyncio.to_thread(self.writer.flush, timeout_s)

    def notes(self) -> list[str]:
        """What people should know of the store, for `/ready`."""
        writer = self.writer
        notes = [f"store: {self._stored.why}"] if self._stored.why else []
        if writer is not None and writer.writable is False:
            notes.append(
                f"store: rows are not being written: {writer.last_error}; {writer.queued} wait, traffic goes on"
            )
        if writer is not None and writer.wal_has_erased:
            notes.append(
                "store: what was erased is in the WAL until the programs that read the database now have ended"
            )
        return notes

    async def look_up(self, key: str, tenant: str = "") -> list[Known]:
        """Old decisions by decision id or completion id, of one `tenant` only if named, read in a thread; empty when there
        is none or no database. Raises StoreError when it cannot be read now."""
        if self._path is None:
            return []
        by_id = await asyncio.to_thread(queries.is_decision, self._path, key)
        async with contextlib.nullcontext() if by_id else self._search():
            records = await asyncio.to_thread(queries.found_by, self._path, key, self._reader, tenant)
        if len(records) != 1:
            return [_known(record, []) for record in records]
        given = await asyncio.to_thread(queries.feedback_of, self._path, records[0]["id"], self._reader)
        return [_known(records[0], given)]

    @contextlib.asynccontextmanager
    async def _search(self) -> AsyncIterator[None]:
        """One search by completion id at a time: it reads the whole table, and several would take the processors that
        traffic needs. Who would wait behind many gets StoreError: those that asked may have gone long before it ends."""
        if self._searches >= _MOST_SEARCHES:
            raise StoreError("too many searches by completion id wait already; try again later")
        self._searches += 1
        try:
            async with self._searching:
                yield
        finally:
            self._searches -= 1

    async def responses(self, last: int) -> list[tuple[str, str, str, int]]:
        """Where the responses of the newest `last` decisions are (`queries.responses`); none while that cannot be read."""
        if self._path is None:
            return []
        try:
            return await asyncio.to_thread(queries.responses, self._path, self._service, last, self._reader)
        except StoreError:
            return []

    async def read(self, query: Callable[[Vault], Found]) -> Found:
        """Runs a reading query in a thread, with what opens encrypted fields."""
        return await asyncio.to_thread(query, self._reader)

    @property
    def mark(self) -> str | None:
        """What the lock of the database says of the process that writes it, if that is this one."""
        return None if self.writer is None else self.writer.mark

    async def begin(self, line: Audit) -> None:
        """Writes a line of the audit at once, before what it tells of. Raises StoreError; then it is not written later."""

        def begun(db: sqlite3.Connection) -> None:
            chain = self._writing.chain
            with lasting(db):
                chain.append(db, self._service, [line])
            chain.seal(db)

        await self._ask(begun)

    async def prune(self) -> int:
        """Deletes what the limits say is due, between commits, in short steps; the number of rows. Raises StoreError."""
        deleted = 0
        while True:
            gone = await self._ask(lambda db: prune(db, self._limits, earlier(), steps=1))
            deleted += gone.rows
            if not gone.more:
                break
        while await self._ask(vacuum):
            pass
        return deleted

    async def forget(self, key_hash: str, actor: str, why: str = "") -> tuple[int, list[str]]:
        """Erases every row of one sticky key, those that wait included; the number of decisions, and what may lie on.
        Raises StoreError."""
        erased = 0
        while True:
            audit = Forgetting(wall(), actor, self._service, why)
            gone = await self._erase(
                lambda db, audit=audit: forget(  # type: ignore[misc] # bound now
                    db, key_hash, audit, self._writing.chain, self._writing.vault, self._limits
                )
            )
            erased += gone.decisions
            if gone.is_last:
                break
        left = [KEPT.format(gone.unreadable)] if gone.unreadable else []
        if gone.room:
            await self._erase(rewrite)
        else:
            left.append(_NOT_REWRITTEN)
        await self._empty_log()
        return erased, left

    async def encrypt(self) -> Progress:
        """Encrypts what is not yet with the first key, between commits, in short steps. Raises StoreError, also when another
        key is the first by the end."""
        progress, vault = Progress(), self._writing.vault
        key_id = self.key_id
        while not progress.over:
            await self._erase(lambda db: step(db, vault, progress))
        if self.key_id != key_id:
            raise StoreError("the first key became another one meanwhile: encrypt once more")
        while await self._ask(vacuum):
            pass
        await self._empty_log()
        return progress

    async def _erase(self, work: Callable[[sqlite3.Connection], Found]) -> Found:
        """As `_ask`, and whatever comes then, the writer owes the emptying of the WAL."""

        def owing(db: sqlite3.Connection) -> Found:
            self._writing.wal_has_erased = True  # here: its chores may empty the WAL between two steps
            return work(db)

        return await self._ask(owing)

    async def _empty_log(self) -> None:
        """Takes what was erased out of the WAL too; while somebody reads it, the writer tries again with its chores."""
        self._writing.wal_has_erased = not await self._ask(empty_log)

    @property
    def key_id(self) -> str:
        """The id of the key that fields are encrypted with now; "" when they are not."""
        return self._reader.key_id

    @property
    def _reader(self) -> Vault:
        """A vault for one reading, in whichever thread."""
        return Vault(self._keys.fields)

    @property
    def _writing(self) -> Writer:
        if self.writer is None:
            raise StoreError("there is no database: set SIDECAR_DB")
        return self.writer

    async def _ask(self, work: Callable[[sqlite3.Connection], Found]) -> Found:
        return await asyncio.wrap_future(self._writing.ask(work))

    def close(self, timeout_s: float) -> None:
        """Writes what waits; blocking, at most `timeout_s`."""
        if self.writer is not None:
            self.writer.close(timeout_s)


def _change(at: float, event: Event) -> Audit:
    """The audit's line of an event: the sidecar itself did it."""
    target = "/".join(filter(None, (event.route, event.arm)))
    return Audit(at, ITSELF, event.kind, target, orjson.dumps(event.detail, default=str).decode(), event.message)


def _read_priors(file: Path) -> tuple[bytes | None, list[Event]]:
    try:
        return content_of(file, LARGEST_STATE), []
    except OSError as error:
        message = f"priors {file}: {error.strerror}; starting without"
        return None, [Event(kind="state.no_priors", severity="medium", message=message)]


def _known(record: queries.Record, given: list[queries.Record]) -> Known:
    """The decision of a row, with the scores that it was given before."""
    context = record["context"] or {}
    at = datetime.fromisoformat(record["at"]).timestamp()
    key = int(record["sticky_key"] or "0", 16)
    kind = Kind(
        record["route"],
        record["arm"],
        record["rollout_id"],
        record["rollout_step"],
        context.get("task", ""),
        (record["upstream"], record["model"]) if record["upstream"] and record["model"] else None,
        queries.tenant_of(record),
        context.get("unit", "request") != "request",
    )
    return Known(record["id"], at, kind, key, given=tuple((score["source"], score["score"]) for score in given))
