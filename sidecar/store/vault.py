"""Fields that lie encrypted: AES-256-GCM, each value bound to its row and column.

What is sealed: of a decision's context the tags and the task (an app may write a person's name there), the label of a
score, and the learnt state (it holds sticky keys). The rest is numbers, names of the policy, and keyed hashes.

A sealed value is `sealed:1.KEY.DATA`: the key's id, and in base64url a nonce of 12 bytes, the ciphertext and its tag; the
learnt state, a blob, has the same parts without base64. What is authenticated besides is the value's place (table, column,
the row's own key), so a value that was moved to another row or column does not open. An older value of the same place does.

Nonces must never repeat under one key. Each is 8 random bytes that one vault draws for itself and a counter of 4 bytes;
the random part is drawn anew when the counter is full, in a fork, and for another key. After N draws (starts of processes)
two of them are equal with probability below N * N / 2^65: under 2^-32, the bound of NIST SP 800-38D, up to 90,000 starts
with one key, however many values each seals.

The package `cryptography` is imported when a key is used first, and never without a key.
"""

import base64
import binascii
import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import orjson

from sidecar.errors import ConfigError, StoreError
from sidecar.store.keys import Keys, KeySet, no_keys

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PREFIX: Final = "sealed:1."
_PREFIX_BYTES: Final = PREFIX.encode()
_QUAD: Final = "[A-Za-z0-9_-]"
_FORM: Final = re.compile(
    rf"sealed:1\.{_QUAD}{{1,32}}\.(?:{_QUAD}{{4}}){{9,}}(?:{_QUAD}{{4}}|{_QUAD}{{3}}=|{_QUAD}{{2}}==)"
)
_PURPOSE: Final = b"llm-sidecar fields 1"
_NONCE_BYTES, _TAG_BYTES, _COUNTER_BYTES = 12, 16, 4
_SEALED_MEMBERS: Final = ("tags", "task")  # of a context

ENCRYPTED: Final = "encrypted"
UNREADABLE: Final = "unreadable: it was changed, or belongs to another row"

Place = tuple[str, ...]  # table, column, and the row's own key


class Sealed(StoreError):
    """The value is encrypted with a key that is not given."""


class Spoilt(StoreError):
    """The value is not what was sealed at this place."""


