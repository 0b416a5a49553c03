"""Random pods: nothing makes the injector raise, twice is once, and what is the user's stays the user's."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sidecar.inject.pod import DEFAULT_CONTAINER, EVICTABLE
from sidecar.inject.texts import Resources
from tests.fixtures.pod_security import containers, violations
from tests.fixtures.pods import Json, container, nodes, pod
from tests.fixtures.reviewed import NO_PROXY, NOTES, OURS, STATUS, Case, patch_of, patched, said

URLS = ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL")
NAMES = (*URLS, "HTTPS_PROXY", "http_proxy", "NO_PROXY", "no_proxy", "OTHER")
_variables = st.fixed_dictionaries(
    {"name": st.sampled_from(NAMES)},
    optional={
        "value": st.sampled_from(("", "x", "http://p:1", "*", "a,b,", "localhost", NO_PROXY, "$(OTHER)")),
        "valueFrom": st.sampled_from(
            ({"secretKeyRef": {"name": "s", "key": "k"}}, {"resourceFieldRef": {"resource": "limits.cpu"}}, None)
        ),
    },
)
_ports = st.fixed_dictionaries(
    {"containerPort": st.sampled_from((80, 9090, 9091, 9092, 9190))},
    optional={"protocol": st.sampled_from(("TCP", "UDP")), "hostPort": st.sampled_from((0, 9092))},
)
_amounts = st.sampled_from(("1", "500m", "0.5", "1Gi", "1e3", 1))
_kinds = st.dictionaries(st.sampled_from(("cpu", "memory", "ephemeral-storage")), _amounts)
_resources = st.fixed_dictionaries({}, optional={"limits": _kinds, "requests": _kinds})
_members = st.fixed_dictionaries(
    {},
    optional={
        "env": st.none() | st.lists(_variables, max_size=5),
        "ports": st.none() | st.lists(_ports, max_size=3),
        "resources": _resources,
        "envFrom": st.just([{"configMapRef": {"name": "c"}}]),
        "livenessProbe": st.sampled_from(({"httpGet": {"port": 9091}}, {"tcpSocket": {"port": "http"}}, {"exec": {}})),
        "securityContext": st.sampled_from(({}, {"privileged": True})),
    },
)
_annotations = st.fixed_dictionaries(
    {},
    optional={
        "inject": st.sampled_from(("true", "false", "no")),
        "mode": st.sampled_from(("native", "plain", "auto", "")),
        "port": st.sampled_from(("9090", "9191", "19090", "80")),
        "health-port": st.sampled_from(("9091", "19091")),
        "admin-port": st.sampled_from(("19092", "x")),
        "containers": st.sampled_from(("c0", "c0,i0", "nobody")),
        "resources": st.sampled_from(("cpu=1", "memory=64Mi,memory-limit=none", "cpu=0")),
        "upstream-secrets": st.sampled_from(("a", "a,b", "A")),
        "policies": st.just("bots"),
        "service": st.sampled_from(("bot", "-")),
        "status": st.just('{"injected":true}'),
        EVICTABLE: st.sampled_from(("", "cache", "llm-sidecar-state")),
        "prometheus.io/port": st.sampled_from(("9091", "19091", "x")),
        DEFAULT_CONTAINER: st.sampled_from(("c0", "nobody")),
    },
)
_spec = st.fixed_dictionaries(
    {},
    optional={
        "hostNetwork": st.booleans(),
        "restartPolicy": st.sampled_from(("Always", "Never", "OnFailure")),
        "terminationGracePeriodSeconds": st.none() | st.integers(0, 600),
        "volumes": st.none() | st.just([]) | st.just([{"name": "llm-sidecar-state", "emptyDir": {}}]),
        "resources": _resources,
        "os": st.sampled_from(({"name": "linux"}, {"name": "windows"})),
        "securityContext": st.sampled_from(({}, {"runAsUser": 0}, {"runAsNonRoot": True})),
        "affinity": st.sampled_from((nodes(("windows",)), nodes(("windows",), ("linux",)), {"podAffinity": {}})),
    },
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A review of a random pod, in a random cluster and installation."""
    named = [container(f"c{at}", **more) for at, more in enumerate(draw(st.lists(_members, max_size=3)))]
    first = []
    for at, more in enumerate(draw(st.lists(_members, max_size=2))):
        stays = {"restartPolicy": "Always"} if draw(st.booleans()) else {}
        first.append(container(f"i{at}", **more, **stays))
    drawn = draw(_annotations)
    notes = {name: drawn.pop(name) for name in list(drawn) if "/" in name}
    annotations = said(**{name.replace("-", "_"): text for name, text in drawn.items()}) | notes
    made = pod(*named, annotations=annotations, init=draw(st.sampled_from((first, None, first))), **draw(_spec))
    defaults = draw(st.sampled_from(("", "{policies: p, upstream_secrets: [z], port: 9092, admin_port: 9290}")))
    return Case(
        name="random",
        pod=made,
        native=draw(st.booleans()),
        replicas=draw(st.none() | st.integers(0, 9)),
        defaults=defaults,
    )


