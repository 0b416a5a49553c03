"""Hostile input, for a minute: each target of the fuzzer with good inputs that are spoilt, and with what it found before.

What must hold is said in `bench/fuzz_wire.py` and `bench/fuzz_spokes.py`; `python -m bench.fuzz` does the same for hours,
guided by coverage. The inputs here are the same ones in each run.
"""

import random  # noqa: TID251 - a seed for each example

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bench.fuzz import TARGETS, seeds_of, spoilt, target_of

EXAMPLES = {"policy": 150, "usage": 200, "request-texts": 200, "schema": 100}
OF_OTHERS = 400


@pytest.mark.parametrize("name", TARGETS)
def test_spoilt_inputs(name: str) -> None:
    """INC-42, SEC-INJECTION, SEC-BOMBS: bytes that nobody writes: only the promised errors, the same result however the
    bytes are cut into reads, and what is written can be read."""
    run, seeds = target_of(name), seeds_of(name)
    for one in seeds:
        run(one)

    @settings(
        max_examples=EXAMPLES.get(name, OF_OTHERS), database=None, derandomize=True,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.integers(0, 2**32), st.binary(max_size=40), st.integers(0, 9))
    def check(seed: int, noise: bytes, how: int) -> None:
        run(noise if how == 0 else spoilt(random.Random(seed), seeds))

    check()
