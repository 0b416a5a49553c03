"""Who may do what on the admin port: one table of verbs and roles, and the tokens that name callers.

Without `admin_roles_file` there is one token, whose bearer is `admin` and may do all. With it that token counts for
nothing: the file has a line `NAME ROLE SHA256` for each token, the SHA-256 of the token in hexadecimal digits, so that
who reads the file cannot act with it. A name may have several lines, so that its token can be changed without a gap. The
file is read again when it changes; a bad one changes nothing, and is told.

A plain hash is enough because tokens are random (`llm-sidecar token` makes them of 256 bits): there is nothing to guess.
Each comparison takes the same time wherever the difference is, and all lines are compared, so the time of an answer says
nothing about a guess.
"""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

from sidecar.config.files import content_of
from sidecar.config.settings import Settings
from sidecar.control.key_files import Watched
from sidecar.core.types import Event
from sidecar.errors import ConfigError

MAX_LINES: Final = 1000  # every request compares with all of them
_LINE: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._@-]{0,63})[ \t]+([a-z]+)[ \t]+([0-9A-Fa-f]{64})")


class Role(IntEnum):
    """What a caller may do; each role may do what the ones before it may."""

    viewer = 1
    operator = 2
    admin = 3


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose token it was."""

    name: str
    role: Role


Verb = tuple[str, str]  # method and path of a route

# The one table: docs/security.md shows it, and a route that is not in it is refused to everybody.
ACCESS: Final[Mapping[Verb, Role]] = {
    ("GET", "/api/v1/status"): Role.viewer,
    ("GET", "/api/v1/decisions"): Role.viewer,
    ("GET", "/api/v1/decisions/{id}"): Role.viewer,
    ("GET", "/api/v1/events"): Role.viewer,
    ("GET", "/api/v1/audit"): Role.viewer,
    ("GET", "/openapi.json"): Role.viewer,
    ("POST", "/api/v1/routes/{route}/rollout"): Role.operator,
    ("POST", "/api/v1/cycle"): Role.operator,
    ("POST", "/api/v1/feedback"): Role.operator,
    ("POST", "/api/v1/store/prune"): Role.admin,
    ("POST", "/api/v1/store/forget"): Role.admin,
    ("POST", "/api/v1/store/encrypt"): Role.admin,
}


class Access:
    """Tells callers by their tokens."""

    def __init__(self, settings: Settings, now: float) -> None:
        """Reads the file of roles, or else the one token, which is made where there is none.

        Raises:
            ConfigError: a configured file cannot be used.
        """
        self._roles: Watched[_Lines] | None = None
        self._told: _Lines | None = None
        if settings.admin_roles_file is not None:
            self._roles = Watched("admin_roles_file", settings.admin_roles_file, parse_roles, now)
            return
        token = ensure_token(settings)
        self._one: _Lines = () if token is None else ((_hash(token.encode()), Caller("admin", Role.admin)),)

    def caller(self, authorization: bytes) -> Caller | None:
        """Whose token stands in this Authorization field; None: nobody's."""
        scheme, _, token = authorization.partition(b" ")
        given, found = _hash(token), None
        for known, caller in self._one if self._roles is None else self._roles.current:
            if hmac.compare_digest(known, given):
                found = caller
        return found if scheme == b"Bearer" else None

    def poll(self, now: float) -> list[Event]:
        """Call this every second: events when the file of roles is refused, and when other roles are in force."""
        if self._roles is None:
            return []
        events = self._roles.poll(now)
        if self._roles.current != self._told:
            self._told = self._roles.current
            roles = {caller.name: caller.role.name for _, caller in self._told}
            message = "who may do what on the admin port, by its file of roles"
            events.append(Event(kind="admin.roles", severity="medium", message=message, detail={"roles": roles}))
        return events

    def notes(self) -> list[str]:
        """What people should know, for `/ready`."""
        return [] if self._roles is None or self._roles.note is None else [self._roles.note]


_Lines = tuple[tuple[bytes, Caller], ...]


def parse_roles(content: bytes) -> _Lines:
    """(hash of a token, whose it is) of each line. Raises ValueError with the line's number and without its content."""
    found: dict[bytes, Caller] = {}
    roles: dict[str, Role] = {}
    for number, line in enumerate(content.decode("ascii", "replace").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        parts = _LINE.fullmatch(text)
        if parts is None:
            raise ValueError(f"line {number} is not `NAME ROLE SHA256` (`llm-sidecar token NAME ROLE` writes one)")
        if parts[2] not in Role.__members__:
            raise ValueError(f"line {number}: the role is not one of {', '.join(Role.__members__)}")
        caller, known = Caller(parts[1], Role[parts[2]]), bytes.fromhex(parts[3])
        if known in found:
            raise ValueError(f"line {number} has the token of a line above it: each caller needs their own")
        if roles.setdefault(caller.name, caller.role) != caller.role:
            raise ValueError(f"line {number} gives its name another role than a line above it")
        found[known] = caller
    if not found or len(found) > MAX_LINES:
        raise ValueError(f"must hold 1 to {MAX_LINES} lines `NAME ROLE SHA256`")
    return tuple(found.items())


def new_token(name: str, role: str) -> tuple[str, str]:
    """A new token, and its line for the file of roles. Raises ValueError when the name or role cannot stand there."""
    token = secrets.token_urlsafe(32)
    line = f"{name} {role} {_hash(token.encode()).hex()}"
    parse_roles(line.encode("ascii", "replace"))
    return token, line


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def token_file(settings: Settings) -> Path | None:
    """Where the token lies: the configured file, else one beside the database, which the process makes itself."""
    if settings.admin_token_file is not None:
        return settings.admin_token_file
    return None if settings.db is None else settings.db.with_name(settings.db.name + ".admin-token")


def ensure_token(settings: Settings) -> str | None:
    """The token, made (0600) when none was configured and there is a database to put it beside; None: all is refused.

    Raises:
        ConfigError: the configured file cannot be read.
    """
    file = token_file(settings)
    if file is None:
        return None
    try:
        if settings.admin_token_file is None and not file.exists():
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as target:
                target.write(secrets.token_urlsafe(32) + "\n")
        token = content_of(file).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        if settings.admin_token_file is None:
            return None  # no place to put one: the admin port refuses everything, traffic goes on
        raise ConfigError(f"admin_token_file {file}: {error}; give a readable file with one line of ASCII") from None
    return token or None
