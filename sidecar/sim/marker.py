"""The channel by which true quality leaves the simulated provider: sums inside the answer's text, right or wrong.

An answer says `17 + 25 = 42.`; with probability `quality` the result is right. No header, field or id tells it, so
whoever wants to know must read the answer as a validator, a judge or a user does. When the request itself asks for a
sum (`What is 17 + 25?`), the answer is about that one.
"""

import re
from functools import lru_cache

_SUM = re.compile(r"(\d{1,9}) \+ (\d{1,9}) = (\d{1,10})")
_ASKED = re.compile(rb"(\d{1,9}) ?\+ ?(\d{1,9})")


def score(text: str) -> float | None:
    """The fraction of right sums in a text, 0..1; None when it has none."""
    found = _SUM.findall(text)
    if not found:
        return None
    return sum(int(a) + int(b) == int(c) for a, b, c in found) / len(found)


def asked(body: bytes) -> tuple[int, int] | None:
    """The last sum that a request's body asks for, if any; only its last 8 KiB are looked at (images hold any text)."""
    if b"+" not in body:
        return None
    found = _ASKED.findall(body[-8192:])
    return (int(found[-1][0]), int(found[-1][1])) if found else None


@lru_cache(maxsize=16384)  # every sum that a model chooses by itself
def say(a: int, b: int, right: bool) -> tuple[str, ...]:
    """The sum as tokens; a wrong result is off by one to nine, never equal to the right one."""
    result = a + b if right else a + b + 1 + (a * 7 + b) % 9
    return (str(a), " +", f" {b}", " =", f" {result}", ".")
