"""What clients see of decisions: the real sidecar with real policy files in front of simulated providers.

Bounds are stated where they are used. Chance is in the keys only (a fixed list) wherever a session names the conversation,
so those tests give the same answer each time; where the process draws by itself, the bound is 5 standard deviations.
"""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.clock import steady
from sidecar.sim.knobs import Distribution, Fault, SimulatedModel
from tests.integration.canary import (
    NEW,
    OLD,
    STEPS,
    phase,
    route,
    rows_of,
    running,
    talking,
    to_step,
    written,
)
from tests.integration.conftest import Running, Serve, Sim, Upstream, serving
from tests.integration.raw import Client, Response, call, connected, post, until

EXAMPLE = """
version: 1
service: customer-support-bot
upstreams:
  openai:  {dialect: openai, base_url: "https://api.openai.com/v1", api_key: {from: client}}
  claude:  {dialect: anthropic, base_url: "https://api.anthropic.com", api_key: {file: /var/run/secrets/anthropic}}
routes:
  - name: support
    match: {models: ["gpt-4o", "auto"]}
    virtual: ["auto"]
    mode: optimize
    baseline: {id: gpt-4o, upstream: openai, model: gpt-4o}
    arms:
      - {id: mini, upstream: openai, model: gpt-4o-mini}
      - {id: haiku, upstream: claude, model: claude-haiku-4-5, params: {temperature: 0.3}}
    objective: {minimize: cost, max_quality_loss: 0.05, weights: {quality: 0.6, cost: 0.3, latency: 0.1}}
    sticky: conversation
    rollout: {strategy: canary, steps: [5, 25, 50, 100], min_requests: 200, interval: 15m, max_wait: 24h,
              false_rollback: 0.02, on_inconclusive: wait,
              promote: {require: no_harm},
              guardrails: {error_rate: 1.5x, ttft_p95: 1.2x, cost: 1.2x, quality: -5%}}
    fallback: {arms: [gpt-4o], on: [connect, 429, 5xx], max: 1}
    budget: {per_request_usd: 0.10, daily_usd: 1000, monthly_usd: 20000, on_exceeded: cheapest}
    quality: {validators: [json_schema, tool_arguments, finish_reason, refusal, empty], judge: null, feedback: true,
              min_samples: 200}
    thresholds:
      - {name: fast-response, metric: ttft_p95, above: 2s, window: 5m, severity: high, action: route_to, arm: mini}
replicas: 1
rules:
  - {id: cost-daily-limit, when: "daily_cost > 1000", action: deny, message: "Daily budget exceeded"}
  - {id: gdpr, when: "user.region == 'EU' && model.region != 'EU'", action: deny,
     message: "EU users must use EU-hosted models"}
"""


# ---- the example of the manual


