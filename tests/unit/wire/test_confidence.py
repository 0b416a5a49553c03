"""The geometric mean of token probabilities, of every shape that states them."""

from math import exp

import pytest

from sidecar.wire.confidence import confidence


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"choices":[{"logprobs":{"content":[{"logprob":-1},{"logprob":-3}]}}]}', exp(-2)),
        (
            b'{"choices":[{"logprobs":{"content":[{"logprob":-1}]}},{"logprobs":{"content":[{"logprob":-2}]}}]}',
            exp(-1.5),
        ),
        (b'{"choices":[{"text":"x","logprobs":{"token_logprobs":[null,-0.5]}}]}', exp(-0.5)),
        (b'{"output":[{"content":[{"text":"x","logprobs":[{"logprob":-0.1}]}]},{"type":"reasoning"}]}', exp(-0.1)),
        (b'{"choices":[{"logprobs":{"content":[{"logprob":0.001}]}}]}', 1.0),
        (b'{"choices":[{"logprobs":null}]}', None),
        (b'{"choices":[{"logprobs":{"content":[]}}]}', None),
        (b'{"output":[{"content":[{"text":"x"}]}]}', None),
        (b'{"id":"x"}', None),
        (b"nonsense", None),
    ],
)
def test_confidence(body: bytes, expected: float | None) -> None:
    """None where nothing is stated; never above 1."""
    assert confidence(body) == (None if expected is None else pytest.approx(expected))
