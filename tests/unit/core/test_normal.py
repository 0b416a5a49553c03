"""The normal distribution function agrees with the one that everybody trusts."""

import math

import numpy as np
import pytest

from sidecar.core.normal import ndtr, ndtri


@pytest.mark.parametrize("x", [-40.0, -8.0, -3.3, -1.0, -1e-9, 0.0, 1e-9, 0.7, 2.0, 6.5, 7.2, 12.0, 40.0])
def test_it_is_the_error_function_in_disguise(x: float) -> None:
    """math.erfc is correct to the last digits; the stated error is 1e-14."""
    assert abs(float(ndtr(x)) - 0.5 * math.erfc(-x / math.sqrt(2.0))) < 1e-14


def test_it_never_falls() -> None:
    """A distribution function rises: probabilities made of its differences are never negative beyond rounding."""
    values = ndtr(np.linspace(-9.0, 9.0, 20_001))
    assert np.all(np.diff(values) >= -1e-15)


def test_the_inverse_comes_back() -> None:
    """ndtr(ndtri(p)) is p over the range that the docstring names."""
    p = np.array([1e-6, 1e-4, 0.01, 0.1, 0.3, 0.5, 0.7, 0.99, 1 - 1e-4, 1 - 1e-6])
    assert np.max(np.abs(ndtr(ndtri(p)) - p)) < 1e-13
