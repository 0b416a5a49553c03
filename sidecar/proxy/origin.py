"""An upstream as the data plane uses it: its pool, how heads are written for it, and what it has taught us."""

import re
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from typing import Final

from sidecar.core.cost import RateCard, flat_card
from sidecar.core.guard import Guard
from sidecar.core.policy import Upstream
from sidecar.core.pricebook import PriceBook
from sidecar.errors import ProtocolError
from sidecar.proxy.gate import Way
from sidecar.proxy.upstream import Pool
from sidecar.wire.estimate import Ratio
from sidecar.wire.http1 import RequestHead, split_at_length
from sidecar.wire.places import place_under
from sidecar.wire.providers import FORMATS, STANDARD, provider_of
from sidecar.wire.sigv4 import Place, credentials, sign
from sidecar.wire.target import ALL_CREDENTIALS, has_dot_segment, join_target, model_in, path_segment, value_in, without
from sidecar.wire.target import CREDENTIALS as IN_QUERY

PROTOCOLS: Final = b"sec-websocket-protocol"
KEY_PROTOCOL: Final = b"openai-insecure-api-key."  # a browser's key stands among its subprotocols
CREDENTIALS: Final = (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"ocp-apim-subscription-key")
_REGION: Final = re.compile(r"\.([a-z]{2}(?:-[a-z]+)+-\d)\.amazonaws\.com")  # of an AWS host: .eu-west-1.
_VERSION: Final = frozenset({b"api-version"})  # of Azure's own paths: other places have others, or none
_HOP: Final = frozenset(
    {
        b"host", b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"te", b"upgrade", b"expect",
        b"proxy-connection", b"proxy-authorization", *CREDENTIALS,
    }
)  # fmt: skip
_UNSIGNED: Final = (
    "an AWS signature binds the host, and this one names the sidecar: give the upstream an api_key"
    " (ACCESS_KEY:SECRET_KEY) to sign with, or send a Bedrock API key"
)
_VISIBLE: Final = re.compile(rb"[!-~]{1,4096}")  # what may stand in a header line
_MAX_RATIOS: Final = 256  # models per upstream whose bytes per token are remembered
_DEFAULT_PORT: Final = {"http": 80, "https": 443}


