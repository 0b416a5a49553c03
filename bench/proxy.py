"""`python -m bench.proxy --out FILE.json`: direct, nginx and the sidecar side by side in one run on this machine.

Runs the sections of bench/sections.py with the peer on one core and load generator plus upstream on another, prints a
table with ratios, and writes everything, raw rounds included, as JSON.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from bench import machine, peers, report, sections
from bench.sections import QUICK, SECTIONS, Bench, Plan, say
from sidecar.clock import monotonic, rfc3339, wall

NGINX_NO_LOG = "nginx no log"


def recipes(extra: Sequence[str], *, quick: bool) -> dict[str, peers.Recipe]:
    """Whom to measure, in the order of the tables. Raises ValueError for an `extra` that is not NAME=COMMAND."""
    found = {
        "nginx": peers.nginx("nginx", log=True),
        NGINX_NO_LOG: peers.nginx(NGINX_NO_LOG, log=False),
        "sidecar observe": peers.sidecar("sidecar observe", "observe"),
        "sidecar optimize": peers.sidecar("sidecar optimize", "optimize"),
    }
    if quick:
        del found[NGINX_NO_LOG]
    return found | dict(peers.custom(spec) for spec in extra)


def run(plan: Plan, lineup: Mapping[str, peers.Recipe], only: Sequence[str]) -> dict[str, object]:
    """Starts upstream and peers, runs the sections named in `only`, stops everything, returns the report."""
    about, at, began = machine.description(), rfc3339(wall()), monotonic()
    peer_core, load_core = machine.two_cores()
    with tempfile.TemporaryDirectory(prefix="bench-proxy-") as folder:
        bench = Bench(
            plan, lineup, frozenset({NGINX_NO_LOG}), peers.upstream(load_core), Path(folder), peer_core, load_core
        )
        found: dict[str, object] = {}
        try:
            bench.start_all()
            for section in only:
                say(f"== {section}")
                found[section] = sections.RUNNERS[section](bench)
        finally:
            bench.stop_all()
            bench.upstream.stop()
    after = machine.description()
    return {
        "at": at,
        "machine": {**about, "load_average_after": after["load_average"], "steal_after_s": after["steal_s"]},
        "cores": {"peer": peer_core, "load_and_upstream": load_core},
        "took_s": monotonic() - began,
        "plan": asdict(plan),
        "sections": found,
        "ratios": report.ratios(found),
        "failed": bench.failed,
        "wrong": bench.wrong,
    }


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.proxy", description=__doc__)
    parser.add_argument("--out", type=Path, help="write the report there as JSON")
    parser.add_argument("--quick", action="store_true", help="one short round of everything, within 90 s")
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"comma list of {', '.join(SECTIONS)}")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=COMMAND", help="one more; {port} {upstream}"
    )
    parser.add_argument("--without", default="", metavar="NAME,...", help="peers to leave out")
    parser.add_argument("--markdown", action="store_true", help="print markdown instead of the plain table")
    parser.add_argument("--render", type=Path, metavar="FILE", help="measure nothing: print the tables of a report")
    parser.add_argument("--into", type=Path, metavar="FILE", help="put the tables between the marks of a markdown file")
    options = parser.parse_args(argv)
    options.only = [name for name in options.only.split(",") if name]
    unknown = set(options.only) - set(SECTIONS)
    if unknown or not (options.out or options.render):
        parser.error(f"unknown section {sorted(unknown)}" if unknown else "--out FILE.json is required")
    if options.into and not options.into.is_file():
        parser.error(f"--into {options.into}: no such file; it must hold the two marks (see docs/benchmarks.md)")
    return options


def main(argv: Sequence[str]) -> int:
    """Exit code 0 when every peer ran without a wrong answer, 1 otherwise, 2 for wrong usage."""
    options = _arguments(argv)
    if options.render:
        result = json.loads(options.render.read_text())
    else:
        try:
            lineup = recipes(options.peer, quick=options.quick)
        except ValueError as error:
            say(str(error))
            return 2
        left_out = {name.strip() for name in options.without.split(",")}
        lineup = {name: recipe for name, recipe in lineup.items() if name not in left_out}
        result = run(QUICK if options.quick else Plan(), lineup, options.only)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    if options.into:
        options.into.write_text(report.filled(options.into.read_text(), result))
    print(report.markdown(result) if options.markdown else report.table(result))
    return 1 if result["failed"] or _wrong(result["sections"]) else 0


def _wrong(found: Mapping[str, Mapping[str, Mapping[str, Mapping[str, object]]]]) -> bool:
    """Whether any round of any peer had an error, or could not be measured."""
    cells = [one for section in found.values() for peers_ in section.values() for one in peers_.values()]
    rounds = [figures for one in cells for figures in one.get("rounds", ())]  # type: ignore[attr-defined] # JSON
    return any("failed" in one for one in cells) or any(figures.get("errors", 0) for figures in rounds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