@given(cases())
def test_a_random_pod_is_answered_once_and_for_all(case: Case) -> None:
    """INC-45: an answer, a patch that applies, an empty one the second time, and PodSecurity as it was."""
    told = case.answer()
    assert told.status == 200
    assert told.result in ("injected", "skipped", "refused")
    after = patched(case.pod, told)
    assert patch_of(case.answer(after)) == []
    assert violations(after) <= violations(case.pod)


@given(cases())
def test_what_is_the_users_stays(case: Case) -> None:
    """INC-45: each container, variable, volume and member is where it was, but for what the injector says it changes."""
    after = patched(case.pod, case.answer())
    ours = [one["name"] for one in containers(after) if one["name"] == OURS]
    assert ours == ([OURS] if case.answer().result == "injected" else [])
    kept = [one for one in containers(after) if one["name"] != OURS]
    for before, now in zip(containers(case.pod), kept, strict=True):
        assert {**now, "env": None} == {**before, "env": None}
        _check_variables(before.get("env") or [], now.get("env") or [], case.answer().result == "injected")
    members = {"containers", "initContainers", "volumes", "terminationGracePeriodSeconds"}
    assert {name: after["spec"][name] for name in case.pod["spec"].keys() - members} == {
        name: case.pod["spec"][name] for name in case.pod["spec"].keys() - members
    }
    assert after["spec"].keys() - case.pod["spec"].keys() <= members
    volumes = case.pod["spec"].get("volumes") or []
    assert (after["spec"].get("volumes") or [])[: len(volumes)] == volumes
    asked, given_ = (one["spec"].get("terminationGracePeriodSeconds") for one in (case.pod, after))
    assert given_ == (max(40, asked or 0) if ours else asked)
    before = case.pod["metadata"]["annotations"]
    assert {name: text for name, text in after["metadata"]["annotations"].items() if name not in (STATUS, *NOTES)} == {
        name: text for name, text in before.items() if name not in (STATUS, *NOTES)
    }
    assert all(after["metadata"]["annotations"].get(name, "").startswith(before.get(name, "")) for name in NOTES)


def _check_variables(before: list[Json], now: list[Json], injected: bool) -> None:
    """The user's entries, in their order, with their values; NO_PROXY may be longer, an empty base URL filled."""
    assert len(now) == len(before) if not injected else len(now) >= len(before)
    for old, new in zip(before, now[: len(before)], strict=True):
        if old == new:
            continue
        assert old["name"] == new["name"]
        value: Any = old.get("value", "")
        if old["name"] in URLS:
            assert not value
        else:
            assert old["name"] in ("NO_PROXY", "no_proxy")
            assert new["value"].startswith(value.rstrip(","))
        assert "valueFrom" not in old or old["valueFrom"] is None
    added = [one["name"] for one in now[len(before) :]]
    assert len(added) == len(set(added))
    assert set(added) <= {*URLS, "NO_PROXY", "no_proxy"}
    assert not set(added) & {one["name"] for one in before}


@given(cases())
def test_the_three_ports_are_free_and_the_apps_variables_name_one(case: Case) -> None:
    """GW-52: no port that a container declares, no port twice; a base URL of ours meets the sidecar's own listener."""
    told = case.answer()
    if told.result != "injected":
        return
    after = patched(case.pod, told)
    (ours,) = (one for one in containers(after) if one["name"] == OURS)
    own = {one["name"]: one.get("value") for one in ours["env"]}
    defaults = (9092, 9290) if case.defaults else (9090, 9092)
    listens = (
        own.get("SIDECAR_LISTEN", "x:9090"),
        own.get("SIDECAR_HEALTH_LISTEN", "x:9091"),
        own.get("SIDECAR_ADMIN_LISTEN", "x:9092"),
    )
    chosen = [int(one.rpartition(":")[2]) for one in listens]
    declared = {
        port["containerPort"]
        for one in containers(case.pod)
        for port in one.get("ports") or ()
        if port.get("protocol", "TCP") == "TCP"
    }
    assert len(set(chosen)) == 3
    assert not set(chosen) & declared
    assert chosen[0] % 100 == defaults[0] % 100 or "llm-sidecar.io/port" in case.pod["metadata"]["annotations"]
    added = [one for this in containers(after) for one in this.get("env") or () if one["name"] == "ANTHROPIC_BASE_URL"]
    assert all(one.get("value") in (f"http://localhost:{chosen[0]}", *_own_values(case.pod)) for one in added)


def _own_values(made: Json) -> set[str | None]:
    return {one.get("value") for this in containers(made) for one in this.get("env") or ()}


def test_the_default_resources_are_a_pods_own() -> None:
    """The figures stated in the docs: what is asked for is below what is allowed."""
    assert Resources() == Resources("100m", "256Mi", "500m", "512Mi")
