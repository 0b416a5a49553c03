"""Keys of the audit chain and of sealed fields: the file's form, and one key of our own for each purpose.

A key file has one key a line, `ID HEX`: a name of the owner's choice, and 32 bytes as 64 hexadecimal digits. The first
line is the key that is written with; the others stay to read what was written before. `#` begins a comment line.

What is used is never the key of the file but one derived from it for one purpose (HMAC-SHA-256 of the purpose's name, as
the expand step of HKDF, RFC 5869), so that one file may serve two purposes. No message and no repr holds a key.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

MAX_KEYS: Final = 100
_LINE: Final = re.compile(r"([A-Za-z0-9_-]{1,32})[ \t]+([0-9A-Fa-f]{64})")


class KeySet:
    """At least one key; `first` is the id of the one to write with."""

    __slots__ = ("_keys", "first")

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._keys = dict(keys)
        self.first = next(iter(self._keys))

    def __repr__(self) -> str:
        return f"KeySet({', '.join(self._keys)})"

    def __contains__(self, key_id: object) -> bool:
        return key_id in self._keys

    def derived(self, key_id: str, purpose: bytes) -> bytes | None:
        """32 bytes for this purpose from the key of this id; None when the file has no such key."""
        key = self._keys.get(key_id)
        return None if key is None else hmac.digest(key, purpose + b"\x01", hashlib.sha256)


Keys: TypeAlias = Callable[[], KeySet | None]  # the keys as they are now; None when no file is set


def no_keys() -> KeySet | None:
    """No file is set."""
    return None


@dataclass(frozen=True, slots=True)
class StoreKeys:
    """The keys that one database is written and read with, by purpose."""

    audit: Keys = no_keys
    fields: Keys = no_keys


NO_STORE_KEYS: Final = StoreKeys()


def parse_keys(content: bytes) -> KeySet:
    """The keys of a file. Raises ValueError with the line's number and without its content."""
    found: dict[str, bytes] = {}
    for number, line in enumerate(content.decode("ascii", "replace").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        parts = _LINE.fullmatch(text)
        if parts is None:
            raise ValueError(
                f"line {number} is not `ID KEY` with a key of 64 hexadecimal digits (openssl rand -hex 32)"
            )
        if parts[1] in found:
            raise ValueError(f"line {number} has the id of a line above it: each key needs its own")
        found[parts[1]] = bytes.fromhex(parts[2])
    if not found or len(found) > MAX_KEYS:
        raise ValueError(f"must hold 1 to {MAX_KEYS} lines `ID KEY`")
    return KeySet(found)
