"""The table of admission reviews: every pod gets what its row says, by one patch, once, and nothing else changes."""

import json

import pytest
from jsonpatch import JsonPatch

from sidecar.config.settings import Settings
from tests.fixtures.injections import CASES
from tests.fixtures.pod_security import containers, violations
from tests.fixtures.pods import Json
from tests.fixtures.reviewed import NOTES, OURS, STATUS, Case, patch_of, patched, response, variables

INJECTED = [case for case in CASES if case.result == "injected"]
LEFT = [case for case in CASES if case.result != "injected"]
OUR_VARIABLES = {"OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "NO_PROXY", "no_proxy"}


def made(case: Case) -> Json:
    """The pod that comes of the case."""
    return patched(case.pod, case.answer())


def sidecar(pod: Json) -> Json:
    (found,) = (one for one in containers(pod) if one["name"] == OURS)
    return found


def by_name(found: object) -> str:
    return found.name if isinstance(found, Case) else str(found)


def test_the_table_is_large_and_its_rows_are_told_apart() -> None:
    """At least forty rows, each of another name."""
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=by_name)
def test_the_answer(case: Case) -> None:
    """INC-45, GW-52: whatever is asked, the pod is allowed; result, reason and each warning are the row's."""
    told = case.answer()
    assert (told.status, told.result, told.reason) == (200, case.result, case.reason)
    answered = response(told)
    assert (answered["allowed"], answered["uid"]) == (True, "705ab4f5-6393-11e8-b7cc-42010a800002")
    assert ("patch" in answered) == ("patchType" in answered)
    warnings = answered.get("warnings", [])
    assert len(warnings) == len(case.warns), warnings
    for text, warning in zip(case.warns, warnings, strict=True):
        assert text in warning
        assert warning.startswith("llm-sidecar")
        assert len(warning) <= 256


@pytest.mark.parametrize("case", INJECTED, ids=by_name)
class TestInjected:
    """What holds for every pod that gets the sidecar."""

    def test_the_sidecar_stands_first_and_the_others_keep_their_order(self, case: Case) -> None:
        """INC-45: an init container at index 0 that stays, or in plain mode the first container."""
        spec = made(case)["spec"]
        native = case.mode == "native"
        assert ("restartPolicy" in sidecar({"spec": spec})) == native
        assert ("lifecycle" in sidecar({"spec": spec})) != native
        init = tuple(one["name"] for one in spec.get("initContainers") or ())
        assert init == (case.init if case.init is not None else (OURS,) if native else ())
        assert tuple(one["name"] for one in spec["containers"]) == (
            case.containers if native else (OURS, *case.containers)
        )

    def test_the_app_calls_it(self, case: Case) -> None:
        """The row's variables, each in its container; None is absent."""
        found = {one["name"]: variables(one) for one in containers(made(case))}
        for name, wanted in case.env.items():
            assert {key: found[name].get(key) for key in wanted} == wanted, name

    def test_its_ports_probes_and_variables(self, case: Case) -> None:
        """Health is the one port that is declared; the traffic port is the one that the app's variables name."""
        found, own = sidecar(made(case)), variables(sidecar(made(case)))
        assert [port["containerPort"] for port in found["ports"]] == [case.ports[1]]
        assert [_asks(found[f"{name}Probe"]) for name in ("startup", "readiness", "liveness")] == [
            ("/ready", case.commands),
            ("/ready", case.commands),
            ("/health", case.commands),
        ]
        listens = [f"localhost:{case.ports[0]}", f":{case.ports[1]}", f"127.0.0.1:{case.ports[2]}"]
        usual = ["localhost:9090", ":9091", "127.0.0.1:9092"]
        names = ["SIDECAR_LISTEN", "SIDECAR_HEALTH_LISTEN", "SIDECAR_ADMIN_LISTEN"]
        assert [own.get(name, default) for name, default in zip(names, usual, strict=True)] == listens
        assert {name: own.get(name) for name in case.own} == dict(case.own)
        assert own["SIDECAR_DB"] == "/var/lib/llm-sidecar/sidecar.db"
        assert own["NODE_NAME"]["fieldRef"]["fieldPath"] == "spec.nodeName"

    def test_the_sidecar_takes_its_settings(self, case: Case) -> None:
        """GW-52: what is injected starts: the sidecar accepts each of its variables and listens where the app looks."""
        own = {name: text for name, text in variables(sidecar(made(case))).items() if isinstance(text, str)}
        settings = Settings.load(own)
        listens = (settings.listen, settings.health_listen, settings.admin_listen)
        assert tuple({port for _, port in one} for one in listens) == tuple({port} for port in case.ports)
        assert settings.replicas == (int(own["SIDECAR_REPLICAS"]) if "SIDECAR_REPLICAS" in own else None)
        assert (str(settings.db), settings.service) == ("/var/lib/llm-sidecar/sidecar.db", own["SERVICE_ID"])

    def test_its_volumes_are_there_and_optional(self, case: Case) -> None:
        """Each mount has its volume; a ConfigMap or Secret that is missing does not keep the app from starting."""
        pod = made(case)
        volumes = {one["name"]: one for one in pod["spec"]["volumes"]}
        assert len(volumes) == len(pod["spec"]["volumes"])
        assert {one["name"] for one in sidecar(pod)["volumeMounts"]} <= volumes.keys()
        if case.volumes != ("llm-sidecar-state",):
            assert tuple(volumes) == case.volumes
        for name in volumes.keys() - {one["name"] for one in case.pod["spec"].get("volumes") or ()}:
            kind = next(key for key in volumes[name] if key != "name")
            assert kind == "emptyDir" or volumes[name][kind]["optional"] is True
        assert all("subPath" not in mount for mount in sidecar(pod)["volumeMounts"])

    def test_resources_and_grace(self, case: Case) -> None:
        pod = made(case)
        assert pod["spec"]["terminationGracePeriodSeconds"] == case.grace
        if case.resources is not None:
            assert sidecar(pod)["resources"] == case.resources

    def test_the_status_says_what_was_done(self, case: Case) -> None:
        """`kubectl get pod -o yaml` shows mode, ports, and the warnings that a controller would have swallowed."""
        status = json.loads(made(case)["metadata"]["annotations"][STATUS])
        assert status["injected"] is True
        assert (status["mode"], tuple(status["ports"])) == (case.mode, case.ports)
        assert [f"llm-sidecar: {text}" for text in status.get("warnings", [])] == response(case.answer()).get(
            "warnings", []
        )

    def test_twice_is_once(self, case: Case) -> None:
        """INC-45, GW-52: the patch of an injected pod is empty."""
        again = case.answer(made(case))
        assert again.result == "already"
        assert patch_of(again) == []

    def test_nothing_else_is_changed(self, case: Case) -> None:
        """INC-45: without the sidecar, its volumes and annotations, two variables and NO_PROXY the pod is as it came."""
        before, after = _without_ours(case.pod), _without_ours(made(case))
        assert after == before

    def test_a_restricted_pod_stays_restricted(self, case: Case) -> None:
        """PodSecurity `restricted`: what the pod breaks afterwards it broke before."""
        after = violations(made(case))
        assert after <= violations(case.pod)
        assert not any(one.startswith(OURS) for one in after)


