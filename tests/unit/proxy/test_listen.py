"""Binding: what the machine lacks is skipped, what is busy is told."""

import socket

import pytest

from sidecar.errors import ConfigError
from sidecar.proxy.listen import Listeners, bind


def test_an_address_that_the_machine_lacks_is_skipped() -> None:
    """With a note; the others serve."""
    notes: list[str] = []
    sockets = bind("traffic", [("192.0.2.1", 0), ("127.0.0.1", 0)], notes.append)
    assert [one.getsockname()[0] for one in sockets] == ["127.0.0.1"]
    assert "192.0.2.1" in notes[0]
    for one in sockets:
        one.close()


def test_nothing_left_to_listen_on_is_an_error() -> None:
    """A process that nobody can reach does not start."""
    with pytest.raises(ConfigError, match="none of its addresses"):
        bind("traffic", [("192.0.2.1", 0)], lambda _note: None)


def test_a_busy_port_names_listener_address_and_fix() -> None:
    """INC-40: and the sockets bound before it are closed again."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"admin listener 127\.0\.0\.1:{port}.*; stop the other program"):
            bind("admin", [("127.0.0.1", 0), ("127.0.0.1", port)], lambda _note: None)


def test_listeners_know_their_ports_and_are_closed_together() -> None:
    """Also when those of another purpose could not be bound."""
    listeners = Listeners()
    sockets = bind("admin", [("127.0.0.1", 0)], lambda _note: None)
    listeners.take("admin", sockets)
    (port,) = listeners.ports["admin"]
    assert listeners.shown == {"admin": [f"127.0.0.1:{port}"]}
    assert port > 0
    listeners.close()
    assert [one.fileno() for one in sockets] == [-1]
