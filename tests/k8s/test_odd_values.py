"""Values that are legal and seldom: labels given twice, long and dotted names, numbers for texts, a change of certificates,
callers from outside of the cluster."""

from typing import Any

import pytest
import yaml

from sidecar.inject.options import Defaults
from tests.k8s import chart, matrix, schemas
from tests.k8s.chart import Object, name_of, of_kind, pods, render, template

CERT_MANAGER: dict[str, Any] = {"injector": {"certificates": {"mode": "cert-manager"}}}


class _Strict(yaml.SafeLoader):
    """Refuses a key that is given twice, as server-side apply and GitOps tools do."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), keys
        return super().construct_mapping(node, deep)


def strictly(values: dict[str, Any]) -> list[Object]:
    """The objects, none with a key that is given twice."""
    done = template(values)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.load_all(done.stdout, _Strict) if one is not None]


def test_a_label_that_is_given_twice_is_there_once() -> None:
    """The nearest one wins: of the pod or the monitor, then of all objects, then ours; what selectors match stays."""
    near = {"team": "near", "app.kubernetes.io/part-of": "platform"}
    values = {
        "commonLabels": {"team": "all", "app.kubernetes.io/version": "7"},
        "injector": {"podLabels": near},
        "standalone": {"enabled": True, "podLabels": near},
        "podMonitor": {"enabled": True, "labels": near},
        "prometheusRule": {"enabled": True, "labels": near},
    }
    objects = strictly(values)
    for one in objects:
        labels = one["metadata"]["labels"]
        named = one["kind"] in ("PodMonitor", "PrometheusRule")
        assert labels["team"] == ("near" if named else "all"), name_of(one)
        assert labels["app.kubernetes.io/part-of"] == ("platform" if named else "llm-sidecar")
        assert (labels["app.kubernetes.io/version"], labels["app.kubernetes.io/name"]) == ("7", "llm-sidecar")
    for pod in [one["spec"]["template"] for one in of_kind(objects, "Deployment")]:
        assert pod["metadata"]["labels"].items() >= {**near, "llm-sidecar.io/inject": "false"}.items()


@pytest.mark.parametrize("name", ["everything", "renamed", "three modes", "closed", "cert-manager", "daemon with keys"])
def test_no_key_is_given_twice(name: str) -> None:
    assert strictly(matrix.MATRIX[name])


def test_long_and_dotted_names() -> None:
    """Helm allows dots; a Service does not. Two long namespaces share nothing that lies outside of namespaces."""
    objects = render(matrix.ALL, release="team.models.eu", namespace="llm")
    assert {one["metadata"]["name"] for one in of_kind(objects, "Service")} == {
        f"team-models-eu-llm-sidecar-{part}" for part in ("injector", "standalone", "daemon")
    }
    kinds = ("ClusterRole", "ClusterRoleBinding", "MutatingWebhookConfiguration")
    found = [of_kind(render({}, namespace=f"{'n' * 62}{end}"), *kinds) for end in "ab"]
    assert not {name_of(one) for one in found[0]} & {name_of(one) for one in found[1]}
    assert [fault for one in found[0] for fault in schemas.faults(one, "1.31")] == []


def test_certificates_can_be_made_by_another_later() -> None:
    """cert-manager keeps its Secret, of another type and not of the release: Helm would refuse to make it its own."""
    (own,) = of_kind(render({}), "Secret")
    objects = render(CERT_MANAGER)
    made = {one["spec"]["secretName"] for one in of_kind(objects, "Certificate")}
    (injector,) = pods(of_kind(objects, "Deployment"))
    mounted = {volume["secret"]["secretName"] for volume in injector["spec"]["volumes"] if "secret" in volume}
    assert mounted <= made
    assert own["metadata"]["name"] not in made


@pytest.mark.parametrize(("cpu", "said"), [(1, "1"), (0.5, "0.5"), ("1500m", "1500m")])
def test_processors_are_numbers_or_texts(cpu: object, said: str) -> None:
    """`--set ...cpu=1` is a number to Helm; the injector reads the same."""
    resources = {"requests": {"cpu": 0.25}, "limits": {"cpu": cpu}}
    (config,) = (one for one in of_kind(render({"sidecar": {"resources": resources}}), "ConfigMap"))
    read = Defaults.read(config["data"]["inject.yaml"]).resources
    assert (read.cpu, read.cpu_limit) == ("0.25", said)


def test_a_namespace_gives_the_user() -> None:
    (config,) = of_kind(render(matrix.MATRIX["openshift"]), "ConfigMap")
    assert not Defaults.read(config["data"]["inject.yaml"]).fixed_user
    (usual,) = of_kind(render({}), "ConfigMap")
    assert Defaults.read(usual["data"]["inject.yaml"]).fixed_user


def test_it_can_lie_below_another_chart() -> None:
    """`condition: llm-sidecar.enabled` and `global` of an umbrella chart are no typing errors."""
    assert render({"enabled": True, "global": {"region": "eu"}}) == render({})


@pytest.mark.parametrize(
    ("service", "namespaces", "closed"),
    [("ClusterIP", [], True), ("LoadBalancer", [], False), ("NodePort", [], False), ("LoadBalancer", ["shop"], True)],
)
def test_who_may_call(service: str, namespaces: list[str], closed: bool) -> None:
    """A Service for callers outside of the cluster is reachable for them, unless namespaces are named."""
    values = {
        "injector": matrix.OFF,
        "standalone": {"enabled": True, "service": {"type": service}},
        "networkPolicy": {"enabled": True, "standaloneNamespaces": namespaces},
    }
    (policy,) = of_kind(render(values), "NetworkPolicy")
    (rule,) = (rule for rule in policy["spec"]["ingress"] if rule["ports"][0]["port"] == "traffic")
    assert ("from" in rule) is closed


def test_the_test_pod_gets_through() -> None:
    """`helm test` asks every part, also where only some namespaces may."""
    objects = render(matrix.ALL)
    (pod,) = of_kind(objects, "Pod")
    for policy in of_kind(objects, "NetworkPolicy"):
        for rule in policy["spec"]["ingress"]:
            asked = [one["podSelector"]["matchLabels"] for one in rule.get("from", []) if "podSelector" in one]
            assert "from" not in rule or any(one.items() <= pod["metadata"]["labels"].items() for one in asked)
    assert pod["metadata"]["namespace"] == chart.NAMESPACE
