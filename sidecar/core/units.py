"""Values of metrics for people, with their unit: money is nano-dollars inside and dollars in a sentence.

What it does not know: shares, scores and tokens have none.
"""

from typing import Final

_DOLLARS: Final = (1e-9, " $")
_SECONDS: Final = (1.0, " s")
_UNITS: Final = {
    **dict.fromkeys(("cost", "cost_per_request"), _DOLLARS),
    **dict.fromkeys(("ttft", "ttft_p95", "latency", "latency_p95"), _SECONDS),
}


def in_words(metric: str, value: float) -> str:
    """A value of the metric, rounded."""
    scale, unit = _UNITS.get(metric, (1.0, ""))
    return f"{value * scale:.4g}{unit}"
