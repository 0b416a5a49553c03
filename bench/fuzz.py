"""Fuzzing: `python -m bench.fuzz [--seconds N] [--target NAME]... [--seed N]`; `--target NAME --replay FILE`: one input.

The targets are those of `bench.fuzz_wire` and `bench.fuzz_spokes`, which say what must hold. With atheris (`make fuzz`
installs it beside the environment, never into it) libFuzzer is guided by the branches of our code that an input reaches;
without it good inputs are spoilt blindly, which finds less and says so. Each target is a process of its own. A fault is
written to build/fuzz with its trace and the command that replays it, and fuzzing goes on; so does an input that takes more
than `SLOW_S` of the processor. The exit status is 1 when there was one.
"""

import argparse
import hashlib
import importlib
import importlib.util
import random  # noqa: TID251 - the seed is an argument, and is printed
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

OUT: Final = Path(__file__).resolve().parents[1] / "build" / "fuzz"
SLOW_S: Final = 2.0  # with every branch counted, which takes five times as long
MAX_BYTES: Final = 4096  # of an input
_SEEDS: Final = {
    "head": "heads", "answer-head": "answer_heads", "chunked": "chunks", "sse": "events", "eventstream": "frames",
    "json-edit": "bodies", "request-texts": "bodies", "usage": "events", "usage-strip": "events", "target": "targets",
    "decode": "bodies", "schema": "schemas", "policy": "policies", "request": "requests", "answer": "answers",
    "stream": "streams", "problem": "answers",
}  # fmt: skip
TARGETS: Final = tuple(_SEEDS)
_RUNS: Final = re.compile(r"stat::number_of_executed_units: *([0-9]+)")
_COVERED: Final = re.compile(r"cov: ([0-9]+)")


@dataclass(slots=True)
class Watched:
    """A target whose faults are kept, each place once."""

    name: str
    run: Callable[[bytes], None]
    out: Path
    faults: dict[str, Path] = field(default_factory=dict)

    def once(self, data: bytes) -> None:
        """One execution; raises nothing."""
        began = time.thread_time()
        try:
            self.run(data)
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            frame = traceback.extract_tb(error.__traceback__)[-1]
            self._keep(f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}", data, error)
            return
        if time.thread_time() - began > SLOW_S:
            self._keep("slow", data, None)

    def _keep(self, what: str, data: bytes, error: Exception | None) -> None:
        known = self.faults.get(what)
        if known is not None and known.stat().st_size <= len(data):
            return  # the shortest input of each place is kept
        file = self.out / f"{hashlib.sha256(what.encode()).hexdigest()[:10]}.bin"
        self.faults[what] = file
        file.write_bytes(data)
        trace = "" if error is None else "".join(traceback.format_exception(error))
        replay = f"python -m bench.fuzz --target {self.name} --replay {file}"
        file.with_suffix(".txt").write_text(f"{what}\n{replay}\n\n{trace}")


def target_of(name: str) -> Callable[[bytes], None]:
    """The function of a target. Its modules are imported now: with atheris they are instrumented by that."""
    wire = importlib.import_module("bench.fuzz_wire").WIRE
    spoken = importlib.import_module("bench.fuzz_spokes").SPOKEN
    found: Callable[[bytes], None] = {**wire, **spoken}[name]
    return found


def seeds_of(name: str) -> list[bytes]:
    """The good inputs of a target."""
    found: list[bytes] = getattr(importlib.import_module("bench.fuzz_seeds"), _SEEDS[name])()
    return found


