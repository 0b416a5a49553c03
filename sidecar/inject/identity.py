"""Whose pod it is: the controller in its ownerReferences, and the name under which its calls are counted.

A Deployment's pods belong to a ReplicaSet named `NAME-HASH`, a CronJob's to a Job named `NAME-MINUTES`: what changes with
each rollout or run is cut off, so that a service keeps its name. The owner's owner is not known here.
"""

import re
from dataclasses import dataclass

from sidecar.inject.tree import Place

NAME_LABEL = "app.kubernetes.io/name"
_HASH_LABELS = ("pod-template-hash", "rollouts-pod-template-hash")  # Deployments; Argo Rollouts
_SCHEDULED = re.compile(r"(.+)-[0-9]{8,10}", re.ASCII)  # minutes since 1970, as the CronJob controller appends them


@dataclass(frozen=True, slots=True)
class Owner:
    """The controller of a pod, as its ownerReferences name it."""

    namespace: str
    kind: str
    name: str


def owner(metadata: Place, namespace: str) -> Owner | None:
    """The owner that controls the pod (there is one at most), or None for a bare pod. Raises WrongShape."""
    for reference in metadata["ownerReferences"].items():
        if reference["controller"].flag():
            return Owner(namespace, reference["kind"].text(), reference["name"].text())
    return None


def service(metadata: Place) -> str:
    """The name for SERVICE_ID: the label app.kubernetes.io/name, else the owner's, else the pod's own."""
    labels = metadata["labels"]
    named = labels[NAME_LABEL].text()
    if named:
        return named
    found = owner(metadata, "")
    if found is not None and found.name:
        return _steady(found, [labels[name].text() for name in _HASH_LABELS])
    return metadata["generateName"].text().rstrip("-.") or metadata["name"].text() or "default"


def _steady(found: Owner, hashes: list[str]) -> str:
    """The owner's name without the part that is another one at the next rollout or run."""
    if found.kind == "ReplicaSet":
        return next((found.name.removesuffix(f"-{one}") for one in hashes if one), found.name)
    scheduled = _SCHEDULED.fullmatch(found.name) if found.kind == "Job" else None
    return scheduled[1] if scheduled else found.name
