"""Signs a request as AWS Signature Version 4 asks: an HMAC over a canonical form of it, with a key made for the day.

    canonical = method \\n path \\n query \\n headers \\n\\n names of headers \\n SHA-256(body)
    to sign   = AWS4-HMAC-SHA256 \\n time \\n day/region/service/aws4_request \\n SHA-256(canonical)
    key       = HMAC(HMAC(HMAC(HMAC("AWS4" + secret, day), region), service), "aws4_request")

The path is encoded once more for the canonical form, as all services but S3 want it. The time is an argument: a signature
holds for five minutes around it.

Reference: AWS Identity and Access Management user guide, "Create a signed AWS API request".
"""

import hmac
from hashlib import sha256
from typing import Final, NamedTuple
from urllib.parse import quote

from msgspec import Struct

_ALGORITHM: Final = "AWS4-HMAC-SHA256"


class Credentials(Struct, frozen=True):
    """Who signs. `token` comes with temporary credentials."""

    access_key: str
    secret_key: str
    token: str = ""


def credentials(key: bytes) -> Credentials | None:
    """`ACCESS_KEY:SECRET_KEY` or `ACCESS_KEY:SECRET_KEY:SESSION_TOKEN`; None where the text is no such thing."""
    parts = key.decode("latin-1").strip().split(":", 2)
    if len(parts) < 2 or not all(parts) or not key.isascii():
        return None
    return Credentials(*parts)


class Place(NamedTuple):
    """Where the request goes; `service` is AWS's name of it."""

    region: str
    service: str
    host: str


def _pairs(query: str) -> list[tuple[str, str]]:
    """The members of a query; they are signed in the order of their names, which `=` must not disturb."""
    parts = (part.partition("=") for part in query.split("&") if part)
    return [(name, value) for name, _, value in parts]


def sign(who: Credentials, place: Place, target: str, body: bytes, *, stamp: str) -> tuple[tuple[str, str], ...]:
    """The header fields to add to a POST of `body` to `target` (path and query, encoded as sent).

    `stamp` is the time as `20261121T093000Z`. No other header is signed, so that proxies may change them.
    """
    path, _, query = target.partition("?")
    digest = sha256(body).hexdigest()
    fields = {"host": place.host, "x-amz-content-sha256": digest, "x-amz-date": stamp}
    if who.token:
        fields["x-amz-security-token"] = who.token
    names = ";".join(fields)
    canonical = "\n".join(
        [
            "POST",
            quote(path, safe="/-_.~"),
            "&".join(f"{name}={value}" for name, value in sorted(_pairs(query))),
            *(f"{name}:{value}" for name, value in fields.items()),
            "",
            names,
            digest,
        ]
    )
    scope = f"{stamp[:8]}/{place.region}/{place.service}/aws4_request"
    text = "\n".join([_ALGORITHM, stamp, scope, sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{who.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, text.encode(), sha256).hexdigest()
    added = [(name, value) for name, value in fields.items() if name != "host"]
    line = f"{_ALGORITHM} Credential={who.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    return (*added, ("authorization", line))
