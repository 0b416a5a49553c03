"""The chart: it lints, renders with every combination of values, and each object is one that the API server takes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar import __version__
from tests.fixtures import pod_security
from tests.k8s import chart, matrix, schemas
from tests.k8s.chart import Object, containers, helm, name_of, of_kind, pods, render, template

COMBINATIONS = matrix.combinations()
EVERY = pytest.mark.parametrize(
    ("values", "kube"), [(values, kube) for _, values, kube in COMBINATIONS], ids=[name for name, _, _ in COMBINATIONS]
)
POLICY_KINDS = tuple(f"{does}AdmissionPolicy{what}" for does in ("Mutating", "Validating") for what in ("", "Binding"))


@pytest.mark.parametrize(
    "values", [{}, matrix.ALL, matrix.MATRIX["minimal"]], ids=["defaults", "everything", "minimal"]
)
def test_it_lints(values: dict[str, Any], tmp_path: Path) -> None:
    """`helm lint --strict` finds nothing to warn of."""
    (tmp_path / "values.yaml").write_text(json.dumps(values))
    done = helm("lint", "--strict", str(chart.CHART), "--values", str(tmp_path / "values.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search(r"\[(WARNING|ERROR)\]", done.stdout + done.stderr)


def test_the_matrix_is_wide() -> None:
    """As many combinations as were promised, on every supported version."""
    assert len(COMBINATIONS) >= 40
    assert {f"1.{minor}" for minor in range(27, 38)} <= {kube for _, _, kube in COMBINATIONS}


@EVERY
def test_every_object_is_valid(values: dict[str, Any], kube: str) -> None:
    """By the strict schemas of 1.27 to the newest; an admission policy by those of the versions that have it."""
    found = [
        f"{name_of(one)} on {version}: {fault}"
        for one in render(values, kube)
        for version in ("1.27", "1.28", *schemas.VERSIONS)
        if one["kind"] not in POLICY_KINDS or int(version[2:]) >= matrix.POLICY_SINCE
        for fault in schemas.faults(one, version)
    ]
    assert found == []


def test_the_schemas_are_strict() -> None:
    """A member that does not exist is found, in Kubernetes' own kinds and in those of operators."""
    objects = render({**matrix.MONITORS, "injector": {"certificates": {"mode": "cert-manager"}}})
    for one in objects:
        (spoilt,) = (json.loads(json.dumps(one)),)
        spoilt["spce"] = {}
        assert schemas.faults(spoilt, "1.31"), name_of(one)
    assert {one["kind"] for one in objects if schemas.is_custom(one)} >= {"PodMonitor", "Issuer", "Certificate"}


@EVERY
def test_names_are_short_and_given_once(values: dict[str, Any], kube: str) -> None:
    """No two objects of one name; each is a DNS label, as some kinds ask for; namespaced ones say where they are."""
    names = [name_of(one) for one in render(values, kube)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name.split("/")[1]) for name in names)


@pytest.mark.parametrize("release", ["llm-sidecar", "a", "models", f"x{'y' * 52}"])
def test_any_release_name_will_do(release: str) -> None:
    """Helm allows 53 characters; every name stays valid and every reference goes with it."""
    objects = render(matrix.ALL, release=release)
    _check_references(objects)
    for one in objects:
        assert len(one["metadata"]["name"]) <= 63
        assert schemas.faults(one, "1.31") == []


def test_two_releases_do_not_meet() -> None:
    """What is not in a namespace has another name in each."""
    one, two = (render({}, namespace=namespace) for namespace in ("llm", "llm-next"))
    shared = {name_of(found) for found in one if "namespace" not in found["metadata"]}
    assert shared
    assert shared.isdisjoint(name_of(found) for found in two)


@EVERY
def test_every_pod_is_restricted(values: dict[str, Any], kube: str) -> None:
    """PodSecurity `restricted`; only a port of the node, which is off by default, is against it."""
    ported = values.get("daemon", {}).get("hostPort")
    for pod in pods(render(values, kube)):
        daemon = pod["metadata"]["labels"]["app.kubernetes.io/component"] == "daemon"
        assert pod_security.violations(pod) == ({"llm-sidecar: host ports"} if ported and daemon else set())


@EVERY
def test_every_container_is_confined(values: dict[str, Any], kube: str) -> None:
    """No root file system that can be written, no image that may be another tomorrow, resources stated; a token of the
    API server only where it is asked."""
    numbers = values.get("podSecurityContext", {"runAsUser": 10001})
    for pod in pods(render(values, kube)):
        assert pod["spec"].get("automountServiceAccountToken") is (containers(pod)[0]["name"] == "injector")
        assert pod["spec"]["securityContext"].get("runAsUser") == numbers["runAsUser"]
        for one in containers(pod):
            assert one["securityContext"]["readOnlyRootFilesystem"] is True
            assert re.search(r":[^/:]+$", one["image"])
            assert not one["image"].endswith(":latest")
            assert {"cpu", "memory"} <= one["resources"]["requests"].keys()
            assert "memory" in one["resources"]["limits"]


