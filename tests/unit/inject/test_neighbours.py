"""An injected pod among what else reads it: the cluster autoscaler, kubectl, Prometheus, the kubelet that runs its hook."""

import os
import socket
import subprocess
import sys

import pytest

from tests.fixtures.pods import Json, container, istio_proxy, nodes, pod
from tests.fixtures.reviewed import NOTES, OURS, Case, patch_of, patched, ports, said

EVICT, DEFAULT = NOTES
STATE = "llm-sidecar-state"


def annotations(case: Case) -> Json:
    found: Json = patched(case.pod, case.answer())["metadata"].get("annotations") or {}
    return found


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, STATE),
        ({}, STATE),
        ({EVICT: ""}, STATE),
        ({EVICT: "cache, tmp,"}, f"cache,tmp,{STATE}"),
        ({EVICT: f"{STATE},cache"}, f"{STATE},cache"),
    ],
)
def test_our_volume_keeps_no_node_alive(before: Json | None, after: str) -> None:
    """The autoscaler leaves a node that has a pod with an emptyDir, unless the pod says that it may go with it."""
    case = Case(name="scaled", pod=pod(annotations=before))
    assert annotations(case)[EVICT] == after


def test_a_volume_of_the_users_own_is_for_them_to_say() -> None:
    volumes = [{"name": STATE, "persistentVolumeClaim": {"claimName": "d"}}]
    assert EVICT not in annotations(Case(name="own", pod=pod(volumes=volumes)))
    assert EVICT not in annotations(Case(name="windows", pod=pod(os={"name": "windows"})))


@pytest.mark.parametrize(("limited", "native"), [("app", True), ("app", False), ("migrate", True), ("", True)])
def test_our_database_does_not_use_up_the_apps_disk(limited: str, native: bool) -> None:
    """Where a container limits its disk, the pod may use the sum of such limits, emptyDirs counted: then ours adds its own.

    Without that the kubelet would evict the app for the sidecar's rows.
    """
    more = {"resources": {"limits": {"ephemeral-storage": "500Mi"}}}
    made = pod(
        container(**(more if limited == "app" else {})),
        init=[container("migrate", **(more if limited == "migrate" else {}))],
    )
    case = Case(name="disk", pod=made, native=native, defaults="state_size: 700Mi")
    ours = patched(case.pod, case.answer())["spec"]["initContainers" if native else "containers"][0]["resources"]
    asked, most = (ours[way].get("ephemeral-storage") for way in ("requests", "limits"))
    assert (asked, most) == (("1Mi", "700Mi") if limited else (None, None))


@pytest.mark.parametrize(
    ("affinity", "reason"),
    [
        (nodes(("windows",)), "windows"),
        (nodes(("windows",), ("windows",)), "windows"),
        (nodes(("windows",), ("linux",)), ""),
        (nodes(("linux", "windows")), ""),
        (nodes(), ""),
        ({"nodeAffinity": None}, ""),
    ],
)
def test_a_pod_for_windows_nodes_is_known_by_its_affinity(affinity: Json, reason: str) -> None:
    """A Linux image there would keep the app from starting for ever."""
    assert Case(name="affinity", pod=pod(affinity=affinity)).answer().reason == reason


@pytest.mark.parametrize("native", [True, False])
def test_istio_that_comes_after_us_unannounced(native: bool) -> None:
    """Its proxy starts after ours and would have to pass our startup probe on: the pod would never start.

    The API server asks us again about a pod that another webhook changed: then the probes become commands, once.
    """
    case = Case(name="late", pod=pod(), native=native, mode="native" if native else "plain")
    injected = patched(case.pod, case.answer())
    where = "initContainers" if native else "containers"
    for name in ("startup", "readiness", "liveness"):
        led = {"path": f"/app-health/llm-sidecar/{name}z", "port": 15020}
        injected["spec"][where][0][f"{name}Probe"]["httpGet"] = led
    injected["spec"]["containers"].append(istio_proxy())
    again = case.answer(injected)
    assert (again.result, again.reason) == ("already", "")
    after = patched(injected, again)
    before_us = Case(name="early", pod=pod(container(), istio_proxy()), native=native)
    wanted = patched(before_us.pod, before_us.answer())["spec"][where][0]
    assert after["spec"][where][0] == wanted
    assert patch_of(case.answer(after)) == []


