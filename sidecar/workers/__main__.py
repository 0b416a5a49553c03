"""`python -m sidecar.workers FD`: one worker. Only its leader starts it, and FD is the descriptor of their socket."""

import sys

from sidecar.workers.worker import main

sys.exit(main(int(sys.argv[1])))
