"""The pure core called by itself: what no review of the table reaches, and that it keeps nothing between two pods."""

import json
import socket
import subprocess
import sys

import pytest

from sidecar.errors import ConfigError
from sidecar.inject.options import Defaults, read_options
from sidecar.inject.patch import Patch, pointer
from sidecar.inject.pod import MESH, inject
from sidecar.inject.ports import choose
from sidecar.inject.tree import Place
from tests.fixtures.pod_security import violations
from tests.fixtures.pods import Json, container, istio_proxy, pod, sized, variable
from tests.fixtures.reviewed import Case, patched, said, variables


def test_a_pod_that_is_opted_out_gets_nothing() -> None:
    """Also where nobody has looked at the label before."""
    options = read_options(said(inject="false"), {}, Defaults())
    assert inject(Place(pod()), "shop", options).reason == "opt-out"


def test_the_same_pod_gives_the_same_patch_and_stays_as_it_is() -> None:
    """Pure: the pod that is handed in is not changed, and a second call knows nothing of the first."""
    made = pod(container(env=[variable("HTTPS_PROXY", "http://p:1")]))
    before = json.dumps(made)
    options = read_options({}, {}, Defaults())
    first, second = (inject(Place(made), "shop", options) for _ in range(2))
    assert first == second
    assert json.dumps(made) == before


def test_the_hook_of_a_plain_container_is_python_that_waits() -> None:
    """No shell: the interpreter of the image, which gives up after half a minute so that the app starts anyway."""
    case = Case(name="plain", pod=pod(), native=False, defaults="health_port: 19091")
    ours = patched(case.pod, case.answer())["spec"]["containers"][0]
    command = ours["lifecycle"]["postStart"]["exec"]["command"]
    assert command[:3] == ["/opt/llm-sidecar/bin/python", "-I", "-c"]
    assert "http://127.0.0.1:19091/ready" in command[3]
    compile(command[3], "postStart", "exec")


def test_where_the_namespace_gives_the_user_none_is_asked_for() -> None:
    """OpenShift refuses a number that is not of the namespace's range: the pod would not start."""
    case = Case(name="openshift", pod=pod(), defaults="fixed_user: false")
    made = patched(case.pod, case.answer())
    security = made["spec"]["initContainers"][0]["securityContext"]
    assert not {"runAsUser", "runAsGroup"} & security.keys()
    assert security["runAsNonRoot"] is True
    assert violations(made) == set()


