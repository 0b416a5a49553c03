"""What is in the image and what is not, read from its files; nothing runs."""

import os
import re
import stat
from pathlib import Path

from sidecar import __version__
from tests import supply
from tests.image.conftest import EPOCH
from tests.image.engine import PYTHON, ROOT, STATE, UID, build, copy_checkout, health_check, inspect, podman

LARGEST_MIB = 200  # 176 when this was written; the official Python image alone is 125
SHELLS = re.compile(r"(ba|da|z|k|c|fi|tc|a)?sh|busybox|toybox|env|perl\S*|awk|sed")
INSTALLERS = re.compile(r"pip[0-9.]*|uv|easy_install|apt\S*|dpkg\S*|apk|rpm|gcc|cc|ld|curl|wget")


def _files(folder: Path) -> list[Path]:
    found = [Path(place, name) for place, _, names in os.walk(folder) for name in names]
    assert len(found) > 3000
    return found


def test_no_shell_and_no_installer(files: Path) -> None:
    """GW-46, SEC-SUPPLY: two programs in the whole image: Python and the product's own script."""
    runnable = [
        path.relative_to(files)
        for path in _files(files)
        if not path.is_symlink() and path.stat().st_mode & 0o111 and not re.search(r"\.so(\.|$)", path.name)
    ]
    names = {str(path) for path in runnable if path.parts[0] != "opt" or "bin" in path.parts}
    assert names <= {"usr/bin/python3.11", "usr/local/bin/python3.11", "opt/llm-sidecar/bin/llm-sidecar"} | {
        name for name in names if "/ld-linux" in name
    }
    found = {path.name for path in _files(files)}
    assert not {name for name in found if SHELLS.fullmatch(name) or INSTALLERS.fullmatch(name)}
    assert not list(files.glob("opt/llm-sidecar/lib/python3.*/site-packages/pip*"))
    assert not list(files.glob("usr/**/ensurepip"))


def test_nothing_is_setuid_or_open_to_all(files: Path) -> None:
    """No setuid or setgid bit, no file capability, nobody but root owns code, and only /tmp is open to all."""
    for path in [files, *files.rglob("*")]:
        known = path.lstat()
        if stat.S_ISLNK(known.st_mode):
            continue
        place = f"/{path.relative_to(files)}"
        assert not known.st_mode & (stat.S_ISUID | stat.S_ISGID), place
        assert "security.capability" not in os.listxattr(path, follow_symlinks=False), place
        assert known.st_uid == (UID if place == STATE else 0), place
        assert not known.st_mode & stat.S_IWOTH or place == "/tmp", place
    assert (files / STATE.lstrip("/")).is_dir()


def test_no_code_runs_by_itself(files: Path) -> None:
    """SEC-SUPPLY: no `.pth`, no sitecustomize: what starts with Python is Python."""
    assert not [path for path in _files(files) if path.suffix == ".pth" or "customize" in path.name]


def test_the_packages_are_the_locked_ones(files: Path) -> None:
    """SEC-SUPPLY, GW-46: each package of the lock with its version, the product, and nothing else."""
    gone = {supply.canonical(name) for name in supply.uninstalled((ROOT / "Dockerfile").read_text())}
    pins = supply.locked(supply.LOCK.read_text())
    wanted = {(name, version) for name, versions in pins.items() for version in versions if name not in gone}
    (packages,) = files.glob("opt/llm-sidecar/lib/python3.*/site-packages")
    found = {
        (supply.canonical(name), version)
        for name, version in (path.name.removesuffix(".dist-info").split("-") for path in packages.glob("*.dist-info"))
    }
    assert found == wanted | {("llm-sidecar", __version__)}
    assert {"cryptography", "grpcio"} <= {name for name, _ in found}


def test_nothing_of_the_machine_that_built_it(files: Path) -> None:
    """No name of a mirror, of a folder of the build, or of the machine: the files of /etc are the image's own."""
    known = {path.name for path in (files / "etc").iterdir()}
    assert known == {"group", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "nsswitch.conf", "passwd", "ssl"}
    url = next(files.glob("opt/**/llm_sidecar-*.dist-info/direct_url.json")).read_text()
    assert "file:///src" in url
    assert "BEGIN CERTIFICATE" in (files / "etc/ssl/certs/ca-certificates.crt").read_text()
    for text in (path.read_text() for path in (files / "etc/ld.so.conf.d").iterdir()):
        assert all(line.startswith(("#", "/usr", "/lib")) for line in text.splitlines() if line.strip())


def test_the_configuration(image: str) -> None:
    """uid 10001, Python as the first process, SIGTERM, a health check without a shell, one volume."""
    config = inspect(image)["Config"]
    assert config["User"] == f"{UID}:{UID}"
    assert config["Entrypoint"] == [PYTHON, "-I", "-B", "-u", "-m", "sidecar"]
    assert config["Cmd"] == ["run"]
    assert config["StopSignal"] in ("SIGTERM", "15")
    assert list(config["Volumes"]) == [STATE]
    assert health_check(image)[0] == PYTHON
    assert {name.split("=")[0] for name in config["Env"]} == {"PATH", "LANG", "SIDECAR_DB"}


def test_licences_come_along(files: Path) -> None:
    """Of each Debian package that a library or Python comes from, of each package of Python, and of the product."""
    told = {path.parent.name for path in files.glob("usr/share/doc/*/copyright") if path.stat().st_size > 100}
    assert {"libc6", "libssl3", "zlib1g", "libsqlite3-0", "ca-certificates"} <= told
    assert any(files.glob("usr/**/python3.11/LICENSE.txt")) or "libpython3.11-stdlib" in told
    assert (files / "usr/share/common-licenses/GPL-3").stat().st_size > 10_000
    assert (
        next(files.glob("opt/**/llm_sidecar-*.dist-info/licenses/LICENSE")).read_text()
        == (ROOT / "LICENSE").read_text()
    )


def test_it_is_small(image: str) -> None:
    size_mib = inspect(image)["Size"] / 2**20
    print("size", round(size_mib), "MiB")
    assert size_mib < LARGEST_MIB


def test_built_twice_it_is_the_same(image: str, checkout: Path, tmp_path: Path) -> None:
    """GW-46: from another folder, at another time, under another umask: the layers' digests and the configuration are
    equal, so anyone can build it and compare."""
    again = f"{image.removesuffix(':test')}:again"
    other = copy_checkout(tmp_path, checkout)
    for number, path in enumerate(sorted(other.glob("sidecar/**/*"))):
        os.utime(path, (EPOCH + number, EPOCH + number))
    mask = os.umask(0o077)
    try:
        build(other, again, EPOCH)
    finally:
        os.umask(mask)
    try:
        first, second = inspect(image), inspect(again)
        assert first["RootFS"]["Layers"] == second["RootFS"]["Layers"]
        for name in ("Config", "Healthcheck", "Created", "Architecture", "Os"):
            assert first[name] == second[name]
    finally:
        podman("rmi", again)
