"""Whether a pod gets the sidecar, and the one patch that gives it: container, volumes and the app's variables together.

Pure: no I/O, no clock. The same pod gives the same patch, and the pod that the patch makes gives an empty one. What is the
user's stays as it is, but for what is listed here: two variables and NO_PROXY of the app's containers, the grace period
when it is below 40 s, the status annotation, and those two that tell the cluster autoscaler and kubectl of the sidecar.
Whatever keeps the sidecar out leaves the app calling its provider directly.

Ours stands first, before the init containers of others, so that those which call a model find it; theirs keep their order.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from sidecar import __version__
from sidecar.errors import ConfigError
from sidecar.inject import container as ours
from sidecar.inject import env, identity, ports, resources
from sidecar.inject.options import PORTS, PREFIX, STATUS, Options
from sidecar.inject.patch import Operation, Patch, pointer
from sidecar.inject.texts import service as check_service
from sidecar.inject.tree import Place

GRACE_S = 40  # drain is 25 s, the app ends before it, and the store is flushed after
SYSTEM = frozenset({"kube-system", "kube-public", "kube-node-lease"})
MESH = frozenset(  # proxies and set-up of others: no app, and injected anew by their own webhooks
    {
        *(
            "istio-proxy",
            "istio-init",
            "istio-validation",
            "linkerd-proxy",
            "linkerd-init",
            "linkerd-network-validator",
        ),
        *("consul-dataplane", "consul-connect-inject-init", "kuma-sidecar", "kuma-init"),
    }
)
EVICTABLE = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
_OS = "kubernetes.io/os"
MAX_TOLD = 8  # warnings in the status and the answer
Result = Literal["injected", "skipped", "already"]
# of every answer, here and in review: the values of a metric's label
Reason = Literal[
    "",
    "opt-out",
    "namespace",
    "mirror",
    "windows",
    "host-network",
    "run-to-end",
    "no-containers",
    "annotation",
    "operation",
    "subresource",
    "kind",
    "shape",
    "version",
    "uid",
    "json",
    "too-large",
]


@dataclass(frozen=True, slots=True)
class Injection:
    """What is done to a pod: the patch, what its owner should know, and a word for it of a closed set."""

    result: Result
    reason: Reason = ""
    operations: tuple[Operation, ...] = ()
    warnings: tuple[str, ...] = ()


def inject(pod: Place, namespace: str, options: Options) -> Injection:
    """The patch that puts the sidecar into the pod, or the reason why there is none.

    Raises:
        ConfigError: an annotation cannot hold for this pod: it names a container that is not there, or a taken port.
        WrongShape: a member of the pod that we read has a wrong type.
    """
    spec = pod["spec"]
    if any(one["name"].text() == ours.NAME for one in (*spec["initContainers"].items(), *spec["containers"].items())):
        return Injection("already", operations=tuple(_after_mesh(pod)))
    quiet = _not_ours(pod, namespace, options)
    if quiet:
        return Injection("skipped", quiet)
    native = options.native and options.mode != "plain"
    obstacle = _obstacle(spec, options, native)
    if obstacle is not None:
        reason, what = obstacle
        told = f"llm-sidecar is not injected: {what}"
        return Injection("skipped", reason, tuple(status(pod, {"injected": False, "reason": what})), (told,))
    return _injected(pod, options, native)


def status(pod: Place, said: dict[str, object], besides: Mapping[str, str] | None = None) -> list[Operation]:
    """The operations that write the status annotation and those besides it; none for one that says that already."""
    patch, metadata = Patch(), pod["metadata"]
    wanted = {**(besides or {}), STATUS: json.dumps(said, separators=(",", ":"))}
    there = metadata["annotations"].mapping()
    due: dict[str, object] = {name: text for name, text in wanted.items() if there.get(name) != text}
    if due and metadata.is_absent:
        patch.set("/metadata", {})
    patch.put_members(metadata["annotations"], "/metadata/annotations", due)
    return patch.operations


def _not_ours(pod: Place, namespace: str, options: Options) -> Reason:
    """Why the pod is none of our business: nothing is written into it and nobody is warned."""
    if options.wanted is False:
        return "opt-out"
    if namespace in SYSTEM:
        return "namespace"
    if "kubernetes.io/config.mirror" in pod["metadata"]["annotations"].mapping():
        return "mirror"
    return "" if pod["spec"]["containers"].items() else "no-containers"


def _obstacle(spec: Place, options: Options, native: bool) -> tuple[Reason, str] | None:
    """What keeps the sidecar out of a pod that should have it, and how to change that."""
    if _is_for_windows(spec):
        return "windows", "the pod runs on Windows, the sidecar on Linux only"
    if spec["hostNetwork"].flag() and not (options.wanted and len(options.ports) == len(PORTS)):
        given = ", ".join(f"{PREFIX}{name}" for name in PORTS)
        return "host-network", f'the pod has the ports of its node; set {PREFIX}inject: "true" and {given} to allow it'
    if not native and spec["restartPolicy"].text() in ("Never", "OnFailure"):
        return "run-to-end", "a plain container would keep a pod that runs to its end alive; it needs Kubernetes 1.29"
    return None


def _is_for_windows(spec: Place) -> bool:
    """Whether the pod says so, or can be placed on such nodes only."""
    if "windows" in (spec["os"]["name"].text(), spec["nodeSelector"].mapping().get(_OS)):
        return True
    affinity = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    terms = [term["matchExpressions"].items() for term in affinity["nodeSelectorTerms"].items()]
    asked = [
        any((one["key"].value, one["operator"].value, one["values"].value) == (_OS, "In", ["windows"]) for one in term)
        for term in terms
    ]
    return bool(asked) and all(asked)


def _injected(pod: Place, options: Options, native: bool) -> Injection:
    spec, metadata, patch = pod["spec"], pod["metadata"], Patch()
    mine, others = spec["initContainers"].items(), spec["containers"].items()
    used = ports.taken([*mine, *others], metadata["annotations"].mapping())
    chosen = ports.choose(options.defaults, options.ports, used)
    warnings = [
        f"port {old} is taken by {used.get(old, 'a port of ours')}: the sidecar uses {new}"
        for old, new in chosen.moved.items()
    ]
    if options.mode == "native" and not native:
        warnings.append("this cluster has no native sidecars (Kubernetes 1.29): injected as a plain container")
    targets = list(_targets(spec, options, native))
    for path, found in targets:
        warnings += env.extend(found, path, chosen.traffic, patch)
    proxies, told = env.proxies([found for _, found in targets], options.defaults.env)
    own, doubts = resources.fitting(options, spec, [*mine, *others])
    meshed = _is_meshed(metadata, [*mine, *others])
    plan = ours.Plan(native, _service(metadata, options), chosen, own, proxies, commands=meshed)
    where = "initContainers" if native else "containers"
    patch.put_first(spec[where], f"/spec/{where}", ours.container(options, plan))
    there = {one["name"].text() for one in spec["volumes"].items()}
    patch.append(spec["volumes"], "/spec/volumes", [one for one in ours.volumes(options) if one["name"] not in there])
    grace = spec["terminationGracePeriodSeconds"].number()
    if grace is None or grace < GRACE_S:
        patch.set("/spec/terminationGracePeriodSeconds", GRACE_S)
    warnings = [*warnings, *told, *doubts][:MAX_TOLD]
    patch.operations += status(pod, _said(plan, warnings), _notes(pod, native))
    return Injection("injected", "", tuple(patch.operations), tuple(f"llm-sidecar: {one}" for one in warnings))


def _notes(pod: Place, native: bool) -> dict[str, str]:
    """Annotations for others. An emptyDir keeps the autoscaler from emptying a node, unless the pod says that it may be
    lost, as ours may. kubectl takes the first container for the app, unless the pod names another: a plain one of ours is.
    """
    spec, there, notes = pod["spec"], pod["metadata"]["annotations"], {}
    if not any(one["name"].text() == ours.STATE for one in spec["volumes"].items()):
        volumes = [one.strip() for one in there[EVICTABLE].text().split(",") if one.strip()]
        if ours.STATE not in volumes:
            notes[EVICTABLE] = ",".join([*volumes, ours.STATE])
    apps = [name for one in spec["containers"].items() if (name := one["name"].text()) not in MESH]
    if not native and apps and not there[DEFAULT_CONTAINER].text():
        notes[DEFAULT_CONTAINER] = apps[0]
    return notes


def _service(metadata: Place, options: Options) -> str:
    """The annotation's name, else one from the pod itself; `default` where that is none which the sidecar takes."""
    if options.service is not None:
        return options.service
    try:
        return check_service(identity.service(metadata))
    except ValueError:
        return "default"


