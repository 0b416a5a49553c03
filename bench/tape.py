"""A matrix made ready to be replayed often: plain numbers, texts as features, and the prices that everybody knows."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from bench.matrices import Floats, Matrix
from sidecar.core.features import features
from sidecar.core.policy import FlatPrice
from sidecar.core.types import Features, Usage

FUSD: Final = 1e15  # femto-dollars of a dollar
CHARACTERS: Final = 4  # of a prompt make a token, where a matrix does not count them


@dataclass(slots=True)
class Tape:
    """What of a matrix each call of a stream needs; lists, because one number of an array takes longer to reach."""

    matrix: Matrix
    texts: list[Features]
    sizes: list[int]  # bytes
    cost_nusd: list[list[int]]
    usage: list[list[Usage]]
    latency_s: list[list[float]]
    prices: list[FlatPrice]


def tape(matrix: Matrix, texts: list[Features] | None = None) -> Tape:
    """Reads a matrix in; `texts` when the features of its prompts are known already."""
    latency = np.where(np.isnan(matrix.latency_s), 1.0, matrix.latency_s)
    counts = _counts(matrix)
    return Tape(
        matrix,
        [features(prompt) for prompt in matrix.prompts] if texts is None else texts,
        [len(prompt.encode()) for prompt in matrix.prompts],
        np.rint(matrix.cost_usd * 1e9).astype(np.int64).tolist(),
        [[_usage(*pair) for pair in row] for row in counts.tolist()],
        latency.tolist(),
        [_price(counts[:, arm], matrix.cost_usd[:, arm]) for arm in range(len(matrix.models))],
    )


def _usage(input_tokens: float, output_tokens: float) -> Usage:
    return Usage(
        input_tokens=None if np.isnan(input_tokens) else int(input_tokens),
        output_tokens=None if np.isnan(output_tokens) else int(output_tokens),
    )


def _counts(matrix: Matrix) -> Floats:
    """Tokens in and out, (N, K, 2). A model without any count has a token for each CHARACTERS of the prompt, and none
    out."""
    counts = np.stack([matrix.input_tokens, matrix.output_tokens], axis=2)
    sizes = np.array([max(1.0, len(prompt) // CHARACTERS) for prompt in matrix.prompts])
    for arm in np.flatnonzero(np.isnan(counts).any(axis=2).all(axis=0)):
        counts[:, arm, 0], counts[:, arm, 1] = sizes, 0.0
    return counts


def _price(counts: Floats, costs: Floats) -> FlatPrice:
    """A model's price from its tokens (N, 2) and costs (N,): dollars per token in and out, fitted by least squares, never
    negative. Where nothing is counted out it is one number, which makes the mean cost right."""
    known = ~np.isnan(counts).any(axis=1)
    counts, costs = counts[known], costs[known]
    if counts[:, 1].any():
        prices = _non_negative(counts, costs)
    else:
        prices = np.array([costs.sum() / max(1.0, counts[:, 0].sum()), 0.0])
    return FlatPrice(*(max(1, round(float(price) * FUSD)) for price in prices))


def times(price: FlatPrice, factor: float) -> FlatPrice:
    """The same price, multiplied."""
    return FlatPrice(max(1, round(price.input_fusd * factor)), max(1, round(price.output_fusd * factor)))


def _non_negative(counts: Floats, costs: Floats) -> Floats:
    """Least squares of two coefficients, with a negative one set to zero and the other fitted alone."""
    found: Floats = np.asarray(np.linalg.lstsq(counts, costs, rcond=None)[0], dtype=np.float64)
    for at in (0, 1):
        if found[at] < 0:
            other = 1 - at
            found[at] = 0.0
            column = counts[:, other]
            square = float(column @ column)
            found[other] = float(column @ costs) / square if square else 0.0
    return found
