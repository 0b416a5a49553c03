"""The way to a collector, on real sockets: what arrives, what the answers mean, and what the environment changes."""

import gzip
import ssl
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from sidecar.clock import monotonic, wall
from sidecar.errors import ConfigError
from sidecar.telemetry import collector as way
from sidecar.telemetry.collector import Answer, Sent, connect
from sidecar.telemetry.otlp import rejected
from sidecar.telemetry.spans import Spans
from tests.unit.telemetry.records import settled


class Collector:
    """An OTLP/HTTP collector that keeps (path, headers, body); it answers with `status`, `headers`, and `answer` a byte at
    a time."""

    def __init__(self, certificate: trustme.LeafCert | None = None) -> None:
        self.status, self.answer, self.pause_s = 200, b"", 0.0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.clients: list[object] = []  # serial numbers of their certificates
        self.headers = {"location": "/elsewhere"}
        self.posts: list[tuple[str, dict[str, str], bytes]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if isinstance(self.connection, ssl.SSLSocket):
                    collector.clients.append((self.connection.getpeercert() or {}).get("serialNumber"))
                collector.posts.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(collector.status)
                for name, value in {**collector.headers, "content-length": str(len(collector.answer))}.items():
                    self.send_header(name, value)
                self.end_headers()
                for at in range(len(collector.answer)):
                    self.wfile.write(collector.answer[at : at + 1])
                    time.sleep(collector.pause_s)

            def log_message(self, *_arguments: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.place = f"127.0.0.1:{self.server.server_port}"
        if certificate is not None:
            certificate.configure_cert(self.context)
            self.server.socket = self.context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.close()


def test_a_collector_receives_protobuf(collector: Collector) -> None:
    """SEC-PRIVACY: over HTTP, spans and points arrive, parse, and hold no content."""
    spans = Spans(connect(f"http://{collector.place}/", {}), "bot", "1.0", environ={})
    spans.observe([settled(), settled()])
    spans.close(5)
    assert (spans.exported, spans.dropped) == (2, 0)
    (path, headers, body), (other, _, numbers) = collector.posts
    assert (path, other) == ("/v1/traces", "/v1/metrics")
    assert headers["content-type"] == "application/x-protobuf"
    found = ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans
    assert [span.name for span in found] == ["chat gpt-4o-mini"] * 2
    metrics = ExportMetricsServiceRequest.FromString(numbers).resource_metrics[0].scope_metrics[0].metrics
    assert "gen_ai.client.operation.duration" in {metric.name for metric in metrics}


@pytest.mark.parametrize(
    ("status", "sent"),
    [(200, Sent.TAKEN), (202, Sent.TAKEN), (400, Sent.REFUSED), (401, Sent.REFUSED), (302, Sent.REFUSED),
     (307, Sent.REFUSED), (429, Sent.BUSY), (500, Sent.REFUSED), (502, Sent.BUSY), (503, Sent.BUSY), (504, Sent.BUSY)],
)  # fmt: skip
def test_what_an_answer_means(collector: Collector, status: int, sent: Sent) -> None:
    """As OTLP's specification has it; a redirection is not followed, its GET would carry nothing."""
    collector.status = status
    assert connect(f"http://{collector.place}", {}).send("traces", b"x") == Answer(sent)
    assert [path for path, _, _ in collector.posts] == ["/v1/traces"]


def test_what_was_rejected_of_a_request_is_lost(collector: Collector) -> None:
    """`partial_success`: the collector takes a request, and throws some of it away. Answers that are none reject nothing."""
    collector.answer = ExportTraceServiceResponse(
        partial_success={"rejected_spans": 2, "error_message": "x" * 300}
    ).SerializeToString()
    spans = Spans(connect(f"http://{collector.place}", {}), "bot", environ={})
    spans.observe([settled()] * 3)
    spans.close(5)
    assert (spans.exported, spans.dropped, spans.untold) == (1, 2, 1)  # points have the same answer
    collector.answer = ExportTraceServiceResponse(partial_success={"error_message": "a hint"}).SerializeToString()
    assert connect(f"http://{collector.place}", {}).send("traces", b"x") == Answer(Sent.TAKEN)


@pytest.mark.parametrize("answer", [b"{}", b"<html>", b"\x0a", b"\xff" * 99, b"\x08\x01", b"\x0a\x04\x0a\x02hi"])
def test_answers_that_are_no_message_reject_nothing(answer: bytes) -> None:
    assert rejected(answer) == 0


def test_certificates_that_are_renewed_are_used(tmp_path: Path) -> None:
    """The collector lets only its clients in. Its authority and ours change, and for a moment half of our pair is there."""
    files = [tmp_path / name for name in ("certificate", "client_certificate", "client_key")]
    environ = {f"OTEL_EXPORTER_OTLP_{file.name.upper()}": str(file) for file in files}
    old, new = trustme.CA(), trustme.CA()
    one = Collector(old.issue_cert("127.0.0.1"))
    one.context.verify_mode = ssl.CERT_REQUIRED
    for authority in (old, new):
        authority.configure_trust(one.context)

    def write(authority: trustme.CA) -> Iterator[None]:
        pair = authority.issue_cert("sidecar.test")
        texts = [authority.cert_pem, pair.cert_chain_pems[0], pair.private_key_pem]
        for file, text in zip(files, texts, strict=True):
            text.write_to_path(str(file))
            yield

    try:
        list(write(old))
        transport = connect(f"https://{one.place}", environ)
        assert transport.send("traces", b"x") == Answer(Sent.TAKEN)
        new.issue_cert("127.0.0.1").configure_cert(one.context)
        sent = [transport.send("traces", b"x").sent]  # it knows neither the collector nor that there is something new
        files_written = write(new)
        next(files_written)
        next(files_written)
        sent.append(transport.send("traces", b"x").sent)
        list(files_written)
        sent.append(transport.send("traces", b"x").sent)
        assert sent == [Sent.BUSY, Sent.BUSY, Sent.TAKEN]
        assert len(set(one.clients)) == len(one.clients) == 2
    finally:
        one.close()


def test_a_key_with_a_passphrase_is_refused(tmp_path: Path) -> None:
    """And nobody is asked for it, for whom a start would wait."""
    key = ec.generate_private_key(ec.SECP256R1())
    secret = serialization.BestAvailableEncryption(b"secret")
    sealed = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
    (tmp_path / "key").write_bytes(sealed)
    trustme.CA().issue_cert("sidecar.test").cert_chain_pems[0].write_to_path(str(tmp_path / "cert"))
    environ = {
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(tmp_path / "cert"),
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(tmp_path / "key"),
    }
    with pytest.raises(ConfigError, match="cannot be used"):
        connect("https://127.0.0.1", environ)


@pytest.mark.parametrize("secure", [False, True])
def test_an_answer_that_drips_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, secure: bool
) -> None:
    """However small its pieces: a request has its time, and not each byte."""
    monkeypatch.setattr(way, "TIMEOUT_S", 0.3)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    one = Collector(authority.issue_cert("127.0.0.1") if secure else None)
    one.answer, one.pause_s = bytes(100), 0.1
    environ = {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / "ca.pem")}
    transport = connect(f"http{'s' * secure}://{one.place}", environ)
    begun = monotonic()
    try:
        assert transport.send("traces", b"x") == Answer(Sent.BUSY)
        assert monotonic() - begun < 3
    finally:
        one.close()


