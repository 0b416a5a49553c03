"""The command line: one verb per function. Exit codes: 0 fine, 1 failed, 2 wrong usage or configuration."""

import argparse
import dataclasses
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Final

import orjson

from sidecar import __version__
from sidecar.clock import rfc3339, wall
from sidecar.config.policy import load_file
from sidecar.config.settings import Settings
from sidecar.control.admin import token_file
from sidecar.core.record import COLUMNS
from sidecar.errors import ConfigError, SidecarError, StoreError
from sidecar.output import print_csv, print_json, print_table
from sidecar.store import queries
from sidecar.store.explain import explain
from sidecar.store.lock import Held
from sidecar.store.retention import Limits

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
_DECISION_COLUMNS: Final = (
    "id", "at", "route", "requested_model", "model", "reason", "propensity", "outcome", "status", "ttft_s", "duration_s",
    "output_tokens", "cost_usd",
)  # fmt: skip
_STATUS_COLUMNS: Final = ("route", "mode", "arm", "role", "share", "exchanges", "labels", "label_mean", "expected_usd")
_ADMIN_TIMEOUT_S: Final = 5.0
_ERASING_TIMEOUT_S: Final = 600.0  # a running sidecar deletes in short steps between its own commits


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; the exit code. Expected failures are one message on standard error."""
    options = build_parser().parse_args(arguments)
    try:
        code: int = options.verb(options)
    except ConfigError as error:
        sys.stderr.write(f"llm-sidecar: {error}\n")
        return USAGE
    except SidecarError as error:
        sys.stderr.write(f"llm-sidecar: {error}\n")
        return FAILED
    except UnicodeDecodeError as error:
        sys.stderr.write(f"llm-sidecar: a file that should be text is not: {error.reason}\n")
        return FAILED
    except BrokenPipeError:
        sys.stderr.close()  # the reader (head, less) has seen enough
        return OK
    except OSError as error:
        sys.stderr.write(f"llm-sidecar: {error.filename or 'input or output'}: {error.strerror}\n")
        return FAILED
    except KeyboardInterrupt:
        return 130
    return code


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; docs/cli.md is generated from it."""
    parser = argparse.ArgumentParser(
        prog="llm-sidecar", description="A measuring, deciding reverse proxy beside one service."
    )
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    _serving(verbs)
    _reading(verbs)
    _steering(verbs)
    return parser


