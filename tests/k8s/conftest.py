"""Helm and the API server's schemas, from the environment that `make test-k8s` makes. Elsewhere none is collected."""

import os
import sys
from pathlib import Path

TOOLS = os.environ.get("LLM_SIDECAR_K8S")
if not TOOLS:
    collect_ignore_glob = ["test_*.py"]
else:  # behind the sidecar's own environment: it only adds what that has not
    sys.path += [str(folder) for folder in Path(TOOLS).resolve().glob("lib/python3*/site-packages")]
