"""The injector as it serves: real TLS, real replicas, and a simulated API server (tests/fixtures/apiserver.py)."""

import asyncio
import base64
import contextlib
import io
import os
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import structlog
import trustme
from aiohttp.test_utils import TestClient, TestServer

from sidecar.clock import wall
from sidecar.errors import ConfigError
from sidecar.inject import server as server_module
from sidecar.inject.certificates import Lifetimes, begin, trusts
from sidecar.inject.cluster import Name, names_of
from sidecar.inject.lookups import Lookups
from sidecar.inject.options import Defaults
from sidecar.inject.rotation import Timing
from sidecar.inject.server import Reviews
from sidecar.injector import Injector, Plan
from sidecar.tasks import Tasks
from sidecar.telemetry.catalogue import CATALOGUE
from tests.fixtures import pods
from tests.fixtures.apiserver import HOST, NAMESPACE, SECRET, SERVICE, WEBHOOK, ApiServer, Caller

WAIT_S = 10.0
ROUND_S = 0.05  # between two looks at Secret and webhook; ten seconds in life


class Time:
    """A clock that runs like the machine's and can be put forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return wall() + self.ahead_s


class Cluster:
    """A simulated cluster with as many injectors as a test starts, and a caller."""

    def __init__(self, api: ApiServer, caller: Caller, folder: Path) -> None:
        self.api, self.caller, self.folder = api, caller, folder
        self.config = folder / "config.yaml"
        self.config.write_text("image: llm-sidecar:first\n")
        self.time = Time()
        self.times = Lifetimes(settle_s=0.0)
        self.stack = contextlib.AsyncExitStack()
        self.tasks: dict[Injector, asyncio.Task[int]] = {}

    def plan(self, **more: Any) -> Plan:
        own = {"secret": Name(NAMESPACE, SECRET), "webhook": WEBHOOK} if "tls_dir" not in more else {}
        here = ("127.0.0.1", 0)
        quick = {"drain_idle_s": 0.3, "drain_s": 3.0, "account": self.api.account}
        return Plan(config=self.config, listen=(here,), health_listen=(here,), **(own | quick | more))

    async def begin(self, *, jitter: float = 0.0, environ: dict[str, str] | None = None, **more: Any) -> Injector:
        """One more replica; it is ended with the test."""
        timing = Timing(times=self.times, every_s=ROUND_S, jitter=jitter, wall=self.time, monotonic=self.time)
        injector = Injector(self.plan(**more), self.api.environ if environ is None else environ, timing)
        up: asyncio.Future[Injector] = asyncio.get_running_loop().create_future()
        task = asyncio.get_running_loop().create_task(injector.run(up.set_result))
        self.tasks[injector] = task
        self.stack.push_async_callback(ended, injector, task)
        await asyncio.wait({task, up}, timeout=WAIT_S, return_when="FIRST_COMPLETED")
        if task.done():
            task.result()
        return injector

    async def ready(self, *injectors: Injector) -> None:
        await until(lambda: all(one.readiness().ready for one in injectors))

    async def ask(self, injector: Injector, body: bytes | None = None, **more: Any) -> tuple[int, dict[str, Any]]:
        return await self.caller.ask(injector.ports["webhook"][0], REVIEW if body is None else body, **more)


async def ended(injector: Injector, task: "asyncio.Task[int]") -> None:
    injector.stop()
    injector.stop()
    async with asyncio.timeout(WAIT_S):
        assert await task == 0


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not true():  # noqa: ASYNC110 - what is waited for happens in the product, which tells no test of it
            await asyncio.sleep(0.01)


async def health(injector: Injector, path: str) -> tuple[int, str]:
    url = f"http://127.0.0.1:{injector.ports['health'][0]}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with ApiServer(tmp_path) as api, Caller(api) as caller:
        made = Cluster(api, caller, tmp_path)
        async with made.stack:
            yield made


@pytest.fixture
def events() -> list[dict[str, Any]]:
    """What is logged."""
    told: list[dict[str, Any]] = []

    def keep(_logger: object, _method: str, event: Any) -> Any:
        told.append(dict(event))
        raise structlog.DropEvent

    structlog.configure(processors=[keep])
    return told


REVIEW = pods.body(pods.pod())


def patched(told: dict[str, Any]) -> dict[str, Any]:
    """The sidecar that an answer puts in."""
    response = told["response"]
    assert response["allowed"] is True
    operations = orjson.loads(base64.b64decode(response["patch"]))
    return next(one for one in found(operations) if one.get("name") == "llm-sidecar" and "image" in one)


def found(part: Any) -> Any:
    """Every object in a patch."""
    if isinstance(part, dict):
        yield part
        for value in part.values():
            yield from found(value)
    elif isinstance(part, list):
        for value in part:
            yield from found(value)


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in container["env"]}


# ---- certificates of its own


async def test_two_replicas_that_start_at_once_share_one_secret(cluster: Cluster) -> None:
    """GW-52: one wins, the other uses what it made; the webhook trusts it and keeps all else that it had."""
    cluster.api.gate = asyncio.Barrier(2)
    one, two = await asyncio.gather(cluster.begin(), cluster.begin())
    await cluster.ready(one, two)
    assert cluster.api.asked("POST /api/v1/namespaces") == 2, "both saw that there was none"
    assert cluster.api.secret is not None
    assert cluster.api.secret["type"] == "kubernetes.io/tls"
    assert set(cluster.api.secret["data"]) == {"tls.crt", "tls.key", "ca.crt", "ca.key"}
    assert one.served.facts == two.served.facts
    assert cluster.api.bundles == [cluster.api.entry("ca.crt")] * 2
    assert cluster.api.webhook is not None
    assert cluster.api.webhook["webhooks"][0]["rules"] == ["kept as they are"]
    for injector in (one, two):
        status, told = await cluster.ask(injector)
        assert (status, patched(told)["image"]) == (200, "llm-sidecar:first")


async def test_who_is_refused_because_somebody_was_quicker_looks_again(cluster: Cluster) -> None:
    """Twice at the Secret and once at the webhook; never by writing over what it has not seen."""
    cluster.api.secret = {"metadata": {"name": SECRET, "resourceVersion": "1"}, "type": "Opaque"}
    cluster.api.interlopers = 3
    injector = await cluster.begin()
    await cluster.ready(injector)
    assert (cluster.api.asked("PUT"), cluster.api.asked("PATCH")) in ((4, 1), (3, 2))
    assert (await cluster.ask(injector))[0] == 200


async def test_who_is_always_refused_says_so_and_goes_on_trying(cluster: Cluster) -> None:
    cluster.api.interlopers = 10**9
    injector = await cluster.begin()
    await until(lambda: any("others change them all the time" in note for note in injector.readiness().notes))
    cluster.api.interlopers = 0
    await cluster.ready(injector)


async def test_a_webhook_that_calls_no_service_is_told(cluster: Cluster) -> None:
    """Nobody knows by which name it should be trusted."""
    assert cluster.api.webhook is not None
    hooks = cluster.api.webhook["webhooks"]
    cluster.api.webhook["webhooks"] = [{"name": "x", "clientConfig": {"url": "https://elsewhere.example.com/mutate"}}]
    injector = await cluster.begin()
    await until(lambda: any("calls no Service" in note for note in injector.readiness().notes))
    assert cluster.api.secret is None
    cluster.api.webhook["webhooks"] = hooks
    await cluster.ready(injector)


async def test_a_restart_uses_the_certificate_that_is_there(cluster: Cluster) -> None:
    first = await cluster.begin()
    await cluster.ready(first)
    kept = cluster.api.entry("tls.crt")
    second = await cluster.begin()
    await cluster.ready(second)
    assert cluster.api.entry("tls.crt") == kept
    assert (cluster.api.asked("PUT"), cluster.api.asked("PATCH")) == (0, 1)


async def test_an_api_server_that_is_away_at_the_start_only_delays_it(
    cluster: Cluster, events: list[dict[str, Any]]
) -> None:
    """Alive, not ready, saying why; ready as soon as it can be. One line for the trouble, not one for each try."""
    cluster.api.down = True
    injector = await cluster.begin()
    await until(lambda: cluster.api.asked("mutatingwebhook") >= 3)
    assert (await health(injector, "/health"))[0] == 200
    status, told = await health(injector, "/ready")
    assert status == 503
    assert "503 ServiceUnavailable" in told
    with pytest.raises(aiohttp.ClientError):
        await cluster.caller.ask(injector.ports["webhook"][0], REVIEW, bundle=begin(["x"], wall(), Lifetimes()).bundle)
    assert len([one for one in events if one.get("what") == "certificates"]) == 1
    cluster.api.down = False
    await cluster.ready(injector)
    assert (await health(injector, "/ready"))[0] == 200
    assert (await cluster.ask(injector))[0] == 200


async def test_an_api_server_with_a_strangers_certificate_is_told_no_token(cluster: Cluster) -> None:
    """And the authority's file is read again: it rotates too."""
    trustme.CA().cert_pem.write_to_path(cluster.api.account / "ca.crt")
    injector = await cluster.begin()
    await until(lambda: any("not of the authority in ca.crt" in note for note in injector.readiness().notes))
    assert cluster.api.calls == []
    cluster.api.let_in()
    await cluster.ready(injector)


