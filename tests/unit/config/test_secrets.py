"""Keys and tokens: fresh within two seconds, kept while their file is broken, shown nowhere."""

import copy
import os
import pickle
from pathlib import Path

import pytest

from sidecar.config.secrets import MAX_FILE_BYTES, ClientTokens, KeyRing, Secret, SecretFile, parse_key
from sidecar.core.policy import Upstream
from sidecar.errors import ConfigError

TOKEN = b"0123456789abcdef-token"


def upstream(key: str, ref: str = "") -> Upstream:
    return Upstream("u", "openai", "https", "h", 443, key=key, key_ref=ref)  # type: ignore[arg-type]  # parametrised


def revealed(secret: Secret | None) -> bytes | None:
    return secret.reveal() if secret is not None else None


def test_a_rotated_key_is_used_within_two_seconds(tmp_path: Path) -> None:
    """INC-35: half-written, deleted, swapped: the old value is kept, then the new one used; one look a second."""
    file = tmp_path / "key"
    file.write_text("sk-old\n")
    ring, held = KeyRing({}), upstream("file", str(file))
    assert revealed(ring.get(held, 0.0)) == b"sk-old"
    file.write_text("sk-new")
    assert revealed(ring.get(held, 0.9)) == b"sk-old"
    assert revealed(ring.get(held, 1.1)) == b"sk-new"
    assert ring.problems({"u": held}, 1.1) == []
    file.write_text("")
    assert revealed(ring.get(held, 3.0)) == b"sk-new"
    assert "must hold one line of visible ASCII" in ring.problems({"u": held}, 3.0)[0]
    file.unlink()
    assert revealed(ring.get(held, 5.0)) == b"sk-new"
    assert "cannot be read (FileNotFoundError)" in ring.problems({"u": held}, 5.0)[0]
    (tmp_path / "v2").write_text("sk-third")
    file.symlink_to("v2")
    assert revealed(ring.get(held, 7.0)) == b"sk-third"
    assert ring.problems({"u": held}, 7.0) == []


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    """A stat that shows no change is all that happens."""
    file, reads = tmp_path / "key", []
    file.write_text("a")
    watched = SecretFile(file, lambda content: reads.append(content) or content)
    assert watched.error == f"{file}: not read yet"
    assert [watched.get(now) for now in (0.0, 2.0, 4.0)] == [b"a"] * 3
    assert reads == [b"a"]


def test_what_is_no_small_regular_file_is_not_read(tmp_path: Path) -> None:
    """A pipe would block and a huge file would too: both are refused and told."""
    pipe, huge = tmp_path / "pipe", tmp_path / "huge"
    os.mkfifo(pipe)
    huge.write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    for path in (pipe, huge, tmp_path):
        watched = SecretFile(path, parse_key)
        assert watched.get(0.0) is None
        assert watched.error is not None
        assert "give a small regular file" in watched.error


def test_keys_from_elsewhere() -> None:
    """The client's key is not ours to hold; an environment variable is; a missing or odd one is told."""
    ring = KeyRing({"KEY": " sk-env ", "ODD": "a b", "UML": "ü"})
    assert ring.get(upstream("client"), 0.0) is None
    assert revealed(ring.get(upstream("env", "KEY"), 0.0)) == b"sk-env"
    refs = {name: upstream("env", name) for name in ("KEY", "ODD", "UML", "NONE")}
    assert [ring.get(one, 0.0) is None for one in refs.values()] == [False, True, True, True]
    told = ring.problems({**refs, "c": upstream("client")}, 0.0)
    assert [line.split(":")[0] for line in told] == ["upstreams.ODD", "upstreams.UML", "upstreams.NONE"]


@pytest.mark.parametrize("content", [b"", b" \n", b"a\nb", b"a b", b"\xff", b"a\x00"])
def test_what_is_no_key(content: bytes) -> None:
    """A key must fit into one header line."""
    with pytest.raises(ValueError, match="one line of visible ASCII"):
        parse_key(content)


def test_nothing_shows_a_secret(tmp_path: Path) -> None:
    """repr, str, messages, copies and pickles hold no key and no token (GW-45)."""
    file = tmp_path / "key"
    file.write_text("sk-canary")
    ring, held = KeyRing({"E": "sk-canary"}), upstream("file", str(file))
    secret = ring.get(held, 0.0)
    file.write_text("sk-canary broken")
    tokens = ClientTokens(file)
    assert tokens.service_of(b"sk-canary", 0.0) is None
    shown = [
        repr(secret),
        str(secret),
        repr(ring),
        f"{held}",
        repr(tokens),
        str(tokens.error),
        repr(SecretFile(file, parse_key)),
    ]
    shown += ring.problems({"u": held, "e": upstream("env", "E")}, 9.0)
    assert not any("canary" in text for text in shown)
    for leak in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="not written anywhere"):
            leak(secret)


def test_client_tokens(tmp_path: Path) -> None:
    """token -> service, comments allowed; unknown and empty tokens are nobody's; a change counts within two seconds."""
    file = tmp_path / "tokens"
    file.write_bytes(b"# who\n\n" + TOKEN + b" bot\nanother-long-token-00  shop\n")
    tokens = ClientTokens(file)
    tokens.check(0.0)
    assert tokens.service_of(TOKEN, 0.0) == "bot"
    assert tokens.service_of(b"another-long-token-00", 0.0) == "shop"
    assert [tokens.service_of(token, 0.0) for token in (b"", b"#", b"bot", TOKEN + b"x", TOKEN[:-1])] == [None] * 5
    file.write_bytes(b"another-long-token-00 shop\n")
    assert tokens.service_of(TOKEN, 2.0) is None
    file.write_bytes(b"short bot\n")
    assert tokens.service_of(b"another-long-token-00", 4.0) == "shop"
    assert tokens.error is not None
    assert "line 1 is not `token service`" in tokens.error


@pytest.mark.parametrize(
    "content", [b"", b"# only\n", b"short bot\n", TOKEN + b"\n", TOKEN + b" a b\n", TOKEN + b"\xff bot\n"]
)
def test_bad_token_files_stop_the_start(tmp_path: Path, content: bytes) -> None:
    """At start there is no last good content: the error is raised, without the token."""
    file = tmp_path / "tokens"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="write lines `token service`") as caught:
        ClientTokens(file).check(0.0)
    assert TOKEN.decode() not in str(caught.value)


def test_a_service_whose_name_a_tag_cannot_hold(tmp_path: Path) -> None:
    """Calls are told apart by the whole name, so that it has to fit."""
    file = tmp_path / "tokens"
    file.write_bytes(TOKEN + b" " + b"s" * 128)
    ClientTokens(file).check(0.0)
    file.write_bytes(TOKEN + b" " + b"s" * 129)
    with pytest.raises(ConfigError, match=r"line 1: the service.s name has more than 128 characters"):
        ClientTokens(file).check(0.0)


def test_too_many_tokens(tmp_path: Path) -> None:
    """Every request compares with all of them, so their number is bounded."""
    file = tmp_path / "tokens"
    file.write_text("".join(f"token-number-{n:08d} s\n" for n in range(1001)))
    with pytest.raises(ConfigError, match="must hold 1 to 1000 lines"):
        ClientTokens(file).check(0.0)
