"""The command line: one verb per function. Exit codes: 0 fine, 1 failed, 2 wrong usage or configuration."""

import argparse
import dataclasses
import math
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from datetime import date
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import orjson

from sidecar import __version__, auditing, checking, injecting, reading
from sidecar.clock import rfc3339, steady, wall
from sidecar.config.files import LARGEST_STATE, content_of
from sidecar.config.secrets import parse_key
from sidecar.config.settings import Settings
from sidecar.control.access import token_file
from sidecar.control.key_files import KeyFiles
from sidecar.core.memory import version_of
from sidecar.core.sticky import KEY_FORM, key_of
from sidecar.errors import ConfigError, SidecarError, StoreError
from sidecar.lean import without_authorities
from sidecar.options import (
    FAILED,
    OK,
    USAGE,
    as_json,
    configured,
    count,
    db_of,
    from_store,
    settings_of,
    usd,
    vault_of,
    verb,
    whole,
    within,
)
from sidecar.output import print_json, print_table
from sidecar.store import queries
from sidecar.store.lock import Held
from sidecar.store.retention import Limits

_STATUS_COLUMNS: Final = (
    "route", "mode", "arm", "role", "breaker", "share", "exchanges", "labels", "label_mean", "expected_usd",
)  # fmt: skip
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
    reading.add(verbs)
    _steering(verbs)
    auditing.add(verbs)
    injecting.add(verbs)
    return parser


