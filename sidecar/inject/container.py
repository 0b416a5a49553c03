"""The sidecar's container and its volumes, as Kubernetes objects.

Everything that PodSecurity `restricted` asks for stands at the container itself, so it holds whatever the pod says. Its
probes ask only its own health port: neither an upstream nor the database can take the app out of its Service. What is
mounted is optional: a ConfigMap or Secret that is missing does not keep the app from starting.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sidecar.inject.options import Options
from sidecar.inject.ports import Ports

NAME = "llm-sidecar"
USER = 10001  # the image's own
STATE, POLICIES, PRIORS, SECRET = (
    "llm-sidecar-state",
    "llm-sidecar-policies",
    "llm-sidecar-priors",
    "llm-sidecar-secret",
)
STATE_AT = "/var/lib/llm-sidecar"
POLICIES_AT = "/etc/llm-sidecar/policies"
PRIORS_AT = "/etc/llm-sidecar/priors"
SECRETS_AT = "/var/run/secrets/llm-sidecar"
_HEALTH = "sidecar-health"
_WAIT = """\
import time, urllib.request
for _ in range(120):
    try:
        urllib.request.urlopen("http://127.0.0.1:{port}/ready", timeout=1)
        break
    except OSError:
        time.sleep(0.25)
"""
Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Plan:
    """What was found out about one pod. `resources` is the container's own member, `env` what it takes over from the app."""

    native: bool
    service: str
    ports: Ports
    resources: Mapping[str, object]
    env: Sequence[Json] = ()


def container(options: Options, plan: Plan) -> Json:
    """The sidecar's container: an init container that stays, or an ordinary one that holds back those after it."""
    made: Json = {"name": NAME, "image": options.image}
    if options.defaults.image_pull_policy is not None:
        made["imagePullPolicy"] = options.defaults.image_pull_policy
    if plan.native:
        made["restartPolicy"] = "Always"
    else:
        made["lifecycle"] = {"postStart": {"exec": {"command": _wait(plan.ports.health)}}}
    return made | {
        "env": _environment(options, plan),
        "ports": [{"name": _HEALTH, "containerPort": plan.ports.health, "protocol": "TCP"}],
        "startupProbe": _probe("/ready", periodSeconds=1, failureThreshold=30),
        "readinessProbe": _probe("/ready", periodSeconds=2, failureThreshold=2),
        "livenessProbe": _probe("/health", periodSeconds=10, timeoutSeconds=3, failureThreshold=3),
        "resources": dict(plan.resources),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": _mounts(options),
    }


def volumes(options: Options) -> list[Json]:
    """The volumes that the container mounts, the database's first."""
    made: list[Json] = [{"name": STATE, "emptyDir": {"sizeLimit": options.defaults.state_size}}]
    for name, configured in ((POLICIES, options.policies), (PRIORS, options.priors)):
        if configured is not None:
            made.append({"name": name, "configMap": {"name": configured, "optional": True}})
    for index, secret in enumerate(options.secrets):
        made.append({"name": f"{SECRET}-{index}", "secret": {"secretName": secret, "optional": True}})
    return made


def _wait(port: int) -> list[str]:
    """Returns when the sidecar is ready, after half a minute at the latest: the kubelet starts the app only then."""
    return ["/opt/llm-sidecar/bin/python", "-I", "-c", _WAIT.format(port=port)]


def _probe(path: str, **times: int) -> Json:
    return {"httpGet": {"path": path, "port": _HEALTH}, **times}


def _environment(options: Options, plan: Plan) -> list[Json]:
    """Ours, then the installation's; of one name the installation's wins, but not over what places the sidecar."""
    ports = plan.ports
    values = {
        "SERVICE_ID": plan.service,
        "SIDECAR_DB": f"{STATE_AT}/sidecar.db",
        "SIDECAR_POLICIES": POLICIES_AT if options.policies else None,
        "SIDECAR_PRIORS": f"{PRIORS_AT}/priors.json" if options.priors else None,
        "SIDECAR_LISTEN": f"localhost:{ports.traffic}" if ports.traffic != 9090 else None,
        "SIDECAR_HEALTH_LISTEN": f":{ports.health}" if ports.health != 9091 else None,
        "SIDECAR_ADMIN_LISTEN": f"127.0.0.1:{ports.admin}" if ports.admin != 9092 else None,
        "SIDECAR_LOG_LEVEL": options.log_level,
        "SIDECAR_REPLICAS": str(options.replicas) if options.replicas is not None else None,
    }
    made: list[Json] = [{"name": name, "value": value} for name, value in values.items() if value is not None]
    made.append({"name": "NODE_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.nodeName"}}})
    made += plan.env
    taken = {entry["name"] for entry in made}
    return made + [{"name": name, "value": value} for name, value in options.defaults.env.items() if name not in taken]


def _mounts(options: Options) -> list[Json]:
    made: list[Json] = [{"name": STATE, "mountPath": STATE_AT}]
    if options.policies:
        made.append({"name": POLICIES, "mountPath": POLICIES_AT, "readOnly": True})  # no subPath: never updated
    if options.priors:
        made.append({"name": PRIORS, "mountPath": PRIORS_AT, "readOnly": True})
    for index, secret in enumerate(options.secrets):
        made.append({"name": f"{SECRET}-{index}", "mountPath": f"{SECRETS_AT}/{secret}", "readOnly": True})
    return made
