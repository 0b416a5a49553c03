"""The verbs about trust: audit (verify, list) and token. They work with and without a running process."""

import argparse
import sys
from dataclasses import asdict, replace
from typing import Any, Final

from sidecar.clock import steady
from sidecar.control.access import Role, new_token
from sidecar.control.key_files import KeyFiles
from sidecar.errors import ConfigError
from sidecar.options import FAILED, OK, as_json, count, db_of, from_store, settings_of, verb
from sidecar.output import print_json, print_table
from sidecar.store import queries
from sidecar.store.audit import Head, parse_head, read_anchor
from sidecar.store.audit_check import Verdict

_COLUMNS: Final = ("seq", "at", "actor", "action", "target", "why", "detail")


def add(verbs: Any) -> None:
    """Adds these verbs to the command line."""
    text = "Show who changed what, or verify that nothing was changed in the audit since."
    audit = as_json(from_store(verb(verbs, "audit", audit_verb, text)))
    audit.add_argument("action", choices=("verify", "list"))
    audit.add_argument(
        "--head",
        type=_head,
        action="append",
        default=[],
        metavar="HEAD",
        help="verify: a head that was kept elsewhere, SEQ:HASH or HASH (also: the file that lies beside the database)",
    )
    audit.add_argument(
        "--accept",
        type=_link,
        action="append",
        default=[],
        metavar="SEQ:HASH",
        help="verify: a break that is known (a restored copy, an older program), by its link as verify prints it",
    )
    audit.add_argument("--last", type=count, default=20, metavar="N", help="list: how many lines (default: 20)")
    token = verb(verbs, "token", token_verb, "Make a token for the admin port and its line for admin_roles_file.")
    token.add_argument("name", metavar="NAME", help="who acts with it, as the audit shall say")
    token.add_argument("role", choices=tuple(Role.__members__))


def _head(text: str) -> Head:
    found = parse_head(text)
    if found is None:
        raise argparse.ArgumentTypeError("is neither SEQ:HASH nor HASH (64 hexadecimal digits)")
    return found


def _link(text: str) -> Head:
    found = parse_head(text)
    if found is None or not found.seq:  # a number alone may be that of another break later
        raise argparse.ArgumentTypeError("is not SEQ:HASH, as verify prints it")
    return found


def audit_verb(options: argparse.Namespace) -> int:
    """`llm-sidecar audit {verify,list}`."""
    path = db_of(options)
    if options.action == "list":
        lines = queries.audit(path, options.last)
        if options.json:
            print_json(lines)
        else:
            print_table(lines, _COLUMNS)
        return OK
    settings = replace(settings_of(options), encryption_key_file=None)  # not needed here
    keys = KeyFiles(settings, steady()).keys.audit()
    beside = read_anchor(path)  # before the rows: the chain may grow meanwhile, and only that
    anchors = [*options.head, *([] if beside is None else [beside])]
    verdict = queries.verify_audit(path, keys, anchors, options.accept)
    if not anchors:
        verdict.notes.append("without a head that was kept elsewhere nobody can see whether the end was cut off")
    if options.json:
        print_json([asdict(verdict) | {"holds": not verdict.problems, "head": str(verdict.head or "")}])
    else:
        _show(verdict)
    return FAILED if verdict.problems else OK


def _show(verdict: Verdict) -> None:
    told = [f"{problem.kind}: {problem.text}" for problem in verdict.problems]
    told += [f"note: {note}" for note in verdict.notes]
    older = f", {verdict.older} older rows" if verdict.older else ""
    keyed = f", {verdict.keyed} of them with a key" if verdict.keyed else ", without a key"
    said = f"DOES NOT HOLD: {len(verdict.problems)} problems" if verdict.problems else "holds"
    told.append(f"the chain {said}: {verdict.links} links{keyed}{older}")
    if verdict.head is not None:
        told.append(f"head: {verdict.head}")
    sys.stdout.writelines(f"{_plain(line)}\n" for line in told)


def _plain(line: str) -> str:
    """What a forger wrote into a row must not move the cursor."""
    return line if line.isprintable() else line.encode("unicode_escape").decode("ascii")


def token_verb(options: argparse.Namespace) -> int:
    """`llm-sidecar token NAME ROLE`."""
    try:
        token, line = new_token(options.name, options.role)
    except ValueError:
        raise ConfigError("token: a NAME has 1 to 64 letters, digits and . _ @ -") from None
    sys.stderr.write("The token, which is shown only here; below it the line for admin_roles_file:\n")
    sys.stdout.write(f"{token}\n{line}\n")
    return OK
