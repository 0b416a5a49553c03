"""How many of our own second tries may be under way to one upstream: a share of its calls, and a few more.

**Model.** A retry is allowed while fewer than `floor + share x active` are under way, `active` being all calls to that
upstream that are under way, retries included. It is the budget of Envoy (`retry_budget`: budget_percent 20,
min_retry_concurrency 3) and Finagle (`RetryBudget`: 20 % and at least ten a second), counted by concurrency as Envoy does
it: no clock is needed, and retries that hang count for as long as they hang.

**Why of the upstream that is tried next.** A provider that fails sends its whole traffic on to the next one at once. There
the fallbacks come on top of what it serves; more than a fifth on top is what takes it down as well. A provider that keeps
failing loses its traffic by its breaker, and then the next one is the first choice, and no retry.

A call that gets no second try gets what its own upstream said, as it would have without us. The one repeat without
`stream_options` is counted and never denied: the first answer was to our own question.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetrySpec:
    """The share (0..1) of the active calls, and how many there may be whatever the share is (>= 0)."""

    share: float = 0.2
    floor: int = 10


class RetryBudget:
    """The calls to one upstream that are under way; `core.guard` counts them up and down, once each."""

    __slots__ = ("_spec", "active", "denied", "made", "retries")

    def __init__(self, spec: RetrySpec) -> None:
        self._spec = spec
        self.active = 0  # calls under way, retries included
        self.retries = 0  # of them
        self.made = 0  # retries so far
        self.denied = 0  # retries that were not made

    @property
    def allows(self) -> bool:
        """Whether one more retry may begin."""
        return self.retries < self._spec.floor + self._spec.share * self.active

    def begin_retry(self) -> None:
        """A retry goes to the upstream; it is an active call besides."""
        self.retries += 1
        self.made += 1
