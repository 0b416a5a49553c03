"""From settings to guards: each setting arrives where it is obeyed."""

from sidecar.config.guards import guards
from sidecar.config.settings import Settings
from sidecar.core.breaker import BreakerSpec
from sidecar.core.guard import GuardSpec
from sidecar.core.retry_budget import RetrySpec


def test_the_defaults_are_those_of_the_core() -> None:
    """They are stated twice, for the reference and for the core: they must not part."""
    assert guards(Settings()).spec == GuardSpec()


def test_each_setting_arrives() -> None:
    given = {
        "breaker": "0", "breaker_failures": "7", "breaker_failure_rate": "0.9", "breaker_min_calls": "40",
        "breaker_window": "1m", "breaker_probes": "2", "breaker_ejection": "10s", "breaker_max_ejection": "2m",
        "breaker_max_ejected": "0.5", "retry_budget": "0.1", "retry_floor": "0", "concurrency_limit": "gradient",
    }  # fmt: skip
    made = guards(Settings.load({}, None, [f"{key}={value}" for key, value in given.items()])).spec
    assert made.breaker == BreakerSpec(False, 7, 0.9, 40, 60.0, 2, 10.0, 120.0, 0.5)
    assert (made.retry, made.limit) == (RetrySpec(0.1, 0), "gradient")


def test_no_memory_limit_is_no_number() -> None:
    assert Settings.load({"SIDECAR_MEMORY_LIMIT": ""}, None).memory_limit_bytes is None
    assert Settings.load({}, None, ["memory_limit=300MiB"]).memory_limit_bytes == 300 * 2**20
