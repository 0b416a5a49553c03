"""Numbers as people write them."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config import units


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("5s", 5.0),
        ("15m", 900.0),
        ("24h", 86400.0),
        ("7d", 604800.0),
        ("2w", 1209600.0),
        ("60", 60.0),
        (" 1.5h ", 5400.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """Each unit, and a bare number, which is seconds."""
    assert units.duration_s(text) == seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("8MiB", 8 * 2**20),
        ("64KiB", 65536),
        ("1GiB", 2**30),
        ("1.5kB", 1500),
        ("10", 10),
        ("3B", 3),
        ("2MB", 2_000_000),
    ],
)
def test_sizes(text: str, count: int) -> None:
    """Binary and decimal units, and a bare number, which is bytes."""
    assert units.size_bytes(text) == count


def test_flags_shares_and_money() -> None:
    """The other spellings mean what they say, exactly."""
    assert [units.flag(text) for text in ("1", "TRUE", "yes", "on", "0", "False", "no", "off")] == [True] * 4 + [
        False
    ] * 4
    assert units.fraction("5%") == units.fraction("0.05") == 0.05
    assert units.usd_to_nusd("0.10") == 100_000_000
    assert units.usd_to_nusd("$1000") == 1000 * 10**9
    assert units.mtok_to_fusd("0.15") == 150_000_000
    assert units.integer(" -12 ") == -12


@pytest.mark.parametrize(
    ("parse", "texts"),
    [
        (units.duration_s, ["", "5 parsecs", "-5s", "5y", "s", "1e3s", "٣s"]),
        (units.size_bytes, ["", "8 mib", "-1", "8TiB", "MiB"]),
        (units.flag, ["", "2", "maybe"]),
        (units.integer, ["", "1.0", "1e3", "x", "1" * 30]),
        (units.number, ["", "nan", "inf", "x"]),
        (units.fraction, ["", "1.5", "150%", "-1%", "%"]),
        (units.usd_to_nusd, ["", "NaN", "-1", "1e12", "ten", "sNaN", "Infinity"]),
    ],
)
def test_refusals_say_how_to_write_it(parse: Callable[[str], object], texts: list[str]) -> None:
    """What is refused is refused with `what; how to fix`."""
    for text in texts:
        with pytest.raises(ValueError, match=r"; (write|choose) "):
            parse(text)


@given(st.integers(0, 10**7))
def test_durations_and_sizes_round_trip(value: int) -> None:
    """What is shown as a default can be written back."""
    assert units.duration_s(units.show_duration(float(value))) == pytest.approx(value, rel=1e-5)
    assert units.size_bytes(units.show_size(value)) == value


def test_shown_as_one_would_write_it() -> None:
    """15m and 24h, not 900s and 1d."""
    assert [units.show_duration(s) for s in (0.0, 0.25, 5.0, 900.0, 86400.0, 604800.0)] == [
        "0s",
        "250ms",
        "5s",
        "15m",
        "24h",
        "7d",
    ]
    assert [units.show_size(n) for n in (0, 100, 8 * 2**20)] == ["0B", "100B", "8MiB"]
