"""The injector's own certificates: an authority, a leaf that it signs, and the next step of their renewal.

Pure: what there is, who is asked for and the time go in, a new set of certificates comes out, or nothing to do. The order
of a change of authority, which no client may notice:

1. `authority`: a new one is put in front of the bundle. The leaf stays, and so does the old authority behind the new one.
2. Everybody trusts the bundle: the caller has seen it in place for `settle_s`.
3. `leaf`: a leaf of the new authority is made.
4. `bundle`: the old authority is left out, when the last leaf that it can have signed has expired.

It promises that each set has a bundle that vouches for its leaf, if the set before had one. It does not know where they
are kept, who serves them, or who trusts them. Needs the extra `inject` (cryptography).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY_S: Final = 86_400.0
_JITTER: Final = 0.1  # of the time until renewal: of two replicas one is days ahead, and the other finds its work done
KEYS: Final = ("tls.crt", "tls.key", "ca.crt", "ca.key")

What = Literal["authority", "leaf", "bundle"]


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long things live, in seconds. Tests shorten them."""

    leaf_s: float = 90 * _DAY_S
    authority_s: float = 3650 * _DAY_S
    renew_at: float = 2 / 3  # of life: a month, or three years, remain for whatever keeps the renewal from working
    skew_s: float = 3600.0  # certificates begin that much earlier: clocks of nodes differ
    settle_s: float = 60.0  # from a bundle in the webhook to each API server's own copy of it


@dataclass(frozen=True, slots=True)
class Certificates:
    """One set, as the Secret holds it: PEM texts. `bundle` is all authorities to trust, the one that signs first."""

    leaf: bytes
    key: bytes = field(repr=False)
    bundle: bytes
    authority_key: bytes = field(repr=False)

    @property
    def data(self) -> dict[str, bytes]:
        """As the entries of a Secret of type kubernetes.io/tls."""
        return dict(zip(KEYS, (self.leaf, self.key, self.bundle, self.authority_key), strict=True))


@dataclass(frozen=True, slots=True)
class Step:
    """A set that should be kept instead of the present one; `why` is a sentence for people."""

    what: What
    why: str
    certificates: Certificates


@dataclass(frozen=True, slots=True)
class Facts:
    """What metrics say of a set: seconds since the epoch. `authority_expires` is 0 without a bundle."""

    begins: float
    expires: float
    authority_expires: float


def read(data: Mapping[str, bytes]) -> Certificates:
    """The set in a Secret. Its leaf may be spoilt (`next_step` mends that); its authority is not.

    Raises:
        ValueError: no authority that could sign and its key; the message says why, without any content.
    """
    missing = [name for name in KEYS if not data.get(name)]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing or empty")
    found = Certificates(*(data[name] for name in KEYS))
    authority, key = _authorities(found.bundle)[0], _private(found.authority_key, "ca.key")
    if not _can_sign(authority):
        raise ValueError("ca.crt is no authority")
    if _public(authority) != _public(key):
        raise ValueError("ca.key is not the key of ca.crt")
    return found


def begin(names: Sequence[str], now: float, times: Lifetimes, held: Certificates | None = None) -> Certificates:
    """A new authority and its leaf for `names`. With `held`, the set that is served now, its leaf and authorities stay:
    nobody who trusts it is disappointed, and `next_step` goes on from there."""
    authority, key = _new_authority(now, times)
    if held is not None:
        return _led_by(authority, key, held, now)
    leaf, leaf_key = _new_leaf(authority, key, names, now, times)
    return Certificates(leaf, leaf_key, _pem(authority), _pem_key(key))


def next_step(
    held: Certificates, names: Sequence[str], now: float, *, settled: bool, times: Lifetimes, jitter: float = 0.0
) -> Step | None:
    """What to keep instead of `held`, a set that `read` took; None when all is well.

    `settled`: the bundle has been where clients look for `settle_s`. `jitter` is -0.1..0.1 (see `jitter_of`).
    """
    authorities, key = _authorities(held.bundle), _private(held.authority_key, "ca.key")
    newest = authorities[0]
    if now >= _due(newest, times, jitter):
        fresh, fresh_key = _new_authority(now, times)
        return Step("authority", "the authority is old", _led_by(fresh, fresh_key, held, now))
    why = _spoilt(held, names, now)
    leaf = None if why else x509.load_pem_x509_certificate(held.leaf)
    if leaf is not None and not _signed(leaf, newest):
        why = "a new authority signs" if settled else ""
    elif leaf is not None and now >= _due(leaf, times, jitter):
        why = "the leaf is old"
    if why:
        made, made_key = _new_leaf(newest, key, names, now, times)
        return Step("leaf", why, replace(held, leaf=made, key=made_key))
    needed = [newest, *(old for old in authorities[1:] if now < _needed_until(old, newest, times))]
    if len(needed) < len(authorities) and leaf is not None and _signed(leaf, newest):
        return Step("bundle", "an old authority is needed no more", replace(held, bundle=_pem(*needed)))
    return None


