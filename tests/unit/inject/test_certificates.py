"""The injector's certificates: what is made holds for strict clients, and no step of a renewal disappoints one of them."""

import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from sidecar.inject.certificates import (
    Certificates,
    Lifetimes,
    begin,
    facts,
    jitter_of,
    next_step,
    read,
    trusts,
)

NAMES = ("llm-sidecar-injector.llm-sidecar.svc", "llm-sidecar-injector.llm-sidecar.svc.cluster.local")
NOW = 1_795_000_000.0
TIMES = Lifetimes()
DAY_S = 86_400.0
YEAR_S = 365 * DAY_S


def verified(served: Certificates, bundle: bytes, now: float, name: str = NAMES[0]) -> bool:
    """Whether a strict client that trusts `bundle` takes the leaf for `name` at this moment."""
    store = Store(x509.load_pem_x509_certificates(bundle))
    verifier = PolicyBuilder().store(store).time(datetime.fromtimestamp(now, UTC).replace(tzinfo=None))
    try:
        verifier.build_server_verifier(x509.DNSName(name)).verify(x509.load_pem_x509_certificate(served.leaf), [])
    except VerificationError:
        return False
    return True


def authorities(held: Certificates) -> int:
    return len(x509.load_pem_x509_certificates(held.bundle))


def test_what_is_made_is_taken_by_a_strict_client_for_each_name() -> None:
    """GW-52: by the names that API servers use, from an hour before it was made (clocks differ) to its end."""
    held = begin(NAMES, NOW, TIMES)
    assert all(verified(held, held.bundle, NOW, name) for name in NAMES)
    assert not verified(held, held.bundle, NOW, "llm-sidecar-injector.other.svc")
    told = facts(held.leaf, held.bundle)
    assert (told.begins, told.expires, told.authority_expires) == (NOW - 3600, NOW + 90 * DAY_S, NOW + 3650 * DAY_S)
    assert verified(held, held.bundle, told.begins + 1)
    assert not verified(held, held.bundle, told.expires + 1)
    leaf = x509.load_pem_x509_certificate(held.leaf)
    assert isinstance(leaf.public_key(), ec.EllipticCurvePublicKey)
    assert isinstance(leaf.public_key().curve, ec.SECP256R1)


def test_another_authority_does_not_vouch_for_it() -> None:
    held, other = begin(NAMES, NOW, TIMES), begin(NAMES, NOW, TIMES)
    assert trusts(held.bundle, held.leaf)
    assert not trusts(other.bundle, held.leaf)
    assert not verified(held, other.bundle, NOW)
    assert not trusts(b"rubbish", held.leaf)
    assert not trusts(held.bundle, b"rubbish")


def test_a_fresh_set_needs_no_step_and_survives_its_secret() -> None:
    held = begin(NAMES, NOW, TIMES)
    assert read(held.data) == held
    assert next_step(held, NAMES, NOW, settled=True, times=TIMES) is None


@pytest.mark.parametrize("jitter", [-0.1, 0.0, 0.1])
def test_a_leaf_is_renewed_at_two_thirds_of_its_life(jitter: float) -> None:
    """By the same authority; a month remains for whatever keeps the renewal from working."""
    held = begin(NAMES, NOW, TIMES)
    due = NOW + 60 * DAY_S * (1 + jitter)
    assert next_step(held, NAMES, due - 60, settled=True, times=TIMES, jitter=jitter) is None
    step = next_step(held, NAMES, due + 60, settled=True, times=TIMES, jitter=jitter)
    assert step is not None
    assert step.what == "leaf"
    assert step.certificates.bundle == held.bundle
    assert step.certificates.key != held.key
    assert verified(step.certificates, held.bundle, due + 60)


def test_a_change_of_authority_is_seen_by_nobody() -> None:
    """Bundle first, leaf when the bundle is known to be in place, the old authority out when its leaves have expired."""
    held = begin(NAMES, NOW, TIMES)
    now = NOW + 3650 * DAY_S * 2 / 3 + DAY_S
    held = begin(NAMES, NOW, replace(TIMES, leaf_s=now - NOW + 60 * DAY_S))  # a leaf that is not due itself
    first = next_step(held, NAMES, now, settled=True, times=TIMES)
    assert first is not None
    assert first.what == "authority"
    both = first.certificates
    assert (both.leaf, both.key, authorities(both)) == (held.leaf, held.key, 2)
    assert next_step(both, NAMES, now, settled=False, times=TIMES) is None, "no leaf before the bundle is in place"
    second = next_step(both, NAMES, now + 60, settled=True, times=TIMES)
    assert second is not None
    assert second.what == "leaf"
    assert not trusts(held.bundle, second.certificates.leaf), "it is of the new authority"
    assert verified(second.certificates, both.bundle, now + 60)
    assert next_step(second.certificates, NAMES, now + 30 * DAY_S, settled=True, times=TIMES) is None


def test_sixteen_years_of_two_replicas_without_a_failed_handshake() -> None:
    """Each looks every six days, at different hours, and serves what it saw last; clients trust the bundle of the moment.

    The one who looks acts on a bundle that it has itself put in place the time before: that is `settled`.
    """
    jitters = {"one": jitter_of("injector-0"), "two": jitter_of("injector-1")}
    secret = begin(NAMES, NOW, TIMES)
    bundle, in_place = secret.bundle, dict.fromkeys(jitters, secret.bundle)
    served = dict.fromkeys(jitters, secret)
    seen, most, days = {secret.leaf}, 1, 16 * 365
    for day in range(0, days, 6):
        for hour, pod in enumerate(jitters):
            now = NOW + day * DAY_S + hour * 36_000
            settled = in_place[pod] == secret.bundle
            step = next_step(secret, NAMES, now, settled=settled, times=TIMES, jitter=jitters[pod])
            if step is not None:
                secret = step.certificates
            bundle = in_place[pod] = secret.bundle
            served[pod] = secret
            if step is not None:
                assert all(verified(one, bundle, now) for one in served.values()), (day, pod)
        seen.add(secret.leaf)
        most = max(most, authorities(secret))
    assert days / 72 < len(seen) < days / 53
    assert most == 2
    assert authorities(secret) == 1
    assert not verified(begin(NAMES, NOW, TIMES), bundle, NOW)