def _verb(verbs: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.set_defaults(verb=run)
    return parser


def _configured(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file (YAML)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one setting; wins over all else"
    )
    return parser


def _from_store(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--db", type=Path, metavar="FILE", help="the database (default: the setting `db`, SIDECAR_DB)")
    return _configured(parser)


def _as_json(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser


def _within(text: str, low: float, high: float) -> float:
    value = float(text)
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text} does not lie between {low:g} and {high:g}")
    return value


def _port(text: str) -> int:
    return int(_within(text, 0, 65535))


def _count(text: str) -> int:
    return int(_within(text, 1, 1_000_000))


def _score(text: str) -> float:
    return _within(text, 0.0, 1.0)


def _serving(verbs: Any) -> None:
    _configured(_verb(verbs, "run", run, "Serve until SIGTERM."))
    demo_verb = _verb(verbs, "demo", demo, "Show the product working on a simulated provider, without any key.")
    demo_verb.add_argument(
        "--seconds", type=float, default=0.0, help="stop after this long (default: when the story is told)"
    )
    check_verb = _as_json(_verb(verbs, "check", check, "Validate policy files."))
    check_verb.add_argument("files", nargs="+", type=Path, metavar="FILE")
    simulate = _verb(verbs, "simulate-provider", simulate_provider, "Serve the simulated provider.")
    simulate.add_argument("--config", type=Path, metavar="FILE", help="its knobs (YAML)")
    simulate.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    simulate.add_argument("--host", default="127.0.0.1")
    simulate.add_argument("--port", type=_port, default=8099)
    _verb(verbs, "version", version, "Print the version.")


def _reading(verbs: Any) -> None:
    listing = _as_json(_from_store(_verb(verbs, "decisions", decisions, "List decisions, newest first.")))
    listing.add_argument("--service", metavar="S")
    listing.add_argument("--last", type=_count, default=20, metavar="N")
    one = _as_json(_from_store(_verb(verbs, "explain", explain_verb, "Explain one decision in plain words.")))
    one.add_argument("id", metavar="ID", help="decision id, or the provider's completion id")
    out = _from_store(_verb(verbs, "export", export, "Write all rows, oldest first, to standard output."))
    out.add_argument("--format", choices=("jsonl", "csv"), default="jsonl")
    out.add_argument("--service", metavar="S")
    out.add_argument("--since", default="", metavar="TIME", help="RFC 3339, or a beginning of it")
    out.add_argument("--until", default="~", metavar="TIME")


def _steering(verbs: Any) -> None:
    roll = _as_json(_configured(_verb(verbs, "rollout", rollout, "Show or steer rollouts of a running sidecar.")))
    roll.add_argument("action", choices=("status", "start", "promote", "pause", "resume", "rollback"))
    roll.add_argument("route", nargs="?")
    roll.add_argument("arm", nargs="?")
    score = _configured(_verb(verbs, "feedback", feedback, "Score one past decision of a running sidecar."))
    score.add_argument("id", metavar="ID", help="decision id, or the provider's completion id")
    score.add_argument("--score", type=_score, required=True, metavar="0..1")
    score.add_argument("--source", default="user")
    state = _from_store(_verb(verbs, "state", state_verb, "Export or import what was learnt."))
    state.add_argument("action", choices=("export", "import"))
    state.add_argument("file", type=Path)
    store = _from_store(
        _verb(
            verbs,
            "store",
            store_verb,
            "Prune, back up, forget a person, or show the size; a running sidecar does the erasing itself.",
        )
    )
    store.add_argument("action", choices=("prune", "backup", "forget", "status"))
    store.add_argument("file", nargs="?", type=Path, help="backup: the new file")
    store.add_argument("--key", metavar="HASH", help="forget: the sticky_key of the rows")
    prices = _verb(verbs, "prices", prices_verb, "Compile the price list anew from the installed genai-prices.")
    prices.add_argument("action", choices=("refresh",))
    prices.add_argument("--fetch", action="store_true", help="fetch newer prices from the network first")
    prices.add_argument("--to", type=Path, metavar="FILE", help="where to write (default: the bundled list)")


# ---- serving


def run(options: argparse.Namespace) -> int:
    """`llm-sidecar run`."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: its threads would cost memory and never be used
    from sidecar.app import serve
    from sidecar.telemetry.log import configure

    settings = _settings(options)
    sink = configure(settings.log_level)
    try:
        return serve(settings, os.environ)
    finally:
        sink.close()


def demo(options: argparse.Namespace) -> int:
    """`llm-sidecar demo`."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from sidecar.demo import play

    return play(options.seconds)


def simulate_provider(options: argparse.Namespace) -> int:
    """`llm-sidecar simulate-provider`."""
    from sidecar.sim.knobs import SimConfig
    from sidecar.sim.provider import run as run_provider

    config = SimConfig.load(options.config, options.set)
    try:
        run_provider(config, options.host, options.port, _announce)
    except OSError as error:
        raise ConfigError(f"{options.host}:{options.port}: {error.strerror}; choose another --port") from None
    return OK


def check(options: argparse.Namespace) -> int:
    """`llm-sidecar check FILE...`: every problem of every file, then exit 2 if there was one."""
    wrong = 0
    for file in options.files:
        try:
            loaded = load_file(file, os.environ)
        except ConfigError as error:
            wrong += 1
            sys.stderr.write(f"{error}\n")
            continue
        for warning in loaded.warnings:
            sys.stderr.write(f"warning: {warning}\n")
        policy = loaded.policy
        told = {"file": str(file), "service": policy.service, "version": policy.version, "routes": len(policy.routes)}
        if options.json:
            print_json([told])
        else:
            sys.stdout.write(
                f"{file}: fine: service {policy.service}, {len(policy.routes)} routes, version {policy.version}\n"
            )
    return USAGE if wrong else OK


def version(_options: argparse.Namespace) -> int:
    """`llm-sidecar version`."""
    sys.stdout.write(f"llm-sidecar {__version__}\n")
    return OK


def _announce(port: int) -> None:
    sys.stdout.write(f"serving on port {port}\n")
    sys.stdout.flush()


# ---- reading


def decisions(options: argparse.Namespace) -> int:
    """`llm-sidecar decisions`."""
    found = queries.decisions(_db(options), options.service, options.last)
    if options.json:
        print_json(found)
    elif found:
        print_table([row | {"cost_usd": _usd(row["cost_nusd"])} for row in found], _DECISION_COLUMNS)
    if not found:
        sys.stderr.write(f"no decisions{f' of service {options.service}' if options.service else ''} yet\n")
    return OK


def explain_verb(options: argparse.Namespace) -> int:
    """`llm-sidecar explain ID`."""
    path = _db(options)
    found = queries.find(path, options.id)
    if found is None:
        raise StoreError(f"no decision has the id {options.id!r}; `llm-sidecar decisions` lists them")
    if isinstance(found, list):
        raise StoreError(
            f"{len(found)} decisions have this completion id; name one: {', '.join(row['id'] for row in found[:5])}"
        )
    if options.json:
        print_json([found])
    else:
        sys.stdout.write("\n".join(explain(found, queries.feedback_of(path, found["id"]))) + "\n")
    return OK


def export(options: argparse.Namespace) -> int:
    """`llm-sidecar export`."""
    rows = queries.export(_db(options), options.service, options.since, options.until)
    if options.format == "jsonl":
        print_json(rows)
    else:
        print_csv(rows, COLUMNS)
    return OK


# ---- steering


def rollout(options: argparse.Namespace) -> int:
    """`llm-sidecar rollout`: asks the running sidecar."""
    settings = _settings(options)
    if options.action == "status":
        routes = _admin(settings, "GET", "/api/v1/status")["routes"]
        shown = [row for row in routes if options.route in (None, row["route"])]
        if options.json:
            print_json(shown)
        else:
            print_table([row for route in shown for row in _arms(route)], _STATUS_COLUMNS)
            sys.stdout.writelines(f"{text}\n" for route in shown for text in route["explanations"])
        return OK
    if options.route is None or (options.action == "start" and options.arm is None):
        raise ConfigError(
            f"rollout {options.action}: name the ROUTE{' and the ARM' if options.action == 'start' else ''}"
        )
    body = {"action": options.action, "arm": options.arm}
    answer = _admin(settings, "POST", f"/api/v1/routes/{options.route}/rollout", body)
    if options.json:
        print_json(answer["events"])
    else:
        sys.stdout.writelines(f"{event['kind']}: {event['message']}\n" for event in answer["events"])
    return OK


def _arms(route: dict[str, Any]) -> list[dict[str, Any]]:
    own = {"route": route["route"], "mode": route["mode"]}
    return [own | arm | {"arm": arm["id"], "expected_usd": _usd(arm["expected_nusd"])} for arm in route["arms"]]


def feedback(options: argparse.Namespace) -> int:
    """`llm-sidecar feedback ID --score S`: goes to the traffic port of the running sidecar."""
    settings = _settings(options)
    host, port = settings.listen[0]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/_sidecar/v1/feedback"
    name = "id" if len(options.id) == 26 and all(c in "0123456789abcdef" for c in options.id) else "completion_id"
    _call(url, "POST", {name: options.id, "score": options.score, "source": options.source}, {})
    sys.stdout.write("taken\n")
    return OK


def state_verb(options: argparse.Namespace) -> int:
    """`llm-sidecar state {export,import}`: what the engine has learnt, as one JSON file."""
    settings = _settings(options)
    path = _db(options)
    if options.action == "export":
        state = queries.load_state(path, settings.service)
        if state is None:
            raise StoreError(f"{path}: holds no learnt state of service {settings.service!r}")
        options.file.write_bytes(state)
        return OK
    try:
        state = options.file.read_bytes()
        orjson.loads(state)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{options.file}: {error}; give a file of `state export`") from None
    try:
        queries.save_state(path, state, settings.service)
    except Held as held:
        raise StoreError(f"{held}: stop it first, or it writes its own state over this one") from None
    return OK


def store_verb(options: argparse.Namespace) -> int:
    """`llm-sidecar store {prune,backup,forget,status}`."""
    path, settings = _db(options), _settings(options)
    match options.action:
        case "prune":
            limits = Limits(settings.store_max_bytes, settings.store_raw_s, settings.store_aggregates_s)
            gone = _erase(path, settings, "prune", lambda: queries.prune(path, limits), {})
            sys.stdout.write(f"{gone} rows deleted\n")
        case "backup":
            if options.file is None:
                raise ConfigError("store backup: name the new FILE")
            queries.backup(path, options.file)
        case "forget":
            if not options.key:
                raise ConfigError("store forget: give --key, the sticky_key of the rows")
            key = options.key
            gone = _erase(path, settings, "forget", lambda: queries.forget(path, key), {"key": key})
            sys.stdout.write(f"{gone} decisions erased\n")
        case _:
            print_json([queries.status(path)])
    return OK


def _erase(path: Path, settings: Settings, verb: str, here: Callable[[], int], body: dict[str, str]) -> int:
    """Does it here when nothing else writes the file, else has the sidecar do it that does: never two writers at once."""
    try:
        return here()
    except Held as held:
        asked = dataclasses.replace(settings, db=path)  # its token lies beside the file
        try:
            url = f"/api/v1/store/{verb}"
            return int(_admin(asked, "POST", url, body | {"writer": held.mark}, _ERASING_TIMEOUT_S)["decisions"])
        except SidecarError as error:
            raise StoreError(
                f"{held}. It was asked to do it and did not: {error}\n"
                "Give this verb the settings of the running sidecar (SIDECAR_ADMIN_LISTEN, SIDECAR_ADMIN_TOKEN_FILE), or "
                "stop it and try again."
            ) from None


def prices_verb(options: argparse.Namespace) -> int:
    """`llm-sidecar prices refresh`."""
    from sidecar.config.prices import bundled_prices
    from sidecar.control.prices import compile_prices

    target = options.to or bundled_prices()
    today = date.fromisoformat(rfc3339(wall())[:10])
    book = compile_prices(target, today, fetch=options.fetch)
    sys.stdout.write(f"{target}: {book.version}, {len(book.providers)} providers\n")
    return OK


# ---- shared


def _settings(options: argparse.Namespace) -> Settings:
    return Settings.load(os.environ, options.config, options.set)


def _db(options: argparse.Namespace) -> Path:
    path: Path | None = options.db or _settings(options).db
    if path is None:
        raise ConfigError("which database? give --db FILE or set SIDECAR_DB")
    return path


def _usd(nusd: int | None) -> float | None:
    return None if nusd is None else nusd / 1e9


def _admin(settings: Settings, method: str, path: str, body: object = None, timeout_s: float = _ADMIN_TIMEOUT_S) -> Any:
    """Asks the admin port of the sidecar that these settings describe."""
    file = token_file(settings)
    if file is None or not file.is_file():
        raise ConfigError(
            f"no admin token: set SIDECAR_ADMIN_TOKEN_FILE or SIDECAR_DB as the running sidecar has it ({file})"
        )
    token = file.read_text("ascii").strip()
    host, port = settings.admin_listen[0]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"
    return _call(url, method, body, {"Authorization": f"Bearer {token}"}, timeout_s)


def _call(url: str, method: str, body: object, headers: dict[str, str], timeout_s: float = _ADMIN_TIMEOUT_S) -> Any:
    data = None if body is None else orjson.dumps(body)
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers}, method=method)  # noqa: S310 - http, ours
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            return orjson.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        told = error.read(4096).decode("utf-8", "replace")
        raise SidecarError(f"{url}: {error.code}: {told}") from None
    except (urllib.error.URLError, OSError) as error:
        raise SidecarError(f"{url}: {error}; is the sidecar running with these settings?") from None
