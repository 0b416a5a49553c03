"""The admin port: `/api/v1/*` and `/openapi.json`, behind bearer tokens and a Host allow-list, without CORS.

Loopback is no protection by itself (browsers and DNS rebinding reach it), so every request needs a token, the Host must
be a local name, requests of web pages are refused, and nothing changes by GET. What a caller may do stands in
`control.access`. Every change is written to the audit table, with the caller's name and, where it is given, why.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import orjson
from aiohttp import web
from aiohttp.typedefs import Middleware

from sidecar import __version__
from sidecar.clock import steady, wall
from sidecar.config.settings import Settings
from sidecar.control.access import ACCESS, Access, Caller
from sidecar.control.archive import Archive
from sidecar.control.feedback import Answer
from sidecar.control.health import Readiness
from sidecar.core.engine import Engine
from sidecar.core.sticky import KEY_FORM, key_of
from sidecar.core.types import Event
from sidecar.errors import RolloutError, StoreError
from sidecar.store import queries
from sidecar.store.audit import Audit
from sidecar.store.sealing import require_key
from sidecar.store.vault import Vault

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]*)?")
_NUMBER: Final = re.compile(r"[0-9]{1,9}")  # int() takes other scripts' digits, and refuses very long texts
_MAX_BODY: Final = 16 * 1024
_MAX_ROWS: Final = 1000
_STORED_WITHIN_S: Final = 2.0  # how long a verb waits for the disk before it answers
_CALLER: Final = web.RequestKey("caller", Caller)
_Why = Annotated[str, msgspec.Meta(max_length=500)]  # free text of the caller for the audit


@dataclass(frozen=True, slots=True)
class Admin:
    """What the admin port can see and do."""

    settings: Settings
    engine: Engine
    take_feedback: Callable[[bytes, Answer], None]  # as the traffic port does
    archive: Archive
    on_events: Callable[[Sequence[Event]], None]
    readiness: Callable[[], Readiness]
    run_lane: Callable[[str], Sequence[Event]] = lambda _lane: ()  # of the control loop, on demand
    load: Callable[[], Mapping[str, object]] = dict  # what the data plane holds and has counted
    access: Access | None = None  # made from the settings when it is not given
    read_keys: Callable[[], None] = lambda: None  # anew, at once; raises StoreError when they cannot be used
    settle: Callable[[], None] = lambda: None  # hands on calls that are over and have no row yet
    forget: Callable[[int], None] = lambda _key: None  # of the feedback desk


def admin_app(admin: Admin) -> web.Application:
    """The aiohttp application of the admin port.

    Raises:
        ConfigError: the configured file of the token, or of roles, cannot be read.
    """
    access = admin.access or Access(admin.settings, steady())
    app = web.Application(client_max_size=_MAX_BODY, middlewares=[_guard(access)])
    api = _Api(admin)
    for method, path, handler in api.routes():
        app.router.add_route(method, path, handler)
    return app


def _guard(access: Access) -> Middleware:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Lets a request through that may come in, answers the others, and turns errors of handlers into answers."""
        host = request.headers.get("Host", "")
        named = _HOST.fullmatch(host)
        if named is None or named[1].lower() not in _LOCAL or not request.raw_path.startswith("/"):
            return _error(421, "host", "The Host header must be a local name.")
        if "Origin" in request.headers or request.headers.get("Sec-Fetch-Site", "none") != "none":
            return _error(403, "origin", "Requests of web pages are refused.")
        caller = access.caller(request.headers.get("Authorization", "").encode("utf-8", "surrogateescape"))
        if caller is None:
            return _error(
                401, "token", "Send `Authorization: Bearer <token>`; docs/security.md says where the token lies."
            )
        refused = _beyond(request, caller)
        if refused is not None:
            return _error(403, "role", refused)
        request[_CALLER] = caller
        if request.method not in ("GET", "HEAD") and request.content_type != "application/json":
            return _error(415, "content_type", "Send JSON with content type application/json.")
        try:
            return await handler(request)
        except RolloutError as error:
            return _error(409, "rollout", str(error))
        except StoreError as error:
            return _error(503, "store", str(error))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return _error(422, "body", str(error))

    return guard


def _beyond(request: web.Request, caller: Caller) -> str | None:
    """Why this caller may not do this; None when they may, or when there is no such route anyway."""
    resource = request.match_info.route.resource
    if resource is None:
        return None
    verb = ("GET" if request.method == "HEAD" else request.method, resource.canonical)
    needed = ACCESS.get(verb)
    if needed is None:
        return "No role may do this."
    if caller.role >= needed:
        return None
    return f"{' '.join(verb)} needs the role {needed.name}; {caller.name} has the role {caller.role.name}."