def test_an_old_authority_leaves_the_bundle_when_its_last_leaf_has_expired() -> None:
    held = begin(NAMES, NOW, TIMES)
    now = NOW + 2 * YEAR_S
    new = begin(NAMES, now, TIMES, replace(held, leaf=begin(NAMES, now, TIMES).leaf))
    step = next_step(new, NAMES, now, settled=True, times=TIMES)
    assert step is not None
    signed = step.certificates
    assert authorities(signed) == 2
    early = next_step(signed, NAMES, now + 59 * DAY_S, settled=True, times=TIMES)
    assert early is None
    renewed = next_step(signed, NAMES, now + 61 * DAY_S, settled=True, times=TIMES)
    assert renewed is not None
    last = next_step(renewed.certificates, NAMES, now + 90 * DAY_S + 7201, settled=True, times=TIMES)
    assert last is not None
    assert (last.what, authorities(last.certificates)) == ("bundle", 1)
    assert verified(last.certificates, last.certificates.bundle, now + 91 * DAY_S)


def test_a_lost_secret_is_made_anew_around_what_is_served() -> None:
    """A deleted Secret is how people force a new authority: what they trust now goes on being trusted."""
    held = begin(NAMES, NOW, TIMES)
    new = begin(NAMES, NOW + DAY_S, TIMES, held)
    assert (new.leaf, new.key) == (held.leaf, held.key)
    assert new.authority_key != held.authority_key
    assert verified(new, new.bundle, NOW + DAY_S)
    assert verified(new, held.bundle, NOW + DAY_S)
    step = next_step(new, NAMES, NOW + DAY_S, settled=True, times=TIMES)
    assert step is not None
    assert (step.what, step.why) == ("leaf", "a new authority signs")


OTHER = begin(NAMES, NOW, TIMES)


@pytest.mark.parametrize(
    ("spoilt", "why"),
    [
        ({"leaf": b"rubbish"}, "tls.crt or tls.key cannot be used (ValueError)"),
        ({"key": b"rubbish"}, "tls.crt or tls.key cannot be used (ValueError)"),
        ({"key": OTHER.key}, "tls.key is not the key of tls.crt"),
        ({"leaf": OTHER.leaf, "key": OTHER.key}, "no authority of ca.crt has signed tls.crt"),
    ],
)
def test_a_spoilt_leaf_is_replaced_by_the_authority_that_is_trusted(spoilt: dict[str, bytes], why: str) -> None:
    held = begin(NAMES, NOW, TIMES)
    step = next_step(read({**replace(held, **spoilt).data}), NAMES, NOW, settled=False, times=TIMES)
    assert step is not None
    assert (step.what, step.why) == ("leaf", why)
    assert step.certificates.bundle == held.bundle
    assert verified(step.certificates, held.bundle, NOW)


def test_an_expired_leaf_and_one_with_other_names_are_replaced() -> None:
    held = begin(NAMES, NOW, TIMES)
    expired = next_step(held, NAMES, NOW + 91 * DAY_S, settled=False, times=TIMES)
    assert expired is not None
    assert expired.why == "the leaf has expired"
    renamed = next_step(held, ("injector.elsewhere.svc",), NOW, settled=False, times=TIMES)
    assert renamed is not None
    assert renamed.why == "the leaf is not for injector.elsewhere.svc"
    assert verified(renamed.certificates, held.bundle, NOW, "injector.elsewhere.svc")


def no_authority() -> Certificates:
    held = begin(NAMES, NOW, TIMES)
    return replace(held, bundle=held.leaf, authority_key=held.key)


def other_kind_of_key() -> Certificates:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return replace(begin(NAMES, NOW, TIMES), authority_key=text)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({}, "tls.crt, tls.key, ca.crt, ca.key missing or empty"),
        (OTHER.data | {"ca.key": b""}, "ca.key missing or empty"),
        (OTHER.data | {"ca.crt": b"rubbish"}, "ca.crt holds no certificate"),
        (OTHER.data | {"ca.key": b"rubbish"}, "ca.key holds no private key without a password"),
        (OTHER.data | {"ca.key": OTHER.key}, "ca.key is not the key of ca.crt"),
        (no_authority().data, "ca.crt is no authority"),
        (other_kind_of_key().data, "ca.key is no key on an elliptic curve"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_secret_without_a_usable_authority_is_told(data: dict[str, bytes], why: str) -> None:
    """The message names the entry, never its content."""
    with pytest.raises(ValueError, match=f"^{re.escape(why)}$"):
        read(data)


def test_nobody_sees_a_key_by_accident() -> None:
    assert "PRIVATE" not in repr(OTHER)


def test_the_jitter_is_the_pods_own_and_bounded() -> None:
    found = [jitter_of(f"injector-{number}") for number in range(200)]
    assert found == [jitter_of(f"injector-{number}") for number in range(200)]
    assert -0.1 <= min(found) < -0.05 < 0.05 < max(found) <= 0.1
    assert len(set(found)) == 200
