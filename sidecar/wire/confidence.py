"""How sure a model was of a whole answer: the geometric mean of its tokens' probabilities, where the answer states them.

    confidence = exp(mean of the log probabilities) in (0, 1]

Chat and completions state them when the app asks for `logprobs`, Responses when it includes
`message.output_text.logprobs`. The mean is over the tokens of all choices. It says how predictable the text was to the
model, which is not how true it is (Kadavath et al. 2022, arXiv 2207.05221): a low value is a reason to ask another
model, a high one proves nothing.
"""

from collections.abc import Iterator
from math import exp

import msgspec
from msgspec import Struct

from sidecar.wire.reading import read_as


class _Token(Struct, gc=False):
    logprob: float | None = None


class _Logprobs(Struct, gc=False):
    content: list[_Token] | None = None
    token_logprobs: list[float | None] | None = None  # completions; the first is null when the prompt is echoed


class _Choice(Struct, gc=False):
    logprobs: _Logprobs | None = None


class _Part(Struct, gc=False):
    logprobs: list[_Token] | None = None


class _Item(Struct, gc=False):
    content: list[_Part] | None = None


class _Body(Struct, gc=False):
    choices: list[_Choice] | None = None
    output: list[_Item] | None = None


_body = msgspec.json.Decoder(_Body)


def confidence(body: bytes) -> float | None:
    """The confidence of a whole answer, in (0, 1]; None where it states no log probabilities."""
    read = read_as(_body, body)
    if read is None:
        return None
    known = [value for value in _values(read) if value is not None]
    return exp(min(0.0, sum(known) / len(known))) if known else None


def _values(body: _Body) -> Iterator[float | None]:
    for choice in body.choices or ():
        if choice.logprobs is not None:
            yield from (token.logprob for token in choice.logprobs.content or ())
            yield from choice.logprobs.token_logprobs or ()
    for item in body.output or ():
        for part in item.content or ():
            yield from (token.logprob for token in part.logprobs or ())
