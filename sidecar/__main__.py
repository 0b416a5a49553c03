"""`python -m sidecar` is `llm-sidecar`."""

import sys

from sidecar.lean import heed, spare, stand_in

stand_in()
heed(sys.argv)
spare()

from sidecar.cli import main  # noqa: E402 - what it loads is what is spared

if __name__ == "__main__":
    sys.exit(main())
