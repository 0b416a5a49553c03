"""How many calls the process's descriptors hold."""

import resource
from math import inf

import pytest

from sidecar.proxy.descriptors import calls_held, raise_limit, room_for_clients


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


def test_a_limit_that_cannot_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system may name a hard limit, or none, and refuse it: then what there is has to do."""

    def refuse(_what: int, _limits: tuple[int, int]) -> None:
        raise ValueError

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(resource, "setrlimit", refuse)
    raise_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
