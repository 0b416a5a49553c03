"""What looks like a secret, in texts that are going to be shown.

`hidden` promises to take out keys of the known makers' shapes, and credentials behind their scheme. A key of no known shape
passes there: what never may be shown is never handed to what shows. `guarded` is for what people write into settings and
policies, where a key in the wrong place is a likely mistake: it takes out whatever a generator of keys could have written.
`recorded` is for the names of models, which clients and providers say.
"""

import re
from functools import lru_cache
from typing import Final

HIDDEN: Final = "[hidden]"
MAX_NAME: Final = 256  # characters of a model's name; the longest known ones, ARNs of Bedrock, have some 150
_MOST_WORDS: Final = 7  # of a model's name; servers of one's own let people write what they like
_SHAPE: Final = re.compile(
    r"\b(?:(?:sk|pk|rk|xai|gsk|hf|ghp)[-_]|AIza|AKIA|ASIA|ya29\.|eyJ)[A-Za-z0-9_-]{12,}"
    r"|(?i:bearer|basic) +[^\s\"',]{6,}"
)
_RANDOM: Final = re.compile(r"(?<![A-Za-z0-9])(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{24,}(?![A-Za-z0-9])")


def hidden(text: str) -> str:
    """The text without what has the shape of a known key."""
    return _SHAPE.sub(HIDDEN, text)


def guarded(text: str) -> str:
    """The text also without long words of letters and digits, which no name has and most keys are."""
    return _RANDOM.sub(HIDDEN, hidden(text))


def recorded(name: str) -> str:
    """A model's name as it may be kept: a key, a sentence or a whole text in its place is not."""
    return _recorded(name) if len(name) <= MAX_NAME else HIDDEN


@lru_cache(maxsize=1024)  # so names that are remembered here have to be short
def _recorded(name: str) -> str:
    return HIDDEN if hidden(name) != name or len(name.split()) > _MOST_WORDS else name