class Origin:
    """Runtime side of one `core.policy.Upstream`."""

    def __init__(
        self, spec: Upstream, pool: Pool, guard: Guard, book: PriceBook, key: Callable[[], bytes | None]
    ) -> None:
        """`key()` gives the credential that the sidecar holds for this upstream; None when it has none to give now."""
        self.spec = spec
        self.name = spec.name
        self.pool = pool
        self.guard = guard
        self.holds_key = spec.key != "client"
        self.ask_usage = spec.usage == "ask"
        self.mute: set[str] = set()  # models that are not asked: a refused call went through without the question
        self._key = key
        self.book = book  # may be set anew at any time
        self._flat = None if spec.price is None else flat_card(spec.price)
        self._ratios: dict[str, Ratio] = {}
        host = f"[{spec.host}]" if ":" in spec.host else spec.host
        self._host = host.encode() if spec.port == _DEFAULT_PORT[spec.scheme] else f"{host}:{spec.port}".encode()
        self._prefix = spec.prefix
        self.provider = provider_of(spec.provider, spec.dialect)
        paths = self.provider.paths
        # of the endpoints that it has, where: clients may ask there, or elsewhere
        self._paths = {endpoint: paths[form] for endpoint, form in FORMATS.items() if form in paths}

    def head(self, head: RequestHead, way: Way, *, identity: bool, target: bytes | None = None) -> tuple[bytes, bytes]:
        """The request head for this upstream, cut in two where the Content-Length digits go.

        `target` is what the method of that name gave.
        `identity` asks the server not to compress, because the answer will be read and changed on its way.

        Raises:
            ProtocolError: 400, the target has dot segments and this upstream has a path prefix.
        """
        replace: dict[bytes, bytes | None] = {b"host": self._host}
        add = b"" if b"host" in head.fields else b"Host: " + self._host + b"\r\n"  # HTTP/1.0 needs none, and we say 1.1
        if identity:
            replace[b"accept-encoding"] = b"identity"
        if way.realtime and b"upgrade" in head.fields:
            add += b"Connection: Upgrade\r\nUpgrade: " + head.fields[b"upgrade"] + b"\r\n"
        if self.holds_key or head.spent:
            # The client's credential is meant for another origin: it never goes here, not even when ours is missing.
            replace.update(dict.fromkeys(CREDENTIALS))
            if PROTOCOLS in head.fields and (head.protocols is not None or KEY_PROTOCOL in head.raw.lower()):
                replace[PROTOCOLS] = None
                add += _without_keys(protocols_of(head) if head.protocols is None else head.protocols)
            key = self._key() if self.holds_key else None
            if key is not None:
                name, scheme = self.provider.key_field, self.provider.key_scheme
                if name in head.fields:
                    replace[name] = scheme + key
                else:
                    add += name + b": " + scheme + key + b"\r\n"
        path = head.target if target is None else target
        if head.spent:
            path = without(path, ALL_CREDENTIALS)
        return split_at_length(head, target=self._path(path, way, own=target is None), replace=replace, add=add)

    def _path(self, target: bytes, way: Way, *, own: bool) -> bytes:
        if self.holds_key and (way.beyond or way.dialect == "gemini"):
            target = without(target, ALL_CREDENTIALS if way.beyond else IN_QUERY)
        return (place_under if own and way.beyond else join_target)(self._prefix, target)

    def hosts(self, way: Way, model: str | None, asked: str | None) -> bool:
        """Whether the call is one of this provider's own clients, for the model that it names: then it goes as it came."""
        return way.beyond in self.provider.prefixes and (model is None or model == (way.model or asked))

    def target(self, head: RequestHead, way: Way, model: str | None, asked: str | None) -> bytes | None:
        """The target for this upstream where it is not the client's own: it has the endpoint elsewhere, or has the model in
        its path and another one is to serve (`model`; else it is the one that the app `asked` for). The client's query goes
        on.

        Raises:
            ProtocolError: 400, the app's model would lead to another path.
        """
        path = self._paths.get(way.endpoint)
        if path is None or self._is_at_home(way, path, model, asked):
            return None
        named = None
        if way.endpoint == "generate":
            named = model_in(head.target)
            if named is None:
                return None
            path = self.provider.streams.get("generate", path) if named.streams else path
        path, _, own = path.partition("?")
        if named is not None:
            own = ""  # Gemini's clients say themselves how they want a stream
        query, made = self._query(head.target, way, own), path.encode()
        if "{model}" in path:
            as_written = named.model if named is not None and model is None else path_segment(model or asked or "")
            made = made.replace(b"{model}", as_written)
        return made + b"?" + query if query else made

    def _is_at_home(self, way: Way, path: str, model: str | None, asked: str | None) -> bool:
        """Whether the client's own target leads to `path` here, and names the model that is to serve where it names one."""
        if way.beyond:
            return self.hosts(way, model, asked)
        return path == STANDARD[FORMATS[way.endpoint]] and (model is None or "{model}" not in path)

    def _query(self, target: bytes, way: Way, own: str) -> bytes:
        """`own`, what a path of this provider has, and what the client asks behind it; a version is one of the two."""
        if self._dates(way, own) and value_in(target, _VERSION) is not None:
            return target.partition(b"?")[2]
        theirs = (without(target, _VERSION) if way.beyond else target).partition(b"?")[2]
        return b"&".join([part for part in (own.encode(), theirs) if part])

    def _dates(self, way: Way, own: str) -> bool:
        """Whether a version of the API that the client's path names holds here too: both name deployments in their paths."""
        return way.beyond in self.provider.prefixes and bool(way.model) and own.startswith("api-version=")

    def own_head(
        self, target: bytes, lines: bytes, body: bytes, client: RequestHead, at: float, *, joined: bool = False
    ) -> bytes:
        """A whole head of our own for a POST with this body at `at` (seconds since the epoch: signatures hold for minutes).
        `joined`: the target has this upstream's prefix already.

        The client's credential goes on, in this provider's spelling, only where the sidecar holds no key for this upstream.

        Raises:
            ProtocolError: 400, see `wire.target.join_target`.
        """
        credential = self._key() if self.holds_key else _credential(client)
        path = target if joined else join_target(self._prefix, target)
        return b"POST %b HTTP/1.1\r\nhost: %b\r\n%b%bcontent-length: %d\r\n\r\n" % (
            path,
            self._host,
            lines,
            b"" if credential is None else self._signed(credential, path, body, at),
            len(body),
        )

    def sealed_head(self, client: RequestHead, way: Way, body: bytes, at: float) -> bytes | None:
        """A whole head for this body that is signed anew with the key of this upstream, where its provider wants signatures:
        they bind the host, and the client's names the sidecar. None: the client's own head will do. `at` as above.

        Raises:
            ProtocolError: 400, the sidecar has no key to sign with.
        """
        if not self.provider.signs or not way.beyond:
            return None
        if not self.holds_key:
            if client.fields.get(b"authorization", b"").startswith(b"AWS4-"):
                raise ProtocolError(_UNSIGNED)
            return None
        if client.method != b"POST":  # what is signed here is a POST, and the key itself must not go
            raise ProtocolError("calls of this upstream's models are POSTs", 405)
        if has_dot_segment(client.target):  # AWS signs the path that it makes of them: it may be no model's
            raise ProtocolError("dot segments are not allowed in a path that is signed")
        lines = client.raw[client.block : -4].split(b"\r\n")
        kept = b"".join([line + b"\r\n" for line in lines if not _of_client(line, client.nominated)])
        target = place_under(self._prefix, without(client.target, ALL_CREDENTIALS))
        return self.own_head(target, kept, body, client, at, joined=True)

    def _signed(self, credential: bytes, path: bytes, body: bytes, at: float) -> bytes:
        """The header lines that show who calls."""
        provider = self.provider
        pair = credentials(credential) if provider.signs else None
        if pair is None:
            return provider.key_field + b": " + provider.key_scheme + credential + b"\r\n"
        found = _REGION.search(self.spec.host)
        region = found[1] if found is not None else "us-east-1"
        stamp = datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%SZ")
        place = Place(region, provider.signs, self._host.decode())
        fields = sign(pair, place, path.decode("ascii"), body, stamp=stamp)
        return "".join(f"{name}: {value}\r\n" for name, value in fields).encode("ascii")

    def key(self) -> bytes | None:
        """What a remembered head depends on besides the request: the key that the sidecar holds for this upstream now."""
        return self._key() if self.holds_key else None

    def card(self, model: str, day: int) -> RateCard | None:
        """The prices of a model here on a day (days since the epoch, UTC); None when they are unknown."""
        if self._flat is not None:
            return self._flat
        return None if self.spec.provider is None else self.book.lookup(self.spec.provider, model, day)

    def card_of(self, asked: str | None, served: str | None, day: int) -> RateCard | None:
        """The prices of a call: of the model that was asked for, or where these are not known of the one that answered;
        the other way round where the first is a name of the user's own."""
        names = (served, asked) if self.provider.deployments else (asked, served)
        for name in names:
            card = self.card(name, day) if name else None
            if card is not None:
                return card
        return None

    @property
    def price_version(self) -> str | None:
        """Which prices hold here: the policy's own, or the price list's version; None where neither has any."""
        if self._flat is not None:
            return self._flat.version
        return None if self.spec.provider is None else self.book.version

    def asks(self, model: str) -> bool:
        """Whether streams of this model are asked for their usage."""
        return self.ask_usage and model not in self.mute

    def hush(self, model: str) -> None:
        """Asks this model for its usage no more; and no model at all where so many do not understand the question."""
        self.mute.add(model)
        self.ask_usage = self.ask_usage and len(self.mute) < _MAX_RATIOS

    def ratio(self, model: str) -> Ratio:
        """Bytes per token of a model here, learnt from answers that reported usage."""
        found = self._ratios.get(model)
        if found is None:
            if len(self._ratios) >= _MAX_RATIOS:
                self._ratios.pop(next(iter(self._ratios)))
            found = self._ratios[model] = Ratio()
        return found


