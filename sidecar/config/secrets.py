"""Keys of upstreams and tokens of clients: read from small files, read again when they change, shown to nobody.

A file is looked at once a second at most (one `stat`). While it is half written, empty or deleted, the last good
content stays in use (that is how key rotation looks from the inside). No message and no repr holds any of its content.
"""

import hashlib
import hmac
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from sidecar.core.policy import Upstream
from sidecar.errors import ConfigError
from sidecar.secrecy import guarded

T = TypeVar("T")
CHECK_S = 1.0  # a rotated key is used within 2 s, and a busy sidecar makes one stat a second
MAX_FILE_BYTES = 256 * 1024
MAX_TOKENS = 1000  # every request compares with all of them
MIN_TOKEN_CHARACTERS = 16  # shorter ones can be guessed
MAX_SERVICE_CHARS = 128  # of the name that a token stands for: what a call's tag keeps of it


class Secret:
    """A key that repr, str, logs and tracebacks do not show; `reveal` is for the one line that sends it."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        return self._value

    def __repr__(self) -> str:
        return "Secret(...)"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not written anywhere")


class SecretFile(Generic[T]):
    """The parsed content of a small file, kept fresh. `error` says why the newest content is not in use, if so."""

    def __init__(self, path: Path, parse: Callable[[bytes], T]) -> None:
        self.path = path
        self._named = guarded(str(path))  # a key may stand where its file should be named
        self.error: str | None = f"{self._named}: not read yet"
        self._parse = parse
        self._good: T | None = None
        self._seen: tuple[int, int, int] | None = None
        self._checked = float("-inf")

    def __repr__(self) -> str:
        return f"SecretFile({self._named!r})"

    def get(self, now: float) -> T | None:
        """The last good content, None when there was none yet. Looks at the file when CHECK_S have passed since."""
        if now - self._checked >= CHECK_S:
            self._checked = now
            try:
                self._refresh()
            except OSError as error:
                self._seen = None
                self.error = f"{self._named}: cannot be read ({type(error).__name__}); {self._kept()}"
        return self._good

    def read(self, now: float) -> T | None:
        """As `get`, but reads the file at once, also when it looks as it did."""
        self._checked, self._seen = float("-inf"), None
        return self.get(now)

    def _kept(self) -> str:
        return "nothing is used until it can be read" if self._good is None else "the last good content stays in use"

    def _refresh(self) -> None:
        found = self.path.stat()
        seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        if seen == self._seen:
            return
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE_BYTES:
            self.error = f"{self._named}: is no file of at most {MAX_FILE_BYTES} bytes; give a small regular file"
            return
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # never waits, whatever it is now
        try:
            content = os.read(descriptor, MAX_FILE_BYTES + 1)
        finally:
            os.close(descriptor)
        self._seen = seen
        try:
            self._good, self.error = self._parse(content), None
        except ValueError as error:
            self.error = f"{self._named}: {error}; {self._kept()}"


def parse_key(content: bytes) -> Secret:
    """One key: a line of visible ASCII, so that it can stand in a header. Blanks around it do not count."""
    key = content.strip()
    if not key or any(not 33 <= byte <= 126 for byte in key):
        raise ValueError("must hold one line of visible ASCII characters")
    return Secret(key)


class KeyRing:
    """The keys that the sidecar holds for upstreams; cheap to build."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._files: dict[str, SecretFile[Secret]] = {}

    def __repr__(self) -> str:
        return "KeyRing(...)"

    def get(self, upstream: Upstream, now: float) -> Secret | None:
        """The key to send to this upstream and to no other; None when the client's passes, or none is readable.

        The caller tells the two apart by `upstream.key`: with "file" or "env", None must not let the client's key pass.
        """
        if upstream.key == "client":
            return None
        if upstream.key == "file":
            return self._file(upstream.key_ref).get(now)
        try:
            return parse_key(self._environ.get(upstream.key_ref, "").encode("ascii"))
        except ValueError:
            return None

    def problems(self, upstreams: Mapping[str, Upstream], now: float) -> list[str]:
        """What is wrong with the keys of these upstreams, for `/ready` and logs; without their content."""
        told = []
        for name, upstream in upstreams.items():
            key = self.get(upstream, now)
            if upstream.key == "env" and key is None:
                what = f"{guarded(upstream.key_ref)} holds no key (one line of visible ASCII)"
                told.append(f"upstreams.{name}: environment: {what}; set it and start again")
            elif upstream.key == "file" and (error := self._file(upstream.key_ref).error):
                told.append(f"upstreams.{name}: {error}")
        return told

    def _file(self, path: str) -> SecretFile[Secret]:
        if path not in self._files:
            self._files[path] = SecretFile(Path(path), parse_key)
        return self._files[path]


class ClientTokens:
    """Who may use a listener that others can reach: lines `token service` of a file, `#` begins a comment line.

    Holds keyed hashes only. A token is compared with all of them, each in constant time, so that the time of an answer
    says nothing about how much of a guess was right.
    """

    def __init__(self, path: Path) -> None:
        self._salt = os.urandom(32)
        self._file = SecretFile(path, self._parse)

    def __repr__(self) -> str:
        return f"ClientTokens({self._file!r})"

    @property
    def error(self) -> str | None:
        return self._file.error

    def problem(self, now: float) -> str | None:
        """Why the file's newest content is not in use, also where nobody has asked for a token since it changed."""
        self._file.get(now)
        return self._file.error

    def check(self, now: float) -> None:
        """Raises ConfigError when there is no usable content: at start that must not pass unseen."""
        if self._file.get(now) is None:
            raise ConfigError(f"{self._file.error}; write lines `token service` into client_tokens_file")

    def service_of(self, token: bytes, now: float) -> str | None:
        """The service that this token stands for, or None when it is not known."""
        given, found = self._hash(token), None
        for known, service in (self._file.get(now) or {}).items():
            if hmac.compare_digest(known, given):
                found = service
        return found

    def knows_any(self, texts: Iterable[bytes], now: float) -> bool:
        """Whether one of these is a token. What is looked up are keyed hashes, whose places tell nothing of a token."""
        known = self._file.get(now) or {}
        return any(len(text) >= MIN_TOKEN_CHARACTERS and self._hash(text) in known for text in texts)

    def _hash(self, token: bytes) -> bytes:
        return hashlib.blake2b(token, key=self._salt, digest_size=32).digest()

    def _parse(self, content: bytes) -> dict[bytes, str]:
        found: dict[bytes, str] = {}
        for number, line in enumerate(content.decode("ascii", "replace").splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if len(words) != 2 or len(words[0]) < MIN_TOKEN_CHARACTERS or not line.isprintable() or "\ufffd" in line:
                raise ValueError(
                    f"line {number} is not `token service` with a token of {MIN_TOKEN_CHARACTERS}+ characters"
                )
            if len(words[1]) > MAX_SERVICE_CHARS:
                raise ValueError(
                    f"line {number}: the service's name has more than {MAX_SERVICE_CHARS} characters; shorten it"
                )
            found[self._hash(words[0].encode("ascii"))] = words[1]
        if not found or len(found) > MAX_TOKENS:
            raise ValueError(f"must hold 1 to {MAX_TOKENS} lines `token service`")
        return found
