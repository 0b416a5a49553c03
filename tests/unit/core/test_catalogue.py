"""The catalogue finds a model by its name, its dated versions, the beginning of its name, and at who serves it."""

from itertools import pairwise

import msgspec
import pytest

from sidecar.core.abilities import UNKNOWN, Capabilities
from sidecar.core.catalogue import EMPTY, Catalogue, Provider, extended, read_catalogue
from sidecar.errors import ConfigError

BIG, MINI = Capabilities(tools=True, context_tokens=128_000), Capabilities(images=False)
MAKER = Provider(models={"big": BIG, "big-2024-05-13": MINI, "mini*": MINI, "mini-x*": BIG}, also=("maker2",))
HOST = Provider(models={"eu.*": Capabilities(regions=("EU",)), "big": Capabilities(context_tokens=8_192)})
HOST = msgspec.structs.replace(HOST, like=("maker", "host"), strip=("eu.", "maker."))
MADE = Catalogue({"maker": MAKER, "host": HOST, "local": Provider(models={"open*": MINI})}, "2026-11-21")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("big", BIG),
        ("BIG", BIG),
        ("big-latest", BIG),
        ("big-2024-08-06", BIG),
        ("big-20240806", BIG),
        ("big@20240806", BIG),
        ("big-2411", BIG),
        ("big-001", BIG),
        ("big-20250929-v1:0", BIG),
        ("big-2024-05-13", MINI),  # listed by itself
        ("big-preview", UNKNOWN),
        ("bigger", UNKNOWN),
        ("mini-2", MINI),
        ("mini-x-2", BIG),  # the longer beginning
    ],
)
def test_by_name(name: str, found: Capabilities) -> None:
    """The whole name, then without its version, then by its beginning."""
    assert MADE.lookup("maker", name) == found
    assert MADE.lookup("Maker2", name) == found


def test_who_serves_it_says_what_differs() -> None:
    """A host's own figures stand before the maker's; prefixes are taken off; `like` in a circle ends."""
    assert MADE.lookup("host", "maker.big") == Capabilities(tools=True, context_tokens=8_192)
    assert MADE.lookup("host", "eu.maker.mini") == Capabilities(images=False, regions=("EU",))


def test_a_server_that_nobody_named() -> None:
    """Its models are looked for among those with open weights, and nobody else's."""
    assert MADE.lookup(None, "open-7b") == MINI
    assert MADE.lookup(None, "big") is UNKNOWN
    assert MADE.lookup("nobody", "open-7b") is UNKNOWN
    assert EMPTY.lookup(None, "open-7b") is UNKNOWN


def test_an_extension_stands_in_front() -> None:
    """What it says of a model wins, what it does not say stays, new providers are added."""
    more = Catalogue({"maker": Provider(models={"big": Capabilities(tools=False)}), "new": HOST}, "2027-01-01")
    both = extended(MADE, more)
    assert both.lookup("maker", "big") == Capabilities(tools=False, context_tokens=128_000)
    assert both.lookup("maker2", "mini") == MINI
    assert both.lookup("new", "big") == Capabilities(tools=False, context_tokens=8_192)
    assert (both.date, MADE.lookup("maker", "big")) == ("2027-01-01", BIG)


@pytest.mark.parametrize("listed", ["big-2024-08-06", "big*", "b*", "big"])
@pytest.mark.parametrize("provider", ["maker", "maker2"])
def test_an_extension_may_call_a_model_by_another_name(listed: str, provider: str) -> None:
    """By a version of it, or the beginning of its name, at another name of its provider: the rest stays all the same."""
    more = Catalogue({provider: Provider(models={listed: Capabilities(regions=("EU",))}, also=("mine",))})
    for name in ("maker", "maker2", "mine"):
        found = extended(MADE, more).lookup(name, "big-2024-08-06")
        assert found == Capabilities(tools=True, context_tokens=128_000, regions=("EU",))


def test_nobody_is_called_by_anothers_own_name() -> None:
    """A provider that says so hides nothing."""
    both = extended(MADE, Catalogue({"thief": Provider(also=("maker",))}))
    assert both.lookup("maker", "big") == BIG


def test_a_file_of_another_kind_is_refused() -> None:
    """With what to do about it; unknown members too, for a newer version may mean something by them."""
    fine = b'{"format":1,"date":"2026-11-21","providers":{"a":{"models":{"m":{"tools":false}}}}}'
    assert read_catalogue(fine).lookup("a", "m") == Capabilities(tools=False)
    for wrong in (fine.replace(b"1", b"2", 1), fine[:-3], fine.replace(b"tools", b"tool")):
        with pytest.raises(ConfigError, match="catalogue compile"):
            read_catalogue(wrong)


def test_longer_beginnings_come_first() -> None:
    """As `mini-x` before `mini`, whatever the order of the file."""
    starts = MADE._starts["maker"]
    assert all(len(first) >= len(second) for first, second in pairwise(starts))
