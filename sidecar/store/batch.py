"""One group commit's content: what was put since the last, and the SQL that writes it.

A batch is written in one transaction or not at all, so rows, their hourly sums and the last row's id in a snapshot can
never disagree. Writing a batch a second time after an unclear failure changes nothing for rows (their id is known) but
must not count twice: sums are therefore part of the same transaction as the rows that they count.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field

import orjson

from sidecar.core.record import COLUMNS, Scalar, at_text
from sidecar.core.types import Event, Feedback
from sidecar.store.audit import Audit, Chain
from sidecar.store.migrations import DECISION_COLUMNS, OUTCOME_COLUMNS, SPLIT
from sidecar.store.vault import CLOSED, Vault, label_place, seal_context, state_place

Row = tuple[Scalar, ...]

# CPython looks for adapters of every None and bool that it binds, by four failing attribute look-ups: 0.3 us each, a
# quarter of a row's cost. Registered identities end the search; what is stored is the same.
_NOTHING: dict[None, None] = {}
sqlite3.register_adapter(type(None), _NOTHING.get)
sqlite3.register_adapter(bool, int)


_TOGETHER = 16  # rows a statement: each statement gives the interpreter's lock away and takes it back


def _insert(table: str, columns: Iterable[str], verb: str = "INSERT OR IGNORE", rows: int = 1) -> str:
    names = tuple(columns)
    one = f"({', '.join('?' * len(names))})"
    return f"{verb} INTO {table} ({', '.join(names)}) VALUES {', '.join([one] * rows)}"


INSERT_DECISIONS = {rows: _insert("decisions", DECISION_COLUMNS, rows=rows) for rows in (1, _TOGETHER)}
INSERT_OUTCOMES = {rows: _insert("outcomes", OUTCOME_COLUMNS, rows=rows) for rows in (1, _TOGETHER)}
INSERT_EVENT = _insert(
    "events", ("at", "service", "kind", "severity", "route", "arm", "message", "detail"), verb="INSERT"
)
UPSERT_FEEDBACK = _insert(
    "feedback", ("decision_id", "source", "at", "route", "arm", "score", "label"), verb="INSERT OR REPLACE"
)
UPSERT_STATE = _insert("arms", ("service", "route", "arm", "at", "last_id", "state"), verb="INSERT OR REPLACE")
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
    _insert("windows", (*WINDOW_KEYS, *WINDOW_SUMS), verb="INSERT")
    + f" ON CONFLICT ({', '.join(WINDOW_KEYS)}) DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in WINDOW_SUMS)
)

STATE_KEY = "*"  # the engine's own row in `arms`: its snapshot holds every arm's posterior and every rollout

(_AT, _SERVICE, _ROUTE, _STREAM, _ARM, _UPSTREAM, _MODEL) = (
    COLUMNS.index(name) for name in ("at", "service", "route", "stream", "arm", "upstream", "model")
)
(_OUTCOME, _DURATION, _TTFT, _INPUT, _OUTPUT, _COST, _QUALITY, _REWARD) = (
    COLUMNS.index(name)
    for name in (
        "outcome", "duration_s", "ttft_s", "input_tokens", "output_tokens", "cost_nusd", "quality", "reward",
    )
)  # fmt: skip
_CONTEXT = COLUMNS.index("context")
_KINDS = {"completed": 1, "failed": 2, "aborted": 3}


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
        connection.executemany(UPSERT_WINDOW, window_rows(batch.rows))
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


def _sealed(row: Row, vault: Vault) -> Row:
    context = seal_context(vault, str(row[_CONTEXT]), str(row[0]))
    return (*row[:_CONTEXT], context, *row[_CONTEXT + 1 :])


def _sealed_label(score: Feedback, vault: Vault) -> str | None:
    if score.label is None or not vault.key_id:
        return score.label
    return vault.seal_text(score.label, label_place(score.decision_id, score.source))


def _write_rows(connection: sqlite3.Connection, rows: list[Row]) -> None:
    whole = len(rows) - len(rows) % _TOGETHER
    for group in [rows[at : at + _TOGETHER] for at in range(0, whole, _TOGETHER)] + [[row] for row in rows[whole:]]:
        decisions: list[Scalar] = []
        outcomes: list[Scalar] = []
        for row in group:
            decisions += row[:SPLIT]
            outcomes.append(row[0])
            outcomes += row[SPLIT:]
        connection.execute(INSERT_DECISIONS[len(group)], decisions)
        connection.execute(INSERT_OUTCOMES[len(group)], outcomes)


def window_rows(rows: Iterable[Row]) -> list[tuple[Scalar, ...]]:
    """The hourly sums of these rows, one tuple per (hour, service, route, arm, upstream, model, stream)."""
    sums: dict[tuple[Scalar, ...], list[float]] = {}
    for row in rows:
        at = row[_AT]
        assert isinstance(at, str), "a row's time is RFC 3339 text"
        arm, model = row[_ARM] or "", row[_MODEL] or ""
        key = (at[:13], row[_SERVICE], row[_ROUTE], arm, row[_UPSTREAM] or "", model, row[_STREAM])
        one = sums.get(key)
        if one is None:
            one = sums[key] = [0] * len(WINDOW_SUMS)
        _count(one, row)
    return [(*key, *one) for key, one in sums.items()]


def _count(one: list[float], row: Row) -> None:
    """Add one row to its window's sums, in the order of WINDOW_SUMS. Unknown values are not counted as zero."""
    one[0] += 1
    one[_KINDS[str(row[_OUTCOME])]] += 1
    one[4] += row[_INPUT] or 0  # type: ignore[operator] # columns of these names hold numbers or None
    one[5] += row[_OUTPUT] or 0  # type: ignore[operator] # as above
    cost = row[_COST]
    if cost is None:
        one[7] += 1
    else:
        one[6] += cost  # type: ignore[operator] # as above
    one[8] += row[_DURATION] or 0.0  # type: ignore[operator] # as above
    for slot, place in ((9, _TTFT), (11, _QUALITY), (13, _REWARD)):
        value = row[place]
        if value is not None:
            one[slot] += value  # type: ignore[operator] # as above
            one[slot + 1] += 1


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
