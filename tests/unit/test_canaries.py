"""The sweep for canaries can fail: it finds each form that it looks for, wherever it lies, and nothing in innocent text."""

import base64
import csv
import hashlib
import io
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.fixtures.canaries import HASHES, SCHEMES, Canaries, forms, hashes

KEY = b'sk-proof-5b1e/77+c0"9d\\2a%41=f6'
SENTENCE = 'The otter "Grüß" counts\nnine/eleven lanterns & waits.'.encode()
CANARIES = Canaries({"key": KEY, "sentence": SENTENCE})
SECRETS = pytest.mark.parametrize("secret", [KEY, SENTENCE], ids=["key", "sentence"])
AROUND = (b"", b"x", b"ab")


@SECRETS
@pytest.mark.parametrize("form", forms(KEY))
def test_each_form_is_found(secret: bytes, form: str) -> None:
    """SEC-KEYS: whole, between other bytes, and in the other case."""
    planted = forms(secret)[form]
    for text in (planted, b"{" + planted + b"}", b'"note":"' + planted + b'",', planted.swapcase()):
        assert CANARIES.leaks(text), text


@SECRETS
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", HASHES)
def test_each_beginning_of_a_hash_is_found(secret: bytes, name: str, scheme: bytes) -> None:
    """SEC-KEYS: CVE-like "only the first eight digits": from 8 hex digits on, in both cases; also as bytes and in base64."""
    digest = hashlib.new(name, scheme + secret)
    whole = digest.hexdigest()
    for length in (8, 12, 16, 32, 64):
        for shown in (whole[:length], whole[:length].upper(), f"key_{whole[:length]}", f"sha:{whole[:length]}..."):
            assert CANARIES.leaks(f'{{"key":"{shown}"}}'.encode()), shown
    assert CANARIES.leaks(b"\0\1" + digest.digest() + b"\2")
    assert CANARIES.leaks(base64.b64encode(digest.digest()))
    assert CANARIES.leaks(base64.urlsafe_b64encode(digest.digest()))


@SECRETS
@pytest.mark.parametrize("before", AROUND)
@pytest.mark.parametrize("after", AROUND)
@pytest.mark.parametrize("code", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64_of_a_text_around_it(secret: bytes, before: bytes, after: bytes, code: Callable[[bytes], bytes]) -> None:
    """Whatever stands before and behind it, at each of the three places."""
    assert CANARIES.leaks(code(b"user:" + before + secret + after + b" and so on"))


@SECRETS
@pytest.mark.parametrize("kept", [12, 16, 20])
def test_masks_and_cuts(secret: bytes, kept: int) -> None:
    """CVE-2024-9606 showed nearly all of a key: a long beginning, middle or end is enough."""
    shown = (secret[:kept] + b"****", b"****" + secret[-kept:], b"..." + secret[4 : 4 + kept + 4] + b"...")
    for text in shown:
        assert CANARIES.leaks(text), text


@SECRETS
def test_inside_real_artefacts(secret: bytes, tmp_path: Path) -> None:
    """A database, its WAL, a line of JSON, a CSV, a URL, a repr of a header block."""
    text = secret.decode()
    table = io.StringIO()
    csv.writer(table).writerow(["id", text])
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (a, b)")
        connection.execute("INSERT INTO t VALUES (?, ?)", ("x" * 300, f"before {text} behind"))
        connection.commit()
        artefacts = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        assert [name for name in artefacts if CANARIES.leaks(artefacts[name])] == ["a.db-wal"]
    artefacts = {
        "database": (tmp_path / "a.db").read_bytes(),
        "line": json.dumps({"body": json.dumps({"content": text})}).encode(),
        "table": table.getvalue().encode(),
        "address": f"https://host/v1?key={quote(text, safe='')}".encode(),
        "repr": repr([(b"authorization", b"Bearer " + secret)]).encode(),
    }
    assert {leak.partition(":")[0] for leak in CANARIES.sweep(artefacts)} == set(artefacts)


def test_innocent_text_is_innocent() -> None:
    """Noise, words and hashes of other things: nothing; and each leak is told by its own name."""
    assert CANARIES.leaks(os.urandom(2**20)) == []
    assert CANARIES.leaks(b"".join(hashlib.sha256(b"%d" % number).hexdigest().encode() for number in range(1000))) == []
    assert CANARIES.leaks(b"The otter waits. sk-proof [hidden] Bearer [hidden] " + b"%20" * 40) == []
    assert {leak.partition(":")[0] for leak in CANARIES.leaks(b"a " + KEY)} == {"key"}
    assert {leak.partition(":")[0] for leak in CANARIES.leaks(b"a " + SENTENCE)} == {"sentence"}
    assert set(hashes(KEY).values()).isdisjoint(hashes(SENTENCE).values())


def test_a_canary_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="fewer than 16"):
        Canaries({"a": b"short"})
