"""`python3 k8s/image/rootfs.py VENV ROOT`: what the image holds, and nothing else, laid out below the folder ROOT.

The interpreter, the part of its standard library that a server uses, the virtual environment VENV, the shared libraries
that these load (as `ldd` tells), certificate authorities, a few files of /etc, and the licences of all that. So there is
no shell, no package manager, and nothing that is setuid: what is not copied is not there.

The result does not depend on when or how often it is made: names are taken in order, bytecode is compiled anew without
times in it, and every file gets the time SOURCE_DATE_EPOCH. It runs in the build stage of the Dockerfile, as root.
"""

import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

UID: Final = 10001
# Nothing that a process without a terminal, a display or a compiler can use.
NOT_OF_PYTHON: Final = (
    "__pycache__", "test", "idlelib", "tkinter", "turtledemo", "turtle.py", "ensurepip", "lib2to3", "pydoc_data",
    "distutils", "venv", "curses", "dbm", "sitecustomize.py", "site-packages", "dist-packages", "config-3.*",
    "EXTERNALLY-MANAGED", "_tkinter*", "_test*", "_ctypes_test*", "_xx*", "xx*", "_curses*", "readline*", "_dbm*",
    "_gdbm*", "nis*", "ossaudiodev*", "*.a",
)  # fmt: skip
# Installed packages bring their own tests; the scripts of the environment are for a shell and for pip.
NOT_OF_PACKAGES: Final = ("__pycache__", "tests", "*.pyi", "*.pxd", "*.pyx", "*.h", "*.a")
SCRIPT: Final = "llm-sidecar"
# libgcc_s is loaded only when a thread ends, so no file names it.
LOADED_LATE: Final = ("libgcc_s.so.1",)
AUTHORITIES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
SHIPPED_AUTHORITIES: Final = Path("/usr/share/ca-certificates")
DOCUMENTS: Final = Path("/usr/share/doc")
LICENCES: Final = Path("/usr/share/common-licenses")
ETC: Final = {
    "passwd": f"root:x:0:0:root:/:/sbin/nologin\nllm-sidecar:x:{UID}:{UID}::/var/lib/llm-sidecar:/sbin/nologin\n",
    "group": f"root:x:0:\nllm-sidecar:x:{UID}:\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


def copy(source: Path, root: Path, leave_out: Iterable[str] = ()) -> None:
    """A file or a folder to the same place below `root`; links stay links."""
    target = root / source.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*leave_out))
    else:
        shutil.copy2(source, target, follow_symlinks=False)


def binaries(root: Path) -> Iterator[Path]:
    """Every file below `root` that the loader may be given."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def libraries(root: Path) -> set[Path]:
    """The shared libraries outside `root` that its files load, the loader among them. Raises ValueError when one is
    missing."""
    told = subprocess.run(["ldd", *binaries(root)], check=True, capture_output=True, text=True).stdout
    missing = re.findall(r"(\S+) => not found", told)
    if missing:
        raise ValueError(f"libraries that are not installed: {', '.join(sorted(set(missing)))}")
    found = {Path(path) for path in re.findall(r"(?:=> |^\t)(/\S+) \(0x", told, re.MULTILINE)}
    near = {path.parent for path in found}
    found |= {folder / name for folder in near for name in LOADED_LATE if (folder / name).exists()}
    return {path for path in found if not path.is_relative_to(root)}


def lay_libraries(root: Path) -> None:
    """Each library under the name that it is loaded by, and where the loader looks for it."""
    for merged in ("bin", "sbin", "lib", "lib64"):
        link = Path("/", merged)
        if link.is_symlink() and not (root / merged).is_symlink():
            (root / merged).symlink_to(link.readlink())
    for path in sorted(libraries(root)):
        target = root / path.parent.resolve().relative_to("/") / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path.resolve(), target)
    copy(Path("/etc/ld.so.conf"), root)
    copy(Path("/etc/ld.so.conf.d"), root)
    subprocess.run(["ldconfig", "-X", "-r", root], check=True)
    shutil.rmtree(root / "var/cache/ldconfig", ignore_errors=True)  # it holds times


def lay_python(venv: Path, root: Path) -> None:
    """Interpreter, standard library and the environment, bytecode of both included."""
    interpreter = (venv / "bin/python").resolve()
    copy(interpreter, root)
    places = sorted({Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")})
    for place in places:
        copy(place, root, NOT_OF_PYTHON)
    (packages,) = venv.glob("lib/python3.*/site-packages")
    copy(packages, root, NOT_OF_PACKAGES)
    copy(venv / "pyvenv.cfg", root)
    copy(venv / "bin" / SCRIPT, root)
    (root / venv.relative_to("/") / "bin/python").symlink_to(interpreter)
    for place in (*places, packages):
        compileall.compile_dir(
            root / place.relative_to("/"),
            maxlevels=40,
            stripdir=str(root),
            prependdir="/",
            quiet=1,
            force=True,
            # nobody writes to these files, so nobody needs to look whether the source is newer
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )


def lay_system(root: Path) -> None:
    """The files of /etc, the authorities where OpenSSL looks, and folders for what a runtime mounts."""
    for name, text in ETC.items():
        (root / "etc" / name).write_text(text)
    copy(AUTHORITIES, root)
    copy(Path("/etc/ssl/openssl.cnf"), root)
    ssl = root / "usr/lib/ssl"
    ssl.mkdir(parents=True)
    (ssl / "cert.pem").symlink_to(AUTHORITIES)
    (ssl / "certs").symlink_to(AUTHORITIES.parent)
    (ssl / "openssl.cnf").symlink_to("/etc/ssl/openssl.cnf")
    for name in ("dev", "proc", "sys", "run", "tmp", "var/lib"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)


def lay_licences(root: Path) -> None:
    """The copyright file of each Debian package that something below `root` comes from, and the licences that these name.

    What is in no package brings its own: packages of Python in their `.dist-info`, a Python that was compiled in its folder.
    """
    laid = sorted(f"/{path.relative_to(root)}" for path in (root / "usr").rglob("*") if not path.is_dir())
    # dpkg knows some files by the place that they had before /lib became a link to /usr/lib
    names = [name for path in laid for name in (path, path.removeprefix("/usr"))] + [str(SHIPPED_AUTHORITIES)]
    told = subprocess.run(["dpkg-query", "--search", *names], capture_output=True, text=True).stdout
    owners = [line.rpartition(": ")[0] for line in told.splitlines() if not line.startswith("diversion ")]
    for package in sorted({one.partition(":")[0] for owner in owners for one in owner.split(", ")}):
        source = DOCUMENTS / package / "copyright"
        target = root / source.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)  # some are links to another package's
    copy(LICENCES, root)


def settle(root: Path, at: int) -> None:
    """Owner root, no bit more than needed, one time for all."""
    for path in [root, *sorted(root.rglob("*"))]:
        os.chown(path, 0, 0, follow_symlinks=False)
        if not path.is_symlink() and path != root / "tmp":
            runs = path.is_dir() or path.parent.name == "bin" or ".so" in path.name
            path.chmod(0o755 if runs else 0o644)
        os.utime(path, (at, at), follow_symlinks=False)


def main() -> None:
    """Lays it all out; raises what goes wrong."""
    venv, root = Path(sys.argv[1]), Path(sys.argv[2])
    root.mkdir(parents=True)
    lay_python(venv, root)
    lay_libraries(root)
    lay_system(root)
    lay_licences(root)
    settle(root, int(os.environ.get("SOURCE_DATE_EPOCH") or 0))


if __name__ == "__main__":
    main()