@pytest.mark.parametrize(
    ("answer", "code"), [(b"HTTP/1.0 200 OK\r\n\r\n", 0), (b"HTTP/1.0 503 No\r\n\r\n", 1), (b"", 1)]
)
def test_a_probe_by_command_says_what_the_health_port_says(answer: bytes, code: int) -> None:
    """Run as the kubelet runs it, on this interpreter: 0 for 200 only. Istio never sees it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        case = Case(
            name="istio",
            pod=pod(container(), istio_proxy()),
            defaults=f"health_port: {listener.getsockname()[1]}",
        )
        ours = patched(case.pod, case.answer())["spec"]["initContainers"][0]
        command = ours["readinessProbe"]["exec"]["command"]
        assert command[:4] == ["/opt/llm-sidecar/bin/python", "-I", "-S", "-c"]
        with subprocess.Popen([sys.executable, *command[1:]]) as probe:
            peer, _ = listener.accept()
            with peer:
                assert peer.recv(100).startswith(b"GET /ready HTTP/1.0\r\nHost: localhost\r\n")
                peer.sendall(answer)
        assert probe.returncode == code


def test_the_container_says_itself_what_restricted_asks_for() -> None:
    """It holds whatever the pod says, and without the pod's help."""
    case = Case(name="bare", pod=pod(container(securityContext={}), securityContext={"runAsUser": 0}))
    ours = patched(case.pod, case.answer())["spec"]["initContainers"][0]
    assert ours["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_what_the_installation_sets_wins_over_the_apps_and_ours() -> None:
    """One entry of each name; SERVICE_ID and the like cannot be set there."""
    made = pod(container(env=[variable("https_proxy", "http://a:1"), variable("NO_PROXY", "a")]))
    case = Case(name="env", pod=made, native=False, defaults="env: {SIDECAR_DRAIN_IDLE: 9s, NO_PROXY: b}")
    ours = patched(case.pod, case.answer())["spec"]["containers"][0]
    names = [entry["name"] for entry in ours["env"]]
    assert len(set(names)) == len(names)
    own = variables(ours)
    assert (own["SIDECAR_DRAIN_IDLE"], own["NO_PROXY"], own["https_proxy"]) == ("9s", "b", "http://a:1")


@pytest.mark.parametrize("name", sorted(MESH))
def test_a_meshs_proxy_is_no_app(name: str) -> None:
    """Unless an annotation names it."""
    left = Case(name="left", pod=pod(container(), container(name)))
    named = Case(name="named", pod=pod(container(), container(name), annotations=said(containers=name)))
    for case, has in ((left, False), (named, True)):
        found = patched(case.pod, case.answer())["spec"]["containers"]
        assert ("OPENAI_BASE_URL" in variables(found[1])) == has
        assert ("OPENAI_BASE_URL" in variables(found[0])) != has


@pytest.mark.parametrize("value", ["socks5://p:1", "http://$(PROXY_HOST):1"])
def test_a_proxy_that_would_keep_the_sidecar_from_starting_stays_with_the_app(value: str) -> None:
    """Its settings know http and https; a reference has no meaning in another container. The pod must start."""
    case = Case(name="proxy", pod=pod(container(env=[variable("HTTPS_PROXY", value), variable("NO_PROXY", "a")])))
    made = patched(case.pod, case.answer())["spec"]
    own = variables(made["initContainers"][0])
    assert "HTTPS_PROXY" not in own
    assert own["NO_PROXY"] == "a"
    assert variables(made["containers"][0])["HTTPS_PROXY"] == value


def test_a_proxy_from_a_field_of_the_container_stays_with_the_app() -> None:
    source = {"resourceFieldRef": {"resource": "limits.cpu"}}
    case = Case(name="proxy", pod=pod(container(env=[{"name": "https_proxy", "valueFrom": source}])))
    assert "https_proxy" not in variables(patched(case.pod, case.answer())["spec"]["initContainers"][0])


@pytest.mark.parametrize(
    ("limits", "guaranteed"),
    [
        ({"cpu": "1e0", "memory": "1Gi"}, True),  # a form that we do not read, written alike
        ({"cpu": "1", "memory": "1Gi"}, False),
        ({"cpu": "1e0"}, False),
    ],
)
def test_quantities_in_other_forms_are_compared_as_written(limits: Json, guaranteed: bool) -> None:
    resources = {"requests": {"cpu": "1e0", "memory": "1024Mi"}, "limits": limits}
    case = Case(name="sized", pod=pod(container(resources=resources)))
    ours = patched(case.pod, case.answer())["spec"]["initContainers"][0]["resources"]
    assert (ours == sized("500m", "512Mi", "500m", "512Mi")) == guaranteed


def test_ports_move_by_hundreds_then_anywhere() -> None:
    """9090, 9190 and so on; when all of those are taken, the first that is free; when none is, that is told."""
    hundreds = dict.fromkeys(range(9090, 65536, 100), "container app")
    assert choose(Defaults(), {}, hundreds).traffic == 1024
    with pytest.raises(ConfigError, match="declares every port"):
        choose(Defaults(), {}, dict.fromkeys(range(1024, 65536), "container app"))


def test_a_patch_points_as_rfc_6901_says() -> None:
    assert pointer("metadata", "annotations", "a/b~c", 0) == "/metadata/annotations/a~1b~0c/0"


def test_a_patch_that_adds_nothing_is_empty() -> None:
    patch = Patch()
    patch.append(Place([]), "/x", [])
    patch.append(Place([1]), "/x", [])
    assert patch.operations == []
