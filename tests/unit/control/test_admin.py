"""The admin port: who may come in, what can be seen and changed, and that each change leaves a line in the audit."""

import json
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidecar.clock import monotonic, steady, wall
from sidecar.config.policy import load_policies
from sidecar.config.settings import Settings
from sidecar.control.access import ensure_token, token_file
from sidecar.control.admin import Admin, admin_app
from sidecar.control.archive import Archive
from sidecar.control.feedback import FeedbackDesk
from sidecar.control.health import Readiness
from sidecar.control.security import Security
from sidecar.core.engine import Engine
from sidecar.core.policy import NO_POLICY
from sidecar.core.sticky import Binding, salt_of
from sidecar.core.types import Event, Feedback
from sidecar.errors import ConfigError
from sidecar.store import queries
from sidecar.store.database import open_reader, open_writer
from sidecar.tasks import Tasks
from tests.fixtures.guards import key_file
from tests.fixtures.policies import SUPPORT
from tests.fixtures.settled import as_rows, settled

GOOD = {"Host": "localhost:9092"}


class Plane:
    """An admin application with a real engine, desk and store behind it."""

    def __init__(self, folder: Path, *more: str, db: bool = True) -> None:
        (folder / "policies").mkdir()
        (folder / "policies" / "bot.yaml").write_text(SUPPORT)
        settings = [f"db={folder / 'store' / 'sidecar.db'}"] if db else []
        self.settings = Settings.load({}, None, ["service=bot", *settings, *more])
        loaded = load_policies(folder / "policies", "bot", {}, self.settings)
        self.engine = Engine(loaded.policy, np.random.default_rng(1), steady())
        self.security = Security(self.settings, steady())
        self.archive = Archive(self.settings, self.security.keys)
        self.events: list[Event] = []
        self.desk = FeedbackDesk(
            self.engine.feedback, self.archive.feedback, self.archive.look_up, self._spawn, self.events.extend
        )
        self.admin = Admin(
            self.settings,
            self.engine,
            self.desk.handle,
            self.archive,
            self.events.extend,
            lambda: Readiness(True, "serving"),
            read_keys=self.security.read_keys,
        )
        self._tasks = Tasks(lambda _name, _error: None)
        self.token = ensure_token(self.settings)
        self.headers = {"Authorization": f"Bearer {self.token}", **GOOD}
        self.client: Any = None

    def _spawn(self, make: Callable[[], Coroutine[object, object, None]]) -> None:
        self._tasks.spawn(make(), "feedback")

    async def get(self, path: str, **headers: str) -> Any:
        return await self.client.get(path, headers=self.headers | headers)

    async def post(self, path: str, body: object, **headers: str) -> Any:
        sent = self.headers | {"Content-Type": "application/json"} | headers
        return await self.client.post(path, data=body if isinstance(body, bytes) else json.dumps(body), headers=sent)

    async def rollout(self, action: str, **more: object) -> Any:
        return await self.post("/api/v1/routes/support/rollout", {"action": action, **more})


@pytest.fixture
async def plane(tmp_path: Path, aiohttp_client: Any) -> AsyncIterator[Plane]:
    one = Plane(tmp_path)
    await one.archive.open(one.engine)
    one.client = await aiohttp_client(admin_app(one.admin))
    yield one
    one.archive.close(5)


# ---- who may come in


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "[::1]:9092"}, 200),
        ({"Host": "LOCALHOST:1"}, 200),
        ({"Host": "evil.example"}, 421),
        ({"Host": "localhost.evil.example"}, 421),
        ({"Host": "[::2]:9092"}, 421),
        ({"Host": ""}, 421),
        ({"Origin": "http://localhost:9092"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 403),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": "Basic abc"}, 401),
    ],
)
async def test_the_guard(plane: Plane, headers: dict[str, str], status: int) -> None:
    """A local name, no web page, the token: each is needed, and none of the answers allows other origins."""
    answer = await plane.get("/api/v1/status", **headers)
    assert answer.status == status
    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
    if status != 200:
        assert (await answer.json())["error"]["message"]


