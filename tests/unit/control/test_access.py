"""Roles on the admin port: who may do what, in the code, in the docs and over HTTP; and the file that says who is who."""

import hashlib
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidecar.clock import steady
from sidecar.config.policy import load_policies
from sidecar.config.settings import Settings
from sidecar.control.access import ACCESS, Access, Caller, Role, new_token, parse_roles
from sidecar.control.admin import Admin, admin_app
from sidecar.control.archive import Archive
from sidecar.control.health import Readiness
from sidecar.control.key_files import Watched
from sidecar.control.security import Security
from sidecar.core.engine import Engine
from sidecar.core.types import Event
from sidecar.errors import ConfigError
from sidecar.store import queries
from sidecar.store.audit import Head
from tests.fixtures.guards import roles_table
from tests.fixtures.policies import SUPPORT

DOCS = Path(__file__).resolve().parents[3] / "docs" / "security.md"
TOKENS = {role.name: secrets.token_urlsafe(32) for role in Role}


def line(name: str, role: str, token: str) -> str:
    return f"{name} {role} {hashlib.sha256(token.encode()).hexdigest()}\n"


def roles_file(folder: Path) -> Path:
    """vera views, otto operates, ada administers."""
    file = folder / "roles"
    names = {"viewer": "vera", "operator": "otto", "admin": "ada"}
    file.write_text("# the team\n\n" + "".join(line(names[role], role, token) for role, token in TOKENS.items()))
    return file


class Port:
    """The admin port of a service with a database, whose roles are in a file."""

    def __init__(self, folder: Path) -> None:
        self.file = roles_file(folder)
        self.db = folder / "s.db"
        self.settings = Settings.load({}, None, ["service=bot", f"db={self.db}", f"admin_roles_file={self.file}"])
        (folder / "bot.yaml").write_text(SUPPORT)
        policy = load_policies(folder, "bot", {}, self.settings).policy
        self.engine = Engine(policy, np.random.default_rng(1), steady())
        self.archive = Archive(self.settings)
        self.access = Access(self.settings, steady())
        self.client: Any = None

    def app(self) -> Any:
        told: list[Event] = []
        ready = Readiness(True, "serving")
        take = lambda _body, answer: answer(202, b"{}")  # noqa: E731 - the desk is not what is tested here
        return admin_app(Admin(self.settings, self.engine, take, self.archive, told.extend, lambda: ready))

    async def ask(self, token: str, method: str, path: str, body: object = None) -> Any:
        headers = {"Host": "localhost", "Authorization": f"Bearer {token}"}
        return await self.client.request(method, path, json=body, headers=headers)


@pytest.fixture
async def port(tmp_path: Path, aiohttp_client: Any) -> AsyncIterator[Port]:
    one = Port(tmp_path)
    await one.archive.open(one.engine)
    one.client = await aiohttp_client(one.app())
    yield one
    one.archive.close(5)


def test_the_table_in_the_docs_is_that_of_the_code() -> None:
    """When this fails, `python -m tests.fixtures.guards` writes it."""
    assert roles_table() in DOCS.read_text()


async def test_every_route_is_in_the_table(port: Port) -> None:
    """And nothing else is: a route that somebody adds without a role is refused to all, and found here."""
    served = {
        (route.method, route.resource.canonical)
        for route in port.client.app.router.routes()
        if route.method != "HEAD" and route.resource is not None
    }
    assert served == set(ACCESS)
    assert all(ACCESS[verb] > Role.viewer for verb in ACCESS if verb[0] != "GET")


_BODIES: dict[str, object] = {
    "/api/v1/routes/{route}/rollout": {"action": "pause"},
    "/api/v1/store/forget": {"key": "f" * 16},
}


@pytest.mark.parametrize("verb", list(ACCESS))
@pytest.mark.parametrize("role", list(Role))
async def test_each_role_on_each_route(port: Port, verb: tuple[str, str], role: Role) -> None:
    """SEC-ADMIN: done when the role is enough, else 403 in words that name both roles, and nothing is changed."""
    method, path = verb
    path = path.replace("{route}", "support").replace("{id}", "x")
    answer = await port.ask(TOKENS[role.name], method, path, _BODIES.get(verb[1], {}) if method == "POST" else None)
    if role >= ACCESS[verb]:
        assert answer.status in (200, 202, 404, 503)  # 404: no such decision, 503: no key to encrypt with
        return
    assert answer.status == 403
    error = (await answer.json())["error"]
    assert error["code"] == "role"
    assert f"needs the role {ACCESS[verb].name}" in error["message"]
    assert await port.archive.stored(5)
    assert queries.audit(port.db) == []


async def test_who_is_nobody(port: Port) -> None:
    """401 without a token, with another scheme, with the hash of one, and with the one token of before."""
    token = TOKENS["admin"]
    for text in ("", "Bearer", "Bearer ", f"Basic {token}", f"bearer {token}", f"Bearer {token} ", f"Bearer  {token}"):
        headers = {"Host": "localhost", "Authorization": text}
        blank_at_the_end = text == f"Bearer {token} "  # HTTP: blanks around a field's value do not belong to it
        assert (await port.client.get("/api/v1/status", headers=headers)).status == (200 if blank_at_the_end else 401)
    assert (await port.ask(hashlib.sha256(token.encode()).hexdigest(), "GET", "/api/v1/status")).status == 401
    assert not port.db.with_name("s.db.admin-token").exists()
    assert (await port.ask(TOKENS["viewer"], "GET", "/api/v1/nothing")).status == 404
    assert (await port.ask(TOKENS["viewer"], "PUT", "/api/v1/status", {})).status == 405
    assert (await port.client.head("/api/v1/status", headers={"Host": "localhost"})).status == 401


