"""Loads policies: finds the file for a service, reads it, and tells all that is wrong with the folder at once."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sidecar.config.address import parse_origin
from sidecar.config.build import Surroundings, build_policy, canonical
from sidecar.config.catalogue import load_catalogue, text_of
from sidecar.config.document import Node, Problems, read_document
from sidecar.config.files import content_of, is_endless
from sidecar.config.kinds import Wrong
from sidecar.config.settings import Settings
from sidecar.config.written import POLICY_FILE
from sidecar.core.policy import NO_POLICY, Policy, Upstream
from sidecar.core.types import Dialect
from sidecar.errors import ConfigError, TooLarge, UnreadableError


@dataclass(frozen=True, slots=True)
class Written:
    """What a policy was made of, so that another process makes the same one, whatever the files say by then."""

    text: str
    file: Path
    catalogue: str | None = None  # text of the file that the setting `catalogue` names
    named: Mapping[str, bytes] = field(default_factory=dict)  # files that the policy names: prompts, schemas


@dataclass(frozen=True, slots=True)
class Loaded:
    """A policy, what its writer should know of it, and the file that it came from (None: there is none)."""

    policy: Policy
    warnings: tuple[str, ...] = ()
    file: Path | None = None
    written: Written | None = None


def load_policies(
    directory: Path | None, service: str, environ: Mapping[str, str], settings: Settings | None = None
) -> Loaded:
    """The policy of `service`: a file that names it wins over one for `*`; without either, NO_POLICY.

    All `*.yaml` and `*.yml` files of the directory must be valid, those for other services too: one folder goes to all
    pods, and they must agree on whether it is good. With `settings`, what those forbid is checked too. Raises
    ConfigError with every problem, one a line: `file:line: key.path: what; how to fix`; UnreadableError where one may pass.
    """
    if directory is None:
        return Loaded(NO_POLICY)
    loaded, told, kind = [], [], ConfigError
    named: list[Path] = []
    for file in policy_files(directory):
        try:
            loaded.append(_load_mounted(file, environ, settings))
        except ConfigError as error:
            told.append(str(error))
            named += error.named
            kind = type(error) if error.retryable else kind
    told += doubled(loaded).values()
    if told:
        wrong = kind("\n".join(told))
        wrong.named = tuple(named)
        raise wrong
    for wanted in (service, "*"):
        for one in loaded:
            if one.policy.service == wanted:
                return one
    return Loaded(NO_POLICY, (f"{directory}: no policy here is for service {service!r}; write one, or use `*`",))


def doubled(loaded: Iterable[Loaded]) -> dict[Path, str]:
    """What is wrong with the files of a folder whose service an earlier one is for, by file."""
    first: dict[str, Path] = {}
    told: dict[Path, str] = {}
    for one in loaded:
        if one.file is not None and (other := first.setdefault(one.policy.service, one.file)) != one.file:
            what = f"{other} is for service {one.policy.service!r} too"
            told[one.file] = f"{one.file}:1: service: {what}; put the routes into one file"
    return told


def _load_mounted(file: Path, environ: Mapping[str, str], settings: Settings | None) -> Loaded:
    if is_endless(file):
        raise ConfigError(f"{file}:1: (file): is a pipe or a device; give a regular file")
    return load_file(file, environ, settings)


def is_policy(file: Path) -> bool:
    """Whether the file is a policy where it lies in the folder of policies."""
    return file.suffix in (".yaml", ".yml") and file.name[0] != "."


def policy_files(directory: Path) -> list[Path]:
    """The policy files of a folder, in the order of their names. Raises ConfigError when it cannot be listed."""
    try:
        found = [file for file in directory.iterdir() if is_policy(file)]
    except OSError as error:
        what = f"cannot be listed ({type(error).__name__})"
        text = f"{directory}: {what}; set SIDECAR_POLICIES to a readable folder, or unset it"
        raise UnreadableError.of(error, text) from None
    return sorted(found)


def load_file(file: Path, environ: Mapping[str, str], settings: Settings | None = None) -> Loaded:
    """One policy file. Raises ConfigError with every problem in it."""
    try:
        text = content_of(file).decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{file}:1: (file): is not UTF-8 text; save it as UTF-8") from None
    except TooLarge as error:
        raise ConfigError(f"{file}:1: (file): {error.strerror}; split it by service") from None
    except OSError as error:
        what = f"cannot be read ({type(error).__name__})"
        text = f"{file}:1: (file): {what}; check its name and permissions"
        raise UnreadableError.of(error, text) from None
    return load_text(text, file, environ, settings)


def load_text(text: str, file: Path, environ: Mapping[str, str], settings: Settings | None = None) -> Loaded:
    """A policy from text; `file` is only named in messages. Raises ConfigError with every problem."""
    catalogue = settings.catalogue if settings is not None else None
    return load_written(Written(text, file, None if catalogue is None else text_of(catalogue)), environ, settings)


def load_written(written: Written, environ: Mapping[str, str], settings: Settings | None = None) -> Loaded:
    """As `load_text`, and reads no file that `written` has."""
    problems = Problems(str(written.file), dict(written.named))
    root = read_document(written.text, problems)
    policy = None if root is None else _read(root, written.catalogue, environ, settings, problems)
    problems.check()
    assert policy is not None, "no policy without a problem told"
    return Loaded(policy, problems.doubts(), written.file, replace(written, named=problems.named))


def _read(
    root: Node, catalogue: str | None, environ: Mapping[str, str], settings: Settings | None, problems: Problems
) -> Policy | None:
    if root.is_empty:
        problems.add(root, "is empty", "write a policy that begins with `version: 1`, or delete the file")
        return None
    try:
        written = POLICY_FILE.read(root, problems)
    except Wrong:
        return None
    if settings is not None and settings.replicas is not None:  # the version stays: it is of what the file says
        written = replace(written, replicas=settings.replicas)
    more = settings.catalogue if settings is not None else None
    known = load_catalogue(more, catalogue)
    around = Surroundings(environ, settings.listeners if settings is not None else (), known)
    policy = build_policy(written, version_of(root), around, problems)
    if settings is not None:
        for what, fix in _unguarded(settings, policy):
            problems.add(written.node.find("upstreams"), what, fix)
    return policy


def version_of(root: Node) -> str:
    """16 hex digits that depend on the content only, not on comments, order of keys, quotes or the file's name."""
    text = json.dumps(canonical(root), sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _unguarded(settings: Settings, policy: Policy) -> list[tuple[str, str]]:
    """What is wrong, and how to fix it, where anybody could reach the listener and spend a key that the sidecar holds."""
    held = sorted(name for name, upstream in policy.upstreams.items() if upstream.key != "client")
    if settings.mode == "sidecar" or settings.client_tokens_file is not None or not held:
        return []
    what = f"the key of {', '.join(held)} is held here, and in mode {settings.mode} others can reach it"
    return [(what, "set SIDECAR_CLIENT_TOKENS_FILE (lines `token service`), or use {from: client}")]


def default_upstreams(settings: Settings) -> dict[Dialect, Upstream]:
    """Where requests go that no route matches, by dialect: the app's own provider, with the app's own key."""
    urls: dict[Dialect, str] = {
        "openai": settings.openai_upstream,
        "anthropic": settings.anthropic_upstream,
        "gemini": settings.gemini_upstream,
    }
    return {dialect: _default(dialect, url, settings) for dialect, url in urls.items()}


def _default(dialect: Dialect, url: str, settings: Settings) -> Upstream:
    origin = parse_origin(url)
    provider = {"gemini": "google"}.get(dialect, dialect)  # another origin keeps the provider's prices
    ca_file = str(settings.ca_file) if settings.ca_file is not None else None
    return Upstream(
        dialect, dialect, origin.scheme, origin.host, origin.port, origin.prefix, provider=provider, ca_file=ca_file
    )
