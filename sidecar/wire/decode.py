"""Decodes a COPY of a compressed body for the meter, within limits; what the client receives is never decoded.

A bounded decoder gives up, for good, beyond its byte limit or a ratio of 100: then usage is unknown, and nothing else
happens.
"""

import importlib
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

MAX_DECODED_BYTES = 8 * 1024 * 1024
MAX_RATIO = 100  # JSON and event streams compress 5 to 30 times; beyond 100 it is a bomb
_RATIO_FROM_BYTES = 65_536  # the first bytes of a dictionary-friendly stream may exceed the ratio harmlessly
_SLICE_BYTES = 256  # fed at a time where a codec has no output limit of its own
_MEMBERS_BYTES = 4096  # of gzip, fed at a time: what is behind a member is copied at its end


_NO_CODING = frozenset({"", "identity", "none"})  # what servers say so that no proxy compresses their streams


def coding_of(fields: Mapping[bytes, bytes]) -> str | None:
    """The Content-Encoding of a body whose head has these fields (names in lower case); None where it is as it is."""
    if b"content-encoding" not in fields:
        return None
    coding = fields[b"content-encoding"].decode("latin-1").strip().lower()
    return None if coding in _NO_CODING else coding


class _Codec(Protocol):
    def __call__(self, data: bytes, room: int) -> bytes: ...


class CopyDecoder:
    """Feed the encoded bytes, get decoded ones. `failed` becomes True once and stays; then nothing more comes out."""

    def __init__(self, codec: _Codec, max_bytes: int = MAX_DECODED_BYTES) -> None:
        self.failed = False
        self._codec = codec
        self._max_bytes = max_bytes
        self._taken = 0
        self._given = 0

    def feed(self, data: bytes) -> bytes:
        """What these bytes decode to; empty after a fault or beyond a limit."""
        if self.failed:
            return b""
        self._taken += len(data)
        room = min(self._max_bytes, max(_RATIO_FROM_BYTES, self._taken * MAX_RATIO)) - self._given
        try:
            decoded = self._codec(data, room + 1)
        except Exception:  # noqa: BLE001  # each codec has its own error type; a bad copy only means unknown usage
            self.failed = True
            return b""
        self._given += len(decoded)
        if len(decoded) > room:
            self.failed = True
            return b""
        return decoded


def make_decoder(encoding: str, max_bytes: int = MAX_DECODED_BYTES) -> CopyDecoder | None:
    """The decoder for a Content-Encoding; None where it is unknown, or its library is not installed.

    gzip and deflate come with Python; br needs `brotli` 1.2 and zstd `zstandard`, imported at their first use.
    """
    codec: _Codec | None
    match encoding.strip().lower():
        case "gzip" | "x-gzip":
            codec = _Gzip()
        case "deflate":
            codec = _Deflate()
        case "br":
            codec = _optional("brotli", _Brotli)
        case "zstd":
            codec = _optional("zstandard", _zstd)
        case _:
            codec = None
    return None if codec is None else CopyDecoder(codec, max_bytes)


class _Gzip:
    """gzip, also of several members in a row."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(31)

    def __call__(self, data: bytes, room: int) -> bytes:
        out: list[bytes] = []
        for start in range(0, len(data), _MEMBERS_BYTES):
            left = data[start : start + _MEMBERS_BYTES]
            while left and room:
                if self._inflate.eof:
                    self._inflate = zlib.decompressobj(31)
                out.append(self._inflate.decompress(left, room))
                room -= len(out[-1])
                left = self._inflate.unused_data
        return b"".join(out)


class _Deflate:
    """deflate as RFC 9110 means it (zlib), or raw, as some servers send it."""

    def __init__(self) -> None:
        self._head = b""
        self._inflate: zlib._Decompress | None = None

    def __call__(self, data: bytes, room: int) -> bytes:
        if self._inflate is None:
            data = self._head = self._head + data
            if len(data) < 2:
                return b""
            # RFC 1950: method 8 in the low bits, and the two bytes are a multiple of 31. Raw deflate hardly ever is.
            wrapped = data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
            self._inflate = zlib.decompressobj(15 if wrapped else -15)
        return b"" if self._inflate.eof else self._inflate.decompress(data, room)  # it would keep all that is behind


def _optional(module: str, made_of: Callable[[Any], _Codec]) -> _Codec | None:
    try:
        return made_of(importlib.import_module(module))
    except Exception:  # noqa: BLE001  it is not installed, or not the library that we know: then usage is unknown
        return None


class _Brotli:
    """br, by a library that can be told where to stop: older ones make half a gigabyte of 400 bytes."""

    def __init__(self, library: Any) -> None:  # noqa: ANN401 - a module that may not be installed
        """Raises AttributeError when the library is older than 1.2."""
        decoder = library.Decompressor()
        self._process, self._wants_more = decoder.process, decoder.can_accept_more_data

    def __call__(self, data: bytes, room: int) -> bytes:
        out: bytes = self._process(data, output_buffer_limit=room)
        while len(out) < room and not self._wants_more():
            out += self._process(b"", output_buffer_limit=room - len(out))
        return out


def _zstd(library: Any) -> "_Sliced":  # noqa: ANN401 - a module that may not be installed
    """Of several frames in a row, too (RFC 8878 section 3.1)."""
    made: _Decode
    try:
        made = library.ZstdDecompressor().decompressobj(read_across_frames=True).decompress
    except TypeError:  # before 0.22
        made = library.ZstdDecompressor().decompressobj().decompress
    return _Sliced(made)


class _Decode(Protocol):
    def __call__(self, data: bytes, /) -> bytes: ...


class _Sliced:
    """A codec without an output limit: fed in small slices, so that it can overshoot by one slice's output only (of zstd,
    64 blocks of 128 KiB)."""

    def __init__(self, decode: _Decode) -> None:
        self._decode = decode

    def __call__(self, data: bytes, room: int) -> bytes:
        out: list[bytes] = []
        size = 0
        for start in range(0, len(data), _SLICE_BYTES):
            if size >= room:
                break
            out.append(self._decode(data[start : start + _SLICE_BYTES]))
            size += len(out[-1])
        return b"".join(out)
