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


def test_brotli_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's interface is stood in for: `Decompressor().process(bytes) -> bytes`."""
    stand_in = types.ModuleType("brotli")
    stand_in.Decompressor = lambda: types.SimpleNamespace(process=bytes.upper)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "brotli", stand_in)
    assert run("br", b"abc") == b"ABC"


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