@EVERY
def test_references_lead_somewhere(values: dict[str, Any], kube: str) -> None:
    """Selectors match the pods that they mean and no others; ports, accounts, claims and roles that are named exist."""
    _check_references(render(values, kube))


def _check_references(objects: list[Object]) -> None:
    workloads = of_kind(objects, "Deployment", "DaemonSet")
    names = {name_of(one) for one in objects}
    for one in of_kind(objects, "Service", "PodDisruptionBudget", "NetworkPolicy"):
        _check_selector(one, workloads)
    for one in workloads:
        assert one["spec"]["selector"]["matchLabels"].items() <= one["spec"]["template"]["metadata"]["labels"].items()
        assert f"ServiceAccount/{one['spec']['template']['spec']['serviceAccountName']}" in names
    for one in of_kind(objects, "HorizontalPodAutoscaler"):
        target = one["spec"]["scaleTargetRef"]
        assert f"{target['kind']}/{target['name']}" in names
    for one in of_kind(objects, "RoleBinding", "ClusterRoleBinding"):
        assert f"{one['roleRef']['kind']}/{one['roleRef']['name']}" in names
        assert all(f"ServiceAccount/{subject['name']}" in names for subject in one["subjects"])
    for one in of_kind(objects, "MutatingWebhookConfiguration"):
        service = one["webhooks"][0]["clientConfig"]["service"]
        (met,) = (found for found in objects if name_of(found) == f"Service/{service['name']}")
        assert service["port"] in {port["port"] for port in met["spec"]["ports"]}
        assert service["namespace"] == met["metadata"]["namespace"]


def _check_selector(one: Object, workloads: list[Object]) -> None:
    """It means the workload of its own name, and ports that this has."""
    selector = one["spec"].get("selector") or one["spec"].get("podSelector")
    labels = selector.get("matchLabels", selector)
    met = [work for work in workloads if labels.items() <= work["spec"]["template"]["metadata"]["labels"].items()]
    assert [work["metadata"]["name"] for work in met] == [one["metadata"]["name"]], name_of(one)
    offered = {port["name"] for port in containers(met[0]["spec"]["template"])[0]["ports"]}
    asked = {port.get("targetPort") for port in one["spec"].get("ports", [])}
    asked |= {port["port"] for rule in one["spec"].get("ingress", []) for port in rule["ports"]}
    assert asked <= offered


@EVERY
def test_volumes_are_mounted_and_exist(values: dict[str, Any], kube: str) -> None:
    """Each volume is used and each mount has one, none by subPath, which is never updated; what it names is there."""
    objects = render(values, kube)
    given = json.dumps(values)
    for pod in pods(objects):
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
        mounts = [mount for one in containers(pod) for mount in one.get("volumeMounts", [])]
        assert {mount["name"] for mount in mounts} == volumes.keys()
        assert len({mount["mountPath"] for mount in mounts}) == len(mounts)
        assert all("subPath" not in mount for mount in mounts)
        for volume in volumes.values():
            for kind, name in _named(volume):
                made = any(name_of(one) == f"{kind}/{name}" for one in objects)
                certificate = any(one["spec"]["secretName"] == name for one in of_kind(objects, "Certificate"))
                assert made or certificate or f'"{name}"' in given, name


