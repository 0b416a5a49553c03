"""A pod on a simulated node: the object that the injector makes, run as processes by a small kubelet.

Simulated, because it needs no cluster: no container runtime, no cgroup, no network of its own (each pod has ports of its
own instead), volumes are folders. What is real: the injector's patch, from which come every variable, port, probe, hook
and the grace period; the processes; the signals. The kubelet's rules that it holds to, and where they stand
(kubernetes.io/docs/concepts/...):

* An init container with `restartPolicy: Always` is a native sidecar: it stays. The next container starts when it is
  *started*: its process runs, and its startup probe, if it has one, has succeeded (workloads/pods/sidecar-containers).
* Ordinary containers are started in the order of the list. A postStart hook runs beside the process, and "other management
  of the container blocks until the hook completes" (API, Lifecycle). That the NEXT container waits for it too is how the
  kubelet is written and no promise of the API; Istio's `holdApplicationUntilProxyStarts` leans on the same.
* A probe by HTTP is good with 200..399. A startup probe that failed `failureThreshold` times in a row has the container
  killed and started again (configuration/liveness-readiness-startup-probes): here it is a test that failed.
* A pod's end: the grace period begins; preStop hooks run inside it; then SIGTERM. Ordinary containers get it at once, in no
  order that is promised. Native sidecars get theirs when every ordinary container has ended, the last of the list first.
  What still runs when the grace period is over gets SIGKILL (workloads/pods/pod-lifecycle, "Pod termination").
* A container that ends by itself is started again on the same volumes: an emptyDir lives as long as its pod
  (storage/volumes). The back-off of restarts is left out.
"""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sidecar.clock import monotonic
from sidecar.inject.options import Defaults, read_options
from sidecar.inject.pod import inject
from sidecar.inject.tree import Place
from tests.e2e.process import LOOPBACK, ROOT, free_port
from tests.fixtures.waiting import wait_for

NAME = "llm-sidecar"
PROGRAMS = {
    "llm-sidecar": [sys.executable, "-m", "sidecar", "run"],
    "app": [sys.executable, "-m", "tests.e2e.pod_app"],
}  # by container: an image's entry point
HOOK = "/opt/llm-sidecar/bin/python"  # of the image
OURS = ("SIDECAR_", "SERVICE_ID", "OPENAI_", "ANTHROPIC_", "GEMINI_", "APP_")
STARTS_S = 60.0  # a start takes a second; other tests may hold both cores
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """How one container ended."""

    name: str
    code: int
    killed: bool  # the grace period was over