async def test_changes_need_json(plane: Plane) -> None:
    """A form, which any web page can send, is 415; GET changes nothing."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await plane.post("/api/v1/routes/support/rollout", b"action=promote", **form)
    assert answer.status == 415
    assert (await plane.get("/api/v1/routes/support/rollout")).status == 405
    assert plane.events == []


async def test_large_bodies_are_refused(plane: Plane) -> None:
    """16 KiB are enough for everything here."""
    assert (await plane.post("/api/v1/routes/support/rollout", b"x" * 20_000)).status == 413


def test_the_token_is_made_once_and_private(tmp_path: Path) -> None:
    """0600, beside the database; a second start reads the same one."""
    settings = Settings.load({}, None, [f"db={tmp_path / 'store' / 'sidecar.db'}"])
    token = ensure_token(settings)
    assert token is not None
    assert len(token) >= 32
    assert ensure_token(settings) == token
    file = token_file(settings)
    assert file is not None
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_without_a_token_all_is_refused(tmp_path: Path, aiohttp_client: Any) -> None:
    """No database and no token file, an empty file, and no place to make one: 401, never a crash."""
    assert ensure_token(Settings.load({}, None, [])) is None
    empty = tmp_path / "token"
    empty.write_text("\n")
    assert ensure_token(Settings.load({}, None, [f"admin_token_file={empty}"])) is None
    assert ensure_token(Settings.load({}, None, [f"db={empty / 'below-a-file' / 'sidecar.db'}"])) is None
    one = Plane(tmp_path, db=False)
    client = await aiohttp_client(admin_app(one.admin))
    for given in ("Bearer None", "Bearer ", ""):
        assert (await client.get("/api/v1/status", headers={"Authorization": given, **GOOD})).status == 401


def test_a_configured_token_file(tmp_path: Path) -> None:
    """It is read, never made; one that cannot be read is an error of configuration that names it."""
    file = tmp_path / "token"
    settings = Settings.load({}, None, [f"admin_token_file={file}"])
    with pytest.raises(ConfigError, match="admin_token_file"):
        ensure_token(settings)
    file.write_bytes("tökén".encode("latin-1"))
    with pytest.raises(ConfigError, match="ASCII"):
        ensure_token(settings)
    file.write_text("  the-token\n")
    assert ensure_token(settings) == "the-token"


# ---- what can be seen


async def test_status(plane: Plane) -> None:
    """State, routes, arms and rollouts."""
    told = await (await plane.get("/api/v1/status")).json()
    assert told["state"] == "serving"
    (route,) = told["routes"]
    assert [arm["id"] for arm in route["arms"]] == ["gpt-4o", "mini"]
    assert [one["step"] for one in route["rollouts"]] == [5]


async def test_decisions(plane: Plane) -> None:
    """The newest first, `last` bounded and never trusted; one by its id or its completion id; 404 for none."""
    batch = [settled(number, at=wall() + number) for number in range(30)]
    plane.archive.put(as_rows(batch, "bot"))
    assert plane.archive.writer is not None
    end = monotonic() + 5
    while plane.archive.writer.rows_written < 30 and monotonic() < end:
        await plane.archive.read(lambda _vault: None)
    for odd in ("", "-1", "x", "²", "٣", "+3", "9" * 5000):
        refused = await plane.get(f"/api/v1/decisions?last={odd}")
        assert (refused.status, (await refused.json())["error"]["code"]) == (422, "last")
    for query, count in (("", 20), ("?last=3", 3), ("?last=9999999", 30)):
        rows = await (await plane.get(f"/api/v1/decisions{query}")).json()
        assert len(rows) == count
        assert rows[0]["id"] == batch[-1].id
    for key in (batch[3].id, "chatcmpl-3"):
        assert (await (await plane.get(f"/api/v1/decisions/{key}")).json())["id"] == batch[3].id
    assert (await plane.get("/api/v1/decisions/none")).status == 404
    plane.archive.events([Event(kind="seen", message="m")])
    while not (events := await (await plane.get("/api/v1/events")).json()) and monotonic() < end:
        pass
    assert [event["kind"] for event in events] == ["seen"]


async def test_reading_without_a_database(tmp_path: Path, aiohttp_client: Any) -> None:
    """503 and what to set; the same when the file cannot be read."""
    token = tmp_path / "token"
    token.write_text("t")
    one = Plane(tmp_path, db=False)
    settings = Settings.load({}, None, [f"admin_token_file={token}"])
    client = await aiohttp_client(
        admin_app(Admin(settings, one.engine, one.desk.handle, one.archive, one.admin.on_events, one.admin.readiness))
    )
    answer = await client.get("/api/v1/decisions", headers={"Authorization": "Bearer t", **GOOD})
    assert answer.status == 503
    assert "SIDECAR_DB" in await answer.text()


async def test_openapi_describes_every_route(plane: Plane) -> None:
    """Each path and verb that is served, with a summary; path parameters are declared."""
    told = await (await plane.get("/openapi.json")).json()
    served = {
        (route.resource.canonical, route.method.lower())
        for route in plane.client.app.router.routes()
        if route.method != "HEAD"
    }
    assert {(path, verb) for path, verbs in told["paths"].items() for verb in verbs} == served
    verbs = [verb for verbs in told["paths"].values() for verb in verbs.values()]
    assert all(verb["summary"] for verb in verbs)
    assert told["paths"]["/api/v1/decisions/{id}"]["get"]["parameters"][0]["name"] == "id"
    assert told["openapi"].startswith("3.")


# ---- what can be changed


async def test_rollout_verbs(plane: Plane) -> None:
    """Each verb acts, its events are told, and the audit table says who did what; wrong ones are 409 or 422."""
    assert (await plane.rollout("pause")).status == 200
    assert (await plane.rollout("pause")).status == 409
    assert (await plane.rollout("resume")).status == 200
    promoted = await (await plane.rollout("promote")).json()
    assert [event["kind"] for event in promoted["events"]] == [event.kind for event in plane.events[-1:]]
    assert (await plane.rollout("rollback")).status == 200
    assert (await plane.rollout("start", arm="mini")).status == 200
    assert (await plane.rollout("start", arm="nobody")).status == 409
    assert (await plane.rollout("start")).status == 409
    assert (await plane.post("/api/v1/routes/nowhere/rollout", {"action": "pause"})).status == 409
    assert (await plane.rollout("explode")).status == 422
    for body in (b"", b"[]", b'{"action": 1}', b'{"action": "pause", "more": 1}'):
        assert (await plane.post("/api/v1/routes/support/rollout", body)).status == 422
    plane.archive.close(5)
    assert plane.settings.db is not None
    with closing(open_reader(plane.settings.db)) as connection:
        lines = connection.execute("SELECT actor, action, target FROM audit ORDER BY id").fetchall()
    actions = [line["action"] for line in lines]
    assert actions == [f"rollout.{verb}" for verb in ("pause", "resume", "promote", "rollback", "start")]
    assert {(line["actor"], line["target"]) for line in lines} == {("admin", "support")}


async def test_prune_and_forget(plane: Plane) -> None:
    """INC-31: done by the process's own writer, rows that wait included, in steps; the audit has a line without the key."""
    plane.archive.put(as_rows([settled(number, at=wall(), key=number % 2) for number in range(2500)], "bot"))
    told = await plane.post("/api/v1/store/forget", {"key": f"{1:016x}", "writer": plane.archive.mark})
    assert await told.json() == {"decisions": 1250}
    assert await (await plane.post("/api/v1/store/forget", {"key": f"{1:016x}"})).json() == {"decisions": 0}
    assert await (await plane.post("/api/v1/store/prune", {})).json() == {"decisions": 0}
    plane.archive.put(as_rows([settled(9000 + number, at=wall() - 8 * 86400) for number in range(1200)], "bot"))
    assert await (await plane.post("/api/v1/store/prune", {})).json() == {"decisions": 1200}
    assert plane.settings.db is not None
    with closing(open_reader(plane.settings.db)) as connection:
        assert connection.execute("SELECT count(*) FROM decisions").fetchone()[0] == 1250
        lines = connection.execute(
            "SELECT service, actor, action, detail FROM audit WHERE action NOT GLOB 'prune*'"
        ).fetchall()
    assert [tuple(line) for line in lines] == [
        ("bot", "admin", "forget", '{"decisions":1000}'),
        ("bot", "admin", "forget", '{"decisions":250}'),
        ("bot", "admin", "forget", '{"decisions":0}'),
    ]


