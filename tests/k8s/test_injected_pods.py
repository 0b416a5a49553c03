"""Injected pods against the API server's own schemas, strict, from the first version with native sidecars to the newest."""

from typing import Any

import pytest

from tests.fixtures.injections import CASES
from tests.fixtures.pods import Json
from tests.fixtures.reviewed import OURS, Case, patched
from tests.k8s.schemas import VERSIONS, faults

INJECTED = [case for case in CASES if case.result == "injected"]


def complaints(pod: Json, version: str) -> list[str]:
    """What the schema of a version says against a pod; a name is what the API server makes up itself."""
    named: dict[str, Any] = {"name": "web-5d8f7c9b6d-x2x8z"} | (pod["metadata"] or {})
    return faults(pod | {"metadata": named}, version)


@pytest.mark.parametrize("version", VERSIONS)
def test_injected_pods_are_valid(version: str) -> None:
    """GW-52, INC-45: each pod of the table that the schema allows before is allowed with our sidecar in it."""
    allowed = [case for case in INJECTED if not complaints(case.pod, version)]
    assert len(allowed) > len(INJECTED) * 0.9
    found = {case.name: complaints(patched(case.pod, case.answer()), version) for case in allowed}
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize("version", VERSIONS[:1] + VERSIONS[-1:])
def test_the_schema_would_see_a_mistake(version: str) -> None:
    """A member that does not exist, or a wrong type, in our own container is a complaint."""
    for member, value in (("restartpolicy", "Always"), ("env", {}), ("resources", {"limits": []})):
        pod = patched(INJECTED[0].pod, INJECTED[0].answer())
        pod["spec"]["initContainers"][0][member] = value
        assert complaints(pod, version)


@pytest.mark.parametrize("case", INJECTED, ids=lambda found: found.name)
def test_what_the_schemas_do_not_say(case: Case) -> None:
    """INC-45: the API server also refuses names that are too long or twice there, and mounts without their volume."""
    pod = patched(case.pod, case.answer())
    spec = pod["spec"]
    everyone = [*(spec.get("initContainers") or ()), *spec["containers"]]
    assert len({one["name"] for one in everyone}) == len(everyone)
    volumes = [one["name"] for one in spec["volumes"]]
    assert len(set(volumes)) == len(volumes)
    assert all(len(name) <= 63 for name in volumes)
    (ours,) = (one for one in everyone if one["name"] == OURS)
    mounts = [one["mountPath"] for one in ours["volumeMounts"]]
    assert len(set(mounts)) == len(mounts)
    assert {one["name"] for one in ours["volumeMounts"]} <= set(volumes)
    assert all(len(one["name"]) <= 15 for one in ours["ports"])
    names = [one["name"] for one in ours["env"]]
    assert len(set(names)) == len(names)
    assert all(("value" in one) != ("valueFrom" in one) for one in ours["env"])
    assert sum(len(name) + len(text) for name, text in pod["metadata"]["annotations"].items()) < 256 * 1024
