"""What the verbs of the command line share: options, settings, the database, exit codes."""

import argparse
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from sidecar.clock import steady
from sidecar.config.settings import Settings
from sidecar.control.key_files import KeyFiles
from sidecar.errors import ConfigError
from sidecar.store.vault import Vault

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2


def verb(verbs: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    """A new verb; `text` is its help."""
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.set_defaults(verb=run)
    return parser


def configured(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """With the options that settings come from."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file (YAML)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one setting; wins over all else"
    )
    return parser


def from_store(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """With the database."""
    parser.add_argument("--db", type=Path, metavar="FILE", help="the database (default: the setting `db`, SIDECAR_DB)")
    return configured(parser)


def as_json(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """With `--json`."""
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser


def within(text: str, low: float, high: float) -> float:
    """A number of an option, between two others."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text} does not lie between {low:g} and {high:g}")
    return value


def whole(text: str, low: int, high: int) -> int:
    """A whole number of an option, between two others."""
    value = within(text, low, high)
    if not value.is_integer():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number")
    return int(value)


def count(text: str) -> int:
    return whole(text, 1, 1_000_000)


def settings_of(options: argparse.Namespace) -> Settings:
    return Settings.load(os.environ, options.config, options.set)


def db_of(options: argparse.Namespace) -> Path:
    """The database that the options name. Raises ConfigError when none does."""
    path: Path | None = options.db or settings_of(options).db
    if path is None:
        raise ConfigError("which database? give --db FILE or set SIDECAR_DB")
    return path


def vault_of(options: argparse.Namespace) -> Vault:
    """What opens encrypted fields, as far as the settings name keys. Raises ConfigError when their file cannot be used."""
    settings = dataclasses.replace(settings_of(options), audit_key_file=None)  # reading needs no other key
    return Vault(KeyFiles(settings, steady()).keys.fields)


def usd(nusd: int | None) -> float | None:
    return None if nusd is None else nusd / 1e9
