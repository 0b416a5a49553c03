"""`python -m bench.ttft --out FILE.json`: only the question whether the recorded TTFT is true (section `ttft`)."""

import sys

from bench.proxy import main

if __name__ == "__main__":
    sys.exit(main([*sys.argv[1:], "--only", "ttft", "--without", "nginx,nginx no log"]))