def _why(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--why", type=_text, default="", metavar="TEXT", help="the reason, for the audit")


def _text(text: str) -> str:
    """As it is. Bytes that are no text could be written nowhere, once all is done that they give the reason for."""
    if not text.isascii() and any("\ud800" <= one <= "\udfff" for one in text):
        raise argparse.ArgumentTypeError("is no text in the encoding of this terminal")
    return text


def _port(text: str) -> int:
    return whole(text, 0, 65535)


def _seconds(text: str) -> float:
    return within(text, 0.0, 1e9)


def _score(text: str) -> float:
    return within(text, 0.0, 1.0)


def _value(text: str) -> float | bool | str:
    """A value of a feedback source: a number, a truth, or a word that the sidecar judges."""
    if text in ("true", "false"):
        return text == "true"
    try:
        value = float(text)
    except ValueError:
        return text
    return value if math.isfinite(value) else text  # JSON has no other numbers


def _serving(verbs: Any) -> None:
    run_verb = configured(verb(verbs, "run", run, "Serve until SIGTERM."))
    run_verb.add_argument("--workers", type=count, metavar="N", help="processes that carry traffic (setting `workers`)")
    demo_verb = verb(verbs, "demo", demo, "Show the product working on a simulated provider, without any key.")
    demo_verb.add_argument(
        "--seconds", type=_seconds, default=0.0, help="stop after this long (default: when the story is told)"
    )
    checking.add(verbs)
    simulate = verb(verbs, "simulate-provider", simulate_provider, "Serve the simulated provider.")
    simulate.add_argument("--config", type=Path, metavar="FILE", help="its knobs (YAML)")
    simulate.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    simulate.add_argument("--host", default="127.0.0.1")
    simulate.add_argument("--port", type=_port, default=8099)
    verb(verbs, "version", version, "Print the version.")


def _steering(verbs: Any) -> None:
    roll = as_json(configured(verb(verbs, "rollout", rollout, "Show or steer rollouts of a running sidecar.")))
    roll.add_argument("action", choices=("status", "start", "promote", "pause", "resume", "rollback"))
    roll.add_argument("route", nargs="?")
    roll.add_argument("arm", nargs="?")
    _why(roll)
    score = configured(verb(verbs, "feedback", feedback, "Score one past decision of a running sidecar."))
    score.add_argument("id", metavar="ID", help="decision id, or the provider's completion id")
    given = score.add_mutually_exclusive_group(required=True)
    given.add_argument("--score", type=_score, metavar="0..1")
    given.add_argument("--value", type=_value, help="on the scale of its source: a number, true, false, up or down")
    score.add_argument("--source", default="user")
    state = from_store(verb(verbs, "state", state_verb, "Export or import what was learnt."))
    state.add_argument("action", choices=("export", "import"))
    state.add_argument("file", type=Path)
    state.add_argument("--version", type=int, metavar="N", help="export: the one of a newer program that was set aside")
    _why(state)
    store = from_store(
        verb(
            verbs,
            "store",
            store_verb,
            "Prune, back up, forget a person, encrypt, or show the size; a running sidecar does what writes itself.",
        )
    )
    store.add_argument("action", choices=("prune", "backup", "forget", "encrypt", "status"))
    store.add_argument("file", nargs="?", type=Path, help="backup: the new file")
    store.add_argument("--key", type=_key, metavar="HASH", help="forget: the sticky_key of the rows")
    _why(store)
    prices = verb(verbs, "prices", prices_verb, "Compile the price list anew from the installed genai-prices.")
    prices.add_argument("action", choices=("refresh",))
    prices.add_argument("--fetch", action="store_true", help="fetch newer prices from the network first")
    prices.add_argument("--to", type=Path, metavar="FILE", help="where to write (default: the bundled list)")
    models = verb(verbs, "catalogue", catalogue_verb, "Show what is known of a model, or compile the catalogue anew.")
    models.add_argument("action", choices=("show", "compile"))
    models.add_argument(
        "name", nargs="?", metavar="NAME", help="show: provider/model; compile: the folder of the files"
    )
    models.add_argument("--to", type=Path, metavar="FILE", help="compile: where to write (default: in that folder)")


# ---- serving


def run(options: argparse.Namespace) -> int:
    """`llm-sidecar run`."""
    with without_authorities():
        from sidecar.app import serve
    from sidecar.process import hush
    from sidecar.telemetry.log import configure

    if options.workers is not None:
        options.set.append(f"workers={options.workers}")
    settings = settings_of(options)
    hush()
    sink = configure(settings.log_level)
    try:
        if settings.workers == 1:
            return serve(settings, os.environ)
        from sidecar.workers.leader import LeadingSidecar

        return serve(settings, os.environ, of=LeadingSidecar)
    finally:
        sink.close()


def demo(options: argparse.Namespace) -> int:
    """`llm-sidecar demo`."""
    from sidecar.demo import play

    return play(options.seconds)


def simulate_provider(options: argparse.Namespace) -> int:
    """`llm-sidecar simulate-provider`."""
    from sidecar.sim.knobs import SimConfig
    from sidecar.sim.provider import run as run_provider

    config = SimConfig.load(options.config, options.set)
    try:
        run_provider(config, options.host, options.port, _announce)
    except (OSError, UnicodeError) as error:  # IDNA knows no such name
        what = getattr(error, "strerror", None) or "is no name of a host"
        raise ConfigError(f"{options.host}:{options.port}: {what}; choose another --port or --host") from None
    return OK


def version(_options: argparse.Namespace) -> int:
    """`llm-sidecar version`."""
    sys.stdout.write(f"llm-sidecar {__version__}\n")
    return OK


def _announce(port: int) -> None:
    sys.stdout.write(f"serving on port {port}\n")
    sys.stdout.flush()


# ---- steering


def rollout(options: argparse.Namespace) -> int:
    """`llm-sidecar rollout`: asks the running sidecar."""
    settings = settings_of(options)
    if options.action == "status":
        routes = _admin(settings, "GET", "/api/v1/status")["routes"]
        shown = [row for row in routes if options.route in (None, row["route"])]
        if options.route is not None and not shown:
            raise SidecarError(
                f"no route {options.route!r}; routes are: {', '.join(r['route'] for r in routes) or 'none'}"
            )
        if options.json:
            print_json(shown)
        else:
            print_table([row for route in shown for row in _arms(route)], _STATUS_COLUMNS)
            sys.stdout.writelines(f"{text}\n" for route in shown for text in (*route["explanations"], *route["notes"]))
        return OK
    if not options.route or (options.action == "start" and not options.arm):
        raise ConfigError(
            f"rollout {options.action}: name the ROUTE{' and the ARM' if options.action == 'start' else ''}"
        )
    body = {"action": options.action, "arm": options.arm, "why": options.why}
    answer = _admin(settings, "POST", f"/api/v1/routes/{quote(options.route, safe='')}/rollout", body)
    if options.json:
        print_json(answer["events"])
    else:
        sys.stdout.writelines(f"{event['kind']}: {event['message']}\n" for event in answer["events"])
    return OK


def _arms(route: dict[str, Any]) -> list[dict[str, Any]]:
    own = {"route": route["route"], "mode": route["mode"]}
    return [own | arm | {"arm": arm["id"], "expected_usd": usd(arm["expected_nusd"])} for arm in route["arms"]]


def feedback(options: argparse.Namespace) -> int:
    """`llm-sidecar feedback ID {--score S,--value V}`: goes to the traffic port of the running sidecar.

    To the admin port where that one wants TLS, whose names are not ours, or a token, which is a service's."""
    settings = settings_of(options)
    name = "id" if len(options.id) == 26 and all(c in "0123456789abcdef" for c in options.id) else "completion_id"
    said = {"value": options.value} if options.score is None else {"score": options.score}
    body = {name: options.id, "source": options.source} | said
    if settings.tls_cert is not None or settings.client_tokens_file is not None:
        _admin(settings, "POST", "/api/v1/feedback", body)
    else:
        host, port = settings.listen[0]
        _call(f"http://{f'[{host}]' if ':' in host else host}:{port}/_sidecar/v1/feedback", "POST", body, {})
    sys.stdout.write("taken\n")
    return OK


def state_verb(options: argparse.Namespace) -> int:
    """`llm-sidecar state {export,import}`: what the engine has learnt, as one JSON file."""
    settings = settings_of(options)
    path = db_of(options)
    if options.action == "export":
        state = queries.load_state(path, settings.service, options.version, vault_of(options))
        if state is None:
            queries.status(path)  # says what is wrong with a file that is none of ours
            kind = "" if options.version is None else f" of version {options.version} that was set aside"
            raise StoreError(f"{path}: holds no learnt state{kind} of service {settings.service!r}")
        _write_private(options.file, state)  # it holds what may lie encrypted in the database
        return OK
    try:
        state = content_of(options.file, LARGEST_STATE)
    except OSError as error:
        raise ConfigError(f"{options.file}: {error}; give a file of `state export`") from None
    if version_of(state) is None:
        raise ConfigError(f"{options.file}: holds nothing that was learnt; give a file of `state export`")
    try:
        queries.save_state(path, state, settings.service, _by(settings, options))
    except Held as held:
        raise StoreError(f"{held}: stop it first, or it writes its own state over this one") from None
    return OK


def _write_private(file: Path, content: bytes) -> None:
    """Puts the file there in one step, for its owner alone; what is no file, as a pipe, is written as it is."""
    if file.exists() and not file.is_file():
        file.write_bytes(content)
        return
    whole = Path(os.path.realpath(file))
    part = whole.with_name(f"{whole.name}.part")
    part.unlink(missing_ok=True)
    try:
        part.touch(mode=0o600)
        part.write_bytes(content)
        part.replace(whole)
    finally:
        part.unlink(missing_ok=True)


def _key(text: str) -> str:
    if key_of(text) is None:  # 0 rows would be erased, as if the person had none
        raise argparse.ArgumentTypeError(f"is no sticky_key, which has {KEY_FORM}")
    return text


def store_verb(options: argparse.Namespace) -> int:
    """`llm-sidecar store {prune,backup,forget,status}`."""
    path, settings = db_of(options), settings_of(options)
    by = _by(settings, options)
    match options.action:
        case "prune":
            limits = Limits(settings.store_max_bytes, settings.store_raw_s, settings.store_aggregates_s)
            gone = _change(
                path, settings, "prune", lambda: {"decisions": queries.prune(path, limits, by)}, {"why": by.why}
            )
            sys.stdout.write(f"{gone['decisions']} rows deleted\n")
        case "backup":
            if options.file is None or not options.file.name:
                raise ConfigError("store backup: name the new FILE")
            queries.backup(path, options.file)
        case "forget":
            if not options.key:
                raise ConfigError("store forget: give --key, the sticky_key of the rows")
            key = options.key
            told = {"key": key, "why": by.why}
            gone = _change(path, settings, "forget", lambda: {"decisions": queries.forget(path, key, by)}, told)
            sys.stdout.write(f"{gone['decisions']} decisions erased\n")
            sys.stderr.writelines(f"but {left}\n" for left in gone.get("left", ()))
            return FAILED if "left" in gone else OK
        case "encrypt":
            return _encrypt(path, settings, by)
        case _:
            print_json([queries.status(path)])
    return OK


def _by(settings: Settings, options: argparse.Namespace) -> queries.By:
    """Who writes into the database by a verb: the user of this process, with the keys of the settings."""
    return queries.By(f"cli:{os.getuid()}", options.why, KeyFiles(settings, steady()).keys)


def _encrypt(path: Path, settings: Settings, by: queries.By) -> int:
    def here() -> dict[str, int]:
        done = queries.encrypt(path, by)
        return {"values": done.sealed, "unreadable": done.unreadable}

    keys = by.keys.fields()
    first = {} if keys is None else {"key_id": keys.first}
    told = _change(path, settings, "encrypt", here, {"why": by.why} | first)
    sys.stdout.write(f"{told['values']} values encrypted with the newest key\n")
    if told["unreadable"]:
        sys.stderr.write(
            f"{told['unreadable']} values cannot be read: their key is not in the file, or they were changed\n"
        )
    return FAILED if told["unreadable"] else OK


def _change(
    path: Path, settings: Settings, verb: str, here: Callable[[], dict[str, Any]], body: dict[str, str]
) -> dict[str, Any]:
    """Does it here when nothing else writes the file, else has the sidecar do it that does: never two writers at once."""
    try:
        return here()
    except Held as held:
        asked = dataclasses.replace(settings, db=path)  # its token lies beside the file
        try:
            url = f"/api/v1/store/{verb}"
            answer: dict[str, Any] = _admin(asked, "POST", url, body | {"writer": held.mark}, _ERASING_TIMEOUT_S)
            return answer
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


def catalogue_verb(options: argparse.Namespace) -> int:
    """`llm-sidecar catalogue {show,compile}`."""
    from sidecar.config.catalogue import compile_catalogue, described

    if options.name is None:
        what = "PROVIDER/MODEL" if options.action == "show" else "the folder of its files"
        raise ConfigError(f"catalogue {options.action}: name {what}")
    if options.action == "show":
        if "/" not in options.name:
            raise ConfigError(
                f"catalogue show: {options.name} names no provider; name PROVIDER/MODEL, like openai/gpt-4o"
            )
        sys.stdout.write(f"{described(options.name)}\n")
        return OK
    folder = Path(options.name)
    target = options.to or folder / "catalogue.json"
    text = compile_catalogue(folder)
    try:
        target.write_bytes(text)
    except OSError as error:
        raise ConfigError(f"{target}: {error.strerror}; choose a folder that can be written") from None
    sys.stdout.write(f"{target}: {len(text)} bytes\n")
    return OK


# ---- shared


def _admin(settings: Settings, method: str, path: str, body: object = None, timeout_s: float = _ADMIN_TIMEOUT_S) -> Any:
    """Asks the admin port of the sidecar that these settings describe."""
    file = token_file(settings)
    if file is None or not file.is_file():
        what = "no admin token" if file is None else f"no admin token at {file}"
        raise ConfigError(f"{what}: set SIDECAR_ADMIN_TOKEN_FILE or SIDECAR_DB as the running sidecar has it")
    try:
        token = parse_key(content_of(file)).reveal().decode()
    except ValueError as error:
        raise ConfigError(f"{file}: {error}; give the file of the admin token that the running sidecar has") from None
    if not settings.admin_listen:
        raise ConfigError("admin_listen names no address: set SIDECAR_ADMIN_LISTEN as the running sidecar has it")
    host, port = settings.admin_listen[0]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"
    return _call(url, method, body, {"Authorization": f"Bearer {token}"}, timeout_s)


def _call(url: str, method: str, body: object, headers: dict[str, str], timeout_s: float = _ADMIN_TIMEOUT_S) -> Any:
    data = None if body is None else orjson.dumps(body)
    own = {"Content-Type": "application/json", "Host": "localhost"}  # the address may be no name: all of them
    request = urllib.request.Request(url, data, own | headers, method=method)  # noqa: S310 - http, ours
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            return orjson.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        told = error.read(4096).decode("utf-8", "replace")
        raise SidecarError(f"{url}: {error.code}: {told}") from None
    except (OSError, HTTPException) as error:
        raise SidecarError(f"{url}: {error}; is the sidecar running with these settings?") from None
    except orjson.JSONDecodeError:
        raise SidecarError(f"{url}: the answer is no JSON; is it the sidecar that listens there?") from None
