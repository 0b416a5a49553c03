"""The options of `inject-webhook`: what does not go together is told before anything is opened."""

import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.cli import main

OWN = ("--secret", "llm-sidecar/tls", "--webhook", "llm-sidecar")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "--certificates self: name --secret NAMESPACE/NAME and --webhook NAME"),
        (("--secret", "tls", "--webhook", "x"), "--certificates self: name --secret NAMESPACE/NAME and --webhook NAME"),
        (("--certificates", "files"), "--certificates files: name the folder of the files with --tls-dir"),
        ((*OWN, "--listen", "everywhere"), "--listen: everywhere is not a listen address"),
        ((*OWN, "--health-listen", ""), "--health-listen: give an address, like :8443"),
        (OWN, "KUBERNETES_SERVICE_HOST is not set: run the injector as a pod"),
    ],
)
def test_options_that_do_not_go_together(
    options: tuple[str, ...],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    config = tmp_path / "config.yaml"
    config.touch()
    assert main(["inject-webhook", "--config", str(config), *options]) == 2
    assert told in capsys.readouterr().err


def test_a_configuration_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tls = ("--certificates", "files", "--tls-dir", str(tmp_path))
    assert main(["inject-webhook", "--config", str(tmp_path / "none.yaml"), *tls]) == 2
    assert "none.yaml: cannot be read" in capsys.readouterr().err


def test_without_its_extra_it_says_which(tmp_path: Path) -> None:
    """And no other verb needs it: this one imports it when it runs."""
    program = (
        "import sys; sys.modules['cryptography'] = None; from sidecar.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program]
    verb = ["inject-webhook", "--config", str(tmp_path / "config.yaml"), *OWN]
    assert subprocess.run([*command, "version"], capture_output=True, timeout=60, check=False).returncode == 0
    done = subprocess.run([*command, *verb], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (2, "llm-sidecar: cryptography is missing: install llm-sidecar[inject]\n")
