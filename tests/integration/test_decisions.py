"""What clients see of decisions: the real sidecar with real policy files in front of simulated providers.

Bounds are stated where they are used. Chance is in the keys only (a fixed list) wherever a session names the conversation,
so those tests give the same answer each time; where the process draws by itself, the bound is 5 standard deviations.
"""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from sidecar.clock import steady
from sidecar.sim.knobs import Distribution, Fault, SimulatedModel
from sidecar.store import queries
from tests.integration.canary import (
    NEW,
    OLD,
    STEPS,
    admin,
    optimizing,
    phase,
    route,
    rows_of,
    running,
    share,
    talking,
    to_step,
    written,
)
from tests.integration.conftest import Serve, Sim, Upstream, serving
from tests.integration.raw import Response, connected, post

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
    """DESIGN 2.5: as written, but for the two origins and the key's path; both SDK dialects are served through it."""
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


@pytest.mark.parametrize("mode", ["observe", "shadow", "ab"])
async def test_observing_changes_nothing(sim: Sim, serve: Serve, tmp_path: Path, mode: str) -> None:
    provider = await sim(requests_kept=10)
    side = await running(provider, serve, tmp_path, mode=mode)
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
    folder = written(tmp_path / "p", route(provider.port))
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


async def test_a_body_that_was_not_read_goes_to_the_baseline(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """DESIGN 4: what cannot be rewritten must not be sent to an arm that wants another model name."""
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


# ---- by hand


async def test_verbs_by_the_admin_api(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """What a verb cannot do is a 409 that says what it could."""
    provider = await sim()
    token = tmp_path / "token"
    token.write_text("secret")
    folder = written(tmp_path / "p", route(provider.port))
    side = await serve(provider, policies=folder, admin_token_file=token, environ={"NEW_KEY": "k"})
    assert (await admin(side, "wrong", "pause"))[0] == 401
    status, body = await admin(side, "secret", "resume")
    assert status == 409
    assert "pause" in body["error"]["message"]
    assert (await admin(side, "secret", "promote"))[0] == 200
    assert phase(side) == ("running", 25)
    assert (await admin(side, "secret", "pause"))[0] == 200
    status, body = await admin(side, "secret", "pause")
    assert (status, phase(side)) == (409, ("paused", 25))
    assert "resume" in body["error"]["message"]
    assert (await admin(side, "secret", "resume"))[0] == 200
    assert (await admin(side, "secret", "rollback"))[0] == 200
    assert phase(side) == ("rolled_back", 0)
    assert (await admin(side, "secret", "rollback"))[0] == 409
    assert (await admin(side, "secret", "promote"))[0] == 409
    assert (await admin(side, "secret", "start", arm="nobody"))[0] == 409
    assert (await admin(side, "secret", "dance"))[0] == 422
    assert (await admin(side, "secret", "start", arm="new"))[0] == 200
    assert phase(side) == ("running", 5)


# ---- restart and reload


async def test_a_restart_keeps_step_evidence_and_conversations(sim: Sim, tmp_path: Path) -> None:
    """INC-34, GW-50: the second process goes on where the first was; so does one that began with a broken policy."""
    provider = await sim()
    folder = written(tmp_path / "p", route(provider.port, rollout=STEPS | {"min_requests": 100_000}))
    url, values = f"http://127.0.0.1:{provider.port}", {"policies": folder, "db": tmp_path / "side.db"}
    async with serving(url, {"NEW_KEY": "k"}, **values) as side:
        to_step(side, 25)
        async with talking(side) as app:
            before = await app.sessions(range(80))
        kept = side.app.engine.status()[0]
    async with serving(url, {"NEW_KEY": "k"}, **values) as side:
        now = side.app.engine.status()[0]
        assert phase(side) == ("running", 25)
        assert now.rollouts[0].canary_units == kept.rollouts[0].canary_units > 0
        assert [arm.exchanges for arm in now.arms] == [arm.exchanges for arm in kept.arms]
        async with talking(side) as app:
            again = [await app.session(n) for n in range(80)]
        assert {n: one.model for n, one in enumerate(again)} == before
        assert {one.reason for one in again} == {"sticky"}
        side.app.on_events(side.app.engine.rollback("chat", steady()))
    good = (folder / "policy.yaml").read_text()
    (folder / "policy.yaml").write_text("version: 1\nroutes: [{name: x}]\n")
    async with serving(url, {"NEW_KEY": "k"}, **values) as side:
        assert side.app.policies.error is not None
        (folder / "policy.yaml").write_text(good)
        async with asyncio.timeout(5):
            while not side.app.engine.status():  # noqa: ASYNC110 - the process has no event for it
                await asyncio.sleep(0.02)
        assert phase(side) == ("rolled_back", 0), "the policy was away for a moment, and the rollback is forgotten"


async def test_reload_keeps_a_rollout_and_a_changed_spec_begins_it_again(
    sim: Sim, serve: Serve, tmp_path: Path
) -> None:
    provider = await sim()
    side = await running(provider, serve, tmp_path)
    file = tmp_path / "policies" / "policy.yaml"

    async def reload(policy: dict[str, Any] | str) -> None:
        before, error = side.app.engine.policy.version, side.app.policies.error
        file.write_text(policy if isinstance(policy, str) else yaml.safe_dump(policy))
        async with asyncio.timeout(5):
            while side.app.engine.policy.version == before and side.app.policies.error == error:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    to_step(side, 25)
    async with talking(side) as app:
        before = await app.sessions(range(60))
        units = side.app.engine.status()[0].rollouts[0].canary_units
        await reload(route(provider.port, fallback={"arms": ["base"], "on": ["5xx"]}))
        assert phase(side) == ("running", 25)
        assert side.app.engine.status()[0].rollouts[0].canary_units == units > 0
        assert await app.sessions(range(60)) == before
        await reload("version: 1\nroutes: 3\n")
        assert side.app.policies.error is not None
        assert await app.sessions(range(60)) == before
        await reload(route(provider.port, rollout=STEPS | {"min_requests": 30}))
        assert side.app.policies.error is None
        assert phase(side) == ("running", 5)
        after = await app.sessions(range(60))
    assert {n for n, model in after.items() if model == NEW} < {n for n, model in before.items() if model == NEW}


# ---- optimize


async def test_money_follows_quality_and_feedback_overrules_it(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """The new arm costs a sixteenth: within 400 calls of equal quality it has most of the traffic. Then 40 scores of 0.1
    for it against 0.9 for the old one take it below a tenth within the same number of scores."""
    provider = await sim()
    side = await optimizing(provider, serve, tmp_path)
    async with talking(side) as app:
        said = [await app.ask(f"{n}") for n in range(400)]
        assert {one.reason for one in said} == {"sampled"}
        assert share(side) > 0.75
        for one in said[:80] + said[-40:]:
            score = 0.1 if one.model == NEW else 0.9
            body = orjson.dumps({"id": one.decision, "score": score})
            app.client.send(post("/_sidecar/v1/feedback", body))
            assert (await app.client.response()).status == 202
        await app.ask("one more")
    assert share(side) < 0.1


async def test_propensities_are_what_happens(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """Calibration: sum over calls of (took the new arm - logged probability of it) has variance sum p (1 - p), a
    martingale also while the shares move; 5 standard deviations over 1,000 calls."""
    provider = await sim()
    side = await optimizing(provider, serve, tmp_path)
    rows = rows_of(side)
    async with talking(side) as app:
        for n in range(1000):
            await app.ask(f"{n}")
    excess = spread = 0.0
    for one in rows:
        assert 0.0 < one.decision.propensity <= 1.0
        p = one.decision.propensity if one.decision.arm == "new" else 1 - one.decision.propensity
        excess += (one.decision.arm == "new") - p
        spread += p * (1 - p)
    assert len(rows) == 1000
    assert abs(excess) <= 5 * max(spread, 1.0) ** 0.5


async def test_params_of_an_arm_are_set_and_nothing_else_changes(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    provider = await sim(requests_kept=100)
    arm = {"id": "new", "upstream": "two", "model": NEW, "params": {"temperature": 0.3, "seed": None}}
    side = await running(provider, serve, tmp_path, arms=[arm])
    to_step(side, 50)
    async with talking(side) as app:
        said = [await app.session(n, user="u", temperature=1) for n in range(20)]
    bodies = [orjson.loads(one.body) for one in provider.requests]
    assert len(bodies) == 20
    for one, body in zip(said, bodies, strict=True):
        asked = {"model": one.model, "messages": [{"role": "user", "content": "1+1?"}], "user": "u", "temperature": 1}
        assert body == (asked | {"temperature": 0.3, "seed": None} if one.model == NEW else asked)


# ---- feedback as evidence


async def test_labels_of_one_template_are_labels_of_many_requests(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """A service that sends one text again and again is split by request, so each of its scores is evidence of its own."""
    provider = await sim()
    quality = {"validators": ["empty"], "min_samples": 50}
    side = await running(provider, serve, tmp_path, quality=quality)
    to_step(side, 50)
    async with talking(side) as app:
        for _ in range(620):
            one = await app.ask("the same text each time")
            app.client.send(post("/_sidecar/v1/feedback", orjson.dumps({"id": one.decision, "score": 0.8})))
            await app.client.response()
    blocked = side.app.engine.status()[0].rollouts[0].blocked_by
    assert not any("no quality evidence: 0 " in text or "no quality evidence: 1 " in text for text in blocked), blocked


async def test_events_of_the_first_rollout_are_stored(sim: Sim, tmp_path: Path) -> None:
    """The rollout that begins with the process is told like any other."""
    provider = await sim()
    folder = written(tmp_path / "p", route(provider.port))
    db = tmp_path / "side.db"
    async with serving(f"http://127.0.0.1:{provider.port}", {"NEW_KEY": "k"}, policies=folder, db=db) as side:
        async with talking(side) as app:
            await app.session(1)
        await asyncio.sleep(1.2)
    assert "rollout.started" in {event["kind"] for event in queries.events(db)}
