"""How OTLP requests reach a collector: over HTTP with what Python has, over gRPC with grpcio where port 4317 asks for it.

Of the environment it reads what OpenTelemetry's own exporters read: OTEL_EXPORTER_OTLP_HEADERS (also _TRACES_HEADERS and
_METRICS_HEADERS), _COMPRESSION (gzip), _CERTIFICATE, _CLIENT_CERTIFICATE and _CLIENT_KEY, and the proxies of HTTP_PROXY,
HTTPS_PROXY and NO_PROXY. Headers and URLs may hold keys: no text of an error says any of them. It blocks; its caller is a
thread of its own.
"""

import io
import os
import socket
import ssl
from base64 import b64encode
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from enum import Enum
from gzip import compress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from importlib import import_module
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import (
    AbstractHTTPHandler,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    build_opener,
)

from sidecar.clock import monotonic, wall
from sidecar.errors import ConfigError
from sidecar.telemetry.otlp import rejected

TIMEOUT_S: Final = 5.0
_GRPC_PORT: Final = 4317
_BUSY: Final = frozenset({429, 502, 503, 504})  # of HTTP: asked again (OTLP's specification)
_BUSY_GRPC: Final = frozenset({
    "CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS",
})  # fmt: skip
_READ_BYTES: Final = 65536

Signal = Literal["traces", "metrics"]
SIGNALS: Final[tuple[Signal, ...]] = ("traces", "metrics")
Foreign: TypeAlias = Any  # grpcio's objects, whose types may not be imported while serving


class Sent(Enum):
    """What became of a request."""

    TAKEN = "taken"
    REFUSED = "refused"  # for good
    BUSY = "busy"  # the same again may be taken


class Answer(NamedTuple):
    """What a collector said of a request."""

    sent: Sent
    rejected: int = 0  # spans or points of one that was taken, which it threw away all the same
    after_s: float | None = None  # how long one that is busy wants to be left alone, where it said so


class Transport(Protocol):
    """What takes requests; tests pass their own."""

    def send(self, signal: Signal, body: bytes) -> Answer:
        """Waits TIMEOUT_S at most. Whatever it raises counts as refused."""

    def close(self) -> None:
        """No more requests; one that is under way ends as soon as it can be made to."""


class Headers:
    """`name=value,...` of the environment, by signal; the signal's own go before those for all."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        everywhere = _pairs(environ.get("OTEL_EXPORTER_OTLP_HEADERS", ""))
        self.of: dict[Signal, dict[str, str]] = {
            signal: everywhere | _pairs(environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_HEADERS", ""))
            for signal in SIGNALS
        }


def _pairs(text: str) -> dict[str, str]:
    parts = [one.partition("=") for one in text.split(",")]
    return {
        unquote(name.strip()).lower(): unquote(value.strip()) for name, mark, value in parts if mark and name.strip()
    }


def pairs(text: str) -> dict[str, str]:
    """`name=value,name=value` with percent-encoding, as OpenTelemetry writes lists in the environment; names as they are."""
    parts = [one.partition("=") for one in text.split(",")]
    return {unquote(name.strip()): unquote(value.strip()) for name, mark, value in parts if mark and name.strip()}


class _Stay(HTTPRedirectHandler):
    """A redirected POST would go on as a GET without its body."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


class _Timely(io.RawIOBase):
    """A socket's bytes, for TIMEOUT_S in all: the socket's own timeout begins anew with each piece that comes."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._raw = sock, sock.makefile("rb", buffering=0)
        self._until = monotonic() + TIMEOUT_S

    def readable(self) -> bool:
        return True

    def readinto(self, into: Foreign) -> int | None:
        left_s = self._until - monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._sock.settimeout(left_s)
        return self._raw.readinto(into)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Foreign, **more: Foreign) -> None:
        super().__init__(sock, *arguments, **more)
        self.fp.close()
        self.fp = io.BufferedReader(_Timely(sock))


class _Bounded(AbstractHTTPHandler):
    """With `_Response`s."""

    def do_open(self, http_class: Callable[..., HTTPConnection], req: Request, **more: Foreign) -> HTTPResponse:
        def made(*arguments: Foreign, **options: Foreign) -> HTTPConnection:
            connection = http_class(*arguments, **options)
            connection.response_class = _Response
            return connection

        return super().do_open(made, req, **more)


class _Plain(_Bounded, HTTPHandler):
    pass


class _Secure(_Bounded, HTTPSHandler):
    pass


class Http:
    """Posts protobuf to `<base>/v1/traces` and `<base>/v1/metrics`, each on a connection of its own: one or two a second."""

    def __init__(self, base: SplitResult, environ: Mapping[str, str]) -> None:
        user, _, place = base.netloc.rpartition("@")
        self._base = base._replace(netloc=place, query="", fragment="").geturl().rstrip("/")
        common = {"content-type": "application/x-protobuf", "user-agent": "llm-sidecar"}
        if user:
            common["authorization"] = "Basic " + b64encode(unquote(user).encode()).decode()
        self._gzip = environ.get("OTEL_EXPORTER_OTLP_COMPRESSION", "").strip().lower() == "gzip"
        if self._gzip:
            common["content-encoding"] = "gzip"
        self._headers = {signal: common | own for signal, own in Headers(environ).of.items()}
        self._trust = _Trust(environ) if base.scheme == "https" else None
        self._opener = self._made()

    def _made(self) -> OpenerDirector:
        secure = [] if self._trust is None else [_Secure(context=self._trust.context)]
        return build_opener(ProxyHandler(), _Plain(), _Stay(), *secure)

    def send(self, signal: Signal, body: bytes) -> Answer:
        """One request and its answer; raises nothing. BUSY may be tried again, REFUSED may not."""
        sent = compress(body, 1) if self._gzip else body
        request = Request(f"{self._base}/v1/{signal}", sent, self._headers[signal])  # noqa: S310 - http(s), see `connect`
        if self._trust is not None and self._trust.is_new():
            self._opener = self._made()
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                return Answer(Sent.TAKEN, rejected(answer.read(_READ_BYTES)))
        except HTTPError as error:
            error.close()
            if error.code not in _BUSY:
                return Answer(Sent.REFUSED)
            return Answer(Sent.BUSY, after_s=_seconds(error.headers.get("Retry-After", "")))
        except (URLError, OSError, HTTPException):
            return Answer(Sent.BUSY)

    def close(self) -> None:
        """Nothing is kept."""


def _seconds(retry_after: str) -> float | None:
    """`Retry-After` in seconds from now; None where there is none, or none that says a time."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - wall())
    except (TypeError, ValueError, OverflowError):
        return None