async def test_a_webhook_that_is_installed_later_is_waited_for(cluster: Cluster) -> None:
    """And no Secret is made for it meanwhile: nobody knows its names."""
    cluster.api.webhook, kept = None, cluster.api.webhook
    injector = await cluster.begin()
    await until(lambda: cluster.api.asked("mutatingwebhook") >= 2)
    assert not injector.readiness().ready
    assert cluster.api.secret is None
    cluster.api.webhook = kept
    await cluster.ready(injector)


@pytest.mark.parametrize("text", ["", "Cg==", base64.b64encode(b"another").decode()])
async def test_a_bundle_that_somebody_overwrites_is_put_back(cluster: Cluster, text: str) -> None:
    """`helm upgrade` does that. A look each ten seconds in life, so within thirty."""
    injector = await cluster.begin()
    await cluster.ready(injector)
    cluster.api.set_bundle(text)
    await until(lambda: cluster.api.bundles == [cluster.api.entry("ca.crt")] * 2)
    assert (await cluster.ask(injector))[0] == 200
    assert Timing().every_s <= 15


async def test_a_secret_of_rubbish_is_replaced_and_told(cluster: Cluster, events: list[dict[str, Any]]) -> None:
    """Its type and its labels stay: the first cannot be changed, the second are other people's."""
    cluster.api.secret = {
        "metadata": {"name": SECRET, "resourceVersion": "1", "labels": {"of": "helm"}},
        "type": "Opaque",
        "data": {"tls.crt": "cnViYmlzaA==", "tls.key": "%%%", "other": "a2VwdA=="},
    }
    injector = await cluster.begin()
    await cluster.ready(injector)
    assert (cluster.api.secret["type"], cluster.api.secret["metadata"]["labels"]) == ("Opaque", {"of": "helm"})
    assert cluster.api.entry("other") == b"kept"
    told = next(one for one in events if one["event"] == "inject.secret")
    assert len([one for one in events if one["event"] == "inject.secret"]) == 1
    assert told["note"] == "is replaced: tls.key, ca.crt, ca.key missing or empty"
    assert (await cluster.ask(injector))[0] == 200


