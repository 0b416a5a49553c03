"""What the webhook answers to bodies that are no review, no pod, or larger than any: one clear sentence, never a crash."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.inject.identity import Owner
from sidecar.inject.options import Defaults
from sidecar.inject.review import MAX_REVIEW_BYTES, answer, owner_of
from tests.fixtures import pods
from tests.fixtures.pods import Json, container, pod
from tests.fixtures.reviewed import patch_of, response, said

NO_REVIEW = [
    ("empty", b"", 400, "json"),
    ("not-json", b"<html>", 400, "json"),
    ("cut", pods.body(pod())[:-7], 400, "json"),
    ("not-utf-8", b'{"request": "\xff"}', 400, "json"),
    ("not-a-number", b'{"request": NaN}', 400, "json"),
    ("too-deep", b"[" * 100_000, 400, "json"),
    ("a-list", b"[]", 400, "uid"),
    ("null", b"null", 400, "uid"),
    ("an-empty-object", b"{}", 400, "uid"),
    ("a-text-for-a-request", b'{"request": "x"}', 400, "uid"),
    ("no-uid", b'{"request": {}}', 400, "uid"),
    ("an-empty-uid", pods.body(pod(), uid=""), 400, "uid"),
    ("a-number-for-a-uid", pods.body(pod(), uid=7), 400, "uid"),
    ("too-large", b" " * (MAX_REVIEW_BYTES + 1), 413, "too-large"),
]


@pytest.mark.parametrize(
    ("body", "status", "reason"), [row[1:] for row in NO_REVIEW], ids=[row[0] for row in NO_REVIEW]
)
def test_what_is_no_review_is_told_so(body: bytes, status: int, reason: str) -> None:
    """INC-45: no uid to answer: HTTP says that the request was wrong, in one line of JSON."""
    told = answer(body, Defaults(), None, True)
    assert (told.status, told.result, told.reason) == (status, "malformed", reason)
    assert orjson.loads(told.body)["error"].startswith("llm-sidecar: ")
    assert owner_of(body) is None or reason == "uid"


def _set(made: Json, path: str, value: Any) -> Json:
    *above, last = path.split(".")
    place: Any = made
    for part in above:
        place = place[int(part) if part.isdigit() else part]
    place[int(last) if last.isdigit() else last] = value
    return made


WRONG = [
    ("metadata", [], "metadata is a list, not an object"),
    ("metadata.annotations", "x", "metadata.annotations is a text, not an object"),
    ("metadata.labels", 1, "metadata.labels is a number, not an object"),
    ("metadata.ownerReferences", {}, "metadata.ownerReferences is an object, not a list"),
    (
        "metadata.ownerReferences.0.controller",
        "yes",
        "metadata.ownerReferences[0].controller is a text, not true or false",
    ),
    ("spec", None, "request.object.spec is missing"),
    ("spec", "x", "spec is a text, not an object"),
    ("spec.containers", {}, "spec.containers is an object, not a list"),
    ("spec.containers.0", True, "spec.containers[0] is true or false, not an object"),
    ("spec.containers.0.name", 1.5, "spec.containers[0].name is a number, not a text"),
    ("spec.containers.0.env", "x", "spec.containers[0].env is a text, not a list"),
    (
        "spec.containers.0.env",
        [{"name": "HTTP_PROXY", "value": 1}],
        "spec.containers[0].env[0].value is a number, not a text",
    ),
    (
        "spec.containers.0.ports",
        [{"containerPort": "80"}],
        "spec.containers[0].ports[0].containerPort is a text, not a whole number",
    ),
    ("spec.containers.0.resources", [], "spec.containers[0].resources is a list, not an object"),
    ("spec.initContainers", 7, "spec.initContainers is a number, not a list"),
    ("spec.volumes", "x", "spec.volumes is a text, not a list"),
    ("spec.hostNetwork", "true", "spec.hostNetwork is a text, not true or false"),
    ("spec.terminationGracePeriodSeconds", 1.5, "spec.terminationGracePeriodSeconds is a number, not a whole number"),
]


@pytest.mark.parametrize(("path", "value", "told"), WRONG, ids=[f"{path}={value}" for path, value, _ in WRONG])
def test_a_pod_of_wrong_types_is_let_through(path: str, value: Any, told: str) -> None:
    """INC-45: allowed as it is, with a warning that names the member's path and the types, never a value."""
    answered = answer(pods.body(_set(pod(), path, value)), Defaults(), None, True)
    assert (answered.status, answered.result, answered.reason) == (200, "malformed", "shape")
    assert response(answered)["allowed"] is True
    assert response(answered)["warnings"] == [f"llm-sidecar is not injected: {told}"]
    assert patch_of(answered) == []