class _Change(msgspec.Struct, forbid_unknown_fields=True):
    action: str
    arm: str | None = None
    why: _Why = ""


class _Pass(msgspec.Struct, forbid_unknown_fields=True):
    lane: Literal["guardrails", "fast", "main", "deep"] = "main"
    why: _Why = ""


class _StoreVerb(msgspec.Struct, forbid_unknown_fields=True):
    writer: str | None = None  # the mark in `<database>.lock`: that the process which holds the file is the one asked
    key: str = ""
    key_id: str | None = None  # of the key that is the first to who asks, where they know
    why: _Why = ""


def _line(request: web.Request, action: str, target: str, detail: Mapping[str, object], why: str) -> Audit:
    """One line of the audit: who does this."""
    return Audit(wall(), request[_CALLER].name, action, target, orjson.dumps(detail).decode(), why)


class _Api:
    """The handlers."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin

    def routes(self) -> list[tuple[str, str, Handler]]:
        """(method, path, handler); the source of `/openapi.json` too."""
        return [
            ("GET", "/api/v1/status", self.status),
            ("GET", "/api/v1/decisions", self.decisions),
            ("GET", "/api/v1/decisions/{id}", self.decision),
            ("GET", "/api/v1/events", self.events),
            ("GET", "/api/v1/audit", self.audit),
            ("POST", "/api/v1/routes/{route}/rollout", self.rollout),
            ("POST", "/api/v1/cycle", self.cycle),
            ("POST", "/api/v1/feedback", self.feedback),
            ("POST", "/api/v1/store/prune", self.prune),
            ("POST", "/api/v1/store/forget", self.forget),
            ("POST", "/api/v1/store/encrypt", self.encrypt),
            ("GET", "/openapi.json", self.openapi),
        ]

    async def status(self, _request: web.Request) -> web.Response:
        """The state of the process, what its data plane holds now, its routes and arms."""
        admin = self._admin
        ready = admin.readiness()
        routes = [asdict(one) for one in admin.engine.status()]
        head = admin.archive.audit_head
        own = {
            "load": admin.load(),
            "audit": None if head is None else {"links": head.seq, "head": str(head)},
            "routes": routes,
        }
        return _json({"state": ready.state, "notes": list(ready.notes), **ready.detail, **own})

    async def decisions(self, request: web.Request) -> web.Response:
        """The newest decisions (`?last=N`, at most 1,000)."""
        asked = request.query.get("last", "20")
        if not _NUMBER.fullmatch(asked):
            return _error(422, "last", f"`last` must be a whole number; {_MAX_ROWS} decisions are told at most.")
        last = min(int(asked), _MAX_ROWS)
        return _json(await self._read(lambda db, vault: queries.decisions(db, None, last, vault)))

    async def decision(self, request: web.Request) -> web.Response:
        """One decision by its id or by the provider's completion id."""
        found = await self._read(lambda db, vault: queries.find(db, request.match_info["id"], vault))
        return _json(found) if found is not None else _error(404, "unknown", "No decision has this id.")

    async def events(self, _request: web.Request) -> web.Response:
        """The newest events of the engine."""
        return _json(await self._read(lambda db, _vault: queries.events(db, 100)))

    async def audit(self, _request: web.Request) -> web.Response:
        """The newest lines of the audit: who changed what, when and why."""
        return _json(await self._read(lambda db, _vault: queries.audit(db, 100)))

    async def rollout(self, request: web.Request) -> web.Response:
        """Start, promote, pause, resume or roll back: `{"action": ..., "arm": ... for start, "why": ...}`.

        It is in force at once; `stored` says whether it would outlive the process (null: there is no database).
        """
        change = msgspec.json.decode(await request.read(), type=_Change)
        route, engine, now = request.match_info["route"], self._admin.engine, steady()
        verbs: dict[str, Callable[[], Sequence[Event]]] = {
            "start": lambda: engine.start_rollout(route, change.arm or "", now),
            "promote": lambda: engine.promote(route, now),
            "pause": lambda: engine.pause(route, now),
            "resume": lambda: engine.resume(route, now),
            "rollback": lambda: engine.rollback(route, now),
        }
        verb = verbs.get(change.action)
        if verb is None:
            return _error(422, "action", f"action must be one of {', '.join(verbs)}")
        events = verb()
        self._admin.on_events(events)
        self._note(request, f"rollout.{change.action}", route, {"arm": change.arm}, change.why)
        stored = await self._admin.archive.stored(_STORED_WITHIN_S)
        return _json({"events": [msgspec.to_builtins(event) for event in events], "stored": stored})

    async def cycle(self, request: web.Request) -> web.Response:
        """Run a lane of the control loop now: `{"lane": "guardrails" | "fast" | "main" | "deep"}`; what it changed."""
        asked = msgspec.json.decode(await request.read(), type=_Pass)
        events = self._admin.run_lane(asked.lane)
        self._admin.on_events(events)
        self._note(request, "cycle.run", asked.lane, {}, asked.why)
        return _json({"events": [msgspec.to_builtins(event) for event in events]})

    async def feedback(self, request: web.Request) -> web.StreamResponse:
        """The same as the traffic port's feedback endpoint."""
        answered: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

        def answer(status: int, body: bytes) -> None:
            if not answered.done():
                answered.set_result((status, body))

        self._admin.take_feedback(await request.read(), answer)
        status, body = await answered
        return web.Response(status=status, body=body, content_type="application/json")

    async def prune(self, request: web.Request) -> web.Response:
        """Delete the rows that the settings say are due, and give the space back: `{}`."""
        verb, wrong = await self._store_verb(request)
        if wrong is not None:
            return wrong
        await self._admin.archive.begin(_line(request, "prune.begun", "", {}, verb.why))
        gone = {"decisions": await self._admin.archive.prune()}
        self._note(request, "prune", "", gone, verb.why)
        return _json(gone)

    async def forget(self, request: web.Request) -> web.Response:
        """Erase every row of one sticky key: `{"key": HASH}`; `left` says what may lie on, if anything."""
        verb, wrong = await self._store_verb(request)
        if wrong is not None:
            return wrong
        key = key_of(verb.key)
        if key is None:
            return _error(422, "key", f"Give `key`, the sticky_key of the rows: {KEY_FORM}.")
        archive, engine = self._admin.archive, self._admin.engine
        self._admin.settle()  # else the newest calls would have their rows afterwards
        self._admin.forget(key)
        engine.free(key)
        archive.state(engine.snapshot())  # else the next one would bring it back
        erased, left = await archive.forget(verb.key, request[_CALLER].name, verb.why)
        return _json({"decisions": erased} | ({"left": left} if left else {}))

    async def encrypt(self, request: web.Request) -> web.Response:
        """Encrypt with the newest key what is not yet, or with an older one: `{}`; `key_id` refuses another key."""
        verb, wrong = await self._store_verb(request)
        if wrong is not None:
            return wrong
        self._admin.read_keys()
        archive = self._admin.archive
        if verb.key_id not in (None, archive.key_id):
            return _error(409, "key", f"Here the first key is {archive.key_id!a}, there {verb.key_id!a}.")
        require_key(archive.key_id)
        await archive.begin(_line(request, "encrypt.begun", "", {"key": archive.key_id}, verb.why))
        done = await archive.encrypt()
        found = {"values": done.sealed, "unreadable": done.unreadable}
        self._note(request, "encrypt", "", {"key": archive.key_id, **found}, verb.why)
        return _json(found)

    def _note(self, request: web.Request, action: str, target: str, detail: Mapping[str, object], why: str) -> None:
        self._admin.archive.audit(_line(request, action, target, detail, why))

    async def _store_verb(self, request: web.Request) -> tuple[_StoreVerb, web.Response | None]:
        verb = msgspec.json.decode(await request.read(), type=_StoreVerb)
        if verb.writer in (None, self._admin.archive.mark):
            return verb, None
        return verb, _error(409, "writer", "Another process than the one that answers here writes that database.")

    async def openapi(self, _request: web.Request) -> web.Response:
        """This API, described."""
        paths: dict[str, dict[str, object]] = {}
        for method, path, handler in self.routes():
            names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
            paths.setdefault(path, {})[method.lower()] = {
                "summary": (handler.__doc__ or "").strip(),
                "parameters": [
                    {"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in names
                ],
                "responses": {"200": {"description": "JSON"}},
                "security": [{"token": []}],
                "x-role": ACCESS[method, path].name,
            }
        schemes = {"token": {"type": "http", "scheme": "bearer"}}
        info = {"title": "llm-sidecar admin API", "version": __version__}
        return _json({"openapi": "3.1.0", "info": info, "paths": paths, "components": {"securitySchemes": schemes}})

    async def _read(self, query: Callable[[Path, Vault], object]) -> object:
        path = self._admin.settings.db
        if path is None:
            raise StoreError("there is no database: set SIDECAR_DB")
        return await self._admin.archive.read(lambda vault: query(path, vault))


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(
        status=status, body=orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS), content_type="application/json"
    )


def _error(status: int, code: str, message: str) -> web.Response:
    return _json({"error": {"code": code, "message": message}}, status)
