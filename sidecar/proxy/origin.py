"""An upstream as the data plane uses it: its pool, how heads are written for it, and what it has taught us."""

from collections.abc import Callable
from typing import Final

from sidecar.core.cost import RateCard, flat_card
from sidecar.core.policy import Upstream
from sidecar.core.pricebook import PriceBook
from sidecar.core.types import Dialect
from sidecar.proxy.gate import Way
from sidecar.proxy.upstream import Pool
from sidecar.wire.estimate import Ratio
from sidecar.wire.http1 import RequestHead, split_at_length
from sidecar.wire.target import join_target

CREDENTIALS: Final = (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key")
_KEY_FIELD: Final[dict[Dialect, tuple[bytes, bytes]]] = {
    "openai": (b"authorization", b"Bearer "),
    "anthropic": (b"x-api-key", b""),
    "gemini": (b"x-goog-api-key", b""),
}
_MAX_RATIOS: Final = 256  # models per upstream whose bytes per token are remembered
_DEFAULT_PORT: Final = {"http": 80, "https": 443}


class Origin:
    """Runtime side of one `core.policy.Upstream`."""

    def __init__(self, spec: Upstream, pool: Pool, book: PriceBook, key: Callable[[], bytes | None]) -> None:
        """`key()` gives the credential that the sidecar holds for this upstream; None when it has none to give now."""
        self.spec = spec
        self.name = spec.name
        self.pool = pool
        self.holds_key = spec.key != "client"
        self.ask_usage = spec.usage == "ask"  # turned off when the server refuses the question once
        self._key = key
        self._book = book
        self._flat = None if spec.price is None else flat_card(spec.price)
        self._ratios: dict[str, Ratio] = {}
        host = f"[{spec.host}]" if ":" in spec.host else spec.host
        self._host = host.encode() if spec.port == _DEFAULT_PORT[spec.scheme] else f"{host}:{spec.port}".encode()
        self._prefix = spec.prefix

    def head(self, head: RequestHead, way: Way, *, identity: bool) -> tuple[bytes, bytes]:
        """The request head for this upstream, cut in two where the Content-Length digits go.

        `identity` asks the server not to compress, because the answer will be read and changed on its way.

        Raises:
            ProtocolError: 400, the target has dot segments and this upstream has a path prefix.
        """
        replace: dict[bytes, bytes | None] = {b"host": self._host}
        add = b""
        if identity:
            replace[b"accept-encoding"] = b"identity"
        if way.realtime and b"upgrade" in head.fields:
            add = b"Connection: Upgrade\r\nUpgrade: " + head.fields[b"upgrade"] + b"\r\n"
        if self.holds_key:
            # The client's credential is meant for another origin: it never goes here, not even when ours is missing.
            replace.update(dict.fromkeys(CREDENTIALS))
            key = self._key()
            if key is not None:
                name, scheme = _KEY_FIELD[self.spec.dialect]
                if name in head.fields:
                    replace[name] = scheme + key
                else:
                    add += name + b": " + scheme + key + b"\r\n"
        return split_at_length(head, target=join_target(self._prefix, head.target), replace=replace, add=add)

    def key(self) -> bytes | None:
        """What a remembered head depends on besides the request: the key that the sidecar holds for this upstream now."""
        return self._key() if self.holds_key else None

    def card(self, model: str, day: int) -> RateCard | None:
        """The prices of a model here on a day (days since the epoch, UTC); None when they are unknown."""
        if self._flat is not None:
            return self._flat
        return None if self.spec.provider is None else self._book.lookup(self.spec.provider, model, day)

    def ratio(self, model: str) -> Ratio:
        """Bytes per token of a model here, learnt from answers that reported usage."""
        found = self._ratios.get(model)
        if found is None:
            if len(self._ratios) >= _MAX_RATIOS:
                self._ratios.pop(next(iter(self._ratios)))
            found = self._ratios[model] = Ratio()
        return found
