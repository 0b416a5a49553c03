"""Members of another type than they should have, one at a time, in bodies that are good else: what a reader that trusts a
type stumbles over. The fuzzer's own targets judge; it met the first of these faults after an hour, this does in seconds."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from bench import fuzz_seeds, fuzz_spokes

WRONG: tuple[Any, ...] = ([], {}, [{"x": 1}], {"x": [1]}, 7, -1.5, True, None, "", "x", 2**70)
EACH = 60  # of the places of one body, with one wrong value each


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    for name, inner in (
        value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
    ):
        yield from places(inner, (*path, name))


def spoilt(body: bytes, seed: int) -> Iterator[bytes]:
    """The body with some of its values, one at a time, in the place of which stands another."""
    good, chance = json.loads(body), np.random.default_rng(seed)
    found = list(places(good))
    for place in chance.permutation(len(found))[:EACH]:
        path = found[place]
        bad = copy.deepcopy(good)
        at = bad
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = WRONG[chance.integers(len(WRONG))]
        yield json.dumps(bad).encode()


@pytest.mark.parametrize("number", range(len(fuzz_seeds.CLIENTS)), ids=fuzz_seeds.CLIENTS)
def test_requests(number: int) -> None:
    """A call is read or refused with a path, and what is read can be told in each format and read again."""
    for seed, one in enumerate(fuzz_seeds.requests()):
        if one[0] == number:
            for body in spoilt(one[1:], seed):
                fuzz_spokes.request(one[:1] + body)


@pytest.mark.parametrize("number", range(len(fuzz_seeds.ARMS)), ids=fuzz_seeds.ARMS)
def test_answers(number: int) -> None:
    """An answer is told so that the client's own reader takes it, or is found wrong."""
    for seed, one in enumerate(fuzz_seeds.answers()):
        if one[1] == number:
            for body in spoilt(one[2:], seed):
                fuzz_spokes.answer(one[:2] + body)


@pytest.mark.parametrize("member", ["logprob", "id"])
@pytest.mark.parametrize("arm", ["chat", "responses"])
def test_a_truth_value_is_no_number(arm: str, member: str) -> None:
    """Python takes True for 1; Gemini's clients do not."""
    token = {"token": "Hi", "bytes": None, "logprob": -0.5, "top_logprobs": [], member: True}
    text = {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": [token]}
    message = {"role": "assistant", "content": "Hi"}
    bodies = {
        "chat": {
            "id": "c", "model": "m", "choices": [
                {"index": 0, "message": message, "logprobs": {"content": [token]}, "finish_reason": "stop"},
            ],
        },
        "responses": {
            "id": "r", "model": "m", "status": "completed",
            "output": [{"type": "message", "id": "i", "role": "assistant", "status": "completed", "content": [text]}],
        },
    }  # fmt: skip
    client, at = fuzz_seeds.CLIENTS.index("generate"), fuzz_seeds.ARMS.index(arm)
    fuzz_spokes.answer(bytes((client, at)) + json.dumps(bodies[arm]).encode())


@pytest.mark.parametrize("kind", [[], {}, 7, True])
def test_the_type_of_an_item_is_a_text(kind: Any) -> None:
    """Also where it cannot be looked up in a table."""
    body = {"model": "m", "input": [{"type": kind, "role": "user", "content": "Hi"}]}
    fuzz_spokes.request(bytes((fuzz_seeds.CLIENTS.index("responses"),)) + json.dumps(body).encode())