async def test_the_empty_secret_of_an_installation_is_filled(cluster: Cluster, events: list[dict[str, Any]]) -> None:
    """As the chart makes it, so that the injector needs no right to make Secrets; that is no trouble and told as none."""
    cluster.api.secret = {"metadata": {"name": SECRET, "resourceVersion": "1"}, "type": "Opaque"}
    injector = await cluster.begin()
    await cluster.ready(injector)
    assert (await cluster.ask(injector))[0] == 200
    assert cluster.api.asked("POST") == 0
    assert [one for one in events if one["event"] in ("inject.secret", "inject.trouble")] == []


@pytest.mark.parametrize("spoil", [None, {"tls.crt": "", "tls.key": "", "ca.crt": "", "ca.key": ""}])
async def test_a_secret_that_is_lost_while_serving_fails_no_review(
    cluster: Cluster, spoil: dict[str, str] | None
) -> None:
    """A new authority is trusted before its leaf is served, and the old one as long as its leaf may be."""
    cluster.times = Lifetimes(settle_s=100.0)
    one, two = await asyncio.gather(cluster.begin(), cluster.begin())
    await cluster.ready(one, two)
    leaf, bundle = cluster.api.entry("tls.crt"), cluster.api.entry("ca.crt")
    if spoil is None or cluster.api.secret is None:
        cluster.api.secret = None
    else:
        cluster.api.secret["data"] = spoil
        cluster.api.secret["metadata"]["resourceVersion"] = "spoilt"
    await until(lambda: cluster.api.secret is not None and len(cluster.api.entry("ca.crt")) > 1.5 * len(bundle))
    await until(lambda: cluster.api.bundles == [cluster.api.entry("ca.crt")] * 2)
    assert cluster.api.entry("tls.crt") == leaf
    for injector in (one, two):
        assert (await cluster.ask(injector))[0] == 200
        assert (await cluster.ask(injector, bundle=bundle))[0] == 200, "an API server that has not heard yet"
    cluster.time.ahead_s += 101
    await until(lambda: cluster.api.entry("tls.crt") != leaf)
    assert not trusts(bundle, cluster.api.entry("tls.crt"))
    await until(lambda: one.served.rotations == two.served.rotations == 1)
    for injector in (one, two):
        assert (await cluster.ask(injector))[0] == 200


