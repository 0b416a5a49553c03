"""How many calls the process's descriptors hold."""

import os
import resource
from math import inf

import pytest

from sidecar.proxy import descriptors
from sidecar.proxy.descriptors import ClientRoom, calls_held, raise_limit, room_for_clients


class Idle:
    """A connection that rests."""

    deadline = 0.0

    def rests(self, now: float) -> bool:
        return now >= 0.0


@pytest.mark.parametrize(
    ("limit", "calls"), [(2, 1), (128, 48), (1024, 384), (20_000, 9_840), (resource.RLIM_INFINITY, None)]
)
def test_calls_held(monkeypatch: pytest.MonkeyPatch, limit: int, calls: int | None) -> None:
    """Two each, beside a reserve of a quarter and 320 at most; however few there are, one call is let in."""
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (limit, limit))
    assert calls_held() == calls


@pytest.mark.parametrize(
    ("limit", "room"),
    [(128, (128, 128)), (1024, (912, 968)), (20_000, (19_856, 19_928)), (resource.RLIM_INFINITY, (inf, inf))],
)
def test_room_for_clients(monkeypatch: pytest.MonkeyPatch, limit: int, room: tuple[float, float]) -> None:
    """Half of the reserve is kept from them, but for what the process has open itself."""
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (limit, limit))
    assert room_for_clients() == room


@pytest.mark.parametrize(("free", "closed", "short"), [(470.0, 5, True), (inf, 5, True), (100.0, 0, False)])
def test_few_clients_of_many_descriptors(
    monkeypatch: pytest.MonkeyPatch, free: float, closed: int, short: bool
) -> None:
    """Where connections to upstreams had the descriptors, clients give way for as long as they have them, and not until
    fewer are left than there ever were."""
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (512, 512))
    monkeypatch.setattr(descriptors, "_next_descriptor", lambda: free)
    room = ClientRoom()
    assert room.admits(470, 5)
    assert len(room.give_way([Idle() for _ in range(5)], 0.0)) == closed
    assert room.is_short is short


def test_the_next_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the one that a file gets, and none where there is no more."""

    def refuse(*_arguments: object) -> int:
        raise OSError

    with open(os.devnull) as file:
        number = file.fileno()
    assert descriptors._next_descriptor() == number == descriptors._next_descriptor()
    monkeypatch.setattr(os, "open", refuse)
    assert descriptors._next_descriptor() == inf


def test_a_limit_that_cannot_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system may name a hard limit, or none, and refuse it: then what there is has to do."""

    def refuse(_what: int, _limits: tuple[int, int]) -> None:
        raise ValueError

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(resource, "setrlimit", refuse)
    raise_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
