"""The classic scenarios, seen from outside: headers of the answers, the decisions, the events.

The real process in front of simulated models, whose true quality leaves them only in the text of their answers. Only
the counts and times for which a production policy waits are shortened. Nothing depends on how fast the machine is:
each step is awaited, and what is asserted are orders, shares and sums.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.app import App, Call, mean
from tests.e2e.process import Provider, Sidecar

BIG, SMALL = "gpt-4o", "gpt-4o-mini"  # with the list prices of these names, 17 to 1
MODEL = {"ttft": 0.005, "output_tokens": 24}
STAY = {"steps": [5, 100], "min_requests": 1_000_000}  # the arm stays at its first step


@dataclass(frozen=True, slots=True)
class Scene:
    """A provider, a sidecar and an app; what a person sees of them."""

    provider: Provider
    sidecar: Sidecar
    app: App

    async def events(self, prefix: str) -> list[dict[str, Any]]:
        """Oldest first."""
        told = await asyncio.to_thread(self.sidecar.admin, "GET", "/api/v1/events?last=200")
        return [one for one in reversed(told) if one["kind"].startswith(prefix)]

    async def event(self, kind: str) -> dict[str, Any]:
        """The first event of this kind, as soon as there is one."""
        for _ in range(800):
            if found := await self.events(kind):
                return found[0]
            await asyncio.sleep(0.05)
        raise AssertionError(f"no {kind}; last calls {self.app.counts(-200)}; {await self.events('')}")

    async def decisions(self) -> list[dict[str, Any]]:
        """`llm-sidecar decisions --json`, oldest first, after the sidecar's end."""
        return list(reversed(await asyncio.to_thread(self.sidecar.decisions)))


@contextlib.asynccontextmanager
async def scene(folder: Path, app: dict[str, Any], **route: Any) -> AsyncIterator[Scene]:
    """The app is asking while the block runs; then the sidecar has to end with status 0."""
    knobs = [f"{name}:{key}={value}" for name in (BIG, SMALL) for key, value in MODEL.items()]
    with Provider(folder, *knobs) as provider:
        (folder / "policies").mkdir()
        text = yaml.safe_dump(policy(provider.url, **route))
        (folder / "policies" / "policy.yaml").write_text(text, encoding="utf-8")
        with Sidecar(folder, provider.url, policies=folder / "policies", drain_idle="100ms") as sidecar:
            made = Scene(provider, sidecar, App(sidecar, **app))
            async with made.app.asking():
                yield made
            assert await asyncio.to_thread(sidecar.stop) == 0, sidecar.output()[-4000:]


def policy(provider_url: str, **route: Any) -> dict[str, Any]:
    made = {
        "name": "chat",
        "match": {"models": [BIG]},
        "mode": "optimize",
        "baseline": {"id": "big", "upstream": "sim", "model": BIG},
        "arms": [{"id": "small", "upstream": "sim", "model": SMALL}],
        "sticky": "session",
    }
    upstream = {"dialect": "openai", "base_url": f"{provider_url}/v1", "provider": "openai"}
    return {"version": 1, "service": "bot", "upstreams": {"sim": upstream}, "routes": [made | route]}


async def test_latency_spike_to_the_faster_model_and_back(tmp_path: Path) -> None:
    """First tokens of the serving model become slow: every call goes to the faster model until they are fast again."""
    limit = {"name": "slow", "metric": "ttft_p95", "above": "400ms", "window": "2s", "min_samples": 10}
    limits = [limit | {"severity": "high", "arm": "small"}]
    async with scene(tmp_path, {"stream": True, "connections": 12}, rollout=STAY, thresholds=limits) as on:
        calm = await on.app.more(60)
        assert {one.reason for one in calm} <= {"baseline", "canary"}
        on.provider.set_faults({"kind": "slow", "extra_s": 0.8, "models": [BIG]})
        assert (await on.event("threshold.breached"))["detail"]["threshold"] == "slow"
        await on.app.until("100 diverted calls", lambda: len(diverted(on.app)) >= 100)
        on.provider.set_faults()
        await on.event("threshold.recovered")
        begun = len(on.app.calls) + on.app.connections  # these are under way
        await on.app.more(on.app.connections + 60)
        back = on.app.calls[begun:]
        assert {one.reason for one in back} <= {"baseline", "canary"}, on.app.counts(begun)
        assert on.app.models(begun)[BIG] > len(back) / 2
        kinds = [one["kind"].removeprefix("threshold.") for one in await on.events("threshold.")]
        assert (kinds[0], kinds[-1]) == ("breached", "recovered")
        assert set(kinds[1:-1]) <= {"probing", "probe_failed"}
        assert {one.model for one in diverted(on.app)} == {SMALL}
        assert {one.status for one in on.app.calls} == {200}
    rows = await on.decisions()
    assert {row["arm"] for row in rows if row["reason"] == "threshold"} == {"small"}
    assert len(rows) == len(on.app.calls)


