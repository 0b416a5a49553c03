"""Which requests a route serves, and which failures its fallback lists: patterns of the policy against facts.

A `*` at the end of a model or path matches any ending; what is not written matches all.
"""

from sidecar.core.policy import Arm, Match
from sidecar.core.types import Facts


def matches(match: Match, facts: Facts) -> bool:
    """Whether every filled field of `match` agrees with the request."""
    models = match.models
    if models and facts.model not in models and not any(_fits(pattern, facts.model) for pattern in models):
        return False
    if match.paths and not any(_fits(pattern, facts.path) for pattern in match.paths):
        return False
    return not match.tags or all(facts.tags.get(name) == value for name, value in match.tags.items())


def listed(trigger: str, on: tuple[str, ...]) -> bool:
    """Whether `trigger` ("connect", "timeout" or a status code) is among the policy's conditions."""
    return trigger in on or (trigger[:1] == "5" and len(trigger) == 3 and "5xx" in on)


def unknown_arm(facts: Facts) -> Arm:
    """What rules may know of a model that is no arm of the policy: its name."""
    return Arm(id="", upstream="", model=facts.model or "")


def _fits(pattern: str, text: str | None) -> bool:
    if text is None:
        return pattern == "*"
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern
