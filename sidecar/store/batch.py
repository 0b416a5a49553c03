"""One group commit's content: what was put since the last, and the SQL that writes it.

A batch is written in one transaction or not at all, so rows, their hourly sums and the last row's id in a snapshot can
never disagree. Writing a batch a second time after an unclear failure changes nothing for rows (their id is known) but
must not count twice: sums are therefore part of the same transaction as the rows that they count.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Final

import orjson

from sidecar.clock import sleep
from sidecar.core.record import COLUMNS, Scalar, at_text
from sidecar.core.types import Event, Feedback
from sidecar.store.audit import Audit, Chain
from sidecar.store.migrations import DECISION_COLUMNS, OUTCOME_COLUMNS
from sidecar.store.vault import CLOSED, Vault, label_place, seal_context, state_place

Row = tuple[Scalar, ...]

# CPython looks for adapters of every None and bool that it binds, by four failing attribute look-ups: 0.3 us each, a
# quarter of a row's cost. Registered identities end the search; what is stored is the same.
_NOTHING: dict[None, None] = {}
sqlite3.register_adapter(type(None), _NOTHING.get)
sqlite3.register_adapter(bool, int)


def _insert(table: str, columns: Iterable[str]) -> str:
    names = tuple(columns)
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608 (names of ours)


INSERT_EVENT = _insert("events", ("at", "service", "kind", "severity", "route", "arm", "message", "detail"))
# Only of a decision that has a row: it was put before its scores, so one without was forgotten, pruned or never recorded.
UPSERT_FEEDBACK = """INSERT OR REPLACE INTO feedback (decision_id, source, at, route, arm, score, label)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE EXISTS (SELECT 1 FROM decisions WHERE id = ?1)"""
UPSERT_STATE = """INSERT OR REPLACE INTO arms (service, route, arm, at, last_id, state)
VALUES (?1, ?2, ?3, ?4, (SELECT id FROM decisions WHERE id = ?5), ?6)"""  # it names no row that was forgotten
UPSERT_ROLLOUT = """INSERT INTO rollouts (id, service, route, arm, phase, step, started_at, at, message, detail)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET phase = excluded.phase,
step = coalesce(excluded.step, step), at = excluded.at, message = excluded.message, detail = excluded.detail"""
UPSERT_EXPERIMENT = """INSERT INTO experiments (id, service, route, arms, started_at, ended_at, verdict, detail)
VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET ended_at = excluded.ended_at,
verdict = excluded.verdict, detail = excluded.detail"""

WINDOW_KEYS = ("hour", "service", "route", "arm", "upstream", "model", "stream")
WINDOW_SUMS = (
    "requests", "completed", "failed", "aborted", "input_tokens", "output_tokens", "cost_nusd", "unpriced",
    "duration_s", "ttft_s", "ttft_n", "quality", "quality_n", "reward", "reward_n",
)  # fmt: skip
UPSERT_WINDOW = (
    _insert("windows", (*WINDOW_KEYS, *WINDOW_SUMS))
    + f" ON CONFLICT ({', '.join(WINDOW_KEYS)}) DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in WINDOW_SUMS)
)

WINDOW_MODELS: Final = 100  # of an hour and arm that have windows of their own: names of models may be the client's
OTHER_MODELS: Final = "[other]"  # the model of the window that sums the rest
_MODELS_OF: Final = """SELECT DISTINCT model FROM windows
WHERE hour = ? AND service = ? AND route = ? AND arm = ? AND upstream = ?"""

STATE_KEY = "*"  # the engine's own row in `arms`: its snapshot holds every arm's posterior and every rollout

_AT = COLUMNS.index("at")
_OF_WINDOW = tuple(COLUMNS.index(name) for name in WINDOW_KEYS[1:])
_SUMMED = tuple(
    COLUMNS.index(name)
    for name in (
        "outcome", "duration_s", "ttft_s", "input_tokens", "output_tokens", "cost_nusd", "quality", "reward",
    )
)  # fmt: skip
_CONTEXT = COLUMNS.index("context")

# Rows a statement: each statement gives the interpreter's lock away some times, and takes it back in competition with the
# loop. With many more rows one would hold it for too long while its values are bound.
_GROUPS = (64, 16, 4, 1)
# Between two statements of a small batch the thread sleeps: on the one core that both may have, a call waits for one of them
# (0.1 to 0.3 ms) and not for the whole batch. In a large one it does not: there is more traffic than waits for a millisecond
# matter to, and each sleep finds caches cold.
_PAUSE_S: Final = 1e-4  # 1e-5..1e-3; less is too short to be put aside, more keeps the transaction open for nothing
_SMALL: Final = 256  # rows; of a tenth of a second


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of rows. `families` are columns that mostly have one value, often null, throughout a group: such a value is
    given to SQLite once a group and not once a row, which is a third of a row's cost. Few families, so that there are few
    statements to prepare and to keep."""

    name: str
    places: tuple[int, ...]  # of its columns in a row
    families: tuple[tuple[int, ...], ...]


def _places(names: str) -> tuple[int, ...]:
    return tuple(COLUMNS.index(name) for name in names.split())


