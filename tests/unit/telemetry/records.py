"""Finished exchanges for telemetry tests."""

from sidecar.core.types import Clocks, Decision, Facts, Outcome, Settled, Usage

CLOCKS = Clocks(
    sent_s=0.0002, ttfb_s=0.09, ttfe_s=0.1, ttft_s=0.11, ttfa_s=0.12, duration_s=1.5, itl_s=0.012, gap_p50_s=0.01,
    gap_p95_s=0.03,
)  # fmt: skip


def settled(
    *, model: str = "gpt-4o-mini", arm: str | None = "mini", reward: float | None = None, quality: float | None = None,
    endpoint: str = "chat", dialect: str = "openai", **outcome: object,
) -> Settled:  # fmt: skip
    """A completed stream of 10 + 20 tokens; keyword arguments replace the outcome's fields."""
    values: dict[str, object] = {
        "kind": "completed",
        "status": 200,
        "clocks": CLOCKS,
        "stream": True,
        "usage": Usage(input_tokens=10, output_tokens=20, cached_input_tokens=4),
        "usage_source": "provider",
        "cost_nusd": 1500,
        "cost_kind": "exact",
        "completion_id": "chatcmpl-1",
        "finish": "stop",
    }
    return Settled(
        id="00abc",
        at=1_700_000_000.25,
        facts=Facts(endpoint=endpoint, dialect=dialect, path="/v1/x", model=model, stream=True, key=0, input_bytes=40),
        decision=Decision(
            route="support", mode="optimize", arm=arm, upstream="openai", model=model, reason="sampled", propensity=0.25
        ),
        outcome=Outcome(**values | outcome),
        upstream="openai",
        sent_model=model,
        reward=reward,
        quality=quality,
        quality_source=None if quality is None else "user",
    )
