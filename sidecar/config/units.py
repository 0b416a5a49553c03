"""Numbers as people write them: `15m`, `8MiB`, `1.5x`, `-5%`, `0.10` dollars; and back again for docs and messages.

Every parser takes the text and raises ValueError with a message that says how to write it.
"""

import math
import re
from decimal import Decimal, InvalidOperation

DURATIONS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
SIZES = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_NUMBER_AND_UNIT = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)([A-Za-z]{0,3})", re.ASCII)
NUSD_PER_USD = 10**9
FUSD_PER_USD = 10**15
FUSD_PER_USD_PER_MTOK = 10**9  # 1e15 femto-dollars in a dollar, 1e6 tokens in the unit of list prices
MAX_USD = Decimal(10) ** 9  # keeps nano-dollars inside 64 bits


def duration_s(text: str) -> float:
    """Seconds, >= 0, of `500ms`, `5s`, `15m`, `24h`, `7d`, `2w`; a bare number is seconds."""
    found = _NUMBER_AND_UNIT.fullmatch(text.strip())
    unit = DURATIONS_S.get(found[2] or "s") if found else None
    if found is None or unit is None:
        raise ValueError("is not a duration; write a number and a unit: 500ms, 5s, 15m, 24h, 7d")
    return float(found[1]) * unit if unit >= 1 else float(found[1]) / 1000


def size_bytes(text: str) -> int:
    """Bytes of `64KiB`, `8MiB`, `1GiB` (also kB, MB, GB as powers of ten); a bare number is bytes."""
    found = _NUMBER_AND_UNIT.fullmatch(text.strip())
    unit = SIZES.get(found[2]) if found else None
    if found is None or unit is None:
        raise ValueError("is not a size; write a number and a unit: 64KiB, 8MiB, 1GiB")
    return int(float(found[1]) * unit)


def flag(text: str) -> bool:
    """True for 1, true, yes, on; False for 0, false, no, off; in any case."""
    word = text.strip().lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"0", "false", "no", "off"}:
        return False
    raise ValueError("is neither true nor false; write 1 or 0")


def integer(text: str) -> int:
    """A whole number in decimal digits."""
    if not re.fullmatch(r"-?[0-9]{1,18}", text.strip(), re.ASCII):
        raise ValueError("is not a whole number; write digits only")
    return int(text)


def number(text: str) -> float:
    """A finite decimal number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError("is not a number; write one like 0.5 or 12")
    return value


def fraction(text: str) -> float:
    """A share 0..1, written `0.05` or `5%`."""
    body = text.strip()
    value = number(body[:-1]) / 100 if body.endswith("%") else number(body)
    if not 0.0 <= value <= 1.0:
        raise ValueError("is outside 0..1; write a share like 0.05 or 5%")
    return value


def _dollars(text: str) -> Decimal:
    try:
        value = Decimal(text.strip().lstrip("$"))
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or not 0 <= value <= MAX_USD:
        raise ValueError("is not an amount of US dollars; write one like 0.10 or 1000")
    return value


def usd_to_nusd(text: str) -> int:
    """Nano-dollars of an amount in dollars; finer parts are cut off."""
    return int(_dollars(text) * NUSD_PER_USD)


def usd_to_fusd(text: str) -> int:
    """Femto-dollars of an amount in dollars; finer parts are cut off."""
    return int(_dollars(text) * FUSD_PER_USD)


def mtok_to_fusd(text: str) -> int:
    """Femto-dollars per token of a list price in dollars per million tokens; finer parts are cut off."""
    return int(_dollars(text) * FUSD_PER_USD_PER_MTOK)


def show_duration(seconds: float) -> str:
    """The shortest exact spelling, in the largest unit up to hours (up to days from two days on)."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("m", 60.0)):
        if seconds and seconds % size == 0 and (unit != "d" or seconds > size):
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.12g}s" if seconds >= 1 or not seconds else f"{seconds * 1000:.12g}ms"


def show_size(count: int) -> str:
    """The shortest exact spelling in binary units."""
    for unit in ("GiB", "MiB", "KiB"):
        if count and count % SIZES[unit] == 0:
            return f"{count // SIZES[unit]}{unit}"
    return f"{count}B"