async def test_the_audit_says_who_and_why(port: Port) -> None:
    """SEC-AUDIT: each verb that changes something leaves the caller's name and words; too many words are refused."""
    ask = port.ask
    pause = {"action": "pause", "why": "page 7"}
    assert (await ask(TOKENS["operator"], "POST", "/api/v1/routes/support/rollout", pause)).status == 200
    for path, body, status in (
        ("cycle", {"why": "look"}, 200),
        ("store/prune", {"why": "space"}, 200),
        ("store/forget", {"key": "f" * 16, "why": "letter"}, 200),
        ("cycle", {"why": "x" * 501}, 422),
    ):
        assert (await ask(TOKENS["admin"], "POST", f"/api/v1/{path}", body)).status == status
    assert await port.archive.stored(5)
    lines = await (await ask(TOKENS["viewer"], "GET", "/api/v1/audit")).json()
    assert [(line["actor"], line["action"], line["why"]) for line in reversed(lines)] == [
        ("otto", "rollout.pause", "page 7"),
        ("ada", "cycle.run", "look"),
        ("ada", "prune.begun", "space"),
        ("ada", "prune", "space"),
        ("ada", "forget", "letter"),
    ]
    status = await (await ask(TOKENS["viewer"], "GET", "/api/v1/status")).json()
    assert status["audit"] == {"links": 5, "head": f"5:{lines[0]['hash']}"}


# ---- the file


def test_a_line_is_made_for_a_new_token() -> None:
    """The token is long, its line holds only its hash, and is read back."""
    token, made = new_token("otto", "operator")
    assert len(token) >= 40
    assert token not in made
    assert parse_roles(made.encode()) == ((hashlib.sha256(token.encode()).digest(), Caller("otto", Role.operator)),)
    for name in ("", "two words", "ümlaut", "-x", "x" * 65):
        with pytest.raises(ValueError, match="line 1"):
            new_token(name, "viewer")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "1 to 1000 lines"),
        ("# nobody\n", "1 to 1000 lines"),
        ("otto operator\n", "line 1 is not"),
        ("otto root " + "0" * 64, "not one of viewer, operator, admin"),
        ("otto admin " + "0" * 63, "line 1 is not"),
        ("otto admin secret-token-in-clear", "line 1 is not"),
        (f"a admin {'0' * 64}\nb viewer {'0' * 64}\n", "line 2 has the token"),
        (f"a admin {'0' * 64}\na viewer {'1' * 64}\n", "line 2 gives its name another role"),
        ("öda admin " + "0" * 64, "line 1 is not"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, what: str) -> None:
    """Each is an error of configuration at start that names the line and shows nothing of it."""
    file = tmp_path / "roles"
    file.write_text(text)
    with pytest.raises(ConfigError, match=what) as caught:
        Access(Settings.load({}, None, [f"admin_roles_file={file}"]), 0.0)
    assert "admin_roles_file" in str(caught.value)
    assert "secret-token-in-clear" not in str(caught.value)


def test_the_file_changes_while_it_is_used(tmp_path: Path) -> None:
    """A new line counts within a second; a bad or deleted file changes nothing and is told once; a good one is told too."""
    file = roles_file(tmp_path)
    security = Security(Settings.load({}, None, [f"admin_roles_file={file}"]), 0.0)
    access = security.access
    assert [event.kind for event in security.poll(0.0, None)] == ["admin.roles"]
    assert security.poll(2.0, None) == []
    new, made = new_token("vera", "viewer")
    file.write_text(file.read_text() + made + "\n")
    assert access.caller(f"Bearer {new}".encode()) is None
    (event,) = security.poll(4.0, None)
    assert event.detail == {"roles": {"vera": "viewer", "otto": "operator", "ada": "admin"}}
    assert access.caller(f"Bearer {new}".encode()) == Caller("vera", Role.viewer)
    assert access.caller(f"Bearer {TOKENS['viewer']}".encode()) == Caller("vera", Role.viewer)
    for number, spoil in enumerate((lambda: file.write_text("otto admin\n"), file.unlink)):
        spoil()
        (event,) = security.poll(6.0 + 4 * number, None)
        assert (event.kind, event.severity) == ("file.refused", "high")
        assert security.poll(8.0 + 4 * number, None) == []
        assert security.notes() == [event.message]
        assert access.caller(f"Bearer {new}".encode()) is not None
    file.write_text(made + "\n")
    assert [event.kind for event in security.poll(16.0, None)] == ["file.accepted", "admin.roles"]
    assert security.notes() == []
    assert access.caller(f"Bearer {TOKENS['admin']}".encode()) is None


def test_no_repr_shows_a_secret(tmp_path: Path) -> None:
    """Neither keys nor hashes of tokens, in whatever a traceback would print."""
    keys = tmp_path / "keys"
    keys.write_text(f"k1 {os.urandom(32).hex()}\n")
    settings = Settings.load({}, None, [f"admin_roles_file={roles_file(tmp_path)}", f"audit_key_file={keys}"])
    security = Security(settings, 0.0)
    shown = repr((security, security.access, security.keys, security.keys.audit, security.keys.audit()))
    assert keys.read_text().split()[1] not in shown
    with pytest.raises(ConfigError, match="audit_key_file"):
        Watched("audit_key_file", tmp_path / "none", parse_roles, 0.0)


def test_a_head_is_told_once(tmp_path: Path) -> None:
    """As an event that goes to the log: the copy of it lies where the database is not."""
    head = Head(3, "ab" * 32)
    security = Security(Settings.load({}, None, []), 0.0)
    (event,) = security.poll(0.0, head)
    assert (event.kind, event.message) == ("audit.head", str(head))
    assert security.poll(1.0, head) == []