@pytest.mark.parametrize(
    ("text", "after_s"),
    [("7", 7.0), (" 0 ", 0.0), ("soon", None), ("-1", None), ("\u0667", None), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0)],
)
def test_a_busy_collector_says_when(collector: Collector, text: str, after_s: float | None) -> None:
    collector.status, collector.headers = 429, {"retry-after": text.encode().decode("latin-1")}
    assert connect(f"http://{collector.place}", {}).send("traces", b"x") == Answer(Sent.BUSY, after_s=after_s)
    collector.headers = {"retry-after": formatdate(wall() + 60, usegmt=True)}
    later = connect(f"http://{collector.place}", {}).send("traces", b"x").after_s
    assert later is not None
    assert 50 < later < 61


def test_a_collector_that_is_not_there_is_busy() -> None:
    assert connect("http://127.0.0.1:9", {}).send("metrics", b"x") == Answer(Sent.BUSY)


def test_the_environment_adds_headers_and_compression(collector: Collector) -> None:
    """OTEL_EXPORTER_OTLP_HEADERS for all, those of a signal before them; a user in the URL is an Authorization line, and
    stands in no path and no Host."""
    environ = {
        "OTEL_EXPORTER_OTLP_HEADERS": "X-Tenant=a%20b, broken,x-all=1",
        "OTEL_EXPORTER_OTLP_METRICS_HEADERS": "x-tenant=other",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
    }
    transport = connect(f"http://bob:pa%40ss@{collector.place}/prefix", environ)
    assert transport.send("traces", b"body").sent is Sent.TAKEN
    assert transport.send("metrics", b"body").sent is Sent.TAKEN
    transport.close()
    (path, first, body), (_, second, _) = collector.posts
    assert (path, gzip.decompress(body), first["content-encoding"]) == ("/prefix/v1/traces", b"body", "gzip")
    assert (first["x-tenant"], first["x-all"], second["x-tenant"], second["x-all"]) == ("a b", "1", "other", "1")
    assert (first["authorization"], first["host"]) == ("Basic Ym9iOnBhQHNz", collector.place)


def test_tls_is_checked(tmp_path: Path) -> None:
    """A certificate that nobody vouches for is not talked to; with its authority named it is."""
    authority = trustme.CA()
    one = Collector(authority.issue_cert("127.0.0.1"))
    try:
        assert connect(f"https://{one.place}", {}).send("traces", b"x").sent is Sent.BUSY
        assert one.posts == []
        file = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(file)
        environ = {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(file)}
        assert connect(f"https://{one.place}", environ).send("traces", b"x").sent is Sent.TAKEN
    finally:
        one.close()


def test_what_the_url_needs_is_said(tmp_path: Path) -> None:
    """No URL, port 4317 without grpcio, or a certificate that cannot be read: configuration errors that say what to do."""
    with pytest.raises(ConfigError, match="is no http"):
        connect("collector:4318", {})
    with pytest.raises(ConfigError, match=r"pip install 'llm-sidecar\[otel\]'"):
        connect("http://127.0.0.1:4317", {})
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_CERTIFICATE"):
        connect("https://127.0.0.1", {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / "none")})
