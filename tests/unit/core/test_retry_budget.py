"""The retry budget: never more second tries than the floor and the share allow."""

from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.breaker import IGNORED
from sidecar.core.guard import Guards, GuardSpec
from sidecar.core.retry_budget import RetryBudget, RetrySpec
from tests.unit.core.engines import UPSTREAMS


def test_the_floor_and_the_share() -> None:
    """With 20 calls under way two of a floor and a fifth of all are allowed."""
    budget = RetryBudget(RetrySpec(share=0.2, floor=2))
    budget.active = 20
    begun = 0
    while budget.allows:
        budget.begin_retry()
        budget.active += 1
        begun += 1
    assert begun == 8  # each retry is an active call, too: 7 < 2 + 0.2 * 27, and 8 > 2 + 0.2 * 28
    assert (budget.made, budget.retries) == (8, 8)
    budget.retries -= 1
    budget.active -= 1
    assert budget.allows


def test_none_at_all() -> None:
    assert not RetryBudget(RetrySpec(share=0.0, floor=0)).allows


@given(st.lists(st.sampled_from(("call", "retry", "end")), max_size=200), st.integers(0, 5), st.floats(0.0, 1.0))
def test_an_outage_is_never_multiplied(steps: list[str], floor: int, share: float) -> None:
    """Whoever asks before each retry never has more under way than the bound, plus the one that was allowed below it."""
    guard = Guards(GuardSpec(retry=RetrySpec(share, floor))).of(UPSTREAMS["openai"])
    budget, running = guard.budget, list[bool]()
    for step in steps:
        if step == "end" and running:
            guard.end(guard.rest, 0, IGNORED, 0.0, retry=running.pop(len(running) // 2))
        elif step == "retry" and budget.allows:
            bound = floor + share * budget.active
            guard.begin(guard.rest, retry=True)
            running.append(True)
            assert budget.retries <= bound + 1
        elif step == "call":
            guard.begin(guard.rest, retry=False)
            running.append(False)
        assert (budget.active, budget.retries) == (len(running), sum(running))
