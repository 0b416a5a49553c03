"""What the Dockerfile promises: it runs as nobody, holds what is locked, and writes to one folder only."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")


def _stage(name: str) -> list[tuple[str, str]]:
    """(instruction, arguments) of one stage."""
    lines = [line.strip() for line in DOCKERFILE.splitlines() if line.strip() and not line.strip().startswith("#")]
    pairs = [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]
    start = next(i for i, (word, rest) in enumerate(pairs) if word == "FROM" and rest.endswith(f"AS {name}"))
    ends = [i for i, (word, _) in enumerate(pairs) if word == "FROM" and i > start]
    return pairs[start + 1 : ends[0] if ends else None]


def test_the_image_runs_as_nobody_in_exec_form() -> None:
    """uid 10001, SIGTERM straight to Python, no shell anywhere in the stage that runs."""
    stage = _stage("runtime")
    said = dict(stage)
    assert said["USER"] == "10001:10001"
    assert said["STOPSIGNAL"] == "SIGTERM"
    entrypoint = json.loads(said["ENTRYPOINT"])
    assert entrypoint[0] == "/opt/llm-sidecar/bin/python"
    assert entrypoint[-2:] == ["-m", "sidecar"]
    assert json.loads(said["CMD"]) == ["run"]
    assert not [word for word, _ in stage if word == "RUN"]
    assert "FROM scratch AS runtime\n" in DOCKERFILE


def test_the_health_check_is_python() -> None:
    """Exec form, so it works without a shell; its code compiles and asks the health port."""
    command = json.loads(dict(_stage("runtime"))["HEALTHCHECK"].split("CMD", 1)[1])
    assert command[0] == "/opt/llm-sidecar/bin/python"
    compile(command[-1], "HEALTHCHECK", "exec")
    assert "127.0.0.1:9091/health" in command[-1]


def test_the_image_is_locked_and_its_sources_exist() -> None:
    """Dependencies by hash only; each file that is copied is in the checkout and let through by .dockerignore."""
    build = _stage("build")
    installs = [rest for word, rest in build if word == "RUN" and " install " in rest and "pip" in rest]
    assert all("--require-hashes" in rest or "--no-deps --no-build-isolation ." in rest for rest in installs)
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    sources = [source for word, rest in build if word == "COPY" for source in rest.split()[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(source == one or source.startswith(one + "/") for one in allowed), source


def test_the_state_volume_is_where_the_database_is() -> None:
    """The one folder that is written belongs to the image's user."""
    said = _stage("runtime")
    assert ("ENV", "SIDECAR_DB=/var/lib/llm-sidecar/sidecar.db") in said
    assert ("VOLUME", "/var/lib/llm-sidecar") in said
    assert ("COPY", "--from=build --chown=10001:10001 /state /var/lib/llm-sidecar") in said