async def test_certificates_rotate_under_load_without_a_failed_review(cluster: Cluster) -> None:
    """GW-52: two replicas, leaves of 30 s and authorities of 200 s on a clock that runs ahead. New connections, kept ones,
    strict clients that trust the caBundle of the moment and nothing else. No leaf comes before its authority's bundle."""
    cluster.times = Lifetimes(leaf_s=30.0, authority_s=200.0, settle_s=2.0)
    early: list[str] = []

    def told(data: dict[str, bytes]) -> None:
        if cluster.api.bundles[0] and not trusts(cluster.api.bundles[0], data["tls.crt"]):
            early.append("a leaf was written that the webhook does not trust yet")

    cluster.api.on_secret = told
    injectors = await asyncio.gather(cluster.begin(jitter=-0.05), cluster.begin(jitter=0.05))
    await cluster.ready(*injectors)
    first = cluster.api.entry("ca.crt")
    over, answered, failed = False, 0, list[str]()

    async def load(caller: Caller, injector: Injector) -> None:
        nonlocal answered
        while not over:
            try:
                status, answer = await caller.ask(injector.ports["webhook"][0], REVIEW)
            except (aiohttp.ClientError, TimeoutError) as error:
                failed.append(repr(error))
                continue
            assert status == 200
            assert patched(answer)["name"] == "llm-sidecar"
            answered += 1

    async with Caller(cluster.api, kept=False) as anew:
        loads = [load(caller, one) for caller in (cluster.caller, anew) for one in injectors for _ in range(2)]
        async with asyncio.TaskGroup() as group:
            for one in loads:
                group.create_task(one)
            for _ in range(55):
                cluster.time.ahead_s += 4
                await asyncio.sleep(2 * ROUND_S)
            over = True
    assert (failed, early) == ([], [])
    assert answered > 200
    assert all(one.served.rotations >= 5 for one in injectors)
    assert cluster.api.entry("ca.crt") != first, "the authority changed too"


async def test_certificates_speak_of_their_age(cluster: Cluster) -> None:
    """Each metric of the catalogue is exposed, and the times are those of the certificate."""
    injector = await cluster.begin()
    await cluster.ready(injector)
    await cluster.ask(injector)
    _, text = await health(injector, "/metrics")
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(lines["llm_sidecar_inject_certificate_age_seconds"]) == pytest.approx(3600, abs=30)
    expiry = float(lines["llm_sidecar_inject_certificate_expiry_timestamp_seconds"])
    assert expiry == pytest.approx(wall() + 90 * 86400, abs=30)
    assert float(lines["llm_sidecar_inject_ca_expiry_timestamp_seconds"]) == pytest.approx(
        wall() + 3650 * 86400, abs=30
    )
    assert lines['llm_sidecar_inject_reviews_total{result="injected"}'] == "1.0"
    assert lines['llm_sidecar_inject_reviews_total{result="refused"}'] == "0.0"
    assert lines['llm_sidecar_inject_cluster_errors_total{call="owner"}'] == "0.0"
    assert lines["llm_sidecar_inject_rotations_total"] == "0.0"
    assert lines["llm_sidecar_inject_review_seconds_count"] == "1.0"
    for metric in CATALOGUE:
        if metric.name.startswith("inject_"):
            kind = f"# TYPE {metric.full_name} {metric.kind}"
            assert kind in text


# ---- mounted certificates


