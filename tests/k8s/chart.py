"""The chart as Helm renders it: values in, objects out; and what a refusal says.

Each rendering is a process of `helm template`, so results are kept. No cluster is asked: the Kubernetes version is given.
"""

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "k8s" / "chart"
KUBE: Final = "1.31"
NAMESPACE: Final = "llm"
Object = dict[str, Any]
LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is ten times quicker


def helm(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """What Helm said. It finds no cluster and no configuration of the user's."""
    tools = Path(os.environ.get("LLM_SIDECAR_K8S", ROOT / ".venv-k8s")) / "bin" / "helm"
    command = str(tools) if tools.exists() else shutil.which("helm")
    if command is None:
        raise FileNotFoundError("helm is neither in .venv-k8s (make test-k8s makes it) nor in PATH")
    environ = {name: text for name, text in os.environ.items() if not name.startswith(("HELM_", "KUBE"))}
    return subprocess.run(
        [command, *arguments], input=stdin, capture_output=True, text=True, timeout=60,
        env=environ | {"KUBECONFIG": os.devnull},
    )  # fmt: skip


def template(values: Mapping[str, Any], kube: str = KUBE, release: str = "llm-sidecar", namespace: str = NAMESPACE,
             *more: str) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """One `helm template`; its standard output are the documents."""
    arguments = ["template", release, str(CHART), "--namespace", namespace, "--kube-version", kube, *more]
    return helm(*arguments, "--values", "-", stdin=json.dumps(values))


def render(
    values: Mapping[str, Any], kube: str = KUBE, release: str = "llm-sidecar", namespace: str = NAMESPACE
) -> list[Object]:
    """The objects of one rendering. Raises AssertionError with Helm's words when it refuses."""
    return json.loads(_kept(json.dumps(values, sort_keys=True), kube, release, namespace))  # type: ignore[no-any-return]


@functools.cache
def _kept(values: str, kube: str, release: str, namespace: str) -> str:
    done = template(json.loads(values), kube, release, namespace)
    assert done.returncode == 0, done.stderr
    return json.dumps([one for one in yaml.load_all(done.stdout, LOADER) if one is not None])


def refusal(values: Mapping[str, Any], kube: str = KUBE) -> str:
    """What Helm says about values that it does not take."""
    done = template(values, kube)
    assert done.returncode != 0, "these values were taken"
    return done.stderr


def name_of(one: Object) -> str:
    return f"{one['kind']}/{one['metadata']['name']}"


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [one for one in objects if one["kind"] in kinds]


def pods(objects: list[Object]) -> list[Object]:
    """Every pod or pod template: objects with `metadata` and `spec`."""
    made = [
        one["spec"]["template"] for one in objects if one["kind"] in ("Deployment", "DaemonSet", "StatefulSet", "Job")
    ]
    return made + of_kind(objects, "Pod")


def containers(pod: Object) -> list[Object]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