def _is_meshed(metadata: Place, containers: Iterable[Place]) -> bool:
    """Whether a mesh's proxy is in the pod, or the pod asks for Istio's or Linkerd's."""
    labels, annotations = metadata["labels"].mapping(), metadata["annotations"].mapping()
    return (
        "true" in (labels.get("sidecar.istio.io/inject"), annotations.get("sidecar.istio.io/inject"))
        or "istio.io/rev" in labels
        or annotations.get("linkerd.io/inject") in ("enabled", "ingress")
        or any(one["name"].text() in MESH for one in containers)
    )


def _after_mesh(pod: Place) -> list[Operation]:
    """Probes of ours become commands where a mesh came after us, and nothing told of it before (see `container`)."""
    spec, metadata, patch = pod["spec"], pod["metadata"], Patch()
    listed = [(where, spec[where].items()) for where in ("initContainers", "containers")]
    by_us = str(metadata["annotations"].mapping().get(STATUS, "")).startswith('{"injected":true')
    if not by_us or not _is_meshed(metadata, [one for _, found in listed for one in found]):
        return []
    for where, found in listed:
        for index, one in enumerate(found):
            health = next((port["containerPort"].number() for port in one["ports"].items()), None)
            if one["name"].text() == ours.NAME and health and not one["startupProbe"]["httpGet"].is_absent:
                for name, probe in ours.probes_by_command(health).items():
                    patch.set(pointer("spec", where, index, name), probe)
    return patch.operations