def diverted(app: App) -> list[Call]:
    return [one for one in app.calls if one.reason == "threshold"]


async def test_cost_overrun_to_the_cheaper_model(tmp_path: Path) -> None:
    """The serving model begins to write long answers: the cheaper one serves, and a call costs what it did before."""
    limit = {"name": "dear", "metric": "cost_per_request", "above": "0.001", "window": "5s", "min_samples": 20}
    limits = [limit | {"severity": "high", "arm": "small"}]
    async with scene(tmp_path, {"max_tokens": 512}, rollout=STAY, thresholds=limits) as on:
        await on.app.more(60)
        assert not await on.events("threshold.")
        on.provider.set_models(**{BIG: MODEL | {"output_tokens": 300}, SMALL: MODEL | {"output_tokens": 300}})
        event = await on.event("threshold.breached")
        assert (event["detail"]["metric"], event["detail"]["limit"]) == ("cost_per_request", 1_000_000)
        await on.app.until("100 diverted calls", lambda: len(diverted(on.app)) >= 100)
    costs: dict[str, list[int]] = {}
    for row in await on.decisions():
        costs.setdefault(f"{row['reason']} {row['output_tokens']}", []).append(row["cost_nusd"])
    assert min(costs["baseline 300"]) > 3_000_000 > 1_000_000 > max(costs["baseline 24"])
    assert max(costs["threshold 300"]) < 250_000


@pytest.mark.parametrize(
    "ceiling", [{"monthly_usd": 0.02}, {"window_usd": 0.02, "window": "1h"}], ids=["month", "hour"]
)
async def test_a_ceiling_first_takes_the_cheaper_model_then_nothing(tmp_path: Path, ceiling: dict[str, Any]) -> None:
    """The money is used up: the baseline, then the cheapest arm, then refusals; not a nano-dollar is too much."""
    async with scene(tmp_path, {"connections": 1}, rollout=STAY, budget=ceiling) as on:
        await on.app.until("20 refusals", lambda: sum(one.status == 429 for one in on.app.calls) >= 20)
        calls = list(on.app.calls)
    reasons = [one.reason for one in calls if one.reason != "canary"]
    served = [one for one in calls if one.status == 200]
    cheap, none = next(at for at, one in enumerate(calls) if one.reason == "budget"), len(served)
    assert [one.status for one in calls] == [200] * none + [429] * (len(calls) - none)
    assert {one.model for one in calls[cheap:none]} == {SMALL}
    assert none - cheap >= 10
    assert reasons[:20] == ["baseline"] * 20
    rows = await on.decisions()
    spent = [row["cost_nusd"] for row in rows if row["cost_nusd"] is not None]
    assert len(spent) == len(served)
    assert 0.9 * 20_000_000 < sum(spent) <= 20_000_000


async def test_quality_drop_of_a_canary_is_rolled_back(tmp_path: Path) -> None:
    """Users' scores of a canary fall: it is out for good, and the event names quality. Nothing else tells it."""
    rollout = STAY | {"steps": [50, 100], "guardrails": {"error_rate": "1.5x", "quality": "-5%"}}
    async with scene(tmp_path, {"scored": 1.0}, mode="canary", rollout=rollout) as on:
        good = await on.app.more(120)
        assert {one.model for one in good} == {BIG, SMALL}
        assert not await on.events("rollout.rolled_back")
        on.provider.set_faults({"kind": "wrong", "rate": 0.7, "models": [SMALL]})
        event = await on.event("rollout.rolled_back")
        assert event["arm"] == "small"
        assert "quality" in event["message"]
        after = len(on.app.calls) + on.app.connections  # these are under way
        await on.app.more(on.app.connections + 80)
        assert on.app.models(after) == {BIG: len(on.app.calls) - after}
    rows = await on.decisions()
    assert {row["outcome"] for row in rows} == {"completed"}
    assert {row["model"] for row in rows[-50:]} == {BIG}


