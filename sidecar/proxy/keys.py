"""Ids and random bits of calls, and the keyed hashes that tell conversations and words apart without keeping them."""

import os
import struct
from collections.abc import Iterator
from hashlib import blake2b
from typing import Final

_ENTROPY_BYTES: Final = 4096  # one system call for some 800 requests
_RANDOM_DIGITS: Final = 10  # of an id
_DRAWS: Final = struct.Struct("<512Q")  # one system call for so many


class Chance:
    """What is random about calls, from the system's generator."""

    def __init__(self) -> None:
        self._entropy, self._used = "", 0  # hexadecimal digits, and how many are used
        self._draws: Iterator[int] = iter(())

    def new_id(self, at: float) -> str:
        """A decision id: 16 hexadecimal digits of microseconds since the epoch, then 10 random ones; sorts by time."""
        start = self._used
        end = self._used = start + _RANDOM_DIGITS
        if end > len(self._entropy):
            self._entropy, start = os.urandom(_ENTROPY_BYTES).hex(), 0
            end = self._used = _RANDOM_DIGITS
        return "%016x%s" % (int(at * 1e6), self._entropy[start:end])  # noqa: UP031 - a third cheaper than an f-string

    def draw(self) -> int:
        """64 random bits."""
        drawn = next(self._draws, None)
        if drawn is None:
            self._draws = iter(_DRAWS.unpack(os.urandom(_DRAWS.size)))
            drawn = next(self._draws)
        return drawn


class Keys:
    """Keyed 64-bit hashes (BLAKE2b, RFC 7693) of one service; never 0, which means "no key"."""

    def __init__(self, service: str, salt: bytes = b"") -> None:
        """`salt`, up to 64 bytes, is the key of all of them: who does not have it cannot try out what was hashed."""
        self._service, self._salt = service.encode(), salt
        self._asker: tuple[str, tuple[bytes, ...]] | None = None  # who asked last, where
        self._asked = blake2b()  # the hash as far as that tells it
        self.text_salt = self.hash(b"text") & 0xFFFFFFFF  # for the words of texts

    def hash(self, *parts: bytes) -> int:
        """The hash of `parts`, each told apart from the next."""
        return int.from_bytes(self._begun(*parts).digest(), "little") or 1

    def derive(self, path: str, who: tuple[bytes, ...], beginning: bytes) -> int:
        """The hash of a conversation that begins so: `hash` of "derived", the service, and these. Apps ask with one
        credential over and over, so what that adds is hashed once."""
        asker = (path, who)
        if asker != self._asker:
            self._asker = asker
            self._asked = self._begun(b"derived", self._service, path.encode(), *who)
        hashed = self._asked.copy()
        hashed.update(b"%d:%b" % (len(beginning), beginning))
        return int.from_bytes(hashed.digest(), "little") or 1

    def _begun(self, *parts: bytes) -> blake2b:
        told_apart = b"".join([b"%d:%b" % (len(part), part) for part in parts])
        return blake2b(told_apart, digest_size=8, key=self._salt)