class Vault:
    """Seals with the first key, opens with any of them. For one thread at a time."""

    def __init__(self, keys: Keys = no_keys) -> None:
        self._keys = keys
        self._ciphers: dict[str, tuple[KeySet, AESGCM]] = {}
        self._drawn: tuple[int, str] = (0, "")  # process and key of the random part
        self._random = b""
        self._count = 0

    @property
    def key_id(self) -> str:
        """The id of the key that seals now; "" when nothing is sealed."""
        keys = self._keys()
        return "" if keys is None else keys.first

    def seal(self, value: bytes, place: Place) -> bytes:
        """Key id, full stop, nonce, ciphertext and tag. There must be a key."""
        key_id = self.key_id
        nonce = self._nonce(key_id)
        return key_id.encode() + b"." + nonce + self._cipher(key_id).encrypt(nonce, value, _about(place))

    def open(self, sealed: bytes, place: Place) -> bytes:
        """What was sealed.

        Raises:
            Sealed: its key is not given.
            Spoilt: this is not what was sealed at this place.
        """
        name, _, data = sealed.partition(b".")
        key_id, keys = name.decode("ascii", "replace"), self._keys()
        if keys is None or key_id not in keys:
            raise Sealed(f"{'.'.join(place)} is encrypted with key {key_id!a}: give encryption_key_file with that key")
        from cryptography.exceptions import InvalidTag  # whoever has a key has the package (see `require`)

        if len(data) < _NONCE_BYTES + _TAG_BYTES:
            raise Spoilt(f"{'.'.join(place)}: {UNREADABLE}")
        try:
            return self._cipher(key_id).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], _about(place))
        except InvalidTag:
            raise Spoilt(f"{'.'.join(place)}: {UNREADABLE}") from None

    def seal_text(self, value: str, place: Place) -> str:
        """The sealed value as text."""
        key_id, _, data = self.seal(value.encode(), place).partition(b".")
        return f"{PREFIX}{key_id.decode()}.{base64.urlsafe_b64encode(data).decode()}"

    def open_text(self, value: str, place: Place) -> str:
        """What `seal_text` sealed; other text is returned as it is. Raises as `open` does."""
        if not value.startswith(PREFIX):
            return value
        key_id, _, data = value[len(PREFIX) :].partition(".")
        try:
            raw = base64.b64decode(data, b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise Spoilt(f"{'.'.join(place)}: {UNREADABLE}") from None
        return self.open(key_id.encode() + b"." + raw, place).decode("utf-8", "replace")

    def seal_blob(self, value: bytes, place: Place) -> bytes:
        """The sealed value as bytes."""
        return _PREFIX_BYTES + self.seal(value, place)

    def open_blob(self, value: bytes, place: Place) -> bytes:
        """What `seal_blob` sealed; other bytes are returned as they are. Raises as `open` does."""
        return self.open(value[len(_PREFIX_BYTES) :], place) if value.startswith(_PREFIX_BYTES) else value

    def _cipher(self, key_id: str) -> "AESGCM":
        keys = self._keys()
        made = self._ciphers.get(key_id)
        if made is None or made[0] is not keys:
            key = None if keys is None else keys.derived(key_id, _PURPOSE)
            if keys is None or key is None:
                raise Sealed(f"key {key_id!a} is not given")
            made = self._ciphers[key_id] = (keys, require()(key))
        return made[1]

    def _nonce(self, key_id: str) -> bytes:
        drawn = (os.getpid(), key_id)
        if self._drawn != drawn or self._count >= 256**_COUNTER_BYTES:
            self._drawn, self._count = drawn, 0
            self._random = os.urandom(_NONCE_BYTES - _COUNTER_BYTES)
        count = self._count
        self._count += 1
        return self._random + count.to_bytes(_COUNTER_BYTES)


CLOSED: Final = Vault()  # without keys: what is not sealed can be read


def require() -> "Callable[[bytes], AESGCM]":
    """The cipher of the package `cryptography`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # 6 MiB, only for who encrypts
    except ImportError:
        raise ConfigError(
            "encryption_key_file needs the package cryptography: install llm-sidecar[encryption], "
            "or take the setting away"
        ) from None
    return AESGCM


def is_sealed(value: str) -> bool:
    """Whether it has the whole form of a sealed value, nonce and tag included. An app's own word may begin like one."""
    return _FORM.fullmatch(value) is not None


def _about(place: Place) -> bytes:
    """What is authenticated besides the value: where it lies."""
    return orjson.dumps(place)


# ---- which fields


def context_place(decision: str) -> Place:
    return ("decisions", "context", decision)


def label_place(decision: str, source: str) -> Place:
    return ("feedback", "label", decision, source)


def state_place(service: str, route: str, arm: str) -> Place:
    return ("arms", "state", service, route, arm)


def seal_context(vault: Vault, text: str, decision: str) -> str:
    """The JSON text of a context whose tags and task are sealed, as its member `sealed`; the same text when it has none."""
    if '"tags":' not in text and '"task":' not in text:
        return text
    context: dict[str, Any] = orjson.loads(text)
    hidden = {name: context.pop(name) for name in _SEALED_MEMBERS if name in context}
    if not hidden:
        return text
    context["sealed"] = vault.seal_text(orjson.dumps(hidden).decode(), context_place(decision))
    return orjson.dumps(context).decode()


def open_context(vault: Vault, context: Mapping[str, Any], decision: str) -> dict[str, Any]:
    """The context with what was sealed in it, or with `sealed` saying why it cannot be read (ENCRYPTED, UNREADABLE)."""
    try:
        return reopen_context(vault, context, decision)
    except Sealed:
        return {**context, "sealed": ENCRYPTED}
    except Spoilt:
        return {**context, "sealed": UNREADABLE}


def reopen_context(vault: Vault, context: Mapping[str, Any], decision: str) -> dict[str, Any]:
    """As `open_context`, but raises Sealed or Spoilt."""
    sealed = context.get("sealed")
    if sealed is None:
        return dict(context)
    opened = vault.open_text(str(sealed), context_place(decision))
    try:
        hidden = orjson.loads(opened)
    except ValueError:
        hidden = None
    if not isinstance(hidden, dict):
        raise Spoilt(f"decisions.context.{decision}: {UNREADABLE}")
    return {name: value for name, value in context.items() if name != "sealed"} | hidden


def open_label(vault: Vault, label: str | None, decision: str, source: str) -> str | None:
    """The label of a score, or why it cannot be read."""
    if label is None:
        return None
    try:
        return vault.open_text(label, label_place(decision, source))
    except Sealed:
        return ENCRYPTED
    except Spoilt:
        return UNREADABLE
