"""The verbs that read the store: decisions, explain, export, replay. They work with and without a running process."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any, Final

from sidecar.clock import rfc3339, wall
from sidecar.config.policy import load_file
from sidecar.config.prices import load_prices
from sidecar.config.settings import Settings
from sidecar.config.units import duration_s
from sidecar.control.logged import calls_of, score_of
from sidecar.control.replay import Report, Target, replay
from sidecar.core.cost import RateCard
from sidecar.core.evaluation import Answer, Estimate
from sidecar.core.policy import Upstream
from sidecar.core.record import COLUMNS
from sidecar.errors import StoreError
from sidecar.options import FAILED, OK, as_json, count, db_of, from_store, settings_of, usd, vault_of, verb, whole
from sidecar.output import print_csv, print_json, print_table
from sidecar.store import queries
from sidecar.store.explain import explain

_DECISION_COLUMNS: Final = (
    "id", "at", "route", "requested_model", "model", "reason", "propensity", "outcome", "status", "ttft_s", "duration_s",
    "output_tokens", "cost_usd",
)  # fmt: skip
_MOMENT: Final = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d+Z", re.ASCII
)
_ANY_MOMENT: Final = "0000-01-01T00:00:00.000000Z"
_ESTIMATE_COLUMNS: Final = ("outcome", "calls", "logged", "ips", "snips", "dr", "change", "ess")


def add(verbs: Any) -> None:
    """Adds the reading verbs to the command line."""
    listing = as_json(from_store(verb(verbs, "decisions", decisions, "List decisions, newest first.")))
    listing.add_argument("--service", metavar="S")
    listing.add_argument("--last", type=count, default=20, metavar="N")
    one = as_json(from_store(verb(verbs, "explain", explain_verb, "Explain one decision in plain words.")))
    one.add_argument("id", metavar="ID", help="decision id, or the provider's completion id")
    out = from_store(verb(verbs, "export", export, "Write all rows, oldest first, to standard output."))
    out.add_argument("--format", choices=("jsonl", "csv"), default="jsonl")
    out.add_argument("--service", metavar="S")
    out.add_argument("--since", type=_moment, metavar="TIME", help="RFC 3339 in UTC, or a beginning of it")
    out.add_argument("--until", type=_moment, metavar="TIME")
    text = "Evaluate another policy on the log: what it would have cost and given, or why the log cannot tell."
    other = as_json(from_store(verb(verbs, "replay", replay_verb, text)))
    other.add_argument("--policy", type=Path, required=True, metavar="NEW.yaml", help="the policy in question")
    other.add_argument("--since", type=_ago, default=None, metavar="7d", help="how far back (default: all rows)")
    other.add_argument("--route", metavar="R", help="only calls that the log's route R took")
    other.add_argument(
        "--step",
        type=_percent,
        default=100,
        metavar="1..100",
        help="percent at which its rollouts stand (default: 100)",
    )
    other.add_argument(
        "--learner",
        choices=("log", "frozen"),
        default="log",
        help="mode optimize: an engine that learns the log as it goes, or the stored state as it is (default: log)",
    )
    other.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (default: 0)")


def _percent(text: str) -> int:
    return whole(text, 1, 100)


def _moment(text: str) -> str:
    """A time, or a beginning of one, that compares as text with those of the rows."""
    begun = text.removesuffix("Z")
    if not (_MOMENT.fullmatch(begun + _ANY_MOMENT[len(begun) :]) and _is_day(begun[:10])):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write one in UTC, like 2026-01-31 or 2026-01-31T23:59Z")
    return begun


def _is_day(text: str) -> bool:
    """Whether the calendar has it, if it is a whole date."""
    try:
        return len(text) < len("2026-01-31") or bool(date.fromisoformat(text))
    except ValueError:
        return False


def _ago(text: str) -> float:
    try:
        return duration_s(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None


def decisions(options: argparse.Namespace) -> int:
    """`llm-sidecar decisions`."""
    found = queries.decisions(db_of(options), options.service, options.last, vault_of(options))
    if options.json:
        print_json(found)
    elif found:
        print_table([row | {"cost_usd": usd(row["cost_nusd"])} for row in found], _DECISION_COLUMNS)
    if not found:
        sys.stderr.write(f"no decisions{f' of service {options.service}' if options.service else ''} yet\n")
    return OK


def explain_verb(options: argparse.Namespace) -> int:
    """`llm-sidecar explain ID`."""
    path, vault = db_of(options), vault_of(options)
    found = queries.find(path, options.id, vault)
    if found is None:
        raise StoreError(f"no decision has the id {options.id!r}; `llm-sidecar decisions` lists them")
    if isinstance(found, list):
        raise StoreError(
            f"{len(found)} decisions have this completion id; name one: {', '.join(row['id'] for row in found[:5])}"
        )
    scores, known = queries.feedback_of(path, found["id"], vault), queries.knowledge(path, found, vault)
    if options.json:
        print_json([found | {"feedback": scores, "known": known}])
    else:
        sys.stdout.write("\n".join(explain(found, scores, known)) + "\n")
    return OK


def export(options: argparse.Namespace) -> int:
    """`llm-sidecar export`."""
    rows = queries.export(db_of(options), options.service, options.since or "", options.until or "~", vault_of(options))
    if options.format == "jsonl":
        print_json(rows)
    else:
        print_csv(rows, COLUMNS)
    return OK


# ---- replay


def replay_verb(options: argparse.Namespace) -> int:
    """`llm-sidecar replay --policy NEW.yaml`."""
    path, vault, settings = db_of(options), vault_of(options), settings_of(options)
    loaded = load_file(options.policy, os.environ, settings)
    service = None if loaded.policy.service == "*" else loaded.policy.service
    learner = service or settings.service
    since = "" if options.since is None else rfc3339(max(0.0, wall() - options.since))
    state = queries.load_state(path, learner, vault=vault) if options.learner == "frozen" else None
    if options.learner == "frozen" and state is None:
        raise StoreError(f"{path}: holds no learnt state of service {learner!r}; use --learner log")
    calls = calls_of(_open(queries.export(path, service, since, vault=vault), path), options.route)
    if service is not None and not (since or options.route or calls.kept or calls.left_out):
        raise StoreError(f"{path}: no row is of service {service!r}; write `service` as the log has it, or '*' for all")
    scores = [score_of(record) for record in queries.scores(path, vault)]
    target = Target(loaded.policy, _prices(settings), options.step, options.learner, state, options.seed)
    report = replay(calls, scores, target, lambda text: _say(text, options.json))
    if options.json:
        print_json(_objects(report))
    else:
        _show(report, f"{options.policy} (service {loaded.policy.service}, version {loaded.policy.version})")
    return OK if any(isinstance(answer, Answer) for answer in report.answers.values()) else FAILED


def _open(rows: Iterator[queries.Record], path: Path) -> Iterator[queries.Record]:
    """The rows, which a replay must know whole. Raises StoreError at the first whose tags cannot be read."""
    for row in rows:
        sealed = (row["context"] or {}).get("sealed")
        if sealed:
            raise StoreError(
                f"{path}: tags of {row['id']} are {sealed}; set encryption_key_file to the file of its key"
            )
        yield row


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        sys.stderr.write(f"{text}\n")


def _prices(settings: Settings) -> Callable[[Upstream, str], RateCard | None]:
    """Today's prices: what the selector of the other policy would know."""
    book, today = load_prices(settings.prices), int(wall() // 86400)
    return lambda upstream, model: book.card(upstream, model, today)


def _objects(report: Report) -> Iterator[Mapping[str, Any]]:
    """The report for programs: what was asked, then one object an arm, then one an outcome."""
    first, last = (rfc3339(at) for at in report.span)
    yield {
        "calls": report.calls, "units": report.units, "first": first, "last": last, "left_out": report.left_out,
        "notes": report.notes,
    }  # fmt: skip
    for arm, (logged, target) in report.shares.items():
        yield {"arm": arm, "logged_share": logged, "target_share": target}
    for outcome, answer in report.answers.items():
        check = report.checks.get(outcome)
        checked = None if check is None else {"logged": check[0], **asdict(check[1])}
        told = {"refused": answer} if isinstance(answer, str) else asdict(answer)
        yield {"outcome": outcome, **told, "self_check": checked}


def _show(report: Report, what: str) -> None:
    """The report for people."""
    first, last = (rfc3339(at)[:19] for at in report.span)
    write = sys.stdout.write
    write(f"{what} on {report.calls} logged calls of {report.units} units, {first} to {last}\n")
    for why, calls in report.left_out.items():
        write(f"left out: {calls} {why}\n")
    shares = [
        {"arm": arm, "logged": f"{logged:.1%}", "new policy": f"{target:.1%}"}
        for arm, (logged, target) in report.shares.items()
    ]
    print_table(shares, ("arm", "logged", "new policy"))
    answered = {name: answer for name, answer in report.answers.items() if isinstance(answer, Answer)}
    print_table([_line(name, answer) for name, answer in answered.items()], _ESTIMATE_COLUMNS)
    for name, refused in report.answers.items():
        if isinstance(refused, str):
            write(f"{name}: no answer: {refused}\n")
    for name, (logged, by_ips) in report.checks.items():
        fits = (
            "inside"
            if by_ips.holds(logged)
            else "OUTSIDE: the logged probabilities are not true, or follow more than task and size"
        )
        write(f"self-check {name}: logged {logged:.4g}, its own policy by IPS {_between(by_ips)}: {fits}\n")
    for note in report.notes:
        write(f"note: {note}\n")
    write("Means per call with 95 % intervals, cluster-robust by unit; dr is the one to read, change is dr - logged.\n")


def _line(name: str, answer: Answer) -> dict[str, object]:
    return {
        "outcome": name,
        "calls": answer.calls,
        "logged": f"{answer.logged.value:.4g}",
        "ips": _between(answer.ips),
        "snips": _between(answer.snips),
        "dr": _between(answer.dr),
        "change": _between(answer.change),
        "ess": round(answer.ess),
    }


def _between(estimate: Estimate) -> str:
    return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]"