def _asks(probe: Json) -> tuple[str, bool]:
    """The path that a probe asks, and whether it is a command."""
    if "httpGet" in probe:
        assert probe["httpGet"]["port"] == "sidecar-health"
        return probe["httpGet"]["path"], False
    return probe["exec"]["command"][-1].partition("GET ")[2].partition(" ")[0], True


def _without_ours(pod: Json) -> Json:
    """The pod less all that an injection may add or change; empty and absent are one."""
    spec = json.loads(json.dumps(pod["spec"]))
    for where in ("initContainers", "containers"):
        spec[where] = [one for one in spec.get(where) or () if one["name"] != OURS]
        for one in spec[where]:
            one["env"] = [entry for entry in one.get("env") or () if entry["name"] not in OUR_VARIABLES]
    spec["volumes"] = [one for one in spec.get("volumes") or () if not one["name"].startswith("llm-sidecar-")]
    spec.pop("terminationGracePeriodSeconds", None)
    metadata = dict(pod.get("metadata") or {})
    metadata["annotations"] = {
        name: text for name, text in (metadata.get("annotations") or {}).items() if name not in (STATUS, *NOTES)
    }
    return {"metadata": metadata, "spec": spec}


@pytest.mark.parametrize("case", LEFT, ids=by_name)
class TestLeft:
    """What holds for every pod that does not get it: the app talks directly."""

    def test_only_the_status_is_written(self, case: Case) -> None:
        """INC-45: a pod that should have had it says why not; one that wants none, or is none of ours, is untouched."""
        paths = {one["path"] for one in patch_of(case.answer())}
        told = case.reason in ("windows", "host-network", "run-to-end", "annotation")
        assert len(paths) == (1 if told else 0)
        if told:
            status = json.loads(made(case)["metadata"]["annotations"][STATUS])
            assert status["injected"] is False
            assert status["reason"]

    def test_twice_is_once(self, case: Case) -> None:
        again = case.answer(made(case))
        assert (again.result, again.reason) == (case.result, case.reason)
        assert patch_of(again) == []

    def test_strict_denies_only_what_is_wrong(self, case: Case) -> None:
        """With `strict` a wrong annotation is a denial that names it; nothing else is ever denied."""
        strict = Case(name="strict", pod=case.pod, request=case.request, native=case.native, defaults="strict: true")
        answered = response(strict.answer())
        assert answered["allowed"] == (case.result != "refused")
        if case.result == "refused":
            assert answered["status"]["code"] == 400
            assert case.warns[0] in answered["status"]["message"]
            assert "patch" not in answered


@pytest.mark.parametrize("case", INJECTED[:8], ids=by_name)
def test_the_patch_is_one_of_rfc_6902(case: Case) -> None:
    """A real library reads it, and the sidecar comes in the same patch as the variables that name it."""
    operations = patch_of(case.answer())
    assert JsonPatch(operations).apply(json.loads(json.dumps(case.pod))) == made(case)
    assert {one["op"] for one in operations} == {"add"}


def test_a_dry_run_is_answered_like_any_other() -> None:
    """Nothing has side effects: the same patch."""
    (case,) = (one for one in CASES if one.name == "dry-run")
    (same,) = (one for one in CASES if one.name == "deployment")
    assert patch_of(case.answer()) == patch_of(same.answer())
