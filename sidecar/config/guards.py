"""From the settings to what `core.guard` wants: how upstreams are protected, and the sidecar from them."""

from sidecar.config.settings import Settings
from sidecar.core.breaker import BreakerSpec
from sidecar.core.guard import Guards, GuardSpec
from sidecar.core.retry_budget import RetrySpec


def guards(settings: Settings) -> Guards:
    """The guards of a process with these settings; none is made yet."""
    breaker = BreakerSpec(
        on=settings.breaker,
        consecutive=settings.breaker_failures,
        rate=settings.breaker_failure_rate,
        min_calls=settings.breaker_min_calls,
        window_s=settings.breaker_window_s,
        probes=settings.breaker_probes,
        ejection_s=settings.breaker_ejection_s,
        max_ejection_s=settings.breaker_max_ejection_s,
        max_ejected=settings.breaker_max_ejected,
    )
    retry = RetrySpec(settings.retry_budget, settings.retry_floor)
    return Guards(GuardSpec(breaker, retry, settings.concurrency_limit))
