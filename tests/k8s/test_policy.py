"""The policy does what the webhook does: the same pods, through CEL, come out the same, but for what is declared here.

Both are rendered from the chart with the same values: the webhook's ConfigMap is read by sidecar.inject, the policy's
expressions are evaluated (tests/k8s/cel.py says what is simulated of the API server). A pod comes as the API server shows
it to a policy: without nulls and empty lists, quantities in one form. docs/kubernetes-policy.md says what differs, and why.
"""

import copy
import functools
import json
from typing import Any

import jsonpatch
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.inject.options import RESERVED, Defaults
from sidecar.inject.review import answer
from tests.fixtures import pods
from tests.fixtures.injections import CASES
from tests.fixtures.pod_security import violations
from tests.fixtures.pods import Json, container, pod, variable
from tests.fixtures.reviewed import STATUS, Case, patched, ports, said
from tests.k8s import schemas
from tests.k8s.cel import CelError, Policy, evaluate, faults
from tests.k8s.chart import render, template
from tests.unit.inject.test_properties import cases

SINCE = "1.36"
VALUES: dict[str, Json] = {
    "defaults": {},
    "all options": {
        "image": {"repository": "registry.example.com:5000/llm/sidecar", "digest": f"sha256:{'0' * 64}"},
        "sidecar": {
            "logLevel": "debug",
            "policies": "p",
            "priors": "learnt",
            "upstreamSecrets": ["s", "openai"],
            "env": {"OBSERVATORY_URL": 'http://c:4318/<"&>', "no_proxy": ".svc"},
            "stateSize": "1Gi",
            "ports": {"traffic": 8090, "health": 9092, "admin": 9090},
            "resources": {"requests": {"cpu": "0.2", "memory": "128Mi"}, "limits": {"cpu": None, "memory": "1Gi"}},
        },
    },
    "strict": {"sidecar": {"strict": True, "fixedUser": False, "resources": {"limits": {"cpu": 2}}}},
    "a proxy for all": {"sidecar": {"env": {"HTTPS_PROXY": "http://b:1"}, "mode": "native"}},
}
# What the policy does not serve: each with its own test below, or decided before it is asked (matchConstraints, binding).
ASKED_OTHERWISE = {"system-namespace", "update", "delete", "subresource", "not-a-pod", "no-containers"}
SERVED = [case for case in CASES if case.name not in ASKED_OTHERWISE]


@functools.cache
def rendered(name: str, kind: str) -> dict[str, Json]:
    """The objects of one installation, by kind."""
    return {one["kind"]: one for one in render(VALUES[name] | {"injector": {"kind": kind}}, SINCE)}


@functools.cache
def policy(name: str = "defaults") -> Policy:
    return Policy(rendered(name, "policy")["MutatingAdmissionPolicy"])


@functools.cache
def defaults(name: str) -> Defaults:
    return Defaults.read(rendered(name, "webhook")["ConfigMap"]["data"]["inject.yaml"])


def served(found: Any) -> Any:
    """A value as the API server shows it: no nulls, no empty lists, quantities in their usual form."""
    if isinstance(found, dict):
        kept = {key: served(value) for key, value in found.items() if value is not None and value != []}
        return {key: _amounts(value) if key in ("requests", "limits") else value for key, value in kept.items()}
    return [served(one) for one in found] if isinstance(found, list) else found


def _amounts(found: Json) -> Json:
    return {kind: "500m" if str(amount) == "0.5" else str(amount) for kind, amount in found.items()}


def operations(made: Json, name: str = "defaults") -> list[Json]:
    """What the policy does to this pod; nothing where it is kept out."""
    found: list[Json] = json.loads(_operations(json.dumps(made), name))
    return found


@functools.cache
def _operations(made: str, name: str) -> str:
    return json.dumps(policy(name).operations(json.loads(made)) or [])


def by_policy(made: Json, name: str = "defaults") -> Json:
    """The pod that the policy makes of this one."""
    result: Json = jsonpatch.apply_patch(copy.deepcopy(made), operations(made, name))
    return result


def by_webhook(made: Json, name: str = "defaults") -> Json:
    return patched(made, answer(pods.body(made), defaults(name), None, True))


def status(made: Json) -> Json:
    """The status annotation; empty where there is none of ours."""
    text = ((made.get("metadata") or {}).get("annotations") or {}).get(STATUS, "")
    return json.loads(text) if text.startswith('{"injected"') else {}


