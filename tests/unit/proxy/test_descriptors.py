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


@pytest.mark.parametrize(("free", "closed", "short"), [(0, 5, True), (1, 5, True), (47, 5, True), (48, 0, False)])
def test_few_clients_of_many_descriptors(monkeypatch: pytest.MonkeyPatch, free: int, closed: int, short: bool) -> None:
    """Where connections to upstreams had the descriptors, clients give way for as long as they have them, and not until
    fewer are left than there ever were. As many have to be free as clients would give up: one is, whenever one leaves."""
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (512, 512))
    monkeypatch.setattr(descriptors, "_are_free", lambda count, below: free >= count and below == 464)
    room = ClientRoom()
    assert room.admits(470, 5)
    assert len(room.give_way([Idle() for _ in range(5)], 0.0)) == closed
    assert room.is_short is short


def test_free_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are those that files would get; where there are no more, there are too few. None of them is kept."""
    opened = os.open

    def refuse(*_arguments: object) -> int:
        raise OSError

    with open(os.devnull) as file:
        number = file.fileno()
    assert descriptors._are_free(1, number + 1)
    assert not descriptors._are_free(1, number)
    assert descriptors._are_free(100, inf)
    monkeypatch.setattr(os, "open", refuse)
    assert not descriptors._are_free(1, inf)
    monkeypatch.setattr(os, "open", opened)
    with open(os.devnull) as file:
        assert file.fileno() == number


def test_a_limit_that_cannot_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system may name a hard limit, or none, and refuse it: then what there is has to do."""

    def refuse(_what: int, _limits: tuple[int, int]) -> None:
        raise ValueError

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(resource, "setrlimit", refuse)
    raise_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
