"""The normal distribution function agrees with the one that everybody trusts."""

import math

import numpy as np
import pytest

from sidecar.core.normal import ndtr


@pytest.mark.parametrize("x", [-40.0, -8.0, -3.3, -1.0, -1e-9, 0.0, 1e-9, 0.7, 2.0, 6.5, 7.2, 12.0, 40.0])
def test_it_is_the_error_function_in_disguise(x: float) -> None:
    """math.erfc is correct to the last digits; the stated error is 1e-14."""
    assert abs(float(ndtr(x)) - 0.5 * math.erfc(-x / math.sqrt(2.0))) < 1e-14


def test_it_never_falls() -> None:
    """A distribution function rises: probabilities made of its differences are never negative beyond rounding."""
    values = ndtr(np.linspace(-9.0, 9.0, 20_001))
    assert np.all(np.diff(values) >= -1e-15)