async def test_an_identical_canary_is_promoted(tmp_path: Path) -> None:
    """An arm that is as good as the baseline goes up all steps and becomes the stable arm; nothing rolls it back.

    `false_rollback` is the smallest that a policy may state: by its meaning this test fails in at most one of 10,000
    runs. Each step's share is a hash of the session, so the number of canary calls among n is binomial; a deviation
    beyond 5 standard deviations has a probability below 1e-6.
    """
    rollout = {
        "steps": [10, 25, 50, 100], "min_requests": 40, "interval": "300ms", "false_rollback": 0.0001,
        "guardrails": {"error_rate": "1.5x", "ttft_p95": "1.5x", "cost": "1.2x", "quality": "-5%"},
    }  # fmt: skip
    knobs = MODEL | {"quality": 0.95}
    quality = {"validators": ["empty", "finish_reason"], "min_samples": 40}
    app = {"scored": 1.0, "stream": True}
    async with scene(tmp_path, app, mode="canary", rollout=rollout, quality=quality) as on:
        on.provider.set_models(**{BIG: knobs, SMALL: knobs})
        await on.event("rollout.promoted")
        after = len(on.app.calls) + on.app.connections  # these are under way
        await on.app.more(on.app.connections + 60)
        assert on.app.models(after) == {SMALL: len(on.app.calls) - after}
        told = [(one["kind"], one["detail"]["step"]) for one in await on.events("rollout.")]
    names = ("rollout.started", "rollout.step", "rollout.step", "rollout.promoted")
    assert told == list(zip(names, (10, 25, 50, 100), strict=True))
    compared = [row for row in await on.decisions() if row["rollout_step"] is not None]
    for step in (10, 25, 50):
        canary = [row["reason"] == "canary" for row in compared if row["rollout_step"] == step]
        share, n = step / 100, len(canary)
        assert sum(canary) >= 40
        assert abs(sum(canary) - share * n) <= 5 * (share * (1 - share) * n) ** 0.5, (step, sum(canary), n)


LEARN = {"steps": [50, 100], "min_requests": 30, "interval": "100ms", "guardrails": {"error_rate": "1.5x"}}
SOME = {"validators": ["empty", "finish_reason"], "min_samples": 30}


async def test_optimize_saves_and_keeps_the_quality(tmp_path: Path) -> None:
    """Two models that are equally good, one at a seventeenth of the price, a fifth of the answers scored.

    The cheap one takes most calls, at less than half of the baseline's price. The quality that the users got over all
    calls is within 5 % of the baseline's: the truth of both is 0.95, the standard deviation of 1,000 answers is 0.007,
    and the bound is 6 of them below.
    """
    async with scene(tmp_path, {"scored": 0.2}, rollout=LEARN, quality=SOME) as on:
        on.provider.set_models(**dict.fromkeys((BIG, SMALL), MODEL | {"quality": 0.95}))
        await on.event("rollout.promoted")
        await on.app.more(300)
        await on.app.until("most calls on the cheap one", lambda: on.app.models(-300)[SMALL] > 200)
        last = await on.app.more(400)
        assert {one.reason for one in last} == {"sampled"}
        assert mean([one.model == SMALL for one in last]) > 0.5
        await on.app.until("1,000 calls", lambda: len(on.app.calls) >= 1000)
    assert quality_of(on.app.calls) >= 0.95 * 0.95
    rows = await on.decisions()
    assert mean_cost(rows[-400:]) < 0.5 * mean_cost([row for row in rows if row["arm"] == "big"])


