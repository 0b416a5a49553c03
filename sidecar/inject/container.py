"""The sidecar's container and its volumes, as Kubernetes objects.

Everything that PodSecurity `restricted` asks for stands at the container itself, so it holds whatever the pod says. Its
probes ask only its own health port: neither an upstream nor the database can take the app out of its Service. What is
mounted is optional: a ConfigMap or Secret that is missing does not keep the app from starting.

In a pod of a mesh the probes are commands inside the container. A CNI plugin may lead the kubelet to the mesh's proxy from
the pod's first moment, when that does not run yet and waits for us. Istio besides rewrites the probes that it finds when it
injects itself. Those of containers that come later it leaves, and under STRICT mTLS it then refuses the kubelet: a pod that
would never be ready. Those of a container that starts before its proxy wait for that proxy: a pod that would never start.
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
_PYTHON = "/opt/llm-sidecar/bin/python"  # the image has no shell
_WAIT = """\
import time, urllib.request
direct = urllib.request.build_opener(urllib.request.ProxyHandler({{}}))
end = time.monotonic() + 30
while time.monotonic() < end:
    try:
        direct.open("http://127.0.0.1:{port}/ready", timeout=1)
        break
    except Exception:
        time.sleep(0.25)
"""
_ASK = """\
import socket
peer = socket.create_connection(("127.0.0.1", {port}), 3)
peer.sendall(b"GET {path} HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n")
raise SystemExit(b" 200 " not in peer.recv(64))
"""
Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Plan:
    """What was found out about one pod.

    `resources` is the container's own member, `env` what it takes over from the app; `commands`: probes must not come over
    the network.
    """

    native: bool
    service: str
    ports: Ports
    resources: Mapping[str, object]
    env: Sequence[Json] = ()
    commands: bool = False


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
        **_probes(plan),
        "resources": dict(plan.resources),
        "securityContext": _security(options.defaults.fixed_user),
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
    """Returns when the sidecar is ready, after half a minute at the latest: the kubelet starts the app only then.

    It never fails: the kubelet would kill the sidecar for that.
    """
    return [_PYTHON, "-I", "-c", _WAIT.format(port=port)]


def _security(fixed_user: bool) -> Json:
    """All of `restricted`. Without the numbers the image's own user holds, or what OpenShift gives to the namespace."""
    numbers = {"runAsUser": USER, "runAsGroup": USER} if fixed_user else {}
    return {
        "runAsNonRoot": True,
        **numbers,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _probes(plan: Plan) -> Json:
    """Start and readiness ask /ready; liveness asks /health, so that one which drains is not killed."""
    if not plan.commands:
        return {
            "startupProbe": _get("/ready", periodSeconds=1, failureThreshold=30),
            "readinessProbe": _get("/ready", periodSeconds=2, failureThreshold=2),
            "livenessProbe": _get("/health", periodSeconds=10, timeoutSeconds=3, failureThreshold=3),
        }
    return probes_by_command(plan.ports.health)


def probes_by_command(health: int) -> Json:
    """The three probes as commands that ask the health port from inside. One costs 20 ms of processor time, so they are
    fewer."""
    return {
        "startupProbe": _command("/ready", health, periodSeconds=1, timeoutSeconds=5, failureThreshold=30),
        "readinessProbe": _command("/ready", health, periodSeconds=5, timeoutSeconds=5, failureThreshold=2),
        "livenessProbe": _command("/health", health, periodSeconds=15, timeoutSeconds=5, failureThreshold=3),
    }


def _get(path: str, **times: int) -> Json:
    return {"httpGet": {"path": path, "port": _HEALTH}, **times}


def _command(path: str, port: int, **times: int) -> Json:
    return {"exec": {"command": [_PYTHON, "-I", "-S", "-c", _ASK.format(port=port, path=path)]}, **times}


def _environment(options: Options, plan: Plan) -> list[Json]:
    """Ours, then the installation's, which wins; what places the sidecar cannot be among it (`options.RESERVED`)."""
    ports = plan.ports
    values = {
        "SERVICE_ID": plan.service,
        "SIDECAR_DB": f"{STATE_AT}/sidecar.db",
        "SIDECAR_POLICIES": POLICIES_AT if options.policies else None,
        "SIDECAR_PRIORS": f"{PRIORS_AT}/priors.json" if options.priors else None,
        "SIDECAR_LISTEN": f"localhost:{ports.traffic}" if ports.traffic != 9090 else None,
        "SIDECAR_HEALTH_LISTEN": f":{ports.health}" if ports.health != 9091 else None,
        "SIDECAR_ADMIN_LISTEN": f"127.0.0.1:{ports.admin}" if ports.admin != 9092 else None,
        # SIGTERM comes to both at once: the app may pause so long between its last calls. A native one is told later.
        "SIDECAR_DRAIN_IDLE": None if plan.native else "5s",
        "SIDECAR_LOG_LEVEL": options.log_level,
        "SIDECAR_REPLICAS": str(options.replicas) if options.replicas is not None else None,
    }
    made: list[Json] = [{"name": name, "value": value} for name, value in values.items() if value is not None]
    made.append({"name": "NODE_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.nodeName"}}})
    made += plan.env
    common = options.defaults.env
    kept = [entry for entry in made if entry["name"] not in common]
    return kept + [{"name": name, "value": value} for name, value in common.items()]


def _mounts(options: Options) -> list[Json]:
    made: list[Json] = [{"name": STATE, "mountPath": STATE_AT}]
    if options.policies:
        made.append({"name": POLICIES, "mountPath": POLICIES_AT, "readOnly": True})  # no subPath: never updated
    if options.priors:
        made.append({"name": PRIORS, "mountPath": PRIORS_AT, "readOnly": True})
    for index, secret in enumerate(options.secrets):
        made.append({"name": f"{SECRET}-{index}", "mountPath": f"{SECRETS_AT}/{secret}", "readOnly": True})
    return made
