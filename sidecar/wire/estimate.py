"""Estimates token counts from bytes where a provider reported none.

The ratio of bytes to tokens is learnt per model from the responses that did report usage: the median of the latest
ones, because single responses (a tool call, a language other than the usual) are far off and a mean would follow them.
"""

from collections import deque
from statistics import median

START_BYTES_PER_TOKEN = 4.0  # English text in today's vocabularies; other languages soon correct it
_WINDOW = 101
_FEW_TOKENS = 8  # shorter responses are mostly markup and say little about the ratio
_RANGE = (0.5, 64.0)  # a ratio outside is a counting mistake of the server


class Ratio:
    """Bytes per token of one model."""

    def __init__(self) -> None:
        self._seen: deque[float] = deque(maxlen=_WINDOW)

    def observe(self, size: int, tokens: int) -> None:
        """One response with known usage. Short or implausible ones are ignored."""
        if tokens < _FEW_TOKENS:
            return
        ratio = size / tokens
        if _RANGE[0] <= ratio <= _RANGE[1]:
            self._seen.append(ratio)

    @property
    def bytes_per_token(self) -> float:
        """The median of what was seen; sorted when asked, because most models never need an estimate."""
        return median(self._seen) if self._seen else START_BYTES_PER_TOKEN

    def tokens(self, size: int) -> int:
        """The estimate for `size` bytes, at least 1 where there is any text."""
        return max(1, round(size / self.bytes_per_token)) if size > 0 else 0
