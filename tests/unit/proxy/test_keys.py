"""What is drawn and hashed for each request."""

from hashlib import blake2b

from sidecar.proxy.keys import Chance, Keys

SALT = b"0123456789abcdef"


def test_a_conversation_has_the_key_that_it_always_had() -> None:
    """Whoever asked in between: conversations keep their arm over an update of the sidecar."""
    keys = Keys("shop", SALT)
    asked = [
        ("/v1/chat/completions", b"Bearer a", b"Hi"),
        ("/v1/chat/completions", b"Bearer b", b"Hi"),
        ("/v1/x", b"", b""),
    ]
    for path, credential, beginning in (*asked, *reversed(asked), *asked):
        parts = (b"derived", b"shop", path.encode(), credential, beginning)
        text = b"".join(b"%d:%b" % (len(part), part) for part in parts)
        key = int.from_bytes(blake2b(text, digest_size=8, key=SALT).digest(), "little")
        assert keys.derive(path, (credential,), beginning) == keys.hash(*parts) == key


def test_another_salt_makes_other_keys() -> None:
    asked = ("/v1/x", (b"Bearer a",), b"Hi")
    one, other = Keys("shop", SALT), Keys("shop", b"another")
    assert len({one.derive(*asked), other.derive(*asked), 0}) == 3
    assert one.text_salt != other.text_salt


def test_random_bits_are_never_used_twice() -> None:
    """Of 5,000 draws of 64 bits two are equal with a probability of 7e-13; all bits are used."""
    chance = Chance()
    drawn = [chance.draw() for _ in range(5_000)]
    assert len(set(drawn)) == 5_000
    assert 0 <= min(drawn) < 2**56 < 2**63 < max(drawn) < 2**64


def test_ids_sort_by_time() -> None:
    chance = Chance()
    ids = [chance.new_id(1e9 + number / 1000) for number in range(2_000)]
    assert ids == sorted(ids)
    assert len({one[16:] for one in ids}) == 2_000
    assert all(len(one) == 26 for one in ids)