def trusts(bundle: bytes, leaf: bytes) -> bool:
    """Whether some authority of a PEM bundle has signed this leaf. Spoilt texts trust nothing."""
    try:
        found = x509.load_pem_x509_certificate(leaf)
        return any(_signed(found, authority) for authority in _authorities(bundle))
    except ValueError:
        return False


def facts(leaf: bytes, bundle: bytes) -> Facts:
    """When a leaf begins and ends, and when the authority that signed it does; the first of a bundle where none did.

    Raises:
        ValueError: the leaf is no certificate.
    """
    found = x509.load_pem_x509_certificate(leaf)
    try:
        authorities = _authorities(bundle)
    except ValueError:
        return Facts(_begins(found), _ends(found), 0.0)
    signers = [authority for authority in authorities if _signed(found, authority)]
    return Facts(_begins(found), _ends(found), _ends((signers or authorities)[0]))


def jitter_of(pod: str) -> float:
    """A number of -0.1..0.1 that is the pod's own and stays the same."""
    first = int.from_bytes(hashlib.sha256(pod.encode()).digest()[:4], "big")
    return _JITTER * (2 * first / 0xFFFF_FFFF - 1)


def _led_by(authority: x509.Certificate, key: EllipticCurvePrivateKey, held: Certificates, now: float) -> Certificates:
    alive = [old for old in _authorities(held.bundle) if now < _ends(old)]
    return replace(held, bundle=_pem(authority, *alive), authority_key=_pem_key(key))


def _spoilt(held: Certificates, names: Sequence[str], now: float) -> str:
    """Why the leaf cannot be served; empty when it can."""
    try:
        leaf, key = x509.load_pem_x509_certificate(held.leaf), _private(held.key, "tls.key")
        told = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as error:
        return f"tls.crt or tls.key cannot be used ({type(error).__name__})"
    if _public(leaf) != _public(key):
        return "tls.key is not the key of tls.crt"
    if now >= _ends(leaf):
        return "the leaf has expired"
    if not trusts(held.bundle, held.leaf):
        return "no authority of ca.crt has signed tls.crt"
    missing = set(names) - set(told.get_values_for_type(x509.DNSName))
    return f"the leaf is not for {', '.join(sorted(missing))}" if missing else ""


def _due(certificate: x509.Certificate, times: Lifetimes, jitter: float) -> float:
    made = _begins(certificate) + times.skew_s
    return made + (_ends(certificate) - made) * times.renew_at * (1 + jitter)


def _needed_until(old: x509.Certificate, newest: x509.Certificate, times: Lifetimes) -> float:
    """Until its last leaf has expired: none of them was made after `newest` was (by the slowest clock)."""
    return min(_ends(old), _begins(newest) + 2 * times.skew_s + times.leaf_s)


def _new_authority(now: float, times: Lifetimes) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    key = generate_private_key(SECP256R1())
    serial = x509.random_serial_number()
    # The number in the name keeps old and new apart for clients that look for an issuer by its name alone.
    name = _name(f"llm-sidecar injector authority {serial % 2**32:08x}")
    builder = _builder(name, name, key, serial).add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return _lasting(builder, now, now + times.authority_s, times).sign(key, SHA256()), key


def _new_leaf(
    authority: x509.Certificate,
    authority_key: EllipticCurvePrivateKey,
    names: Sequence[str],
    now: float,
    times: Lifetimes,
) -> tuple[bytes, bytes]:
    key = generate_private_key(SECP256R1())
    builder = _builder(_name("llm-sidecar injector"), authority.subject, key, x509.random_serial_number())
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    builder = builder.add_extension(alternatives, critical=False)
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    builder = builder.add_extension(signer, critical=False)
    builder = _lasting(builder, now, min(now + times.leaf_s, _ends(authority)), times)
    return _pem(builder.sign(authority_key, SHA256())), _pem_key(key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, serial: int
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, serial_number=serial)
    builder = builder.public_key(key.public_key())
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _lasting(builder: x509.CertificateBuilder, now: float, until: float, times: Lifetimes) -> x509.CertificateBuilder:
    first, last = datetime.fromtimestamp(now - times.skew_s, UTC), datetime.fromtimestamp(until, UTC)
    return builder.not_valid_before(first.replace(microsecond=0)).not_valid_after(last.replace(microsecond=0))


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _can_sign(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound):
        return False


def _signed(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _authorities(bundle: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(bundle)
    except ValueError:
        raise ValueError("ca.crt holds no certificate") from None


def _private(text: bytes, name: str) -> EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(text, None)
    except (ValueError, TypeError):
        raise ValueError(f"{name} holds no private key without a password") from None
    if isinstance(key, EllipticCurvePrivateKey):
        return key
    raise ValueError(f"{name} is no key on an elliptic curve")


def _public(holder: x509.Certificate | EllipticCurvePrivateKey) -> bytes:
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _pem_key(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _begins(certificate: x509.Certificate) -> float:
    return certificate.not_valid_before_utc.timestamp()


def _ends(certificate: x509.Certificate) -> float:
    return certificate.not_valid_after_utc.timestamp()
