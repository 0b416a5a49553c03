"""The bench of large bodies: what it sends is what the upstream knows, and a wrong answer is not counted as one."""

import json

import pytest

from bench import bodies, payloads, peers
from sidecar.wire.request_view import read_request


@pytest.mark.parametrize("size", [1, 2_000, 300_000])
def test_a_request_with_an_image(size: int) -> None:
    """JSON with an image of that many characters, which the upstream takes for request 7."""
    body = payloads.image_request(7, 9090, size).partition(b"\r\n\r\n")[2]
    parts = json.loads(body)["messages"][-1]["content"]
    assert len(parts[1]["image_url"]["url"].partition("base64,")[2]) == size
    assert payloads.ticket(body) == (7, 0, 0, 0)
    view = read_request(body)
    assert view is not None
    assert view.model == "gpt-4o"


def test_reading_gives_a_rate_and_the_longest_slice() -> None:
    """Both are of one round, so the slice is no longer than the whole."""
    found = bodies.reading(600_000, 2)
    assert 0 < found["slice_ms"] <= 600.6 / found["mb_per_s"]


def test_the_sender_checks_every_answer() -> None:
    """The bench's own upstream answers it; one that gives the wrong bytes ends it at the first body."""
    upstream = peers.upstream(None)
    try:
        sent = bodies.send(upstream.peer.port, 300_000, 0.2, 0)
        assert sent["bodies"] > 0
        assert sent["wrong"] == ""
        peer = peers.Peer("p", (), upstream.peer.port)
        assert bodies._health_port(peer) == upstream.peer.port
    finally:
        upstream.stop()


def test_the_table_has_a_row_for_each_size_and_peer() -> None:
    """Medians over the rounds; a peer without rounds has none."""
    spread = {"p50": 0.1, "p99": 0.5, "max": 2.0}
    one = {"bodies_per_s": 9.0, "cpu_ms": 3.0, "wrong": "", "idle_ms": spread, "busy_ms": spread | {"max": 4.0}}
    report = {
        "reading": {"2000": {"mb_per_s": 600.0, "slice_ms": 0.1}},
        "stalls": {"2000": {"nginx": [one, one | {"cpu_ms": 5.0}], "sidecar observe": []}},
    }
    shown = bodies.table(report)
    assert "| 2,000 | 600 | 0.10 |" in shown
    assert "| 2,000 | nginx | 9.0 | 4.00 | 0.10, 0.50, 2.00 | 0.10, 0.50, 4.00 |" in shown
    assert "observe" not in shown