def comparable(made: Json) -> Json:
    """Without what is declared to differ: warnings and the words of a reason in the status, empty maps of amounts."""
    made = copy.deepcopy(made)
    found = status(made)
    if found:
        made["metadata"]["annotations"][STATUS] = {key: found[key] for key in found.keys() - {"warnings", "reason"}}
    for one in made["spec"].get("initContainers", []):
        one["resources"] = {way: amounts for way, amounts in one.get("resources", {}).items() if amounts}
    return made


def without_unread(made: Json) -> Json:
    """The pod without the annotations that the policy does not follow."""
    annotations = (made["metadata"].get("annotations") or {}).copy()
    for name in ("resources", "mode"):
        if name == "resources" or annotations.get(f"llm-sidecar.io/{name}") == "plain":
            annotations.pop(f"llm-sidecar.io/{name}", None)
    kept = {key: value for key, value in made["metadata"].items() if key != "annotations"}
    return made | {"metadata": kept | ({"annotations": annotations} if annotations else {})}


def shown(case: Case) -> Json:
    """The case's pod, as far as both claim to serve it."""
    made: Json = served({**case.pod, "metadata": case.pod["metadata"] or {}})
    return without_unread(made)


@pytest.mark.parametrize("version", schemas.VERSIONS[schemas.VERSIONS.index(SINCE) :])
@pytest.mark.parametrize("name", VALUES)
def test_policy_and_binding_are_valid(name: str, version: str) -> None:
    """GW-52: by the strict schemas of 1.36 and newer; nothing of the webhook is rendered beside them."""
    found = rendered(name, "policy")
    assert {"MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"} <= found.keys()
    assert not found.keys() & {"MutatingWebhookConfiguration", "Deployment", "Service"}
    assert [fault for one in found.values() for fault in schemas.faults(one, version)] == []


@pytest.mark.parametrize("name", VALUES)
def test_expressions_see_what_the_api_server_shows_them(name: str) -> None:
    """Only the mutation builds patches; each variable knows those before it; conditions know none."""
    assert faults(rendered(name, "policy")["MutatingAdmissionPolicy"]) == []


def test_the_rules_of_sight_would_be_missed() -> None:
    """The check itself sees each kind of mistake."""
    found = copy.deepcopy(rendered("defaults", "policy")["MutatingAdmissionPolicy"])
    spec = found["spec"]
    spec["variables"][0]["expression"] = "variables.labels"
    spec["variables"][1]["expression"] = "[Object.spec{}]"
    spec["matchConditions"][0]["expression"] = "variables.labels == {}"
    spec["mutations"][0]["jsonPatch"]["expression"] = "variables.nothing"
    assert len(faults(found)) == 4


def test_binding_and_constraints_ask_as_the_webhook_does() -> None:
    """INC-45: pods that are created, in labelled namespaces, without the label that opts out; a failure lets them start."""
    webhook = rendered("defaults", "webhook")["MutatingWebhookConfiguration"]["webhooks"][0]
    spec = rendered("defaults", "policy")["MutatingAdmissionPolicy"]["spec"]
    bound = rendered("defaults", "policy")["MutatingAdmissionPolicyBinding"]["spec"]
    assert spec["matchConstraints"]["resourceRules"] == webhook["rules"]
    assert (spec["failurePolicy"], spec["reinvocationPolicy"]) == ("Ignore", "IfNeeded")
    assert bound["policyName"] == rendered("defaults", "policy")["MutatingAdmissionPolicy"]["metadata"]["name"]
    assert bound["matchResources"]["objectSelector"] == webhook["objectSelector"]
    asked, left_out = bound["matchResources"]["namespaceSelector"]["matchExpressions"]
    assert asked == webhook["namespaceSelector"]["matchExpressions"][0]
    assert set(left_out["values"]) >= {*webhook["namespaceSelector"]["matchExpressions"][1]["values"], "kube-public"}


@pytest.mark.parametrize("name", [name for name in VALUES if name != "strict"])
@pytest.mark.parametrize("case", SERVED, ids=lambda case: case.name)
def test_the_same_pod_comes_out_of_both(case: Case, name: str) -> None:
    """INC-45: each pod of the webhook's table, with the same installation, the cluster's replicas unknown to both."""
    made = shown(case)
    assert comparable(by_policy(made, name)) == comparable(by_webhook(made, name))


