"""`python -m sidecar.sim [--config FILE] [--set key=value] [--host H] [--port P]`: the provider as its own process.

The first line on standard output is the port, for whoever started it.
"""

import argparse
import sys
from pathlib import Path

from sidecar.errors import ConfigError
from sidecar.sim.knobs import SimConfig
from sidecar.sim.provider import run


def _announce(port: int) -> None:
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Serves until told to stop; 2 when the configuration is wrong."""
    parser = argparse.ArgumentParser(prog="python -m sidecar.sim", description=__doc__)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        run(SimConfig.load(options.config, options.overrides), options.host, options.port, _announce)
    except (ConfigError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
