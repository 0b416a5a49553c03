"""What the data plane draws and hashes for each request."""

from hashlib import blake2b

import numpy as np

from sidecar.config.settings import Settings
from sidecar.core.engine import Engine
from sidecar.core.policy import NO_POLICY
from sidecar.proxy.plane import Plane
from sidecar.tasks import Tasks

SALT = b"0123456789abcdef"


def made() -> Plane:
    settings = Settings.load({}, None, ["service=shop"])
    plane = Plane(settings, Engine(NO_POLICY, np.random.default_rng(1), 0.0), Tasks(lambda _name, _error: None), print)
    plane.salt = SALT
    return plane


def test_a_conversation_has_the_key_that_it_always_had() -> None:
    """Whoever asked in between: conversations keep their arm over an update of the sidecar."""
    plane = made()
    asked = [
        ("/v1/chat/completions", b"Bearer a", b"Hi"),
        ("/v1/chat/completions", b"Bearer b", b"Hi"),
        ("/v1/x", b"", b""),
    ]
    for path, credential, beginning in (*asked, *reversed(asked), *asked):
        parts = (b"derived", b"shop", path.encode(), credential, beginning)
        text = b"".join(b"%d:%b" % (len(part), part) for part in parts)
        key = int.from_bytes(blake2b(text, digest_size=8, key=SALT).digest(), "little")
        assert plane.derive(path, (credential,), beginning) == plane.hash(*parts) == key


def test_another_salt_makes_other_keys() -> None:
    """Also of who asked last."""
    plane = made()
    before = plane.derive("/v1/x", (b"Bearer a",), b"Hi")
    plane.salt = b"another"
    assert plane.derive("/v1/x", (b"Bearer a",), b"Hi") not in (before, 0)
    plane.salt = SALT
    assert plane.derive("/v1/x", (b"Bearer a",), b"Hi") == before


def test_random_bits_are_never_used_twice() -> None:
    """Of 5,000 draws of 64 bits two are equal with a probability of 7e-13; all bits are used."""
    plane = made()
    drawn = [plane.draw() for _ in range(5_000)]
    assert len(set(drawn)) == 5_000
    assert 0 <= min(drawn) < 2**56 < 2**63 < max(drawn) < 2**64
