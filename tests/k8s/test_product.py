"""What the chart writes is what the product reads, in every combination: settings, options and the configuration."""

from pathlib import PurePosixPath
from typing import Any

import pytest

from sidecar.cli import build_parser
from sidecar.config.settings import Settings
from sidecar.inject.options import Defaults
from sidecar.inject.texts import Resources
from tests.k8s import chart, matrix
from tests.k8s.chart import Object, containers, of_kind, pods, render

MATRIX = pytest.mark.parametrize("values", matrix.MATRIX.values(), ids=matrix.MATRIX.keys())


def _settings(pod: Object) -> Settings:
    """What the process would run with. The kubelet puts the node's address and name in, and expands $(HOST_IP)."""
    entries = containers(pod)[0]["env"]
    names = [entry["name"] for entry in entries]
    assert len(set(names)) == len(names)
    if "HOST_IP" in names:
        assert names.index("HOST_IP") < names.index("SIDECAR_HOST_NAMES")  # else it is not expanded
    environ = {entry["name"]: entry.get("value", "10.0.0.1").replace("$(HOST_IP)", "10.0.0.1") for entry in entries}
    return Settings.load(environ)


def _component(pod: Object) -> str:
    found: str = pod["metadata"]["labels"]["app.kubernetes.io/component"]
    return found


@MATRIX
def test_the_shared_modes_start(values: dict[str, Any]) -> None:
    """The settings are known and do not contradict each other; what they name is mounted; ports are those offered; the
    drain ends before the kubelet's patience, and budgets are divided by as many pods as there may be."""
    objects = render(values)
    for pod in pods(objects):
        mode = _component(pod)
        if mode not in ("standalone", "daemon"):
            continue
        settings, given, (one, *_) = _settings(pod), values[mode], containers(pod)
        assert settings.mode == mode
        assert {port for _, port in settings.listen} == {9090}
        offered = {port["name"]: port["containerPort"] for port in one["ports"]}
        assert offered == {"traffic": 9090, "sidecar-health": settings.health_listen[0][1]}
        assert pod["spec"]["terminationGracePeriodSeconds"] >= settings.drain_s + 10
        mounts = {mount["mountPath"] for mount in one["volumeMounts"]}
        files = [
            getattr(settings, name)
            for name in ("db", "policies", "priors", "client_tokens_file", "tls_cert", "salt_file")
        ]
        for path in filter(None, files):
            assert mounts & {str(path), str(PurePosixPath(path).parent)}, path
        assert (settings.policies is None) is (not given.get("policies"))
        scaled = given.get("autoscaling", {}).get("enabled")
        assert settings.replicas == _most_pods(objects, mode, given)
        (workload,) = (
            found for found in of_kind(objects, "Deployment", "DaemonSet") if found["spec"]["template"] is pod
        )
        assert ("replicas" in workload["spec"]) is (mode == "standalone" and not scaled)


def _most_pods(objects: list[Object], mode: str, given: dict[str, Any]) -> int:
    if mode == "daemon":
        return int(given.get("expectedNodes", 1))
    scalers = of_kind(objects, "HorizontalPodAutoscaler")
    return int(scalers[0]["spec"]["maxReplicas"]) if scalers else int(given.get("replicas", 2))


@MATRIX
def test_clients_find_the_shared_modes(values: dict[str, Any]) -> None:
    """Every name of the Service is an accepted Host, the node's address too where its port is open, and TLS is said."""
    objects = render(values)
    for pod in pods(objects):
        mode = _component(pod)
        if mode not in ("standalone", "daemon"):
            continue
        settings = _settings(pod)
        (service,) = (
            one
            for one in of_kind(objects, "Service")
            if one["metadata"]["labels"]["app.kubernetes.io/component"] == mode
        )
        name = service["metadata"]["name"]
        own = {name, f"{name}.llm", f"{name}.llm.svc", f"{name}.llm.svc.cluster.local"}
        node = {"10.0.0.1", "[10.0.0.1]"} if values[mode].get("hostPort") else set()
        assert set(settings.host_names) == own | node | set(values[mode].get("hostNames", []))
        assert service["spec"]["ports"][0]["appProtocol"] == ("https" if settings.tls_cert else "http")
        assert service["spec"].get("internalTrafficPolicy") == ("Local" if mode == "daemon" else None)


@MATRIX
def test_the_injector_s_options_are_the_verb_s(values: dict[str, Any]) -> None:
    """They parse, name what is in the chart, and its ports are those that the pod offers."""
    objects = render(values)
    for pod in pods(objects):
        if _component(pod) != "injector":
            continue
        (one,) = containers(pod)
        options = build_parser().parse_args(one["args"])
        said = {text.partition("=")[0] for text in one["args"][1:]}
        assert {name.removeprefix("--").replace("-", "_") for name in said} <= vars(options).keys()  # none is cut short
        offered = {port["name"]: port["containerPort"] for port in one["ports"]}
        assert {"webhook": options.listen, "health": options.health_listen} == {
            name: f":{port}" for name, port in offered.items()
        }
        mounts = {mount["mountPath"] for mount in one["volumeMounts"]}
        own = values.get("injector", {}).get("certificates", {}).get("mode", "self") == "self"
        assert options.certificates == ("self" if own else "files")
        assert mounts == {"/etc/llm-sidecar"} | (set() if own else {str(options.tls_dir)})
        if own:
            namespace, _, name = options.secret.partition("/")
            assert [one["metadata"]["name"] for one in of_kind(objects, "Secret")] == [name]
            assert namespace == chart.NAMESPACE
            assert [one["metadata"]["name"] for one in of_kind(objects, "MutatingWebhookConfiguration")] == [
                options.webhook
            ]


@MATRIX
def test_the_injector_reads_its_configuration(values: dict[str, Any]) -> None:
    """It is one that the injector takes, under the name that its option gives."""
    objects = render(values)
    for one in of_kind(objects, "ConfigMap"):
        if one["metadata"]["name"].endswith("-injector"):
            assert one["data"].keys() == {"inject.yaml"}
            assert Defaults.read(one["data"]["inject.yaml"])


def test_every_value_of_an_injected_sidecar_arrives() -> None:
    """Each key of the values block `sidecar` and of `image`, as the injector reads it."""
    (made,) = (one for one in of_kind(render(matrix.ALL), "ConfigMap") if one["metadata"]["name"].endswith("-injector"))
    image = matrix.ALL["image"]
    assert Defaults.read(made["data"]["inject.yaml"]) == Defaults(
        image=f"{image['repository']}@{image['digest']}",
        image_pull_policy="IfNotPresent",
        log_level="debug",
        mode="auto",
        resources=Resources("0.2", "128Mi", None, "1Gi"),
        port=19090,
        health_port=19091,
        admin_port=19092,
        policies="llm-policies",
        priors="llm-priors",
        upstream_secrets=("openai",),
        state_size="1Gi",
        env={"OBSERVATORY_URL": "http://collector.tracing:4318"},
        strict=True,
    )