def mount(folder: Path, number: int, authority: trustme.CA) -> None:
    """As the kubelet does: a new folder, then one symlink that is moved over."""
    new = folder / f"..{number}"
    new.mkdir()
    made = authority.issue_cert(HOST)
    made.cert_chain_pems[0].write_to_path(new / "tls.crt")
    made.private_key_pem.write_to_path(new / "tls.key")
    authority.cert_pem.write_to_path(new / "ca.crt")
    point(folder, new.name)


def point(folder: Path, name: str) -> None:
    (folder / "..next").symlink_to(name)
    os.replace(folder / "..next", folder / "..data")
    for entry in ("tls.crt", "tls.key", "ca.crt"):
        if not (folder / entry).is_symlink():
            (folder / entry).symlink_to(f"..data/{entry}")


async def test_mounted_certificates_are_read_again_when_the_mount_changes(cluster: Cluster, tmp_path: Path) -> None:
    """What cannot be used is told and changes nothing; the webhook is left to whoever made them."""
    folder, authority = tmp_path / "tls", trustme.CA()
    folder.mkdir()
    trusted = authority.cert_pem.bytes()
    mount(folder, 1, authority)
    injector = await cluster.begin(tls_dir=folder)
    injector._certificates.every_s = ROUND_S
    await cluster.ready(injector)
    assert (await cluster.ask(injector, bundle=trusted))[0] == 200
    mount(folder, 2, authority)
    await until(lambda: injector.served.rotations == 1)
    assert (await cluster.ask(injector, bundle=trusted))[0] == 200
    (folder / "..3").mkdir()
    (folder / "..3" / "tls.crt").write_bytes((folder / "..1" / "tls.crt").read_bytes())
    (folder / "..3" / "tls.key").write_bytes((folder / "..2" / "tls.key").read_bytes())
    point(folder, "..3")
    await until(lambda: any("cannot be served" in note for note in injector.readiness().notes))
    assert (await health(injector, "/ready"))[0] == 200
    assert (await cluster.ask(injector, bundle=trusted))[0] == 200
    assert injector.served.rotations == 1
    assert cluster.api.asked("secrets") == cluster.api.asked("mutatingwebhook") == 0


async def test_mounted_certificates_may_come_later_and_need_no_cluster(cluster: Cluster, tmp_path: Path) -> None:
    """cert-manager writes its Secret when it comes to it; without an API server the plain way is taken, and told."""
    folder, authority = tmp_path / "tls", trustme.CA()
    injector = await cluster.begin(tls_dir=folder, environ={})
    await until(lambda: any("tls.crt" in note for note in injector.readiness().notes))
    assert not injector.readiness().ready
    folder.mkdir()
    mount(folder, 1, authority)
    await cluster.ready(injector)
    _, told = await cluster.ask(injector, bundle=authority.cert_pem.bytes())
    assert "restartPolicy" not in patched(told)


# ---- reviews


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"method": "GET"}, 405),
        ({"path": "/"}, 404),
        ({"path": "/mutate/x"}, 404),
        ({"body": b""}, 400),
        ({"body": b"{"}, 400),
        ({"body": b"\xff\x00" * 100}, 400),
        ({"body": b"[]"}, 400),
        ({"body": b'{"request":{}}'}, 400),
        ({"body": io.BytesIO(b" " * (9 * 2**20))}, 413),
    ],
)
async def test_what_is_no_review_gets_a_clear_answer(cluster: Cluster, sent: dict[str, Any], status: int) -> None:
    """GW-52: in JSON, and the next review is answered as if nothing had been."""
    injector = await cluster.begin()
    await cluster.ready(injector)
    answered, told = await cluster.ask(injector, **sent)
    assert answered == status
    assert len(str(told)) > 10
    assert (await cluster.ask(injector))[0] == 200


