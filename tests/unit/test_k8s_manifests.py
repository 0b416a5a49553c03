"""What k8s/manifests promise, seen without Helm: they parse, name only what the product has, and are confined.

Whether they are what the chart renders, and whether the API server takes them, is asked by `make test-k8s`.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar import __version__
from sidecar.cli import build_parser
from sidecar.config.policy import load_policies
from sidecar.config.settings import Settings
from sidecar.inject.options import ANNOTATIONS, PREFIX, Defaults
from tests import manifests
from tests.fixtures import pod_security
from tests.k8s.chart import Object, containers, name_of, of_kind, pods

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "k8s" / "manifests").glob("*.yaml"))
EXAMPLES = ["example-app.yaml", *manifests.BY_HAND]
EACH = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
HOOK = "import time, urllib.request"


def _objects(path: Path) -> list[Object]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one is not None]


def _ours(path: Path) -> list[Object]:
    """The containers that run our image."""
    found = [one for pod in pods(_objects(path)) for one in containers(pod)]
    return [one for one in found if re.search(r"(^|/)llm-sidecar[:@]", one["image"])]


def _sidecars(path: Path) -> list[Object]:
    return [one for one in _ours(path) if one["name"] == "llm-sidecar"]


def test_the_files_are_the_known_ones() -> None:
    """No file comes or goes without its source and the docs noticing."""
    assert {path.name for path in FILES} == {"example-app.yaml", *manifests.FILES, *manifests.BY_HAND}
    documented = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    assert [path.name for path in FILES if f"k8s/manifests/{path.name}" not in documented] == []


@EACH
def test_every_object_can_be_placed(path: Path) -> None:
    """Each has a kind and a name, none stands there twice, and its namespace is in the file."""
    objects = _objects(path)
    assert all({"apiVersion", "kind", "metadata"} <= one.keys() for one in objects)
    places = [(name_of(one), one["metadata"].get("namespace")) for one in objects]
    assert len(set(places)) == len(places)
    made = {one["metadata"]["name"] for one in of_kind(objects, "Namespace")}
    assert {namespace for _, namespace in places if namespace} <= made


@EACH
def test_no_key_is_given_twice(path: Path) -> None:
    """YAML readers take the last of two and say nothing."""
    for node in yaml.compose_all(path.read_text(), yaml.SafeLoader):
        _check(node)


def _check(node: yaml.Node) -> None:
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        assert len(set(keys)) == len(keys), keys
        for _, value in node.value:
            _check(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check(value)


@EACH
def test_every_pod_is_restricted(path: Path) -> None:
    for pod in pods(_objects(path)):
        assert pod_security.violations(pod) == set()


@EACH
def test_our_containers_are_the_image_s_own(path: Path) -> None:
    """This version, the image's user, a root that cannot be written, resources stated, no token but the injector's."""
    for pod in pods(_objects(path)):
        shared = pod["spec"]["securityContext"]
        for one in containers(pod):
            if one not in _ours(path):
                continue
            security = one["securityContext"]
            assert one["image"] == f"llm-sidecar:{__version__}"
            assert security.get("runAsUser", shared.get("runAsUser")) == 10001
            assert security["readOnlyRootFilesystem"] is True
            assert {"cpu", "memory"} <= one["resources"]["requests"].keys()
            assert "memory" in one["resources"]["limits"]
            assert pod["spec"]["automountServiceAccountToken"] is (one["name"] == "injector")


@EACH
def test_probes_ask_the_health_port(path: Path) -> None:
    """Readiness and start ask /ready, liveness asks /health: a draining sidecar must not be killed."""
    for one in _ours(path):
        asked = {name: one[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
        assert [asked[name]["path"] for name in asked] == ["/ready", "/ready", "/health"]
        (port,) = {get["port"] for get in asked.values()}
        assert {"name": port, "containerPort": 9091} in [
            {key: number for key, number in offered.items() if key != "protocol"} for offered in one["ports"]
        ]


def _environment(one: Object) -> dict[str, str]:
    """A container's variables, with an address or a name in place of what only the kubelet knows."""
    return {entry["name"]: entry.get("value", "10.0.0.1") for entry in one.get("env", [])}


@EACH
def test_our_variables_are_settings(path: Path) -> None:
    """The process would start with them: each is known, its value can be read, and no two contradict each other."""
    for one in _sidecars(path):
        names = [entry["name"] for entry in one["env"]]
        assert len(set(names)) == len(names)
        settings = Settings.load(_environment(one))
        assert settings.service
        assert settings.replicas
        assert {port for _, port in settings.health_listen} == {9091}