async def test_forgetting_reaches_what_was_learnt(plane: Plane) -> None:
    """The engine's conversation and the stored one: the next snapshot does not bring it back."""
    salted = 7 ^ salt_of("support")
    plane.engine._sticky.bind(salted, Binding("support/mini", "mini", 1.0, 0))
    plane.archive.state(plane.engine.snapshot())
    assert (await plane.post("/api/v1/store/forget", {"key": f"{7:016x}"})).status == 200
    assert str(salted).encode() not in plane.engine.snapshot()
    assert plane.settings.db is not None
    stored = queries.load_state(plane.settings.db, "bot")
    assert stored is not None
    assert str(salted).encode() not in stored


async def test_what_may_lie_on_is_told(plane: Plane) -> None:
    """A state that is none cannot be searched for the key."""
    assert plane.settings.db is not None
    with closing(open_writer(plane.settings.db)) as connection:
        connection.execute("INSERT INTO arms (service, route, arm, state) VALUES ('other', '*', '*', 'torn')")
    told = await (await plane.post("/api/v1/store/forget", {"key": f"{7:016x}"})).json()
    assert (told["decisions"], told["left"][0].partition(" and")[0]) == (0, "1 of the stored states cannot be read,")


async def test_what_is_refused_did_not_begin(plane: Plane) -> None:
    """Neither is it told later, when the file can be written again."""
    assert plane.settings.db is not None
    assert await plane.archive.stored(5)
    with closing(sqlite3.connect(plane.settings.db, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert (await plane.post("/api/v1/store/prune", {})).status == 503
    assert (await plane.post("/api/v1/store/encrypt", {})).status == 503
    assert await plane.archive.stored(5)
    assert queries.audit(plane.settings.db) == []


async def test_what_is_not_erased(plane: Plane) -> None:
    """Without a key, with another writer's mark, with an unknown key of the body, by GET, when the file is out of use."""
    assert (await plane.post("/api/v1/store/forget", {})).status == 422
    assert (await plane.post("/api/v1/store/forget", {"kee": "x"})).status == 422
    for key in ("anna", "0" * 16, "00000000000000FF"):  # nobody's: 0 rows would be taken for a person without any
        answer = await plane.post("/api/v1/store/forget", {"key": key})
        assert (answer.status, "16 digits" in await answer.text()) == (422, True)
    assert (await plane.post("/api/v1/store/prune", b"")).status == 422
    for verb in ("prune", "forget"):
        assert (await plane.post(f"/api/v1/store/{verb}", {"key": "x", "writer": "other"})).status == 409
        assert (await plane.get(f"/api/v1/store/{verb}")).status == 405
    plane.archive.close(5)
    assert (await plane.post("/api/v1/store/prune", {})).status == 503


async def test_encrypting_begins_with_the_key_that_lies_there_now(tmp_path: Path, aiohttp_client: Any) -> None:
    """SEC-PRIVACY: a key that was put first just now is the one that is used; another one than the caller's, or a file that
    cannot be used, changes nothing."""
    keys = key_file(tmp_path / "keys", "f1")
    one = Plane(tmp_path, f"encryption_key_file={keys}", f"salt_file={keys}")
    await one.archive.open(one.engine)
    one.client = await aiohttp_client(admin_app(one.admin))
    call = settled(1, at=wall())
    one.archive.put(as_rows([call], "bot"))
    one.archive.feedback(Feedback(decision_id=call.id, route="support", arm="mini", score=1.0, label="anna"), wall())
    assert await one.archive.stored(5)
    key_file(keys, "f2", "f1")
    assert await (await one.post("/api/v1/store/encrypt", {"key_id": "f2"})).json() == {"values": 1, "unreadable": 0}
    answer = await one.post("/api/v1/store/encrypt", {"key_id": "f3"})
    assert (answer.status, "'f2'" in await answer.text()) == (409, True)
    keys.write_text("f3 short\n")
    answer = await one.post("/api/v1/store/encrypt", {})
    assert (answer.status, "encryption_key_file" in await answer.text()) == (503, True)
    one.archive.close(5)
    assert one.settings.db is not None
    with closing(open_reader(one.settings.db)) as connection:
        (label,) = connection.execute("SELECT label FROM feedback").fetchone()
    assert label.startswith("sealed:1.f2.")


async def test_feedback(plane: Plane) -> None:
    """As on the traffic port: decisions in memory, and others looked for in the database."""
    one = settled(1, at=wall())
    plane.desk.remember([one])
    assert (await plane.post("/api/v1/feedback", {"id": one.id, "score": 1})).status == 202
    assert (await plane.post("/api/v1/feedback", {"id": one.id, "score": 2})).status == 422
    assert (await plane.post("/api/v1/feedback", {"id": "unknown", "score": 1})).status == 404


def test_no_policy_is_no_error(tmp_path: Path) -> None:
    """Without routes there is nothing to steer, and the status says so."""
    one = Plane(tmp_path)
    one.engine.apply(NO_POLICY, steady())
    assert one.engine.status() == []


async def test_a_lane_runs_on_demand(tmp_path: Path, aiohttp_client: Any) -> None:
    """The answer says what it changed, and the events are told like any other."""
    one, ran = Plane(tmp_path), list[str]()

    def run(lane: str) -> list[Event]:
        ran.append(lane)
        return [Event(kind="change.applied", route="support")]

    one.client = await aiohttp_client(admin_app(replace(one.admin, run_lane=run)))
    answer = await one.post("/api/v1/cycle", {"lane": "deep"})
    assert [event["kind"] for event in (await answer.json())["events"]] == ["change.applied"]
    assert [event.kind for event in one.events] == ["change.applied"]
    assert (await one.post("/api/v1/cycle", {})).status == 200
    assert ran == ["deep", "main"]
    assert (await one.post("/api/v1/cycle", {"lane": "slow"})).status == 422
    assert (await one.post("/api/v1/cycle", b'{"lane": "\xff"}')).status == 422
    assert list(one.admin.run_lane("main")) == []
