"""What the operating system knows of a process tree: processor time, memory; and how to keep a process on one core."""

import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from time import clock_gettime_ns

import psutil

_SCHED = 2  # CPUCLOCK_SCHED of include/linux/posix-timers.h: nanoseconds on the processor, finished threads included


def tree(pid: int) -> list[psutil.Process]:
    """The process and all its descendants that live now."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def cpu_s(pid: int) -> float:
    """Seconds of processor time, user and system, that the tree of `pid` has used: every thread, to the nanosecond.

    Linux gives each process a clock whose id is computed from its pid; elsewhere psutil's coarser times serve.
    """
    if platform.system() != "Linux":
        return sum(sum(one.cpu_times()[:2]) for one in tree(pid))
    return sum(clock_gettime_ns((~one.pid << 3) | _SCHED) for one in tree(pid)) / 1e9


def main_thread_cpu_s(pid: int) -> float | None:
    """Seconds of processor time of the first thread of `pid` alone; None where the kernel does not say."""
    path = Path(f"/proc/{pid}/task/{pid}/schedstat")
    return int(path.read_text().split()[0]) / 1e9 if _is(path) else None


def memory_mib(pid: int) -> dict[str, float]:
    """`rss` (sum over the tree: shared pages count once per process) and `pss` (shared pages divided), in MiB."""
    processes = tree(pid)
    found = {"rss": sum(one.memory_info().rss for one in processes) / 2**20}
    if platform.system() == "Linux":
        found["pss"] = sum(one.memory_full_info().pss for one in processes) / 2**20
    return found


def pinned(core: int | None) -> Callable[[], None] | None:
    """What a child runs before its program so that all its threads stay on `core`; None where that is not known."""
    if core is None or not hasattr(os, "sched_setaffinity"):
        return None
    return lambda: os.sched_setaffinity(0, {core})


def two_cores() -> tuple[int | None, int | None]:
    """A core for the peer and one for generator and upstream; the same one twice on a single-core machine."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[min(1, len(cores) - 1)]


def description(stat: Path = Path("/proc/stat")) -> Mapping[str, object]:
    """The machine, as a reader needs it to judge the figures."""
    cpuinfo = Path("/proc/cpuinfo")
    models = (
        [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")] if _is(cpuinfo) else []
    )
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.processor(),
        "cores": psutil.cpu_count(),
        "memory_mib": psutil.virtual_memory().total // 2**20,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average": list(os.getloadavg()),
        "steal_s": _steal_s(stat),
    }


def _is(path: Path) -> bool:
    return path.exists()


def _steal_s(stat: Path) -> float | None:
    """Seconds that the hypervisor gave to others since boot; None where the kernel does not say."""
    fields = stat.read_text().split("\n", 1)[0].split() if _is(stat) else []
    return int(fields[8]) / os.sysconf("SC_CLK_TCK") if len(fields) > 8 else None