@pytest.mark.parametrize(
    "source",
    [
        {"fieldRef": {"fieldPath": "metadata.annotations['proxy']"}},
        {"configMapKeyRef": {"name": "c", "key": "k"}},
        {"secretKeyRef": {"name": "s", "key": "k", "optional": True}},
        {"resourceFieldRef": {"resource": "limits.cpu"}},
    ],
    ids=lambda source: next(iter(source)),
)
def test_a_proxy_from_elsewhere_is_taken_over_alike(source: Json) -> None:
    """Of two entries of a name the last counts; a source that means something else in another container does not."""
    twice = [variable("HTTPS_PROXY", "http://first:1"), {"name": "HTTPS_PROXY", "valueFrom": source}]
    made = served(pod(container(env=[*twice, variable("NO_PROXY", " a, ,"), variable("no_proxy", "b")])))
    assert comparable(by_policy(made)) == comparable(by_webhook(made))


@pytest.mark.parametrize("case", SERVED, ids=lambda case: case.name)
def test_twice_is_once_and_restricted_stays(case: Case) -> None:
    """GW-52: nothing to do at a pod that is done, no control of `restricted` that it did not break before."""
    made = shown(case)
    after = by_policy(made)
    assert operations(after) == []
    assert violations(after) <= violations(made)


def test_the_table_has_enough_of_both_kinds() -> None:
    """At least forty pods that get the sidecar, and ten that do not, are compared."""
    injected = [case for case in SERVED if status(by_policy(shown(case))).get("injected")]
    assert len(injected) >= 40
    assert len(SERVED) - len(injected) >= 10


@settings(max_examples=150, deadline=None)
@given(cases(), st.sampled_from([name for name in VALUES if name != "strict"]))
def test_random_pods_come_out_the_same(case: Case, name: str) -> None:
    """INC-45: of the webhook's own random pods too; twice is once."""
    if not case.pod["spec"]["containers"]:
        return  # no API server takes it
    made = shown(case)
    after = by_policy(made, name)
    assert comparable(after) == comparable(by_webhook(made, name))
    assert operations(after, name) == []


@pytest.mark.parametrize(
    ("namespace", "commands"),
    [
        ({}, False),
        ({"labels": {"istio-injection": "disabled"}}, False),
        ({"labels": {"istio-injection": "enabled"}}, True),
        ({"labels": {"istio.io/rev": "canary"}}, True),
        ({"annotations": {"linkerd.io/inject": "enabled"}}, True),
        ({"annotations": {"linkerd.io/inject": "disabled"}}, False),
    ],
)
def test_a_mesh_of_the_namespace_is_known(namespace: Json, commands: bool) -> None:
    """Policies come before webhooks: the mesh's proxy is not there yet, and would lead the probes of ours to itself.

    Then the startup probe of the first container waits for one that starts after it: the pod would never start.
    """
    found = Policy(rendered("defaults", "policy")["MutatingAdmissionPolicy"], namespace)
    made = jsonpatch.apply_patch(served(pod()), found.operations(served(pod())))
    probes = [made["spec"]["initContainers"][0][f"{name}Probe"] for name in ("startup", "readiness", "liveness")]
    assert [set(probe) & {"exec", "httpGet"} for probe in probes] == [{"exec" if commands else "httpGet"}] * 3


@pytest.mark.parametrize("case", SERVED, ids=lambda case: case.name)
def test_lists_begin_empty(case: Case) -> None:
    """INC-45: Kubernetes 1.36.0 to 1.36.3 cannot convert a list of objects as the value of an operation."""
    for one in operations(shown(case)):
        assert one["op"] == "add"
        assert one["value"] == [] or not isinstance(one["value"], list)


@pytest.mark.parametrize("version", schemas.VERSIONS[schemas.VERSIONS.index(SINCE) :])
def test_pods_of_the_policy_are_valid(version: str) -> None:
    """GW-52: strictly; also with every option."""
    for name in VALUES:
        made = by_policy(served(pod()), name)
        made["metadata"]["name"] = "web-5d8f7c9b6d-x2x8z"
        assert schemas.faults(made, version) == []


