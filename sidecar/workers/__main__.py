"""`python -m sidecar.workers FD`: one worker. Only its leader starts it, and FD is the descriptor of their socket."""

import sys

from sidecar.lean import heed_nothing, spare

heed_nothing()
spare()

from sidecar.workers.worker import main  # noqa: E402 - what it loads is what is spared

sys.exit(main(int(sys.argv[1])))