class _Trust:
    """The certificates that the environment names: who may vouch for the collector, and who we are. They are read again
    when a file changed; what cannot be used then, such as half of a pair, leaves those before in use until it can."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Raises OSError when a file cannot be used."""
        files = (
            environ.get(f"OTEL_EXPORTER_OTLP_{name}") for name in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")
        )
        self._authorities, self._certificate, self._key = (file or None for file in files)
        self._seen = self._look()
        self.context = self._read()

    def is_new(self) -> bool:
        """Whether `context` is another one than at the last call."""
        seen = self._look()
        if seen == self._seen:
            return False
        try:
            self.context = self._read()
        except OSError:
            return False
        self._seen = seen
        return True

    def _read(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._authorities)
        if self._certificate is not None:
            context.load_cert_chain(self._certificate, self._key, password="")  # else OpenSSL asks at the terminal
        return context

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [
            None if file is None else _signature(file) for file in (self._authorities, self._certificate, self._key)
        ]


def _signature(file: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(file)  # noqa: PTH116 - what the operator named
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


class Grpc:
    """The same messages through grpcio, which takes and gives bytes where it is told of no message class."""

    def __init__(self, base: SplitResult, environ: Mapping[str, str]) -> None:
        grpc = import_module("grpc")
        self._failed = grpc.RpcError
        place = f"{base.hostname if ':' not in (base.hostname or '') else f'[{base.hostname}]'}:{_GRPC_PORT}"
        gzip = environ.get("OTEL_EXPORTER_OTLP_COMPRESSION", "").strip().lower() == "gzip"
        more = {"compression": grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression}
        if base.scheme == "https":
            names = ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE")
            files = [_content(environ.get(f"OTEL_EXPORTER_OTLP_{name}")) for name in names]
            self._channel: Foreign = grpc.secure_channel(place, grpc.ssl_channel_credentials(*files), **more)
        else:
            self._channel = grpc.insecure_channel(place, **more)
        self._metadata = {signal: tuple(own.items()) for signal, own in Headers(environ).of.items()}
        service = "/opentelemetry.proto.collector.{}.v1.{}Service/Export"
        self._calls: dict[Signal, Foreign] = {
            "traces": self._channel.unary_unary(service.format("trace", "Trace")),
            "metrics": self._channel.unary_unary(service.format("metrics", "Metrics")),
        }

    def send(self, signal: Signal, body: bytes) -> Answer:
        try:
            answer = self._calls[signal](body, timeout=TIMEOUT_S, metadata=self._metadata[signal])
        except self._failed as error:
            return Answer(Sent.BUSY if error.code().name in _BUSY_GRPC else Sent.REFUSED)
        return Answer(Sent.TAKEN, rejected(answer))

    def close(self) -> None:
        """Cancels what is under way."""
        self._channel.close()


def _content(path: str | None) -> bytes | None:
    if not path:
        return None
    with open(path, "rb") as file:  # noqa: PTH123 - what the operator named
        return file.read()


def connect(url: str, environ: Mapping[str, str]) -> Transport:
    """The way to an OTLP endpoint: port 4317 speaks gRPC, everything else http/protobuf under /v1/.

    Raises ConfigError when the URL is no URL, when grpcio is needed and not installed, or when a certificate that the
    environment names cannot be read. No text of it holds the URL.
    """
    try:
        base = urlsplit(url)
        grpc = base.port == _GRPC_PORT
    except ValueError:  # its text holds what stands in the port's place, which may be a password
        base, grpc = urlsplit(""), False
    if base.scheme not in ("http", "https") or not base.hostname:
        raise ConfigError("OBSERVATORY_URL: the value is no http(s) URL; write http://host:4318")
    try:
        return Grpc(base, environ) if grpc else Http(base, environ)
    except ImportError as error:
        raise ConfigError(
            f"OBSERVATORY_URL: port 4317 needs `pip install 'llm-sidecar[otel]'` ({error.name})"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"OTEL_EXPORTER_OTLP_CERTIFICATE: a file of the certificates cannot be used ({type(error).__name__})"
        ) from error