_DECISIONS = _Table(
    "decisions",
    _places(" ".join(DECISION_COLUMNS)),
    (
        _places("service route mode dialect stream requested_model policy_version"),
        _places("arm upstream model reason propensity eligible"),
        _places("rollout_id rollout_step"),
    ),
)
_OUTCOMES = _Table(
    "outcomes",
    _places(" ".join(OUTCOME_COLUMNS)),
    (
        _places("outcome error status usage_source cost_kind price_version"),
        _places("ttfe_s ttft_s ttfa_s itl_s itl_p50_s itl_p95_s"),
        _places("cache_write_tokens reasoning_tokens quality quality_source reward"),
    ),
)


@dataclass(slots=True)
class Batch:
    """What one transaction will write. `state` is the newest engine snapshot, if one was put."""

    rows: list[Row] = field(default_factory=list)
    events: list[tuple[float, Event]] = field(default_factory=list)
    feedback: list[tuple[float, Feedback]] = field(default_factory=list)
    audit: list[Audit] = field(default_factory=list)
    state: tuple[float, bytes, str | None] | None = None  # wall clock, blob, id of the last row put before it

    def __bool__(self) -> bool:
        return bool(self.rows or self.events or self.feedback or self.audit or self.state)

    def singles(self) -> list["Batch"]:
        """The same content with one item in each batch, in an order in which they can be written."""
        return [
            *(Batch(rows=[one]) for one in self.rows),
            *(Batch(events=[event]) for event in self.events),
            *(Batch(feedback=[score]) for score in self.feedback),
            *(Batch(audit=[line]) for line in self.audit),
            *([Batch(state=self.state)] if self.state else []),
        ]

    def keep(self, singles: list["Batch"]) -> None:
        """Become the sum of these, which `singles` made; of none, empty."""
        self.rows = [row for one in singles for row in one.rows]
        self.events = [event for one in singles for event in one.events]
        self.feedback = [score for one in singles for score in one.feedback]
        self.audit = [line for one in singles for line in one.audit]
        self.state = singles[-1].state if singles else None


def write(connection: sqlite3.Connection, batch: Batch, service: str, chain: Chain, vault: Vault = CLOSED) -> None:
    """Execute the batch inside the transaction that the caller opened. What is sealed is so from here on."""
    if batch.rows:
        _write_rows(connection, [_sealed(row, vault) for row in batch.rows] if vault.key_id else batch.rows)
        connection.executemany(UPSERT_WINDOW, _bounded(connection, window_rows(batch.rows)))
    if batch.events:
        connection.executemany(INSERT_EVENT, [_event_row(at, event, service) for at, event in batch.events])
        connection.executemany(UPSERT_ROLLOUT, _rollout_rows(batch.events, service))
        connection.executemany(UPSERT_EXPERIMENT, _experiment_rows(batch.events, service))
    if batch.feedback:
        connection.executemany(
            UPSERT_FEEDBACK,
            [
                (f.decision_id, f.source, at_text(at), f.route, f.arm, f.score, _sealed_label(f, vault))
                for at, f in batch.feedback
            ],
        )
    if batch.audit:
        chain.append(connection, service, batch.audit)
    if batch.state is not None:
        at, blob, last_id = batch.state
        if vault.key_id:
            blob = vault.seal_blob(blob, state_place(service, STATE_KEY, STATE_KEY))
        connection.execute(UPSERT_STATE, (service, STATE_KEY, STATE_KEY, at_text(at), last_id, blob))


def has_state_before(connection: sqlite3.Connection, service: str, at_s: float) -> bool:
    """Whether a snapshot is stored that was made before this time (wall clock)."""
    found = connection.execute(
        "SELECT at FROM arms WHERE service = ? AND route = ? AND arm = ?", (service, STATE_KEY, STATE_KEY)
    ).fetchone()
    return found is not None and str(found[0]) < at_text(at_s)


def _sealed(row: Row, vault: Vault) -> Row:
    context = seal_context(vault, str(row[_CONTEXT]), str(row[0]))
    return (*row[:_CONTEXT], context, *row[_CONTEXT + 1 :])


def _sealed_label(score: Feedback, vault: Vault) -> str | None:
    if score.label is None or not vault.key_id:
        return score.label
    return vault.seal_text(score.label, label_place(score.decision_id, score.source))


def _write_rows(connection: sqlite3.Connection, rows: list[Row]) -> None:
    at, most = 0, connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)  # 999 before SQLite 3.32
    for size in _GROUPS:
        if size * len(COLUMNS) > most:
            continue
        while len(rows) - at >= size:
            columns = list(zip(*rows[at : at + size], strict=True))
            at += size
            for table in (_DECISIONS, _OUTCOMES):
                alike = [all(columns[i].count(columns[i][0]) == size for i in family) for family in table.families]
                statement, shared, own = _statement(table, tuple(alike), size)
                values = [columns[i][0] for i in shared]
                values.extend(chain.from_iterable(zip(*[columns[i] for i in own], strict=True)))
                connection.execute(statement, values)
                if len(rows) <= _SMALL:
                    sleep(_PAUSE_S)


