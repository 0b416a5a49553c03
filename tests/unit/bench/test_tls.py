"""The bench with TLS behind the proxy: its upstream has a certificate that its authority's holders accept."""

import socket
import ssl
from pathlib import Path

from bench import payloads, peers, tls


def test_the_upstream_speaks_both(tmp_path: Path) -> None:
    """Plain on one port, TLS on the other, with names and addresses of loopback in the certificate."""
    trusted, served = tls.certificates(tmp_path)
    port = peers.free_port()
    upstream = peers.upstream(None, "--tls-port", str(port), "--certificate", str(served))
    try:
        assert peers.answers(upstream.peer.port)
        for name in ("127.0.0.1", "localhost"):
            context = ssl.create_default_context(cafile=trusted)
            plain = socket.create_connection(("127.0.0.1", port), 5)
            with context.wrap_socket(plain, server_hostname=name) as connection:
                connection.sendall(payloads.request(3, port))
                received = b""
                while (verdict := payloads.verify(received, 3)) is None:
                    received += connection.recv(65_536)
            assert verdict == ""
    finally:
        upstream.stop()


def test_recipes_go_to_the_encrypted_port(tmp_path: Path) -> None:
    """With the authority they verify; those without TLS keep the plain port."""
    made = {}
    for place, (name, recipe) in enumerate(tls.recipes(tmp_path / "ca.pem", 4567).items()):
        folder = tmp_path / str(place)
        folder.mkdir()
        if name.startswith("sidecar"):
            made[name] = recipe(folder, 1234), (folder / "policies" / "bench.yaml").read_text()
    peer, policy = made["sidecar observe"]
    assert peer.environ["OPENAI_UPSTREAM"] == "https://127.0.0.1:4567"
    assert peer.environ["SIDECAR_CA_FILE"] == str(tmp_path / "ca.pem")
    assert "https://127.0.0.1:4567/v1" in policy
    peer, policy = made["sidecar observe, no TLS"]
    assert peer.environ["OPENAI_UPSTREAM"] == "http://127.0.0.1:1234"
    assert "SIDECAR_CA_FILE" not in peer.environ
    assert "http://127.0.0.1:1234/v1" in policy