@pytest.mark.parametrize(
    ("annotations", "reason"),
    [
        ({"mode": "plain"}, "annotation llm-sidecar.io/mode: the policy makes native sidecars only"),
        ({"mode": "sideways"}, "annotation llm-sidecar.io/mode: is not one of"),
        ({"port": "80"}, "different ports from 1024"),
        ({"port": "9191", "health_port": "9191"}, "different ports from 1024"),
        ({"polices": "p"}, "annotation llm-sidecar.io/polices is not known"),
        ({"image": "a b", "service": "?"}, "llm-sidecar.io/image: is not the name of an image; llm-sidecar.io/service"),
        ({"containers": "nobody"}, "names a container that is not in this pod"),
        ({"upstream_secrets": ",".join(f"s{at}" for at in range(17))}, "at most 16 Secrets"),
        ({"replicas": "0"}, "annotation llm-sidecar.io/replicas: is not a number of pods"),
    ],
)
def test_a_reason_names_the_annotation(annotations: dict[str, str], reason: str) -> None:
    """INC-45: a pod that cannot have the sidecar starts as it is, and its status says why."""
    made = served(pod(annotations=said(**annotations)))
    after = by_policy(made)
    assert after["spec"] == made["spec"]
    assert status(after)["injected"] is False
    assert reason in status(after)["reason"]


def test_resources_by_annotation_are_told_to_be_unread() -> None:
    """The one annotation that the policy cannot follow is not swallowed: the status names it."""
    after = by_policy(served(pod(annotations=said(resources="cpu=1"))))
    assert after["spec"]["initContainers"][0]["resources"]["requests"] == {"cpu": "100m", "memory": "256Mi"}
    assert status(after)["warnings"] == ["the annotation resources is not read by the policy"]


def test_strict_refuses_what_the_status_blames_on_an_annotation() -> None:
    """A second policy refuses; both look at the same pods, and it lets all others pass."""
    found = rendered("strict", "policy")
    check, change = found["ValidatingAdmissionPolicy"]["spec"], found["MutatingAdmissionPolicy"]["spec"]
    assert {key: check[key] for key in ("matchConstraints", "matchConditions")} == {
        key: change[key] for key in ("matchConstraints", "matchConditions")
    }
    bound = found["ValidatingAdmissionPolicyBinding"]["spec"]
    assert bound["matchResources"] == found["MutatingAdmissionPolicyBinding"]["spec"]["matchResources"]
    assert bound["validationActions"] == ["Deny"]
    (rule,) = check["validations"]
    for made, passes in (
        (pod(), True),
        (pod(hostNetwork=True), True),
        (pod(annotations=said(mode="sideways")), False),
        (pod(annotations=said(containers="nobody")), False),
        (pod(ports(19090), annotations=said(port="19090")), False),
    ):
        after = by_policy(served(made), "strict")
        assert evaluate(rule["expression"], after) is passes
        assert "llm-sidecar" in evaluate(rule["messageExpression"], after)
    assert "ValidatingAdmissionPolicy" not in rendered("defaults", "policy")


@pytest.mark.parametrize("kind", ["webhook", "policy"])
@pytest.mark.parametrize("name", sorted(RESERVED))
def test_what_places_the_sidecar_is_not_for_the_installation(name: str, kind: str) -> None:
    """A variable that the injector sets itself is refused by the chart, not by a start that fails."""
    done = template({"injector": {"kind": kind}, "sidecar": {"env": {name: "x"}}}, SINCE)
    assert done.returncode != 0
    assert f"sidecar.env: {name} is set by the injector" in done.stderr


def test_plain_mode_needs_the_webhook() -> None:
    done = template({"injector": {"kind": "policy"}, "sidecar": {"mode": "plain"}}, SINCE)
    assert "plain needs injector.kind webhook" in done.stderr


def test_many_variables_and_ports_are_no_obstacle() -> None:
    """A pod as large as they come: 20 containers with 60 variables and 5 ports each, every usual port taken."""
    many = [
        container(
            f"c{at}",
            env=[variable(f"V{n}", "x") for n in range(60)],
            ports=[{"containerPort": 9090 + 100 * n + at % 3} for n in range(5)],
        )
        for at in range(20)
    ]
    made = served(pod(*many))
    assert comparable(by_policy(made)) == comparable(by_webhook(made))
    assert status(by_policy(made))["ports"] == [9590, 9591, 9592]


def test_no_free_port_is_an_obstacle() -> None:
    """After a hundred tries the pod goes without, where the webhook would look on."""
    made = served(pod(ports(*(9090 + 100 * at for at in range(100)))))
    assert status(by_policy(made)) == {"injected": False, "reason": "no port is free for the sidecar"}


def test_an_expression_that_fails_says_where() -> None:
    """The evaluation's own errors name the variable: a pod without a spec is none."""
    with pytest.raises(CelError, match="not-injected-already"):
        policy().operations({"metadata": {}})
