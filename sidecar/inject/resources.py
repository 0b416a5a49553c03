"""The sidecar's requests and limits in one pod, so that the pod keeps its QoS class and is not refused for them.

A pod of class Guaranteed (each container's requests equal its limits, for processor and memory) stays one: the sidecar
gets requests equal to limits too. Where the pod states resources as a whole (`spec.resources`), the sidecar states none
of those kinds: the API server refuses a pod whose containers ask for more than the pod has.

Where a container limits its disk, the kubelet evicts the pod that uses more than the sum of such limits, emptyDirs counted:
then the sidecar adds what its volume may hold, so that its rows are not taken from the app's share.
"""

from collections.abc import Sequence

from sidecar.inject.options import Options
from sidecar.inject.texts import Resources, quantity
from sidecar.inject.tree import Place

_KINDS = ("cpu", "memory")
_DISK = "ephemeral-storage"
_DISK_ASKED = "1Mi"  # unset, it would be the limit: room that a node would have to keep free


def fitting(options: Options, spec: Place, containers: Sequence[Place]) -> tuple[dict[str, object], list[str]]:
    """The member `resources` of the sidecar's container, and warnings. Raises WrongShape."""
    whole = {kind for way in ("requests", "limits") for kind in spec["resources"][way].mapping()}
    guaranteed = not whole and all(_is_guaranteed(one) for one in containers)
    chosen, warnings = options.resources, []
    if guaranteed and not options.resources_said:
        chosen = chosen.guaranteed()
    elif guaranteed and chosen != chosen.guaranteed():
        warnings.append(
            "the annotation resources makes this pod Burstable: for Guaranteed give limits equal to requests"
        )
    if whole & set(_KINDS) and options.resources_said:
        warnings.append("the annotation resources is not used: the pod states its resources as a whole")
    is_limited = any(not one["resources"]["limits"][_DISK].is_absent for one in containers)
    return _member(chosen, whole & set(_KINDS), options.defaults.state_size if is_limited else None), warnings


def _member(chosen: Resources, without: set[str], disk: str | None) -> dict[str, object]:
    requests = {"cpu": chosen.cpu, "memory": chosen.memory, _DISK: disk and _DISK_ASKED}
    limits = {"cpu": chosen.cpu_limit, "memory": chosen.memory_limit, _DISK: disk}
    made: dict[str, object] = {}
    for name, amounts in (("requests", requests), ("limits", limits)):
        kept = {kind: amount for kind, amount in amounts.items() if amount is not None and kind not in without}
        if kept:
            made[name] = kept
    return made


def _is_guaranteed(container: Place) -> bool:
    """Whether both limits are set and what is asked for equals them (unset requests are taken from the limits)."""
    limits, requests = (container["resources"][way] for way in ("limits", "requests"))
    return all(
        not limits[kind].is_absent and _same(limits[kind].value, requests.mapping().get(kind, limits[kind].value))
        for kind in _KINDS
    )


def _same(one: object, other: object) -> bool:
    """Whether two quantities are equal; those that we cannot read (`1E`, `12e6`) are, when written alike."""
    try:
        return quantity(str(one)) == quantity(str(other))
    except ValueError:
        return str(one) == str(other)
