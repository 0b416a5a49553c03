"""Numbers of a text that may tell which model answers it well, cheap enough to be made for every request.

FEATURES numbers of about one: the length (logarithmic), the shares of digits, of code signs and of line ends, and the
words of the last WORDS_FROM bytes by the hashing trick (Weinberger et al., arXiv:0902.2206): each word adds +1 or -1 to
one of HASHED places, and all places together are brought to length one. A keyed checksum hashes the words, so the same
text gives other numbers under another salt, and no text can be read back from 32 sums.

Words are runs of ASCII letters. Texts of other scripts show their length, digits, signs and lines only.
"""

from itertools import repeat
from math import hypot, log1p
from struct import Struct
from typing import Final
from zlib import crc32

import numpy as np

from sidecar.core.types import Features

HASHED: Final = 32  # 16..256; fewer: unlike texts look alike, more: each place learns slower
FEATURES: Final = 4 + HASHED
MAX_BYTES: Final = 2_048  # of the end of the text, for the shares
WORDS_FROM: Final = 512  # 128..2,048 bytes; fewer see less of the question, more cost 2 us a hundred bytes

_WORDS: Final = bytes(c + 32 if 65 <= c <= 90 else c if 97 <= c <= 122 else 32 for c in range(256))
_NO_DIGITS: Final = bytes(c for c in range(256) if not 48 <= c <= 57)
_NO_CODE: Final = bytes(c for c in range(256) if c not in b"{}()[];=<>_")
_SIGNS: Final = [1.0] * HASHED + [-1.0] * HASHED  # the bit above those of the place is the sign
_PACKED: Final = Struct(f"{FEATURES}f")


def features(text: str, salt: int = 0) -> Features:
    """FEATURES numbers of `text`, read-only; `salt` is any 32-bit number, the same for all texts that are to be
    compared."""
    seen = text[-MAX_BYTES:].encode("utf-8", "replace")[-MAX_BYTES:]
    size = len(seen) or 1
    made = [
        log1p(len(text)) / 8,
        4 * len(seen.translate(None, _NO_DIGITS)) / size,
        8 * len(seen.translate(None, _NO_CODE)) / size,
        20 * seen.count(b"\n") / size,
    ]
    sums = [0.0] * HASHED  # a list: most texts have few words, and each step of an array costs as much as ten of them
    for code in map(crc32, seen[-WORDS_FROM:].translate(_WORDS).split(), repeat(salt)):
        sums[code & (HASHED - 1)] += _SIGNS[code & (2 * HASHED - 1)]
    length = hypot(*sums) or 1.0
    made += [one and one / length for one in sums]
    return np.frombuffer(_PACKED.pack(*made), dtype=np.float32)  # a third of what an array of a list costs