class Pod:
    """One pod, from its creation to its end. Leaving the `with` block kills what still runs."""

    def __init__(
        self,
        folder: Path,
        upstream: str,
        *,
        native: bool = True,
        annotations: Mapping[str, str] | None = None,
        config_maps: Mapping[str, Path] | None = None,
        **variables: str,
    ) -> None:
        """`config_maps` are folders by name, `annotations` those of llm-sidecar.io/, `variables` the app's (APP_...) and the
        sidecar's."""
        self.folder, self.native = folder, native
        self.app_log = folder / "app.jsonl"
        self.port, self.health_port, self.admin_port = free_port(), free_port(), free_port()
        self._config_maps = config_maps or {}
        ports = {"port": self.port, "health-port": self.health_port, "admin-port": self.admin_port}
        said = {**{name: str(port) for name, port in ports.items()}, "service": "bot", **(annotations or {})}
        env = {"OPENAI_UPSTREAM": upstream, "SIDECAR_REQUEST_LOG": "off"}
        env |= {name: text for name, text in variables.items() if not name.startswith("APP_")}
        app = {"OPENAI_API_KEY": "sk-of-the-client", "APP_LOG": str(self.app_log)}
        app |= {name: text for name, text in variables.items() if name.startswith("APP_")}
        pod = {
            "metadata": {"annotations": {f"llm-sidecar.io/{name}": text for name, text in said.items()}},
            "spec": {"containers": [{"name": "app", "image": "app:1", "env": _entries(app)}]},
        }
        self.pod = injected(pod, Defaults(env=env), native=native)
        self.spec: Json = self.pod["spec"]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.started: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait(10)

    # ---- up

    def start(self) -> None:
        """Containers in their order, each when the one before it has started. RuntimeError when one does not."""
        for one in [*self.spec.get("initContainers", []), *self.spec["containers"]]:
            self.run(one["name"])

    def run(self, name: str) -> None:
        """Starts this container (again) on the pod's volumes; returns when the next one may start."""
        one = self.container(name)
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                PROGRAMS[name], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment(one), cwd=ROOT
            )
        self.started.append(name)
        hook = one.get("lifecycle", {}).get("postStart", {}).get("exec", {}).get("command")
        if hook:
            subprocess.run([sys.executable, *hook[1:]] if hook[0] == HOOK else hook, check=True, timeout=STARTS_S)
        if one.get("restartPolicy") == "Always" and "startupProbe" in one:
            probe = one["startupProbe"]
            if not wait_for(lambda: self.probe(one, probe), STARTS_S, 0.05):
                raise RuntimeError(f"{name} did not start:\n{self.output(name)[-4000:]}")

    def container(self, name: str) -> Json:
        """What the pod says of this container."""
        (found,) = (
            one for one in [*self.spec.get("initContainers", []), *self.spec["containers"]] if one["name"] == name
        )
        return found  # type: ignore[no-any-return]  # JSON

    def probe(self, one: Json, probe: Json) -> bool:
        """One probe of the container, as it stands in the pod."""
        asked, ports = probe["httpGet"], {port["name"]: port["containerPort"] for port in one["ports"]}
        url = f"http://{LOOPBACK}:{ports.get(asked['port'], asked['port'])}{asked['path']}"
        try:
            with urllib.request.urlopen(url, timeout=probe.get("timeoutSeconds", 1)) as answer:
                return 200 <= answer.status < 400
        except (urllib.error.URLError, OSError):
            return False

    def state(self, name: str = "llm-sidecar-state") -> Path:
        """The folder of a volume."""
        return self.folder / "volumes" / name

    def output(self, name: str = NAME) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    # ---- down

    def end(self) -> list[Ended]:
        """What `kubectl delete pod` begins; the containers in the order in which they ended."""
        until = monotonic() + self.spec["terminationGracePeriodSeconds"]
        ended = self.stop([one["name"] for one in self.spec["containers"]], until)
        for one in reversed(self.spec.get("initContainers", [])):
            ended += self.stop([one["name"]], until)
        return ended

    def stop(self, names: list[str], until: float = float("inf")) -> list[Ended]:
        """SIGTERM to these at once, SIGKILL at the end of the grace period."""
        assert not any("preStop" in self.container(name).get("lifecycle", {}) for name in names), "is not simulated"
        running, ended = {name: self.processes[name] for name in names}, []
        for process in running.values():
            process.terminate()
        killed = False
        while running:
            wait_for(
                lambda: monotonic() >= until or any(one.poll() is not None for one in running.values()), STARTS_S, 0.005
            )
            over = [name for name, process in running.items() if process.poll() is not None]
            ended += [Ended(name, running.pop(name).returncode, killed) for name in over]
            if monotonic() >= until:
                killed = True
                for process in running.values():
                    process.kill()
                    process.wait(10)
        return ended

    def crash(self, name: str = NAME) -> None:
        """The container's process dies, and the kubelet starts it again."""
        self.processes[name].kill()
        self.processes[name].wait(10)
        self.run(name)

    def verb(self, *arguments: str) -> bytes:
        """What `kubectl exec POD -c llm-sidecar -- llm-sidecar ...` prints; CalledProcessError when it fails."""
        environ = self._environment(self.container(NAME))
        command = [sys.executable, "-m", "sidecar", *arguments]
        return subprocess.run(command, env=environ, check=True, capture_output=True, timeout=STARTS_S, cwd=ROOT).stdout

    # ---- what a container sees

    def _environment(self, one: Json) -> dict[str, str]:
        places = {mount["mountPath"]: str(self._volume(mount["name"])) for mount in one.get("volumeMounts", [])}
        base = {
            name: text for name, text in os.environ.items() if not name.startswith(OURS) and "proxy" not in name.lower()
        }
        for entry in one.get("env", []):
            text = entry.get("value", "node-1")  # the only fieldRef is the node's name
            for place, real in places.items():
                text = real + text.removeprefix(place) if text.startswith(place) else text
            base[entry["name"]] = text
        return base

    def _volume(self, name: str) -> Path:
        """The folder of a volume: made for an emptyDir, given for a ConfigMap, empty where that is optional and missing."""
        (volume,) = (one for one in self.spec["volumes"] if one["name"] == name)
        config = volume.get("configMap", {}).get("name")
        folder = self._config_maps[config] if config in self._config_maps else self.state(name)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def injected(pod: Json, defaults: Defaults, *, native: bool) -> Json:
    """The pod as the API server has it after our webhook."""
    annotations = pod["metadata"]["annotations"]
    options = read_options(annotations, {}, defaults, replicas=2, native=native)
    done = inject(Place(pod), "shop", options)
    assert (done.result, done.warnings) == ("injected", ())
    for operation in done.operations:
        *parts, last = operation.path.removeprefix("/").split("/")
        at: Any = pod
        for part in parts:
            part = part.replace("~1", "/").replace("~0", "~")
            at = at[int(part)] if isinstance(at, list) else at[part]
        if isinstance(at, list):
            at.insert(len(at) if last == "-" else int(last), operation.value)
        else:
            at[last.replace("~1", "/").replace("~0", "~")] = operation.value
    return pod


def _entries(variables: Mapping[str, str]) -> list[Json]:
    return [{"name": name, "value": text} for name, text in variables.items()]