def _of_client(line: bytes, nominated: AbstractSet[bytes]) -> bool:
    """Whether a header line says something between the client and us alone, or is written anew."""
    name = line.partition(b":")[0].lower()
    return name in _HOP or name == PROTOCOLS or name in nominated or name.startswith((b"x-sidecar-", b"x-amz-"))


def protocols_of(head: RequestHead) -> bytes:
    """The subprotocols of a WebSocket that its client offers, separated by commas."""
    return b",".join([head.raw[start:end].partition(b":")[2] for name, start, end in head.spans if name == PROTOCOLS])


def _without_keys(protocols: bytes) -> bytes:
    """The line of those that are no key."""
    kept = [one.strip() for one in protocols.split(b",") if KEY_PROTOCOL not in one.lower()]
    return b"Sec-WebSocket-Protocol: %b\r\n" % b", ".join(kept) if any(kept) else b""


def _credential(client: RequestHead) -> bytes | None:
    """The key that the client sent, whatever the header that its dialect has for it."""
    if client.spent:
        return None
    for name in CREDENTIALS:
        if name in client.fields:
            value = client.fields[name]
            return value[7:] if value[:7].lower() == b"bearer " else value
    found = value_in(client.target, IN_QUERY)
    return found if found is not None and _VISIBLE.fullmatch(found) else None
