"""Which arms, if any, the policy's rules allow to a request.

A rule that mentions `model.*` is asked once for each arm and takes out the arms for which it holds (or is unknown);
it denies the request only when no arm is left. Any other rule is asked once and denies at once. Rules fail closed:
unknown counts as true for `deny` and `filter`. A `log` rule changes nothing; it is counted when it truly holds, and
reported at the next tick, so that a rule which always holds makes one event a second and not one a request.

**Changes** (rollout steps, threshold actions, tuning: `core.cycle`) are asked about before they apply. A rule concerns
changes when it mentions `change.*`, and then no request; or when all that it mentions is known without a request
(`model.*`, `daily_cost`, `monthly_cost`): an arm that no request may use is not rolled out, and nothing is changed while
the budget of a rule is used up. Unknown counts as true here too.
"""

from collections.abc import Mapping, Sequence

from sidecar.core.policy import Arm, Rule
from sidecar.core.rules import Expression, Value
from sidecar.core.spend import BYTES_PER_TOKEN
from sidecar.core.types import Event, Facts, Refusal

NUSD_PER_USD = 1e9


class Governance:
    """The rules of one policy, compiled, and the hits of its `log` rules."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules: list[tuple[Rule, Expression]] = []
        for rule in rules:
            assert isinstance(rule.when, Expression)
            self._rules.append((rule, rule.when))
        self._of_requests = [(rule, when) for rule, when in self._rules if not when.asks_change]
        self._of_changes = [(rule, when) for rule, when in self._rules if when.asks_change or not when.asks_request]
        self._hits: dict[str, int] = {}

    @property
    def active(self) -> bool:
        return bool(self._of_requests)

    def allowed(
        self, facts: Facts, arms: Sequence[Arm], daily_nusd: int, monthly_nusd: int
    ) -> tuple[tuple[str, ...], Refusal | None, tuple[str, ...]]:
        """Ids of the arms that no rule takes out, in order, the refusal when a rule denies the request, and the ids of the
        rules that took arms out or denied it."""
        env = _env(facts, daily_nusd, monthly_nusd)
        left, did = list(arms), list[str]()
        for rule, when in self._of_requests:
            if when.asks_model:
                kept = [arm for arm in left if not self._holds(rule, when, {**env, **_arm_env(arm)})]
            else:
                kept = [] if self._holds(rule, when, env) else left
            if len(kept) < len(left):
                did.append(rule.id)
            if not kept:
                return (), Refusal(403, "rule", rule.message or f"denied by rule {rule.id}"), tuple(did)
            left = kept
        return tuple(arm.id for arm in left), None, tuple(did)

    def refuses(self, change: Mapping[str, Value], arm: Arm | None, daily_nusd: int, monthly_nusd: int) -> str | None:
        """Why a rule denies a change; None when none does. `change` are its facts, without the prefix `change.`."""
        env: dict[str, Value] = {f"change.{name}": value for name, value in change.items()}
        env |= {"daily_cost": daily_nusd / NUSD_PER_USD, "monthly_cost": monthly_nusd / NUSD_PER_USD}
        if arm is not None:
            env |= _arm_env(arm)
        for rule, when in self._of_changes:
            if when.asks_model and arm is None and not when.asks_change:
                continue  # a rule about arms, and a change that concerns none
            if self._holds(rule, when, env):
                return rule.message or f"rule {rule.id}"
        return None

    def tick(self) -> list[Event]:
        """One event for each `log` rule that held since the last tick."""
        hits, self._hits = self._hits, {}
        return [Event(kind="rule.matched", message=rule, detail={"count": count}) for rule, count in hits.items()]

    def _holds(self, rule: Rule, when: Expression, env: Mapping[str, Value]) -> bool:
        answer = when.evaluate(env)
        if rule.action != "log":
            return answer is not False
        if answer:
            self._hits[rule.id] = self._hits.get(rule.id, 0) + 1
        return False


def _env(facts: Facts, daily_nusd: int, monthly_nusd: int) -> dict[str, Value]:
    env: dict[str, Value] = {
        "daily_cost": daily_nusd / NUSD_PER_USD,
        "monthly_cost": monthly_nusd / NUSD_PER_USD,
        "request.endpoint": facts.endpoint,
        "request.dialect": facts.dialect,
        "request.path": facts.path,
        "request.stream": facts.stream,
        "request.tools": facts.tools,
        "request.input_tokens_estimate": facts.input_bytes / BYTES_PER_TOKEN,
    }
    if facts.model is not None:
        env["request.model"] = facts.model
    if facts.max_tokens is not None:
        env["request.max_tokens"] = float(facts.max_tokens)
    for name, value in facts.tags.items():
        env[f"user.{name}"] = value
    return env


def _arm_env(arm: Arm) -> dict[str, Value]:
    own = {"model.id": arm.id, "model.name": arm.model, "model.upstream": arm.upstream}
    known: dict[str, Value] = {f"model.{name}": value for name, value in arm.facts.items()}
    return known | {name: value for name, value in own.items() if value}
