"""Where an arm's parameters stand in the body that it gets."""

import orjson
import pytest

from sidecar.proxy.outgoing import Params, placed
from sidecar.wire.request_view import SMALL_BODY_BYTES, SlicedReader, read_request

WARM: Params = (("temperature", b"0.3"), ("max_tokens", b"9"))
MADE = b'{"maxOutputTokens":9,"temperature":0.3}'


@pytest.mark.parametrize(
    ("body", "params", "found"),
    [
        (b'{"contents":[]}', WARM, {"generationConfig": MADE}),
        (b'{"generationConfig":null}', WARM, {"generationConfig": MADE}),
        (b'{"generationConfig":{"topK":1}}', WARM, {"generationConfig": MADE[:-1] + b',"topK":1}'}),
        (b'{"generationConfig":{"temperature":1}}', WARM[:1], {"generationConfig": b'{"temperature":0.3}'}),
        (b'{"generation_config":{"max_output_tokens":1}}', WARM[1:], {"generation_config": b'{"max_output_tokens":9}'}),
        (b"{}", (("top_p", b"1"), ("labels", b"{}")), {"labels": b"{}", "generationConfig": b'{"topP":1}'}),
        (b"{}", (("seed", b"1"), ("generationConfig", b'{"a":1}')), {"generationConfig": b'{"seed":1,"a":1}'}),
        (b"{}", (("labels", b"{}"),), {"labels": b"{}"}),
    ],
)
def test_geminis_are_in_its_configuration(body: bytes, params: Params, found: dict[str, bytes]) -> None:
    """At the top level it refuses them. What else the configuration says stays, in its spelling."""
    made = {name: orjson.loads(value) for name, value in placed("generate", body, params, read_request(body))}
    assert made == {name: orjson.loads(value) for name, value in found.items()}


def test_elsewhere_they_are_members_of_the_body() -> None:
    """As they are written."""
    assert placed("chat", b"{}", WARM, None) is WARM


def test_a_large_body_is_not_read_again() -> None:
    """The reader knows where its members stand."""
    body = b'{"contents":"%b","generationConfig":{"topK":1}}' % (b"x" * SMALL_BODY_BYTES)
    reader = SlicedReader(body)
    while not reader.step():
        pass
    ((name, value),) = placed("generate", body, WARM[:1], reader.view)
    assert (name, orjson.loads(value)) == ("generationConfig", {"topK": 1, "temperature": 0.3})