def test_what_somebody_wrote_by_hand_stays_beside_istio() -> None:
    by_hand = container(OURS, restartPolicy="Always", startupProbe={"httpGet": {"path": "/ready", "port": 9091}})
    assert patch_of(Case(name="hand", pod=pod(container(), istio_proxy(), init=[by_hand])).answer()) == []


@pytest.mark.parametrize(
    ("made", "commands"),
    [
        (pod(labels={"istio.io/rev": "canary"}), True),
        (pod(annotations={"linkerd.io/inject": "enabled"}), True),
        (pod(annotations={"linkerd.io/inject": "disabled"}), False),
        (pod(container(), init=[container("linkerd-network-validator")]), True),
        (pod(container(), container("kuma-sidecar")), True),
        (pod(container(), container("consul-dataplane")), True),
    ],
)
def test_in_a_mesh_the_probes_do_not_come_over_the_network(made: Json, commands: bool) -> None:
    """Where a CNI plugin leads it to a proxy from the first moment, ours would wait for one that starts after it."""
    case = Case(name="mesh", pod=made)
    probes = patched(case.pod, case.answer())["spec"]["initContainers"][0]
    assert ("exec" in probes["startupProbe"]) == commands


@pytest.mark.parametrize(
    ("before", "native", "after"),
    [
        (None, False, "app"),
        ({DEFAULT: "worker"}, False, "worker"),
        (None, True, None),
    ],
)
def test_kubectl_goes_to_the_app(before: Json | None, native: bool, after: str | None) -> None:
    """`kubectl logs` and `exec` take the first container unless the pod names another; a plain one of ours is first."""
    case = Case(
        name="kubectl", pod=pod(istio_proxy(), container(), container("worker"), annotations=before), native=native
    )
    assert annotations(case).get(DEFAULT) == after


def test_a_pod_of_proxies_only_has_no_app_to_name() -> None:
    assert DEFAULT not in annotations(Case(name="gateway", pod=pod(istio_proxy()), native=False))


def test_prometheus_may_be_led_to_the_sidecar() -> None:
    """Who gives the health port and names it for scraping wants just that; a container's own port stays its own."""
    wanted = {"prometheus.io/port": "19091"} | said(health_port="19091")
    assert Case(name="scraped", pod=pod(annotations=wanted)).answer().result == "injected"
    assert Case(name="taken", pod=pod(ports(19091), annotations=wanted)).answer().result == "refused"
    other = {"prometheus.io/port": "19091"} | said(port="19091")
    assert Case(name="traffic", pod=pod(annotations=other)).answer().result == "refused"


def test_the_hook_of_a_plain_container_waits_through_whatever_answers() -> None:
    """Its failure would kill the sidecar: no answer, a strange one and a proxy in the environment only make it try again."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        case = Case(name="plain", pod=pod(), native=False, defaults=f"health_port: {listener.getsockname()[1]}")
        ours = patched(case.pod, case.answer())["spec"]["containers"][0]
        command = ours["lifecycle"]["postStart"]["exec"]["command"]
        environ = {**os.environ, "http_proxy": "http://127.0.0.1:1", "no_proxy": ""}
        with subprocess.Popen([sys.executable, *command[1:]], env=environ) as hook:
            listener.settimeout(10)
            for answer in (b"", b"what?\r\n\r\n", b"HTTP/1.0 503 No\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n"):
                peer, _ = listener.accept()
                with peer:
                    assert peer.recv(1000).startswith(b"GET /ready ")
                    peer.sendall(answer)
        assert hook.returncode == 0