@pytest.mark.parametrize("member", ["kind", "operation", "subResource", "namespace"])
def test_a_request_of_wrong_types_is_let_through(member: str) -> None:
    answered = answer(pods.body(pod(), **{member: ["x"]}), Defaults(), None, True)
    assert (answered.status, answered.result, answered.reason) == (200, "malformed", "shape")
    assert f"request.{member} is a list" in response(answered)["warnings"][0]


@pytest.mark.parametrize("version", ["admission.k8s.io/v1beta1", "v1", 7, None])
def test_another_version_is_let_through(version: Any) -> None:
    """Answered in the version that was asked, as the API server expects; it says which one we read."""
    review = pods.review(pod()) | {"apiVersion": version}
    answered = answer(json.dumps(review).encode(), Defaults(), None, True)
    assert (answered.status, answered.result, answered.reason) == (200, "malformed", "version")
    assert response(answered)["allowed"] is True
    assert "admission.k8s.io/v1" in response(answered)["warnings"][0]
    asked = version if str(version).startswith("admission") else "admission.k8s.io/v1"
    assert orjson.loads(answered.body)["apiVersion"] == asked


def test_what_cannot_be_written_back_is_let_through() -> None:
    """JSON may be read deeper than it can be written: the pod is allowed, and nobody crashes."""
    deep: Json = {}
    for _ in range(400):
        deep = {"a": deep}
    told = answer(
        pods.body(pod(container(env=[{"name": "HTTPS_PROXY", "valueFrom": {"secretKeyRef": deep}}]))),
        Defaults(),
        None,
        True,
    )
    assert (told.status, told.result, told.reason) == (200, "malformed", "shape")
    assert response(told)["allowed"] is True
    assert patch_of(told) == []


def test_a_large_pod_is_injected() -> None:
    """A hundred containers with a thousand variables each: one patch, and the twice-applied one is empty."""
    many = [container(f"c{at}", env=[{"name": f"V{one}", "value": "x"} for one in range(1000)]) for at in range(100)]
    made = pod(*many)
    told = answer(pods.body(made), Defaults(), None, True)
    assert told.result == "injected"
    assert len(patch_of(told)) > 200


def test_warnings_fit_into_headers() -> None:
    """A name with line ends comes back without them, a long one is cut, and there are not more than eight."""
    noisy = [container(f"a\r\nb{at}" + "x" * 300, envFrom=[{"secretRef": {"name": "s"}}]) for at in range(20)]
    warnings = response(answer(pods.body(pod(*noisy)), Defaults(), None, True))["warnings"]
    assert len(warnings) == 8
    assert all(len(text) <= 256 and text.isprintable() for text in warnings)


def test_no_value_is_told() -> None:
    """Neither the answer's warnings nor the status hold what the user set: it may be a password."""
    secret = "http://user:hunter2@proxy:3128"
    env = [{"name": name, "value": secret} for name in ("OPENAI_BASE_URL", "HTTPS_PROXY", "NO_PROXY")]
    for made in (pod(container(env=env)), pod(annotations=said(mode=secret)), pod(annotations=said(service=secret))):
        told = answer(pods.body(made), Defaults(), None, True)
        status = [one for one in patch_of(told) if "annotations" in one["path"]]
        assert "hunter2" not in json.dumps(response(told)["warnings"])
        assert "hunter2" not in json.dumps(status)


def test_the_owner_is_the_one_that_controls() -> None:
    """For the look-up of replicas: namespace of the request, kind and name of the controller; None for a bare pod."""
    assert owner_of(pods.body(pod())) == Owner("shop", "ReplicaSet", "web-5d8f7c9b6d")
    assert owner_of(pods.body(pods.bare())) is None
    made = pod()
    made["metadata"]["ownerReferences"][0]["controller"] = False
    assert owner_of(pods.body(made)) is None
    made["metadata"]["ownerReferences"] = "x"
    assert owner_of(pods.body(made)) is None
    assert owner_of(pods.body(pods.stateful(), namespace=None)) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=8), below, max_size=3),
    max_leaves=8,
)


@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise(body: bytes) -> None:
    assert answer(body, Defaults(), None, True).status in (200, 400)
    owner_of(body)


MEMBERS = sorted(
    {path for path, _, _ in WRONG} | {"metadata.name", "metadata.generateName", "spec.os", "spec.nodeSelector"}
)


@given(st.sampled_from(MEMBERS), json_values, st.booleans())
def test_no_member_makes_it_raise(path: str, value: Any, native: bool) -> None:
    """Any JSON in any place that we read: answered with the uid, and the pod is allowed."""
    body = pods.body(_set(pod(), path, value))
    answered = answer(body, Defaults(), 2, native)
    assert (answered.status, response(answered)["allowed"]) == (200, True)
    owner_of(body)
