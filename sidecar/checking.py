"""The verb check: what a sidecar with these settings would say of policy files, without one."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sidecar.clock import steady
from sidecar.config.policy import Loaded, doubled, is_policy, load_file
from sidecar.config.secrets import KeyRing
from sidecar.core.policy import Upstream
from sidecar.errors import ConfigError
from sidecar.options import OK, USAGE, as_json, configured, settings_of, verb
from sidecar.output import print_json


def add(verbs: Any) -> None:
    """Adds the verb to the command line."""
    parser = as_json(configured(verb(verbs, "check", check, "Validate policy files.")))
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")


def check(options: argparse.Namespace) -> int:
    """`llm-sidecar check FILE...`: every problem of every file, then exit 2 if there was one."""
    settings, loaded, wrong = settings_of(options), dict[Path, Loaded](), dict[Path, str]()
    for file in dict.fromkeys(options.files):
        try:
            loaded[file] = load_file(file, os.environ, settings)
        except ConfigError as error:
            wrong[file] = str(error)
    mounted = [one for file, one in loaded.items() if is_policy(file)]
    for folder in {file.parent for file in loaded}:
        wrong |= doubled(one for one in mounted if one.file is not None and one.file.parent == folder)
    for file in dict.fromkeys(options.files):
        problems = wrong[file].splitlines() if file in wrong else []
        _tell(file, problems, loaded.get(file), as_objects=options.json)
    return USAGE if wrong else OK


def _tell(file: Path, problems: Sequence[str], loaded: Loaded | None, *, as_objects: bool) -> None:
    told: dict[str, object] = {"file": _text(str(file))}
    doubts = [] if loaded is None else [*loaded.warnings, *_unreadable(file, loaded.policy.upstreams)]
    if problems:
        told["problems"] = list(map(_text, problems))
    elif loaded is not None:
        policy = loaded.policy
        told |= {"service": policy.service, "version": policy.version, "routes": len(policy.routes)}
    told["warnings"] = list(map(_text, doubts))
    if as_objects:
        print_json([told])
        return
    sys.stderr.writelines(f"{_text(problem)}\n" for problem in problems)
    sys.stderr.writelines(f"warning: {_text(doubt)}\n" for doubt in doubts)
    if not problems:
        sys.stdout.write("{file}: fine: service {service}, {routes} routes, version {version}\n".format(**told))


def _unreadable(file: Path, upstreams: Mapping[str, Upstream]) -> list[str]:
    """Keys and certificates that cannot be read here: where the sidecar runs they may."""
    from sidecar.proxy.dial import client_tls

    unset = {name for name, one in upstreams.items() if one.key == "env" and not os.environ.get(one.key_ref)}
    held = {name: one for name, one in upstreams.items() if name not in unset}  # the policy's own warnings say it
    told = KeyRing(os.environ).problems(held, steady())
    for name, one in upstreams.items():
        try:
            if one.scheme == "https" and one.ca_file is not None:
                client_tls(one.ca_file)
        except ConfigError as error:
            told.append(f"upstreams.{name}: {error}; the policy is not in force before that")
    return [f"{file}: {text}" for text in told]


def _text(told: str) -> str:
    """What JSON and every terminal takes, also where a file's name is no text."""
    return told.encode("utf-8", "backslashreplace").decode()
