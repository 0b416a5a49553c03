"""What a process that serves does without."""

import json
import os
import subprocess
import sys

import pytest

_SCRIPT = """
import json, os, sys
from sidecar.lean import without_authorities
assert "aiohttp" not in sys.modules
with without_authorities():
    import aiohttp.connector
from sidecar.proxy.dial import client_tls
unused = aiohttp.connector._SSL_CONTEXT_VERIFIED.cert_store_stats()["x509"]
print(json.dumps([unused, client_tls(None).cert_store_stats()["x509"], os.environ.get("SSL_CERT_FILE")]))
"""


def authorities(environ: dict[str, str]) -> list[object]:
    """Certificates that aiohttp's client trusts, those that an upstream's TLS trusts, and SSL_CERT_FILE afterwards."""
    done = subprocess.run([sys.executable, "-c", _SCRIPT], env=environ, capture_output=True, check=True, timeout=60)
    read: list[object] = json.loads(done.stdout)
    return read


def test_certificates_are_read_for_upstreams_only() -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SSL_CERT_")}
    unused, used, left = authorities(environ)
    assert unused == 0
    if not used:
        pytest.skip("this machine trusts nobody")
    assert left is None


def test_certificates_that_the_owner_names_are_read(tmp_path: object) -> None:
    own = f"{tmp_path}/none.pem"
    assert authorities({**os.environ, "SSL_CERT_FILE": own, "SSL_CERT_DIR": str(tmp_path)}) == [0, 0, own]
