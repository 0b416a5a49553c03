"""The retry budget: never more second tries than the floor and the share allow."""

from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.retry_budget import RetryBudget, RetrySpec


def test_the_floor_and_the_share() -> None:
    """With 20 calls under way two of a floor and a fifth of all are allowed."""
    budget = RetryBudget(RetrySpec(share=0.2, floor=2))
    for _ in range(20):
        budget.begin(retry=False)
    begun = 0
    while budget.allows:
        budget.begin(retry=True)
        begun += 1
    assert begun == 8  # each retry is an active call, too: 7 < 2 + 0.2 * 27, and 8 > 2 + 0.2 * 28
    budget.end(retry=True)
    assert budget.allows
    assert (budget.made, budget.retries, budget.active) == (8, 7, 27)


def test_none_at_all() -> None:
    assert not RetryBudget(RetrySpec(share=0.0, floor=0)).allows


@given(st.lists(st.sampled_from(("call", "retry", "end")), max_size=200), st.integers(0, 5), st.floats(0.0, 1.0))
def test_an_outage_is_never_multiplied(steps: list[str], floor: int, share: float) -> None:
    """Whoever asks before each retry never has more than the bound, plus the one that was allowed below it."""
    budget, running = RetryBudget(RetrySpec(share, floor)), list[bool]()
    for step in steps:
        if step == "end" and running:
            budget.end(retry=running.pop(len(running) // 2))
        elif step == "retry" and budget.allows:
            bound = floor + share * budget.active
            budget.begin(retry=True)
            running.append(True)
            assert budget.retries <= bound + 1
        elif step == "call":
            budget.begin(retry=False)
            running.append(False)
        assert (budget.active, budget.retries) == (len(running), sum(running))
