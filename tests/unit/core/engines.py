"""A policy of two and three arms, facts and outcomes: what the tests of the engine begin with."""

from dataclasses import replace

import numpy as np

from sidecar.core.engine import Engine
from sidecar.core.policy import (
    Arm,
    FlatPrice,
    Match,
    Policy,
    Quality,
    RolloutSpec,
    Route,
    Rule,
    Upstream,
)
from sidecar.core.rules import parse
from sidecar.core.types import Clocks, Decision, Event, Facts, Outcome, Usage

NOW = 20_000 * 86_400.0
PRICE = FlatPrice(2_000_000, 8_000_000)
UPSTREAMS = {
    "openai": Upstream("openai", "openai", "https", "o", 443, price=PRICE),
    "cheap": Upstream("cheap", "openai", "https", "c", 443, price=FlatPrice(200_000, 800_000)),
    "claude": Upstream("claude", "anthropic", "https", "a", 443),
}
BASE = Arm("gpt-4o", "openai", "gpt-4o", facts={"region": "US"})
MINI = Arm("mini", "cheap", "gpt-4o-mini", params=(("temperature", b"0.3"),), facts={"region": "EU"})
NANO = Arm("nano", "openai", "gpt-nano")
HAIKU = Arm("haiku", "claude", "claude-haiku")
SPEC = RolloutSpec(min_requests=5, interval_s=10.0)
ROUTE = Route(
    "support",
    Match(models=("gpt-4o", "auto", "gpt-nano")),
    "canary",
    BASE,
    (MINI,),
    virtual=("auto",),
    rollout=SPEC,
    quality=Quality(("finish_reason", "empty"), min_samples=0),
)


def policy(route: Route = ROUTE, *rules: Rule, **changes: object) -> Policy:
    return Policy("bot", "v1", UPSTREAMS, (replace(route, **changes),), rules)  # type: ignore[arg-type]  # one test's


def rule(when: str, action: str = "deny") -> Rule:
    return Rule("r1", parse(when), when, action, "")  # type: ignore[arg-type]  # one of the three actions


def engine(made: Policy, seed: int = 1) -> Engine:
    """An engine whose first tick has told the events of its start."""
    ready = Engine(made, np.random.default_rng(seed), NOW)
    ready.tick(NOW)
    return ready


def facts(key: int = 1, **fields: object) -> Facts:
    known: dict[str, object] = {
        "endpoint": "chat",
        "dialect": "openai",
        "path": "/v1/chat/completions",
        "model": "gpt-4o",
        "stream": True,
        "key": key,
        "key_source": "conversation" if key else "request",
        "draw": key * 2654435761 + 17,
        "input_bytes": 300,
        "max_tokens": 100,
    }
    return Facts(**{**known, **fields})  # type: ignore[arg-type]  # fields of one test


def outcome(kind: str = "completed", **fields: object) -> Outcome:
    known: dict[str, object] = {
        "kind": kind,
        "status": {"completed": 200, "failed": 500}.get(kind, 0),
        "clocks": Clocks(sent_s=0.001, ttft_s=0.3, duration_s=1.0),
        "stream": True,
        "finish": "stop" if kind == "completed" else None,
        "empty": False if kind == "completed" else None,
        "usage": Usage(input_tokens=100, output_tokens=50) if kind == "completed" else None,
        "cost_nusd": 600 if kind == "completed" else None,
    }
    return Outcome(**{**known, **fields})  # type: ignore[arg-type]  # fields of one test


def fall_back(made: Engine, asked: Facts, decision: Decision, trigger: str, now: float) -> Decision | None:
    """What is asked in the place of a call that failed, its arm blamed, as an exchange does it."""
    second = made.fallback(asked, decision, trigger)
    if second is not None:
        made.blame(asked, decision, trigger, now)
    return second


def kinds(events: list[Event]) -> list[str]:
    return [event.kind for event in events]


def promoted(made: Policy, seed: int = 1) -> Engine:
    """An engine whose arms have all been promoted by hand."""
    ready = engine(made, seed)
    for route in made.routes:
        for _ in route.arms:
            while any(one.phase == "running" for one in ready.status()[0].rollouts):
                ready.promote(route.name, NOW)
            ready.tick(NOW)
    return ready