async def test_the_example_policy_runs_as_written(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """As written, but for the two origins and the key's path; both SDK dialects are served through it."""
    provider = await sim()
    key = tmp_path / "anthropic"
    key.write_text("sk-ours\n")
    text = EXAMPLE.replace("https://api.openai.com/v1", f"http://127.0.0.1:{provider.port}/v1")
    text = text.replace("https://api.anthropic.com", f"http://127.0.0.1:{provider.port}")
    text = text.replace("/var/run/secrets/anthropic", str(key))
    side = await serve(provider, policies=written(tmp_path / "p", text), service="customer-support-bot")
    assert side.app.policies.error is None
    async with talking(side) as app:
        us = b"x-sidecar-tags: region=US"
        assert {(await app.session(n, model="auto")).status for n in range(3)} == {
            403
        }  # region unknown: rules fail closed
        said = [await app.ask(f"{n}+1?", us, model="auto", stream=bool(n % 2)) for n in range(60)]
    assert {one.status for one in said} == {200}
    assert {one.model for one in said} <= {"gpt-4o", "gpt-4o-mini"}, "the Anthropic arm cannot answer an OpenAI call"
    assert {one.reason for one in said} <= {"baseline", "canary"}


async def test_observing_changes_nothing(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    provider = await sim(requests_kept=10)
    side = await running(provider, serve, tmp_path, mode="observe")
    async with talking(side) as app:
        said = [await app.session(n) for n in range(5)]
    assert {(one.status, one.reason, one.served) for one in said} == {(200, "passthrough", f"one/{OLD}")}
    assert {orjson.loads(one.body)["model"] for one in provider.requests} == {OLD}


async def test_virtual_names_and_off(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """x-sidecar-off skips the selection; a virtual name goes to the baseline then, a real one stays as asked."""
    provider = await sim()
    side = await running(provider, serve, tmp_path)
    to_step(side, 50)
    async with talking(side) as app:
        off = [await app.ask(f"{n}", b"x-sidecar-off: 1", model=("auto", OLD)[n % 2]) for n in range(20)]
        on = [await app.session(n, model="auto") for n in range(20)]
    assert {(one.status, one.model) for one in off} == {(200, OLD)}
    assert {one.reason for one in off} == {"baseline", "passthrough"}
    assert {one.model for one in on} == {OLD, NEW}
    assert {one.status for one in on} == {200}


# ---- who is in


async def test_shares_are_exact_monotone_and_equal_in_every_process(sim: Sim, tmp_path: Path) -> None:
    """GW-54, INC-36: 1,200 sessions. At share p the count lies within 4.5 sqrt(1200 p (1-p)) of 1200 p (the keys are
    fixed, the hash behaves like a binomial draw: 7e-6 for a wrong alarm of a good hash). A session in at 5 % is in at
    25 % and 50 %; a second process with the same policy, which never saw the first, agrees on every one."""
    provider = await sim()
    folder = written(tmp_path / "p", route(provider.port, rollout=STEPS | {"min_requests": 100_000}))
    count = range(1200)
    seen: list[list[set[int]]] = []
    for _ in range(2):
        per_step = []
        for step in (5, 25, 50):
            async with serving(f"http://127.0.0.1:{provider.port}", {"NEW_KEY": "k"}, policies=folder) as side:
                to_step(side, step)
                async with talking(side) as app:
                    models = await app.sessions(count)
            inside = {name for name, model in models.items() if model == NEW}
            share = step / 100
            assert abs(len(inside) - 1200 * share) <= 4.5 * (1200 * share * (1 - share)) ** 0.5
            per_step.append(inside)
        assert per_step[0] <= per_step[1] <= per_step[2]
        seen.append(per_step)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("step", [5, 25, 50])
async def test_the_share_of_single_requests(sim: Sim, serve: Serve, tmp_path: Path, step: int) -> None:
    """GW-54: sticky request: the process draws. 800 requests, 5 standard deviations."""
    provider = await sim()
    side = await running(provider, serve, tmp_path, sticky="request", rollout=STEPS | {"min_requests": 100_000})
    to_step(side, step)
    async with talking(side) as app:
        said = [await app.ask("the same text each time") for _ in range(800)]
    share = step / 100
    assert abs(sum(one.model == NEW for one in said) - 800 * share) <= 5 * (800 * share * (1 - share)) ** 0.5
    assert {one.reason for one in said} == {"canary", "baseline"}


async def test_a_step_moves_new_conversations_only_and_rollback_all_at_once(
    sim: Sim, serve: Serve, tmp_path: Path
) -> None:
    """GW-53: who began on the old model stays on it through every step; who is on the new one is back by the very next
    request after the rollback."""
    provider = await sim()
    side = await running(provider, serve, tmp_path)
    async with talking(side) as app:
        at_5 = await app.sessions(range(200))
        to_step(side, 50)
        again = [await app.session(name) for name in range(200)]
        assert {name: one.model for name, one in enumerate(again)} == at_5
        assert {one.reason for one in again} == {"sticky"}
        fresh = await app.sessions(range(200, 300))
        assert sum(model == NEW for model in fresh.values()) > 25
        side.app.on_events(side.app.engine.rollback("chat", steady()))
        after = [await app.session(name) for name in range(300)]
    assert {one.model for one in after} == {OLD}


async def test_a_conversation_without_a_header_keeps_its_arm(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """GW-53: the key comes from system text and first user message; later turns of it stay."""
    provider = await sim()
    side = await running(provider, serve, tmp_path)
    to_step(side, 50)
    async with talking(side) as app:
        for n in range(30):
            first = await app.ask(f"question {n}")
            history = [
                {"role": "user", "content": f"question {n}"},
                {"role": "assistant", "content": "well"},
                {"role": "user", "content": "and now?"},
            ]
            later = await app.ask(messages=history)
            assert (later.reason, later.model) == ("sticky", first.model)


async def test_state_at_an_arm_pins_the_next_turn_to_it(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """A response that one upstream keeps can be continued only there, whatever the hash says of the new call."""
    provider, other = await sim(), await sim()
    side = await running(provider, serve, tmp_path, new_port=other.port)
    to_step(side, 50)
    async with connected(side.port) as client:

        async def turn(**body: Any) -> Response:
            client.send(post("/v1/responses", orjson.dumps({"model": OLD, **body}), b"Authorization: Bearer k"))
            return await client.response()

        moved = 0
        for n in range(12):
            first = await turn(input=f"question {n}")
            served = first.value(b"x-sidecar-model")
            moved += served == b"two/gpt-4o-mini"
            later = await turn(input="and now?", previous_response_id=orjson.loads(first.body)["id"])
            assert later.value(b"x-sidecar-model") == served
            assert later.value(b"x-sidecar-reason") == b"pinned"
    assert moved


async def test_state_at_an_arm_outlives_the_process(sim: Sim, tmp_path: Path) -> None:
    """One that is started again finds in its database which arm holds a response, and whose conversation that is."""
    provider, other = await sim(), await sim()
    url = f"http://127.0.0.1:{provider.port}"
    folder = written(tmp_path / "policies", route(provider.port, new_port=other.port))

    async def turn(client: Client, **body: Any) -> tuple[str, bytes | None, bytes | None]:
        client.send(post("/v1/responses", orjson.dumps({"model": OLD, **body}), b"Authorization: Bearer k"))
        found = await client.response()
        return orjson.loads(found.body)["id"], found.value(b"x-sidecar-model"), found.value(b"x-sidecar-reason")

    async with serving(url, {"NEW_KEY": "k"}, policies=folder, db=tmp_path / "s.db") as side:
        to_step(side, 50)
        async with connected(side.port) as client:
            first = [await turn(client, input=f"question {n}") for n in range(12)]
        known = dict(side.app.plane.kept)
    assert len({served for _, served, _ in first}) == 2
    async with serving(url, {"NEW_KEY": "k"}, policies=folder, db=tmp_path / "s.db") as side:
        assert side.app.plane.kept == known
        async with connected(side.port) as client:
            for name, served, _ in first:
                assert (await turn(client, input="and now?", previous_response_id=name))[1:] == (served, b"pinned")


async def test_state_at_an_arm_is_known_to_who_takes_over(sim: Sim, tmp_path: Path) -> None:
    """One that began while another process wrote the database finds what that did until its end."""
    provider = await sim()
    url = f"http://127.0.0.1:{provider.port}"
    folder = written(tmp_path / "policies", route(provider.port))
    body = orjson.dumps({"model": OLD, "input": "question"})
    async with AsyncExitStack() as later:
        async with serving(url, {"NEW_KEY": "k"}, policies=folder, db=tmp_path / "s.db") as first:
            opened = serving(url, {"NEW_KEY": "k"}, policies=folder, db=tmp_path / "s.db")
            side = await later.enter_async_context(opened)
            await call(first.port, post("/v1/responses", body, b"Authorization: Bearer k"))
            known = dict(first.app.plane.kept)
        assert len(known) == 1
        assert await until(lambda: side.app.plane.kept == known)


async def test_a_body_that_was_not_read_goes_to_the_baseline(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """What cannot be rewritten must not be sent to an arm that wants another model name."""
    provider = await sim()
    side = await running(provider, serve, tmp_path, match={}, sticky="request")
    to_step(side, 50)
    body = orjson.dumps({"messages": [{"role": "user", "content": "no model"}]})
    async with connected(side.port) as client:
        for _ in range(40):
            client.send(post("/v1/chat/completions", body, b"Authorization: Bearer k"))
            got = await client.response()
            assert (got.value(b"x-sidecar-model") or b"").startswith(b"one/")
            assert got.value(b"x-sidecar-reason") == b"passthrough"


# ---- out on evidence

BAD: dict[str, tuple[Fault | None, SimulatedModel | None, dict[str, str]]] = {
    "500": (Fault("status", status=500, models=(NEW,)), None, {"error_rate": "1.5x"}),
    "404 of a wrong name": (Fault("status", status=404, models=(NEW,)), None, {}),
    "400 for all": (Fault("status", status=400, models=(NEW,)), None, {}),
    "garbage head": (Fault("garbage_head", models=(NEW,)), None, {}),
    "garbage body": (Fault("garbage_body", models=(NEW,)), None, {}),
    "reset": (Fault("reset_before", models=(NEW,)), None, {}),
    "truncated": (Fault("truncate", after_tokens=3, models=(NEW,)), None, {}),
    "error event": (Fault("error_event", after_tokens=3, models=(NEW,)), None, {}),
    "slow": (None, SimulatedModel(ttft=Distribution(0.03)), {"ttft_p95": "1.2x"}),
    "dear": (None, SimulatedModel(output_tokens=Distribution(2000)), {"cost": "1.2x"}),
}


@pytest.mark.parametrize("what", BAD)
async def test_a_bad_canary_is_taken_out(sim: Sim, serve: Serve, tmp_path: Path, what: str) -> None:
    """At a step of 25 % with alpha = 0.02 over at most 3 guardrails, a canary that always does harm pays a bet of ratio
    6 about log(150 / 0.19) / log(6 / 2.25) = 6.8 harms; numbers wait for 20 values of the control and share the wealth
    between two cuts. 160 streamed sessions (40 of the canary) are more than twice of that."""
    fault, model, guardrails = BAD[what]
    provider = await sim()
    if fault is not None:
        provider.set_faults((fault,))
    if model is not None:
        provider.set_model(NEW, model)
    rollout = STEPS | {"min_requests": 10_000, "guardrails": guardrails}
    side = await running(provider, serve, tmp_path, rollout=rollout)
    to_step(side, 25)
    canaries = 0
    for n in range(160):
        async with talking(side) as app:
            said = await app.session(n, stream=True)
        canaries += said.reason == "canary"
        if phase(side)[0] == "rolled_back":
            break
    assert phase(side) == ("rolled_back", 0), side.app.engine.status()[0].rollouts[0]
    assert canaries <= 40


async def test_a_canary_behind_a_closed_port_is_taken_out(sim: Sim, upstream: Upstream, tmp_path: Path) -> None:
    """Connection refused: 502 for the few sessions that meet it (three to seven harms, see above), then the baseline."""
    provider = await sim()
    gone = await upstream([b""])
    port = gone.port
    await gone.close()
    folder = written(tmp_path / "p", route(provider.port, new_port=port))
    async with serving(f"http://127.0.0.1:{provider.port}", {"NEW_KEY": "k"}, policies=folder) as side:
        to_step(side, 25)
        async with talking(side) as app:
            said = [await app.session(n) for n in range(80)]
        assert phase(side)[0] == "rolled_back"
    assert Counter(one.status for one in said)[502] <= 12
    assert {one.status for one in said[-20:]} == {200}


async def test_a_canary_that_fails_at_later_turns_is_taken_out(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """A model that breaks on tool results or long histories answers every first turn. Sixty sessions have begun; then
    each second turn on the canary (15 sessions at 25 %, twice the evidence that is needed, see above) fails."""
    provider = await sim()
    side = await running(provider, serve, tmp_path, rollout=STEPS | {"min_requests": 10_000})
    to_step(side, 25)
    async with talking(side) as app:
        first = await app.sessions(range(60))
        provider.set_faults((Fault("status", status=500, models=(NEW,)),))
        later = [(await app.session(n)).status for n in range(60)]
    assert sum(model == NEW for model in first.values()) >= 10
    assert later.count(500) >= 1
    assert phase(side) == ("rolled_back", 0)


async def test_all_at_once_is_not_promoted_when_every_call_fails(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """blue_green has no concurrent control; thirty failures of thirty need none."""
    provider = await sim()
    provider.set_faults((Fault("status", status=500, models=(NEW,)),))
    rollout = {"strategy": "blue_green", "min_requests": 5, "interval": "1ms"}
    side = await running(provider, serve, tmp_path, rollout=rollout)
    async with talking(side) as app:
        for n in range(30):
            await app.session(n)
            side.app.on_events(side.app.engine.tick(steady()))
        assert phase(side) == ("rolled_back", 0)
        assert (await app.session("after")).status == 200


async def impatient(side: Running, name: int | str, seconds: float) -> bool:
    """One streamed session whose client leaves after so long; whether it was answered."""
    async with talking(side) as app:
        try:
            async with asyncio.timeout(seconds):
                await app.session(name, stream=True)
        except TimeoutError:
            return False
    return True


async def test_a_canary_that_hangs_is_taken_out(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """R14: no guardrail is listed and no call of the canary ever ends by itself. At 25 % a harm multiplies the bet of
    ratio 100 by 3.9, so six harms reach 150; the twenty control answers that patience needs come with about seven."""
    provider = await sim()
    provider.set_faults((Fault("stall", after_tokens=0, models=(NEW,)),))
    side = await running(provider, serve, tmp_path, rollout=STEPS | {"min_requests": 10_000})
    to_step(side, 25)
    hung = 0
    for n in range(160):
        hung += not await impatient(side, n, 0.2)
        if phase(side)[0] == "rolled_back":
            break
    rolled_back = await until(lambda: phase(side) == ("rolled_back", 0))
    assert rolled_back, side.app.engine.status()[0].rollouts[0]
    assert hung <= 25
    assert "gave_up" in side.app.engine.status()[0].explanations[0]


async def test_a_canary_that_cannot_be_reached_is_taken_out(
    sim: Sim, serve: Serve, tmp_path: Path, blackhole: str
) -> None:
    """Packets to the canary are dropped, and clients leave before the connection's timer ends: nothing was ever sent,
    which costs nothing, and it is taken out all the same (bound as above)."""
    provider = await sim()
    changes = {"rollout": STEPS | {"min_requests": 10_000}, "budget": {"daily_usd": 1000}}
    folder = written(tmp_path / "p", route(provider.port, new_port=int(blackhole.rpartition(":")[2]), **changes))
    side = await serve(provider, policies=folder, environ={"NEW_KEY": "k"})
    rows = rows_of(side)
    to_step(side, 25)
    for n in range(160):
        await impatient(side, n, 0.2)
        if phase(side)[0] == "rolled_back":
            break
    rolled_back = await until(lambda: phase(side) == ("rolled_back", 0))
    assert rolled_back, side.app.engine.status()[0].rollouts[0]
    status = side.app.engine.status()[0]
    assert status.reserved_nusd == 0
    assert status.spent_day_nusd == sum(row.outcome.cost_nusd or 0 for row in rows)
    assert {row.outcome.clocks.sent_s for row in rows if row.outcome.kind == "aborted"} == {None}


async def test_a_promoted_arm_that_turns_bad_gives_way_to_the_old_one(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """R23: by hand to 100 %, good calls, then only failures: after the hold the baseline serves again, for good. Without
    breakers: those keep the calls away after five failures (test_overload.py), and the arm promoted for minutes."""
    provider = await sim()
    folder = written(tmp_path / "policies", route(provider.port))
    side = await serve(provider, policies=folder, environ={"NEW_KEY": "held"}, breaker=False)
    to_step(side, 100)
    async with talking(side) as app:
        assert {(await app.session(n)).model for n in range(30)} == {NEW}
        provider.set_faults((Fault("status", status=500, models=(NEW,)),))
        assert {(await app.session(100 + n)).status for n in range(30)} == {500}
        side.app.on_events(side.app.engine.tick(steady() + 3))
        assert phase(side) == ("rolled_back", 0)
        assert [((one := await app.session(n)).status, one.model) for n in (1, 999)] == [(200, OLD)] * 2


async def test_an_equal_canary_stays_and_is_promoted(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """A/A: the same model behind both arms goes through all steps; each needs 20 conversations and one tick. (Wrong
    rollback: at most alpha = 2 % for random traffic; here the keys are fixed.)"""
    provider = await sim(default=SimulatedModel(ttft=Distribution(0.002, "lognormal", 0.4)))
    guards = {"error_rate": "1.5x", "ttft_p95": "1.5x"}
    side = await running(provider, serve, tmp_path, rollout=STEPS | {"guardrails": guards})
    steps: list[tuple[str, int]] = []
    async with talking(side) as app:
        for n in range(1500):
            await app.session(n)
            if n % 10 == 0:
                side.app.on_events(side.app.engine.tick(steady()))
            if not steps or steps[-1] != phase(side):
                steps.append(phase(side))
            if phase(side)[0] == "promoted":
                break
    assert steps == [("running", 5), ("running", 25), ("running", 50), ("promoted", 100)]
    async with talking(side) as app:
        fresh = await app.session("new-one")
    assert (fresh.model, fresh.reason) == (NEW, "baseline")
