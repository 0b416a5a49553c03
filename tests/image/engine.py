"""Images and containers for tests: built as `make image` does it, run by podman as a restricted pod runs them.

Each container has a read-only root without any tmpfs, the image's own user, no capability, no way to a new privilege,
the default seccomp filter and a limit of memory: what PodSecurity's `restricted` asks for, and `readOnlyRootFilesystem`.
The network is the machine's (so that tests can ask and be asked) or none at all.

runc where it is installed: crun refuses a machine that mounts both versions of control groups. Open files and processes
are limited by the test, as podman's own defaults may be above what the machine allows. Health checks are run by the tests
themselves: podman leaves their timing to systemd, which a CI machine may not have.
"""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

ROOT: Final = Path(__file__).resolve().parents[2]
UID: Final = 10001
MEMORY_MIB: Final = 512
STATE: Final = "/var/lib/llm-sidecar"
PYTHON: Final = "/opt/llm-sidecar/bin/python"
RUNTIME: Final = ("--runtime", "runc") if shutil.which("runc") else ()
RESTRICTED: Final = (
    "--read-only", "--read-only-tmpfs=false", "--cap-drop=ALL", "--security-opt=no-new-privileges",
    "--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096", "--no-healthcheck",
)  # fmt: skip
BUILD_TIMEOUT_S: Final = 600.0
TIMEOUT_S: Final = 60.0


def podman(*arguments: str, check: bool = True, timeout_s: float = TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    """What a podman command said. Raises RuntimeError with it when the command failed and `check` is set."""
    done = subprocess.run(
        ["podman", *RUNTIME, *arguments], capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL
    )
    if check and done.returncode != 0:
        raise RuntimeError(f"podman {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def copy_checkout(target: Path, source: Path = ROOT) -> Path:
    """What the Dockerfile may read, in a folder of its own with times of its own: edits meanwhile do not reach it."""
    allowed = [line[1:] for line in (source / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for name in (*allowed, "Dockerfile", ".dockerignore", "k8s/image"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, copy_function=shutil.copyfile, dirs_exist_ok=True,
                            ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
        else:
            shutil.copyfile(source / name, target / name)
    (ROOT / "build").mkdir(exist_ok=True)
    (target / "build").symlink_to(ROOT / "build")  # the wheels that were fetched before
    return target


def build(checkout: Path, name: str, epoch: int) -> None:
    """The image of that folder, by the script of `make image`. Raises RuntimeError with its output when it fails."""
    environ = {**os.environ, "ENGINE": "buildah", "PYTHON": str(ROOT / ".venv/bin/python")}
    done = subprocess.run(
        ["bash", "k8s/image/build.sh", name],
        cwd=checkout,
        env=environ | {"SOURCE_DATE_EPOCH": str(epoch)},
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the image was not built:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")


def inspect(image: str) -> dict[str, Any]:
    """What the engine knows of an image."""
    (known,) = json.loads(podman("image", "inspect", image).stdout)
    found: dict[str, Any] = known
    return found


def health_check(image: str) -> list[str]:
    """The command of the image's HEALTHCHECK, as a container runs it."""
    kind, *command = inspect(image)["Healthcheck"]["Test"]
    assert kind == "CMD"
    return command


@contextmanager
def mounted(image: str) -> Iterator[Path]:
    """The image's files as a folder that nobody may write to."""
    yield Path(podman("image", "mount", image).stdout.strip())
    podman("image", "unmount", image)


class Container:
    """A container that runs. Leaving the `with` block takes it away, whatever happened."""

    def __init__(
        self,
        image: str,
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        volumes: Sequence[str] = (),
        network: str = "host",
        options: Sequence[str] = (),
    ) -> None:
        """`arguments` follow the entrypoint; `volumes` are HOST:PLACE[:OPTIONS]; `options` are more of podman's."""
        self.name = f"llm-sidecar-test-{uuid.uuid4().hex[:8]}"
        command = [
            "run", "--detach", "--name", self.name, "--network", network, f"--memory={MEMORY_MIB}m", *RESTRICTED, *options
        ]  # fmt: skip
        for key, value in (environ or {}).items():
            command += ["--env", f"{key}={value}"]
        for volume in volumes:
            command += ["--volume", volume]
        try:
            podman(*command, image, *arguments)
        except BaseException:
            self._remove()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(f"{self.name}:\n{self.output()[-4000:]}")
        self._remove()

    def _remove(self) -> None:
        podman("rm", "--force", "--volumes", "--time", "0", self.name, check=False)

    def output(self) -> str:
        """What it has written so far, of both kinds."""
        said = podman("logs", self.name, check=False)
        return said.stdout + said.stderr

    def state(self) -> dict[str, Any]:
        """Pid, Status, ExitCode, OOMKilled and the like."""
        (known,) = json.loads(podman("inspect", "--type", "container", self.name).stdout)
        found: dict[str, Any] = known["State"]
        return found

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command inside, as the same user under the same limits."""
        return podman("exec", self.name, *command, check=False)

    def python(self, code: str) -> str:
        """What this program printed inside; AssertionError with its complaint when it failed."""
        done = self.execute(PYTHON, "-I", "-B", "-c", code)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def terminate(self) -> None:
        """SIGTERM to the first process, as a pod's end does it."""
        podman("kill", "--signal", "TERM", self.name)

    def wait(self) -> int:
        """Waits for the end; the exit status."""
        return int(podman("wait", self.name).stdout)

    def stop(self) -> int:
        """SIGTERM and its end; the exit status."""
        self.terminate()
        return self.wait()