async def test_a_review_that_does_not_arrive_is_given_up(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the API server gives up itself, so that the cause is counted here."""
    assert server_module.BODY_S + 0.3 < 4
    monkeypatch.setattr(server_module, "BODY_S", 0.05)
    injector = await cluster.begin()
    await cluster.ready(injector)

    async def trickle() -> AsyncIterator[bytes]:
        yield REVIEW[:100]
        await asyncio.sleep(1)
        yield REVIEW[100:]

    status, told = await cluster.caller.ask(injector.ports["webhook"][0], trickle())
    assert (status, told["error"][:30]) == (408, "the review did not arrive with")
    assert 'result="unread"} 1.0' in (await health(injector, "/metrics"))[1]


async def test_a_review_that_is_cut_off_is_counted_and_no_bug(cluster: Cluster, events: list[dict[str, Any]]) -> None:
    injector = await cluster.begin()
    await cluster.ready(injector)
    context = ssl.create_default_context(cadata=cluster.api.bundles[0].decode())
    port = injector.ports["webhook"][0]
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=HOST)
    writer.write(b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    await writer.drain()
    writer.close()
    async with asyncio.timeout(WAIT_S):
        while 'result="unread"} 1.0' not in (await health(injector, "/metrics"))[1]:  # noqa: ASYNC110 - as in `until`
            await asyncio.sleep(0.01)
    assert [one for one in events if one["event"] == "bug"] == []


async def test_a_bug_is_an_answer_without_a_pod_in_it(cluster: Cluster, events: list[dict[str, Any]]) -> None:
    """The API server lets the pod start without us; the log has the place and no text of the exception."""
    injector = await cluster.begin()
    await cluster.ready(injector)
    told: list[tuple[str, str]] = []

    def broken() -> Defaults:
        raise RuntimeError("canary-of-a-pod")

    lookups = Lookups(None, Tasks(lambda *_: None))
    reviews = Reviews(broken, lookups, injector.counts, lambda where, error: told.append((where, type(error).__name__)))
    async with TestClient(TestServer(reviews.app())) as client, client.post("/mutate", data=REVIEW) as response:
        assert response.status == 500
        assert "canary-of-a-pod" not in await response.text()
    assert told == [("review", "RuntimeError")]
    assert 'result="failed"} 1.0' in (await health(injector, "/metrics"))[1]
    assert "canary-of-a-pod" not in str(events)


async def test_the_clusters_version_decides_the_way(cluster: Cluster) -> None:
    """GW-52: native from 1.29 on; `34+` is how some clouds write it."""
    injector = await cluster.begin()
    await cluster.ready(injector)
    assert patched((await cluster.ask(injector))[1])["restartPolicy"] == "Always"
    cluster.api.version = {"major": "1", "minor": "28"}
    await injector._lookups.learn_version()
    assert "restartPolicy" not in patched((await cluster.ask(injector))[1])


async def test_the_owner_says_how_many_pods_there_are(cluster: Cluster) -> None:
    """The Deployment's number, though the new ReplicaSet of an update has few; one question for many pods."""
    owner = pods.pod()["metadata"]["ownerReferences"][0]["name"]
    notes = {"deployment.kubernetes.io/desired-replicas": "8"}
    cluster.api.owners[owner] = {"metadata": {"annotations": notes}, "spec": {"replicas": 2}}
    injector = await cluster.begin()
    await cluster.ready(injector)
    answers = await asyncio.gather(*(cluster.ask(injector) for _ in range(10)))
    assert {variables(patched(told))["SIDECAR_REPLICAS"] for _, told in answers} == {"8"}
    assert cluster.api.asked("replicasets") == 1


async def test_a_stateful_set_says_its_own_number(cluster: Cluster) -> None:
    made = pods.stateful()
    cluster.api.owners[made["metadata"]["ownerReferences"][0]["name"]] = {"metadata": {}, "spec": {"replicas": 5}}
    injector = await cluster.begin()
    await cluster.ready(injector)
    assert variables(patched((await cluster.ask(injector, pods.body(made)))[1]))["SIDECAR_REPLICAS"] == "5"
    assert cluster.api.asked("/statefulsets/") == 1


async def test_an_installation_may_forbid_to_look_at_owners(cluster: Cluster) -> None:
    """Then no pod has the number, and nothing counts as an error."""
    injector = await cluster.begin()
    await cluster.ready(injector)
    cluster.api.forbidden.add("replicasets")
    assert "SIDECAR_REPLICAS" not in variables(patched((await cluster.ask(injector))[1]))
    assert 'inject_cluster_errors_total{call="owner"} 0.0' in (await health(injector, "/metrics"))[1]


async def test_a_slow_api_server_holds_no_pod_up(cluster: Cluster) -> None:
    """A pod without the number is better than a pod that waits; who asks again about the same owner does not wait at all."""
    injector = await cluster.begin()
    await cluster.ready(injector)
    cluster.api.delay_s = 2.0
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(20):
        assert "SIDECAR_REPLICAS" not in variables(patched((await cluster.ask(injector))[1]))
    assert loop.time() - began < 2.0, "before the API server has answered, and without waiting 20 times 0.3 s"
    assert cluster.api.asked("replicasets") == 1


async def test_the_configuration_is_read_again_and_a_bad_one_changes_nothing(
    cluster: Cluster, events: list[dict[str, Any]]
) -> None:
    injector = await cluster.begin()
    await cluster.ready(injector)
    cluster.config.write_text("image: llm-sidecar:second\n")
    await until(lambda: injector._current().image == "llm-sidecar:second")
    assert patched((await cluster.ask(injector))[1])["image"] == "llm-sidecar:second"
    cluster.config.write_text("imagination: llm-sidecar:third\n")
    await until(lambda: any("imagination" in note for note in injector.readiness().notes))
    assert "llm_sidecar_inject_config_error 1.0" in (await health(injector, "/metrics"))[1]
    assert patched((await cluster.ask(injector))[1])["image"] == "llm-sidecar:second"
    assert (await health(injector, "/ready"))[0] == 200
    assert [one["what"] for one in events if one["event"] == "inject.trouble"] == ["config"]


async def test_a_configuration_that_is_wrong_at_the_start_is_refused(cluster: Cluster) -> None:
    cluster.config.write_text("imagination: 1\n")
    with pytest.raises(ConfigError, match="imagination"):
        await cluster.begin()


async def test_no_secret_reaches_the_log(cluster: Cluster, events: list[dict[str, Any]]) -> None:
    """Neither what pods have in their env, nor tokens, nor keys, nor what an API server says of an object."""
    made = pods.pod(pods.container(env=[pods.variable("PASSWORD", "canary-of-a-pod")]))
    injector = await cluster.begin()
    await cluster.ready(injector)
    assert (await cluster.ask(injector, pods.body(made)))[0] == 200
    await cluster.ask(injector, b'{"request": "canary-of-a-pod"}')
    cluster.api.token = "second-token"
    await until(lambda: any("401 Unauthorized" in note for note in injector.readiness().notes))
    assert (
        'llm_sidecar_inject_cluster_errors_total{call="webhook_get"} 0' not in (await health(injector, "/metrics"))[1]
    )
    cluster.api.let_in()
    await until(lambda: not injector.readiness().notes)
    told = str(events) + (await health(injector, "/ready"))[1] + (await health(injector, "/metrics"))[1]
    assert {one["event"] for one in events} >= {
        "inject.review",
        "inject.trouble",
        "inject.recovered",
        "inject.certificate",
    }
    for secret in ("canary-of-a-pod", "first-token", "second-token", "PRIVATE"):
        assert secret not in told
    review = next(one for one in events if one["event"] == "inject.review")
    assert (review["result"], review["namespace"], review["owner"][:11]) == ("injected", "shop", "ReplicaSet/")


async def test_a_stop_amid_load_loses_no_review(cluster: Cluster) -> None:
    """/ready is 503 first; reviews are answered on, each ending its connection; when they go elsewhere, it ends."""
    one, two = await asyncio.gather(cluster.begin(), cluster.begin())
    await cluster.ready(one, two)
    leaves, over, answered = asyncio.Event(), False, dict.fromkeys((one, two), 0)

    async def load() -> None:
        turn = 0
        while not over:
            turn += 1
            target = two if leaves.is_set() or turn % 2 else one  # as endpoints do, a moment after /ready
            assert (await cluster.ask(target))[0] == 200
            answered[target] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(load())
        await asyncio.sleep(0.3)
        one.stop()
        assert (await health(one, "/ready"))[0] == 503
        before = answered[one]
        await until(lambda: answered[one] > before + 20)  # it serves while endpoints still name it
        assert one.state == "draining"
        leaves.set()
        await asyncio.wait_for(cluster.tasks[one], WAIT_S)
        before = answered[two]
        await until(lambda: answered[two] > before + 20)
        over = True
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", one.ports["webhook"][0])
    assert min(answered.values()) > 20


def test_the_names_of_a_service() -> None:
    assert names_of([Name(NAMESPACE, SERVICE)]) == (HOST, f"{HOST}.cluster.local")