async def test_optimize_learns_what_each_model_is_good_at(tmp_path: Path) -> None:
    """The cheap model is as good at sums and bad at proofs: sums go to it, proofs much less.

    A mix that does not look at the task could give it at most 16 % of the calls inside a quality loss of 5 %: it would
    lose 0.3 of quality on the average call. The quality over all calls keeps the promise; 0.03 are 4 standard
    deviations of 1,600 answers.
    """
    app = {"scored": 0.4, "tasks": ("sums", "proofs")}
    goal = {"minimize": "cost", "max_quality_loss": 0.05}
    async with scene(tmp_path, app, rollout=LEARN, quality=SOME, objective=goal) as on:
        skills = {"sums": 0.95, "proofs": 0.35}
        on.provider.set_models(**{BIG: MODEL | {"quality": 0.95}, SMALL: MODEL | {"skills": skills}})
        await on.event("rollout.promoted")
        await on.app.more(300)
        await on.app.until("sums on the cheap one", lambda: on_small(on.app.calls[-400:], "sums") > 0.8)
        last = await on.app.more(400)
        assert on_small(last, "sums") > 0.5
        assert on_small(last, "sums") - on_small(last, "proofs") > 0.3
        await on.app.until("1,600 calls", lambda: len(on.app.calls) >= 1600)
    promoted = [one for one in on.app.calls if one.reason == "sampled"]
    assert quality_of(promoted) >= 0.95 * 0.95 - 0.03
    assert {row["context"]["task"] for row in await on.decisions()} == {"sums", "proofs"}


async def test_a_ceiling_on_the_average_call_holds(tmp_path: Path) -> None:
    """The average call may cost a third of what the better model costs: it serves as far as the cheap one leaves money.

    While the cheap one is in its rollout and must not have more than its step, the baseline spends more than that.
    It is paid back when the rollout is over; from then on the mean over all calls stays below the ceiling, but for
    2 % and what the calls under way may cost.
    """
    most, dear = 100_000, 330_000  # nano-dollars; the cheap model's call costs 20,000
    ceiling = {"mean_request_usd": most / 1e9}
    async with scene(tmp_path, {"scored": 0.5}, rollout=LEARN, quality=SOME, budget=ceiling) as on:
        on.provider.set_models(**{BIG: MODEL | {"quality": 0.95}, SMALL: MODEL | {"quality": 0.6}})
        await on.event("rollout.promoted")
        enough = 3 * len(on.app.calls) + 400
        await on.app.until(f"{enough} calls", lambda: len(on.app.calls) >= enough)
    rows = await on.decisions()
    spent = list(itertools.accumulate(row["cost_nusd"] for row in rows))
    begun = next(at for at, row in enumerate(rows) if row["reason"] == "sampled")
    back = next(at for at in range(begun, len(rows)) if spent[at] <= most * (at + 1))
    over = [at for at in range(back, len(rows)) if spent[at] > 1.02 * most * (at + 1) + on.app.connections * dear]
    assert over == []
    assert [row["arm"] for row in rows[back:]].count("big") > 0.03 * (len(rows) - back)


@pytest.mark.parametrize(
    ("goal", "model"),
    [({"ttft": "400ms"}, BIG), ({"ttft": "400ms", "late_usd": 0.0001}, SMALL)],
    ids=["limit", "price"],
)
async def test_what_late_answers_cost(tmp_path: Path, goal: dict[str, Any], model: str) -> None:
    """The cheap model's first tokens are too late: it is out, unless being late costs less than it saves (0.0003)."""
    app = {"scored": 0.4, "stream": True, "connections": 40, "pause_s": 0.2}
    async with scene(tmp_path, app, rollout=LEARN, quality=SOME, objective=goal) as on:
        on.provider.set_models(**{SMALL: MODEL | {"ttft": 0.6}})
        await on.event("rollout.promoted")
        await on.app.until(f"calls on {model}", lambda: on.app.models(-100)[model] > 90)
        last = await on.app.more(100)
    assert mean([one.model == model for one in last]) > 0.5


def on_small(calls: list[Call], task: str) -> float:
    return mean([one.model == SMALL for one in calls if one.task == task])


def quality_of(calls: list[Call]) -> float:
    return mean([one.quality for one in calls if one.quality is not None])


def mean_cost(rows: list[dict[str, Any]]) -> float:
    return mean([row["cost_nusd"] for row in rows])