@pytest.mark.parametrize("mode", ["standalone", "daemon"])
def test_the_shared_modes_are_reached_by_their_service(mode: str) -> None:
    """Open to others, under the names of the Service only, and drained before the kubelet loses its patience."""
    path = ROOT / "k8s" / "manifests" / f"{mode}.yaml"
    (service,) = of_kind(_objects(path), "Service")
    (one,) = _sidecars(path)
    settings = Settings.load(_environment(one))
    assert settings.mode == mode
    assert ("0.0.0.0", 9090) in settings.listen
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    assert {name, f"{name}.{namespace}", f"{name}.{namespace}.svc"} <= set(settings.host_names)
    (pod,) = pods(_objects(path))
    assert pod["spec"]["terminationGracePeriodSeconds"] >= settings.drain_s + 10
    assert service["spec"].get("internalTrafficPolicy") == ("Local" if mode == "daemon" else None)


def test_the_injector_s_command_parses() -> None:
    """Its options are the verb's, its configuration is one that it reads, its volumes are where it looks."""
    path = ROOT / "k8s" / "manifests" / "injector.yaml"
    (one,) = _ours(path)
    options = build_parser().parse_args(one["args"])
    assert options.certificates == "self"
    assert {mount["mountPath"] for mount in one["volumeMounts"]} == {str(options.config.parent)}
    objects = _objects(path)
    names = {name_of(found) for found in objects}
    assert f"MutatingWebhookConfiguration/{options.webhook}" in names
    assert options.secret in {
        f"{found['metadata']['namespace']}/{found['metadata']['name']}" for found in of_kind(objects, "Secret")
    }
    (config,) = of_kind(objects, "ConfigMap")
    assert config["data"].keys() == {options.config.name}
    assert Defaults.read(config["data"][options.config.name]) == Defaults(
        image_pull_policy="IfNotPresent", log_level="info"
    )
    ports = {port["containerPort"] for port in one["ports"]}
    assert {int(text.rpartition(":")[2]) for text in (options.listen, options.health_listen)} == ports


@pytest.mark.parametrize("name", manifests.BY_HAND)
def test_the_pods_by_hand_are_what_the_injector_makes(name: str) -> None:
    """When this fails, run `make manifests`."""
    assert (manifests.FOLDER / name).read_text() == manifests.by_hand(name)


def test_the_native_one_is_an_init_container_that_stays() -> None:
    """Only with restartPolicy Always does an init container run beside the app."""
    (pod,) = pods(_objects(manifests.FOLDER / "example-app-native.yaml"))
    assert [(one["name"], one["restartPolicy"]) for one in pod["spec"]["initContainers"]] == [("llm-sidecar", "Always")]


def test_the_plain_one_holds_the_app_back() -> None:
    """It stands first and its postStart hook, which is Python and no shell, waits for /ready."""
    (pod,) = pods(_objects(manifests.FOLDER / "example-app-plain.yaml"))
    assert "initContainers" not in pod["spec"]
    assert [one["name"] for one in pod["spec"]["containers"]] == ["llm-sidecar", "app"]
    command = pod["spec"]["containers"][0]["lifecycle"]["postStart"]["exec"]["command"]
    assert command[:3] == ["/opt/llm-sidecar/bin/python", "-I", "-c"]
    assert HOOK in command[3]
    compile(command[3], "postStart", "exec")


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_app_s_variables_come_with_the_sidecar(name: str) -> None:
    """Without the injector the app calls its provider; with the sidecar it has both base URLs."""
    (pod,) = pods(_objects(manifests.FOLDER / name))
    (app,) = (one for one in containers(pod) if one["name"] == "app")
    environment = {entry["name"]: entry.get("value") for entry in app["env"]}
    base = {"OPENAI_BASE_URL": "http://localhost:9090/v1", "ANTHROPIC_BASE_URL": "http://localhost:9090"}
    by_hand = name in manifests.BY_HAND
    assert (base.items() <= environment.items()) is by_hand
    assert base.keys().isdisjoint(environment) is not by_hand
    if by_hand:
        assert pod["spec"]["terminationGracePeriodSeconds"] >= 25 + 10


def test_the_example_is_one_that_the_injector_takes() -> None:
    """Its namespace has the label, its annotations are known, and what they name is in the file."""
    objects = _objects(manifests.EXAMPLE)
    (namespace,) = of_kind(objects, "Namespace")
    assert namespace["metadata"]["labels"][f"{PREFIX}injection"] == "enabled"
    (pod,) = pods(objects)
    said = {key.removeprefix(PREFIX): text for key, text in pod["metadata"]["annotations"].items()}
    assert said.keys() <= ANNOTATIONS
    assert f"ConfigMap/{said['policies']}" in {name_of(one) for one in objects}


def test_the_policy_of_the_example_loads(tmp_path: Path) -> None:
    """It is accepted by the same loader as any other policy."""
    (made,) = of_kind(_objects(manifests.EXAMPLE), "ConfigMap")
    data: dict[str, Any] = made["data"]
    for name, text in data.items():
        (tmp_path / name).write_text(text)
    loaded = load_policies(tmp_path, "customer-support-bot", {})
    assert [route.name for route in loaded.policy.routes] == ["support"]
