"""What the manifests and the Dockerfile promise: each parses, and the security and lifecycle settings stand in them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar import __version__
from sidecar.config.policy import load_policies

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = sorted((ROOT / "k8s").glob("*.yaml"))
DEPLOYMENTS = [path for path in MANIFESTS if path.name.startswith("deployment-")]


def _load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def _containers(path: Path) -> list[dict[str, Any]]:
    spec = _load(path)["spec"]["template"]["spec"]
    containers: list[dict[str, Any]] = [*spec.get("initContainers", []), *spec["containers"]]
    return containers


def _sidecar(path: Path) -> dict[str, Any]:
    (found,) = (one for one in _containers(path) if one["name"] == "llm-sidecar")
    return found


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_manifest_is_one_named_object(path: Path) -> None:
    """Each file holds one object that the API server can place."""
    manifest = _load(path)
    assert {"apiVersion", "kind", "metadata"} <= manifest.keys()
    assert re.fullmatch(r"[a-z0-9-]{1,63}", manifest["metadata"]["name"])


def test_the_manifests_are_the_documented_ones() -> None:
    """No file comes or goes without the docs noticing."""
    documented = (ROOT / "docs" / "operations.md").read_text()
    assert len(MANIFESTS) == 5
    assert all(f"k8s/{path.name}" in documented for path in MANIFESTS)


@pytest.mark.parametrize("path", DEPLOYMENTS, ids=lambda path: path.name)
class TestDeployment:
    """Promises of both ways to run beside an app."""

    def test_the_image_is_of_this_version(self, path: Path) -> None:
        assert _sidecar(path)["image"] == f"llm-sidecar:{__version__}"

    def test_all_probes_ask_the_health_port(self, path: Path) -> None:
        """Readiness and start ask /ready, liveness asks /health: a draining sidecar must not be killed."""
        sidecar = _sidecar(path)
        asked = {name: sidecar[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
        assert {name: get["path"] for name, get in asked.items()} == {
            "startupProbe": "/ready",
            "readinessProbe": "/ready",
            "livenessProbe": "/health",
        }
        assert {get["port"] for get in asked.values()} == {"sidecar-health"}
        assert sidecar["ports"] == [{"name": "sidecar-health", "containerPort": 9091}]

    def test_it_fits_the_restricted_pod_security_standard(self, path: Path) -> None:
        security = _sidecar(path)["securityContext"]
        assert security == {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        for container in _containers(path):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        pod = _load(path)["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False

    def test_resources_are_stated(self, path: Path) -> None:
        assert _sidecar(path)["resources"] == {
            "requests": {"cpu": "100m", "memory": "256Mi"},
            "limits": {"cpu": "500m", "memory": "512Mi"},
        }

    def test_the_grace_period_covers_the_drain(self, path: Path) -> None:
        """drain is 25 s by default, and the app ends before it."""
        assert _load(path)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= 25 + 10

    def test_policies_are_a_directory_and_the_database_is_bounded(self, path: Path) -> None:
        """A subPath mount of a ConfigMap would never change; an emptyDir without a limit can fill the node."""
        sidecar = _sidecar(path)
        mounts = {mount["name"]: mount for mount in sidecar["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in _load(path)["spec"]["template"]["spec"]["volumes"]}
        environment = {one["name"]: one.get("value") for one in sidecar["env"]}
        assert all("subPath" not in mount for mount in mounts.values())
        assert environment["SIDECAR_POLICIES"] == mounts["llm-sidecar-policies"]["mountPath"]
        assert mounts["llm-sidecar-policies"]["readOnly"] is True
        policies = _load(ROOT / "k8s" / "configmap-policies.yaml")
        assert volumes["llm-sidecar-policies"]["configMap"]["name"] == policies["metadata"]["name"]
        assert environment["SIDECAR_DB"].startswith(mounts["llm-sidecar-state"]["mountPath"] + "/")
        assert volumes["llm-sidecar-state"]["emptyDir"] == {"sizeLimit": "512Mi"}

    def test_the_app_needs_only_its_base_url(self, path: Path) -> None:
        (app,) = (one for one in _containers(path) if one["name"] == "app")
        environment = {one["name"]: one.get("value") for one in app["env"]}
        assert environment["OPENAI_BASE_URL"] == "http://localhost:9090/v1"
        assert environment["ANTHROPIC_BASE_URL"] == "http://localhost:9090"


def test_the_native_sidecar_is_an_init_container_that_stays() -> None:
    """Only with restartPolicy Always does an init container run beside the app."""
    spec = _load(ROOT / "k8s" / "deployment-native-sidecar.yaml")["spec"]["template"]["spec"]
    assert [(one["name"], one["restartPolicy"]) for one in spec["initContainers"]] == [("llm-sidecar", "Always")]


def test_the_plain_container_holds_the_app_back() -> None:
    """It stands first and its postStart hook, which is Python and no shell, waits for /ready."""
    spec = _load(ROOT / "k8s" / "deployment-plain-container.yaml")["spec"]["template"]["spec"]
    assert "initContainers" not in spec
    assert [one["name"] for one in spec["containers"]] == ["llm-sidecar", "app"]
    command = spec["containers"][0]["lifecycle"]["postStart"]["exec"]["command"]
    assert command[:3] == ["/opt/llm-sidecar/bin/python", "-I", "-c"]
    assert "/ready" in command[3]
    compile(command[3], "postStart", "exec")


def test_both_deployments_run_the_same_sidecar() -> None:
    """What differs is when it starts, nothing else."""
    native, plain = (_sidecar(path) for path in DEPLOYMENTS)
    assert native.pop("restartPolicy") == "Always"
    assert plain.pop("lifecycle")
    assert native == plain


def test_the_policy_of_the_config_map_loads(tmp_path: Path) -> None:
    """The example is accepted by the same loader as any other policy."""
    for name, text in _load(ROOT / "k8s" / "configmap-policies.yaml")["data"].items():
        (tmp_path / name).write_text(text)
    loaded = load_policies(tmp_path, "customer-support-bot", {})
    assert [route.name for route in loaded.policy.routes] == ["support"]
    assert loaded.policy.replicas == _load(DEPLOYMENTS[0])["spec"]["replicas"]


def test_the_scrape_meets_the_port() -> None:
    """The PodMonitor selects the Deployment's pods and names their health port."""
    monitor = _load(ROOT / "k8s" / "podmonitor.yaml")["spec"]
    labels = _load(DEPLOYMENTS[0])["spec"]["template"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert [(end["port"], end["path"]) for end in monitor["podMetricsEndpoints"]] == [("sidecar-health", "/metrics")]


DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")


def _stage(name: str) -> list[tuple[str, str]]:
    """(instruction, arguments) of one stage."""
    lines = [line.strip() for line in DOCKERFILE.splitlines() if line.strip() and not line.strip().startswith("#")]
    pairs = [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]
    start = next(i for i, (word, rest) in enumerate(pairs) if word == "FROM" and rest.endswith(f"AS {name}"))
    ends = [i for i, (word, _) in enumerate(pairs) if word == "FROM" and i > start]
    return pairs[start + 1 : ends[0] if ends else None]


def test_the_image_runs_as_nobody_in_exec_form() -> None:
    """uid 10001, SIGTERM straight to Python, no shell anywhere in the stage that runs."""
    stage = _stage("runtime")
    said = dict(stage)
    assert said["USER"] == "10001:10001"
    assert said["STOPSIGNAL"] == "SIGTERM"
    entrypoint = json.loads(said["ENTRYPOINT"])
    assert entrypoint[0] == "/opt/llm-sidecar/bin/python"
    assert entrypoint[-2:] == ["-m", "sidecar"]
    assert json.loads(said["CMD"]) == ["run"]
    assert not [word for word, _ in stage if word == "RUN"]
    assert "FROM scratch AS runtime\n" in DOCKERFILE


def test_the_health_check_is_python() -> None:
    """Exec form, so it works without a shell; its code compiles and asks the health port."""
    command = json.loads(dict(_stage("runtime"))["HEALTHCHECK"].split("CMD", 1)[1])
    assert command[0] == "/opt/llm-sidecar/bin/python"
    compile(command[-1], "HEALTHCHECK", "exec")
    assert "127.0.0.1:9091/health" in command[-1]


def test_the_image_is_locked_and_its_sources_exist() -> None:
    """Dependencies by hash only; each file that is copied is in the checkout and let through by .dockerignore."""
    build = _stage("build")
    installs = [rest for word, rest in build if word == "RUN" and " install " in rest and "pip" in rest]
    assert all("--require-hashes" in rest or "--no-deps --no-build-isolation ." in rest for rest in installs)
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    sources = [source for word, rest in build if word == "COPY" for source in rest.split()[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(source == one or source.startswith(one + "/") for one in allowed), source


def test_the_state_volume_is_where_the_database_is() -> None:
    """The one folder that is written belongs to the image's user."""
    said = _stage("runtime")
    assert ("ENV", "SIDECAR_DB=/var/lib/llm-sidecar/sidecar.db") in said
    assert ("VOLUME", "/var/lib/llm-sidecar") in said
    assert ("COPY", "--from=build --chown=10001:10001 /state /var/lib/llm-sidecar") in said
