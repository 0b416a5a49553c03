"""The injector's certificates in a simulated cluster (tests/fixtures/apiserver.py): real TLS, real replicas."""

import asyncio
import base64
import os
import re
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import trustme

from sidecar.clock import wall
from sidecar.inject.certificates import Lifetimes, begin, trusts
from sidecar.inject.rotation import Timing
from sidecar.injector import Injector
from sidecar.telemetry.catalogue import CATALOGUE
from sidecar.telemetry.log import configure
from tests.fixtures.apiserver import HOST, NAMESPACE, SECRET, Caller
from tests.fixtures.injector import (
    REVIEW,
    ROUND_S,
    Cluster,
    health,
    logged,
    patched,
    simulated,
    until,
)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with simulated(tmp_path) as made:
        yield made


@pytest.fixture
def events() -> list[dict[str, Any]]:
    return logged()


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


async def test_a_bundle_is_put_back_also_while_the_secret_is_gone(cluster: Cluster) -> None:
    """An injector that may not make Secrets says so, serves on, and stays trusted."""
    injector = await cluster.begin()
    await cluster.ready(injector)
    bundle = cluster.api.entry("ca.crt")
    cluster.api.forbidden.add("secrets")
    cluster.api.secret = None
    await until(lambda: any("403 Forbidden" in note for note in injector.readiness().notes))
    cluster.api.set_bundle("")
    await until(lambda: cluster.api.bundles == [bundle] * 2)
    assert (await cluster.ask(injector))[0] == 200
    assert (await health(injector, "/ready"))[0] == 200


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


async def test_the_log_names_the_secret_and_says_when_it_ends(cluster: Cluster, tmp_path: Path) -> None:
    """What is written for people, not what is handed to the log: values that look like secrets are hidden there."""
    sink = configure("info", str(tmp_path / "log"), terminal=False)
    await cluster.ready(await cluster.begin())
    sink.close()
    told = {one["event"]: one for one in map(orjson.loads, (tmp_path / "log").read_bytes().splitlines())}
    assert cluster.api.secret is not None
    name = f"{NAMESPACE}/{SECRET}"
    assert (told["inject.rotated"]["stored"], told["inject.certificate"]["stored"]) == (name, name)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT[0-9:.]+Z", told["inject.certificate"]["expires"])


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


def mount(folder: Path, number: int, authority: trustme.CA, kind: trustme.KeyType = trustme.KeyType.ECDSA) -> None:
    """As the kubelet does: a new folder, then one symlink that is moved over."""
    new = folder / f"..{number}"
    new.mkdir()
    made = authority.issue_cert(HOST, key_type=kind)
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
    mount(folder, 2, authority, trustme.KeyType.RSA)
    await until(lambda: injector.served.rotations == 1)
    assert (await cluster.ask(injector, bundle=trusted))[0] == 200
    shown = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", injector.ports["webhook"][0]))
    assert shown == (folder / "tls.crt").read_text()  # and no longer the one of another kind of key
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
