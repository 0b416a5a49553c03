"""Copies are decoded within limits, or given up."""

import gzip
import sys
import types
import zlib

import pytest
import zstandard

from sidecar.wire.decode import make_decoder

TEXT = b"".join(b'data: {"n":%d}\n\n' % i for i in range(2000))


def run(encoding: str, encoded: bytes, size: int = 100) -> bytes:
    decoder = make_decoder(encoding)
    assert decoder is not None
    out = b"".join(decoder.feed(encoded[i : i + size]) for i in range(0, len(encoded), size))
    assert not decoder.failed
    return out


def raw_deflate(data: bytes) -> bytes:
    coder = zlib.compressobj(wbits=-15)
    return coder.compress(data) + coder.flush()


@pytest.mark.parametrize(
    ("encoding", "encoded"),
    [
        ("gzip", gzip.compress(TEXT)),
        (" X-GZIP", gzip.compress(TEXT[:50]) + gzip.compress(TEXT[50:])),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", raw_deflate(TEXT)),
        ("zstd", zstandard.compress(TEXT)),
    ],
)
def test_decodes_in_pieces(encoding: str, encoded: bytes) -> None:
    """GW-31: every cut of every encoding gives the text."""
    for size in (1, 7, 4096, len(encoded)):
        assert run(encoding, encoded, size) == TEXT


def test_unknown_encodings_have_no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_decoder("compress") is None
    monkeypatch.setitem(sys.modules, "brotli", None)
    assert make_decoder("br") is None


class Brotli:
    """The interface of brotli 1.2, before a coding of which each byte is a mebibyte."""

    def __init__(self) -> None:
        self._left = b""
        self.most = 0  # bytes that were given at once

    def process(self, data: bytes, output_buffer_limit: int = 2**40) -> bytes:
        assert not (data and self._left), "it takes no more before it has given what it has"
        self._left += b"".join(bytes([byte]) * 2**20 for byte in data)
        given, self._left = self._left[:output_buffer_limit], self._left[output_buffer_limit:]
        self.most = max(self.most, len(given))
        return given

    def can_accept_more_data(self) -> bool:
        return not self._left


def installed(monkeypatch: pytest.MonkeyPatch, **parts: object) -> None:
    """brotli is there, with a decoder of these parts."""
    library = types.ModuleType("brotli")
    library.Decompressor = lambda: types.SimpleNamespace(**parts)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "brotli", library)


def test_brotli_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it gives less at once than it might; one that cannot be told where to stop is not used."""
    text = [b"ab", b"", b"c"]
    parts = {"process": lambda _data, output_buffer_limit: text.pop(0), "can_accept_more_data": lambda: not text}
    installed(monkeypatch, **parts)
    assert run("br", b"x") == b"abc"
    installed(monkeypatch, process=bytes.upper)
    assert make_decoder("br") is None


def test_a_bomb_of_brotli_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """SEC-BOMBS: 421 bytes are half a gigabyte, which is never made: the library is asked for what there is room for."""
    one = Brotli()
    installed(monkeypatch, process=one.process, can_accept_more_data=one.can_accept_more_data)
    decoder = make_decoder("br")
    assert decoder is not None
    assert decoder.feed(b"a" * 8) == b""
    assert decoder.failed
    assert one.most <= 65_537


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_bomb_is_given_up(encoding: str) -> None:
    """SEC-BOMBS: a ratio above 100 is no JSON: the copy fails, and stays failed."""
    bomb = b"\0" * 50_000_000
    encoded = gzip.compress(bomb) if encoding == "gzip" else zstandard.compress(bomb)
    decoder = make_decoder(encoding)
    assert decoder is not None
    given = sum(len(decoder.feed(encoded[i : i + 512])) for i in range(0, len(encoded), 512))
    assert decoder.failed
    assert given <= 8 * 1024 * 1024


class Fed:
    """zlib's decoders, which note how many bytes they are given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.size = 0
        self._made = zlib.decompressobj
        monkeypatch.setattr(zlib, "decompressobj", self._make)

    def _make(self, wbits: int) -> "Fed._One":
        return Fed._One(self, self._made(wbits))

    class _One:
        def __init__(self, fed: "Fed", inflate: "zlib._Decompress") -> None:
            self._fed, self._inflate = fed, inflate

        def decompress(self, data: bytes, room: int) -> bytes:
            self._fed.size += len(data)
            return self._inflate.decompress(data, room)

        def __getattr__(self, name: str) -> object:
            return getattr(self._inflate, name)


def test_many_small_members_cost_what_their_bytes_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """SEC-BOMBS: each member ends with a copy of what is behind it, which is never the rest of a large read."""
    fed = Fed(monkeypatch)
    members = gzip.compress(b"") * 13_107
    decoder = make_decoder("gzip")
    assert decoder is not None
    assert decoder.feed(members + gzip.compress(TEXT)) == TEXT
    assert fed.size < 150 * len(members)


def test_what_is_behind_the_end_of_deflate_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """SEC-BOMBS: zlib would keep it all, and copy it with each read."""
    fed = Fed(monkeypatch)
    encoded = zlib.compress(TEXT)
    decoder = make_decoder("deflate")
    assert decoder is not None
    assert decoder.feed(encoded) == TEXT
    assert decoder.feed(b"a" * 1000) == b""
    assert not decoder.failed
    assert fed.size == len(encoded)


def test_limit_and_faults() -> None:
    decoder = make_decoder("gzip", max_bytes=100)
    assert decoder is not None
    assert decoder.feed(gzip.compress(TEXT)) == b""
    assert decoder.failed
    broken = make_decoder("gzip")
    assert broken is not None
    assert broken.feed(b"not gzip at all") == b""
    assert broken.failed
    assert broken.feed(gzip.compress(TEXT)) == b""
    empty = make_decoder("deflate")
    assert empty is not None
    assert empty.feed(b"") == b""