def spoilt(chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """A good input with some bytes changed, left out, put in or taken from another one."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, 6)):
        at = chance.randint(0, len(data))
        match chance.randint(0, 5):
            case 0:
                data[at : at + 1] = chance.randbytes(1)
            case 1:
                del data[at : at + chance.randint(1, 16)]
            case 2:
                data[at:at] = chance.choice(WORDS)
            case 3:
                other = chance.choice(seeds)
                begin = chance.randint(0, len(other))
                data[at:at] = other[begin : begin + chance.randint(1, 64)]
            case 4:
                data[at:at] = data[at : at + chance.randint(1, 64)] * chance.randint(1, 4)
            case _:
                data[at : at + chance.randint(1, 8)] = chance.choice(WORDS)
    return bytes(data[:MAX_BYTES])


WORDS: Final = (
    b"\r\n", b"\n", b"\r", b"\0", b"\xff", b" ", b":", b",", b'"', b"\\", b"{", b"}", b"[", b"]", b"null", b"true", b"-1",
    b"0", b"1e400", b"9" * 30, b"\\ud800", b"\xed\xa0\x80", b"[" * 200, b'{"a":' * 200, b"data: ", b"\n\n", b"event: ",
    b"[DONE]", b'"type":', b'"index":', b'"content":', b'"usage":', b'"error":', b'"id":""', b"[]", b"{}", b'""',
    b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", b"%2e%2e", b"/", b"#", b"?", b"\xe2\x80\xa8",
    b"&a *a", b"!!python/object:x",
)  # fmt: skip


def _fuzz(name: str, seconds: float, seed: int) -> None:
    """The child process: one target, for so long."""
    out = OUT / name
    out.mkdir(parents=True, exist_ok=True)
    if importlib.util.find_spec("atheris") is None:
        watched, seeds, runs = Watched(name, target_of(name), out), seeds_of(name), 0
        chance, end = random.Random(f"{seed} {name}"), time.thread_time() + seconds
        while time.thread_time() < end:
            watched.once(spoilt(chance, seeds))
            runs += 1
        print(f"stat::number_of_executed_units: {runs}", file=sys.stderr)
        return
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["sidecar.wire", "sidecar.config"]):
        watched = Watched(name, target_of(name), out)
    folders = [OUT / ".corpus" / name, OUT / ".seeds" / name]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for one in seeds_of(name):
        (folders[1] / hashlib.sha256(one).hexdigest()[:16]).write_bytes(one)
    words = OUT / ".words"
    words.write_text(
        "".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in WORDS if len(word) < 64)
    )
    options = [
        f"-max_total_time={whole_s(seconds)}", f"-seed={seed}", f"-max_len={MAX_BYTES}", f"-dict={words}",
        f"-artifact_prefix={out}/", "-timeout=60", "-print_final_stats=1", "-rss_limit_mb=2048",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, *map(str, folders)], watched.once)
    atheris.Fuzz()


def whole_s(seconds: float) -> int:
    """The time as libFuzzer takes it: whole seconds, of which 0 would mean for ever."""
    return max(1, round(seconds))


def _faults(name: str) -> set[tuple[Path, float]]:
    """The inputs that were kept of a target, and when."""
    return {(file, file.stat().st_mtime) for file in (OUT / name).glob("*") if file.suffix != ".txt"}


def run(names: Sequence[str], seconds: float, seed: int) -> list[str]:
    """Fuzzes each target for its share of the time, prints a table, and gives the faults."""
    OUT.mkdir(parents=True, exist_ok=True)
    guided = importlib.util.find_spec("atheris") is not None
    print(
        f"seed {seed}, {'guided by coverage' if guided else 'blindly: atheris is not here (make fuzz installs it)'}\n"
    )
    print("| target | executions | branches reached | faults |\n| --- | ---: | ---: | ---: |")
    faults, total = [], 0
    for name in names:
        old = _faults(name)
        command = [sys.executable, "-m", "bench.fuzz", "--child", name, "--seconds", str(seconds / len(names))]
        done = subprocess.run(
            [*command, "--seed", str(seed)],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        runs, covered = _RUNS.findall(done.stderr), _COVERED.findall(done.stderr)
        new = sorted(_faults(name) - old)
        faults += [f"{name}: python -m bench.fuzz --target {name} --replay {file}" for file, _ in new]
        if done.returncode and not new:
            faults.append(f"{name}: the fuzzer itself ended with {done.returncode}: {done.stderr[-500:]}")
        total += int(runs[-1]) if runs else 0
        print(f"| {name} | {runs[-1] if runs else '?'} | {covered[-1] if covered else '-'} | {len(new)} |", flush=True)
    print(f"| all | {total} | | {len(faults)} |\n")
    return faults


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what was asked for; 1 when there were faults."""
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0, metavar="N", help="of all targets together")
    parser.add_argument("--target", action="append", choices=TARGETS, help="may be given more than once; default: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replay", type=Path, metavar="FILE", help="one input of one target again")
    parser.add_argument("--child", choices=TARGETS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    names = options.target or TARGETS
    if options.child is not None:
        _fuzz(options.child, options.seconds, options.seed)
        return 0
    if options.replay is not None:
        target_of(names[0])(options.replay.read_bytes())
        print("nothing is wrong with it now")
        return 0
    faults = run(names, options.seconds, options.seed)
    for line in faults:
        print(f"FAULT {line}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