def _named(volume: Object) -> list[tuple[str, str]]:
    sources = [volume, *volume.get("projected", {}).get("sources", [])]
    found = [("ConfigMap", one["configMap"]["name"]) for one in sources if "configMap" in one]
    found += [
        ("Secret", one["secret"].get("secretName") or one["secret"]["name"]) for one in sources if "secret" in one
    ]
    if "persistentVolumeClaim" in volume:
        found.append(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
    return found


@pytest.mark.parametrize(
    ("injector", "expected"),
    [
        ({}, "secret webhook owners"),
        ({"readReplicas": False}, "secret webhook"),
        ({"certificates": {"mode": "cert-manager"}}, "owners"),
        ({"certificates": {"mode": "cert-manager"}, "readReplicas": False}, ""),
        ({"enabled": False}, ""),
    ],
    ids=str,
)
def test_rights_are_the_least(injector: dict[str, Any], expected: str) -> None:
    """Its own Secret and its own webhook by their names, the replicas of owners if wanted, and nothing else."""
    objects = render({"injector": injector, "standalone": {"enabled": True}, "daemon": {"enabled": True}})
    rights = {
        "secret": {
            "apiGroups": [""], "resources": ["secrets"],
            "resourceNames": ["llm-sidecar-injector-tls"], "verbs": ["get", "update"],
        },
        "webhook": {
            "apiGroups": ["admissionregistration.k8s.io"], "resources": ["mutatingwebhookconfigurations"],
            "resourceNames": ["llm-sidecar-injector-llm"], "verbs": ["get", "patch"],
        },
        "owners": {"apiGroups": ["apps"], "resources": ["replicasets", "statefulsets"], "verbs": ["get"]},
    }  # fmt: skip
    roles = of_kind(objects, "Role", "ClusterRole")
    given = [rule for one in sorted(roles, key=lambda one: one["kind"], reverse=True) for rule in one["rules"]]
    assert given == [rights[name] for name in expected.split()]
    assert len(of_kind(objects, "RoleBinding", "ClusterRoleBinding")) == len(roles)


@EVERY
def test_the_webhook_leaves_the_system_alone(values: dict[str, Any], kube: str) -> None:
    """Opt-in by namespace, opt-out by pod, never the system's namespaces nor its own: it cannot block its own start."""
    for one in of_kind(render(values, kube), "MutatingWebhookConfiguration"):
        (hook,) = one["webhooks"]
        enabled, never = hook["namespaceSelector"]["matchExpressions"]
        assert enabled == {"key": "llm-sidecar.io/injection", "operator": "In", "values": ["enabled"]}
        assert (never["key"], never["operator"]) == ("kubernetes.io/metadata.name", "NotIn")
        assert {"kube-system", "kube-node-lease", chart.NAMESPACE} <= set(never["values"])
        assert hook["objectSelector"]["matchExpressions"][0]["key"] == "llm-sidecar.io/inject"
        assert [(rule["resources"], rule["operations"]) for rule in hook["rules"]] == [(["pods"], ["CREATE"])]
        assert hook["sideEffects"] == "None"
        own = values.get("injector", {}).get("certificates", {}).get("mode", "self")
        assert ("caBundle" in hook["clientConfig"]) is (own == "files")
        assert ("cert-manager.io/inject-ca-from" in one["metadata"].get("annotations", {})) is (own == "cert-manager")
        assert ("matchConditions" in hook) is (kube != "1.27")


def test_an_upgrade_does_not_take_the_certificate() -> None:
    """What the injector fills in is not in the manifest, so no merge puts it back."""
    (secret,) = of_kind(render({}), "Secret")
    assert secret.keys() == {"apiVersion", "kind", "metadata", "type"}
    assert secret["type"] == "Opaque"


def test_the_injector_survives_a_node() -> None:
    """Two replicas that prefer different nodes and zones, one of which may go at a time, none during an update."""
    objects = render({})
    (one,) = of_kind(objects, "Deployment")
    spec = one["spec"]["template"]["spec"]
    assert one["spec"]["replicas"] == 2
    assert one["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert "preferredDuringSchedulingIgnoredDuringExecution" in spec["affinity"]["podAntiAffinity"]
    assert [(rule["topologyKey"], rule["whenUnsatisfiable"]) for rule in spec["topologySpreadConstraints"]] == [
        ("topology.kubernetes.io/zone", "ScheduleAnyway")
    ]
    (budget,) = of_kind(objects, "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
    assert one["spec"]["template"]["metadata"]["labels"]["llm-sidecar.io/inject"] == "false"


def test_another_configuration_restarts_the_injector() -> None:
    one, two = (of_kind(render(values), "Deployment")[0] for values in ({}, {"sidecar": {"strict": True}}))
    assert one["spec"]["template"]["metadata"]["annotations"] != two["spec"]["template"]["metadata"]["annotations"]


def test_with_the_policy_there_are_no_pods_of_ours() -> None:
    """Neither webhook nor rights nor certificates: the API server does it."""
    kinds = {one["kind"] for one in render({"injector": {"kind": "policy"}}, "1.36")} - set(POLICY_KINDS)
    assert kinds <= {"Pod"}


def test_versions_are_those_of_the_product() -> None:
    about = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    assert (about["name"], about["appVersion"], about["version"]) == ("llm-sidecar", __version__, __version__)
    (injector,) = of_kind(render({}), "Deployment")
    assert containers(injector["spec"]["template"])[0]["image"] == f"llm-sidecar:{__version__}"


def test_alerts_come_from_the_files() -> None:
    """All of rules/*.yaml, but for those that are switched off."""
    files = [yaml.safe_load(path.read_text()) for path in sorted((chart.CHART / "rules").glob("*.yaml"))]
    alerts = [rule["alert"] for file in files for group in file["groups"] for rule in group["rules"] if "alert" in rule]
    assert alerts
    (made,) = of_kind(render({"prometheusRule": {"enabled": True}}), "PrometheusRule")
    assert [rule["alert"] for group in made["spec"]["groups"] for rule in group["rules"] if "alert" in rule] == alerts
    off = {"prometheusRule": {"enabled": True, "disabledAlerts": alerts[:1]}}
    (fewer,) = of_kind(render(off), "PrometheusRule")
    assert [rule["alert"] for group in fewer["spec"]["groups"] for rule in group["rules"] if "alert" in rule] == alerts[
        1:
    ]


def test_the_test_pod_asks_each_part() -> None:
    """`helm test`: its code compiles, and it is no part of an installation without anything."""
    (pod,) = of_kind(render(matrix.ALL), "Pod")
    command = containers(pod)[0]["command"]
    compile(command[3], "helm test", "exec")
    assert command[4:] == [
        "http://llm-sidecar-injector:9091/ready", "https://llm-sidecar-standalone:443/", "https://llm-sidecar-daemon:9090/",
    ]  # fmt: skip
    assert render(matrix.MATRIX["minimal"]) == []
    assert template({}).returncode == 0
