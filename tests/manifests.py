"""`python -m tests.manifests [--tools FOLDER]`: writes k8s/manifests again, for those who install without Helm.

`rendered()` renders the chart: each file is whole, `kubectl apply -f` makes the namespace and everything in it, and what
only Helm has (its labels, its test) is left out. `by_hand()` is what the injector makes of
`example-app.yaml`, which people write.
Tests compare both with the files. Rendering needs Helm (in FOLDER/bin, or in PATH); `by_hand()` needs nothing.
"""

import argparse
import base64
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import jsonpatch
import yaml

from sidecar.inject.options import PREFIX, STATUS, Defaults
from sidecar.inject.review import answer
from tests.k8s import chart

FOLDER: Final = chart.ROOT / "k8s" / "manifests"
EXAMPLE: Final = FOLDER / "example-app.yaml"
NAMESPACE: Final = "llm-sidecar"
OFF: Final = {"enabled": False}
# File -> what it is, the Kubernetes that it is rendered for, and the values.
FILES: Final[dict[str, tuple[str, str, dict[str, Any]]]] = {
    "injector.yaml": ("the injector: a webhook with certificates of its own", "1.31", {}),
    "policy-injector.yaml": ("the injector without pods: a MutatingAdmissionPolicy, Kubernetes >= 1.36", "1.36",
                             {"injector": {"kind": "policy"}}),
    "standalone.yaml": ("one shared service for many apps", "1.31", {"injector": OFF, "standalone": {"enabled": True}}),
    "daemon.yaml": ("one sidecar per node", "1.31", {"injector": OFF, "daemon": {"enabled": True}}),
}  # fmt: skip
# File -> whether the cluster has native sidecars.
BY_HAND: Final = {"example-app-native.yaml": True, "example-app-plain.yaml": False}
_ONLY_HELM: Final = re.compile(
    r"^ +(app\.kubernetes\.io/managed-by: Helm|helm\.sh/\S+: .*)\n|^# Source: .*\n|^\s+\n", re.MULTILINE
)
_HEAD: Final = """\
# {what}. Rendered from k8s/chart by `make manifests`: change the chart, not this file.
# Put your registry's name before `llm-sidecar` wherever the image is named, then: kubectl apply -f {name}
"""
_NAMESPACE: Final = """\
apiVersion: v1
kind: Namespace
metadata:
  name: {namespace}
  labels:
    app.kubernetes.io/name: llm-sidecar
    pod-security.kubernetes.io/enforce: restricted
"""
_BY_HAND_HEAD: Final = """\
# What the injector makes of example-app.yaml where Kubernetes {has} native sidecars ({versions}), without its annotations:
# for clusters without the injector. Written by `make manifests`: change example-app.yaml, not this file.
"""


def rendered(name: str) -> str:
    """What the file of this name should hold. Raises RuntimeError with Helm's words when it refuses."""
    what, kube, values = FILES[name]
    done = chart.template(values, kube, NAMESPACE, NAMESPACE, "--skip-tests")
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    head = _HEAD.format(what=what[0].upper() + what[1:], name=name)
    if f"namespace: {NAMESPACE}\n" in done.stdout:
        head += _NAMESPACE.format(namespace=NAMESPACE)
    return head + _ONLY_HELM.sub("", done.stdout).rstrip() + "\n"


def by_hand(name: str) -> str:
    """The example app with its sidecar, as the injector would have made it."""
    native = BY_HAND[name]
    objects = list(yaml.safe_load_all(EXAMPLE.read_text()))
    for one in objects:
        if one["kind"] == "Namespace":
            del one["metadata"]["labels"][f"{PREFIX}injection"]
        if one["kind"] == "Deployment":
            one["spec"]["template"] = _injected(one, native)
    has, versions = ("has", ">= 1.29") if native else ("lacks", "< 1.29")
    return _BY_HAND_HEAD.format(has=has, versions=versions) + yaml.dump_all(
        objects, Dumper=_Dumper, sort_keys=False, width=140
    )


def _injected(deployment: dict[str, Any], native: bool) -> dict[str, Any]:
    """The Deployment's template after a review of its pod."""
    template = deployment["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    request = {"uid": "1", "operation": "CREATE", "namespace": deployment["metadata"]["namespace"], "object": pod,
               "kind": {"group": "", "version": "v1", "kind": "Pod"},
               "resource": {"group": "", "version": "v1", "resource": "pods"}}  # fmt: skip
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    told = answer(json.dumps(review).encode(), Defaults(), deployment["spec"]["replicas"], native)
    patch = json.loads(base64.b64decode(json.loads(told.body)["response"]["patch"]))
    made: dict[str, Any] = jsonpatch.apply_patch(json.loads(json.dumps(template)), patch)
    status = json.loads(made["metadata"]["annotations"][STATUS])
    assert status["injected"], status
    made["metadata"]["annotations"] = {
        key: text for key, text in made["metadata"]["annotations"].items() if not key.startswith(PREFIX)
    }
    if not made["metadata"]["annotations"]:
        del made["metadata"]["annotations"]
    return made


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as such, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def main(arguments: Sequence[str]) -> int:
    """Writes each file that is not as it should be, and says so."""
    parser = argparse.ArgumentParser(prog="python -m tests.manifests", description="Write k8s/manifests again.")
    parser.add_argument("--tools", type=Path, help="the environment that has Helm")
    options = parser.parse_args(arguments)
    if options.tools is not None:
        os.environ["LLM_SIDECAR_K8S"] = str(options.tools.resolve())
    texts = {name: rendered(name) for name in FILES} | {name: by_hand(name) for name in BY_HAND}
    for name, text in texts.items():
        path = FOLDER / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"{path.relative_to(chart.ROOT)} is written anew")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