def _targets(spec: Place, options: Options, native: bool) -> Iterator[tuple[str, Place]]:
    """The containers that get the variables, each with its pointer in the pod as it is.

    All but the proxies of a mesh, or those that an annotation names. Init containers that end only in native mode: they
    run before a plain container starts.
    """
    named = options.containers
    missing = set(named or ())
    for where in ("containers", "initContainers"):
        for index, found in enumerate(spec[where].items()):
            name, stays = found["name"].text(), found["restartPolicy"].text() == "Always"
            reached = where == "containers" or native or stays
            if name in missing and not reached:
                what = f"annotation {PREFIX}containers: {name} ends before the sidecar starts as a plain container"
                raise ConfigError(f"{what}; leave it out")
            usual = reached and name not in MESH and (where == "containers" or not stays)
            if name in missing if named is not None else usual:
                missing.discard(name)
                yield pointer("spec", where, index), found
    if missing:
        what = f"annotation {PREFIX}containers: there is no container {', '.join(sorted(missing))} in this pod"
        raise ConfigError(f"{what}; name containers as the pod does")


def _said(plan: ours.Plan, warnings: list[str]) -> dict[str, object]:
    """The status annotation of an injected pod."""
    chosen = plan.ports
    said: dict[str, object] = {
        "injected": True,
        "mode": "native" if plan.native else "plain",
        "version": __version__,
        "ports": [chosen.traffic, chosen.health, chosen.admin],
    }
    if chosen.moved:
        said["moved"] = {str(old): new for old, new in chosen.moved.items()}
    return said | ({"warnings": warnings} if warnings else {})