@lru_cache(maxsize=2 * 2**3 * len(_GROUPS))
def _statement(table: _Table, alike: tuple[bool, ...], rows: int) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """SQL for so many rows, with the places of the values that it takes once, and of those that it takes for each row."""
    once = {i for family, one in zip(table.families, alike, strict=True) if one for i in family}
    shared, own = [i for i in table.places if i in once], [i for i in table.places if i not in once]
    texts = []
    for row in range(rows):
        number = {i: at for at, i in enumerate(shared, 1)}
        number |= {i: at for at, i in enumerate(own, len(shared) + row * len(own) + 1)}
        texts.append(f"({', '.join(f'?{number[i]}' for i in table.places)})")
    into = _insert(table.name, (COLUMNS[i] for i in table.places)).partition("VALUES")[0]
    return f"{into}VALUES {', '.join(texts)} ON CONFLICT (id) DO NOTHING", tuple(shared), tuple(own)


def window_rows(rows: Sequence[Row]) -> list[tuple[Scalar, ...]]:
    """The hourly sums of these rows, one tuple per (hour, service, route, arm, upstream, model, stream)."""
    columns = list(zip(*rows, strict=True))
    hours = [str(at)[:13] for at in columns[_AT]]
    keys = list(zip(hours, *[columns[i] for i in _OF_WINDOW], strict=True))
    summed = [columns[i] for i in _SUMMED]
    groups: dict[Row, list[Row]] = {}
    if keys.count(keys[0]) == len(keys):
        groups[keys[0]] = summed
    else:
        parts: dict[Row, list[Row]] = {}
        for key, values in zip(keys, zip(*summed, strict=True), strict=True):
            parts.setdefault(key, []).append(values)
        groups = {key: list(zip(*found, strict=True)) for key, found in parts.items()}
    return [(*("" if one is None else one for one in key), *_sums(found)) for key, found in groups.items()]


def _bounded(connection: sqlite3.Connection, windows: list[Row]) -> list[Row]:
    """The same, but what an hour and arm have beyond WINDOW_MODELS models stands under OTHER_MODELS."""
    known: dict[Row, set[Scalar]] = {}
    made: list[Row] = []
    for window in windows:
        place, model = window[:5], window[5]
        if place not in known:
            known[place] = {name for (name,) in connection.execute(_MODELS_OF, place)}
        models = known[place]
        if model in models or len(models) < WINDOW_MODELS:
            models.add(model)
            made.append(window)
        else:
            made.append((*place, OTHER_MODELS, *window[6:]))
    return made


def _sums(summed: list[Row]) -> tuple[float, ...]:
    """The sums of one window, of which these are the columns to be summed, in the order of WINDOW_SUMS. What is unknown is
    not counted as 0."""
    outcomes, *columns = summed
    rows = len(outcomes)
    numbers: list[Iterable[float]] = [filter(None, column) for column in columns]  # type: ignore[arg-type] # or None
    duration, ttft, asked, answered, cost, quality, reward = [sum(some) for some in numbers]
    _, ttft_n, _, _, cost_n, quality_n, reward_n = [rows - column.count(None) for column in columns]
    completed, failed, aborted = [outcomes.count(kind) for kind in ("completed", "failed", "aborted")]
    return (
        rows, completed, failed, aborted, asked, answered, cost, rows - cost_n, duration,
        ttft, ttft_n, quality, quality_n, reward, reward_n,
    )  # fmt: skip


def _event_row(at: float, event: Event, service: str) -> Row:
    detail = orjson.dumps(event.detail, default=str).decode()
    return (at_text(at), service, event.kind, event.severity, event.route, event.arm, event.message, detail)


def _rollout_rows(events: Iterable[tuple[float, Event]], service: str) -> list[Row]:
    """The present state of each rollout that these events speak of; the newest event decides."""
    rows: list[Row] = []
    for at, event in events:
        rollout = event.detail.get("rollout_id")
        if event.kind.startswith("rollout.") and isinstance(rollout, str):
            step = event.detail.get("step")
            phase = event.detail.get("phase")
            when = at_text(at)
            rows.append((
                rollout, service, event.route, event.arm,
                phase if isinstance(phase, str) else event.kind.removeprefix("rollout."),
                step if isinstance(step, int) else None,
                when, when, event.message, orjson.dumps(event.detail, default=str).decode(),
            ))  # fmt: skip
    return rows


def _experiment_rows(events: Iterable[tuple[float, Event]], service: str) -> list[Row]:
    """The present state of each experiment that these events speak of; `verdict` and `ended_at` are null while it runs."""
    rows: list[Row] = []
    for at, event in events:
        detail = event.detail
        experiment, verdict = detail.get("experiment_id"), detail.get("verdict")
        if event.kind.startswith("experiment.") and isinstance(experiment, str):
            when = at_text(at)
            over = isinstance(verdict, str)
            rows.append((
                experiment, service, event.route, orjson.dumps(detail.get("names", [])).decode(), when,
                when if over else None, str(verdict) if over else None, orjson.dumps(detail, default=str).decode(),
            ))  # fmt: skip
    return rows
