"""The injector's reviews over real TLS, in a simulated cluster (tests/fixtures/apiserver.py)."""

import asyncio
import io
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from sidecar.errors import ConfigError
from sidecar.inject import server as server_module
from sidecar.inject.cluster import Name, names_of
from sidecar.inject.lookups import Lookups
from sidecar.inject.options import Defaults
from sidecar.inject.server import Reviews
from sidecar.tasks import Tasks
from tests.fixtures import pods
from tests.fixtures.apiserver import HOST, NAMESPACE, SERVICE
from tests.fixtures.injector import (
    REVIEW,
    WAIT_S,
    Cluster,
    health,
    logged,
    patched,
    simulated,
    until,
    variables,
)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with simulated(tmp_path) as made:
        yield made


@pytest.fixture
def events() -> list[dict[str, Any]]:
    return logged()


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
    one, two = await asyncio.gather(cluster.begin(drain_idle_s=1.5, drain_s=20.0), cluster.begin())
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
        await asyncio.wait_for(cluster.tasks[one], 4 * WAIT_S)
        before = answered[two]
        await until(lambda: answered[two] > before + 20)
        over = True
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", one.ports["webhook"][0])
    assert min(answered.values()) > 20


def test_the_names_of_a_service() -> None:
    assert names_of([Name(NAMESPACE, SERVICE)]) == (HOST, f"{HOST}.cluster.local")
