"""What the engine is told of a request's task and text, what of it is written down, and what seconds of a machine cost."""

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from sidecar.core.features import features
from sidecar.core.record import COLUMNS, row
from sidecar.core.types import Features, Settled
from sidecar.sim.knobs import Distribution, Fault, SimulatedModel
from tests.integration.canary import route, rows_of, running, talking, written
from tests.integration.conftest import Running, Serve, Sim
from tests.integration.raw import post

TEXT = "please add the numbers of this bill"


def same(found: Features | None, text: str, salt: int) -> bool:
    return found is not None and bool(np.array_equal(found, features(text, salt)))


async def ask(side: Running, body: dict[str, Any], *lines: bytes) -> Settled:
    """One call; what became of it."""
    rows = rows_of(side)
    async with talking(side) as app:
        app.client.send(post("/v1/chat/completions", orjson.dumps({"model": "gpt-4o"} | body), *lines))
        assert (await app.client.response()).status == 200
    return rows[-1]


def context_of(settled: Settled) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(str(dict(zip(COLUMNS, row(settled, "bot"), strict=True))["context"]))
    return found


async def test_task_and_text(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """The tag that the route names is the task; the last user message becomes keyed numbers; the row has no text."""
    provider = await sim()
    side = await running(
        provider, serve, tmp_path, mode="optimize", context={"tag": "kind", "text": True}, quality={"min_samples": 0}
    )
    salt = side.app.plane.keys.text_salt
    assert salt
    first = {"role": "user", "content": "hello"}
    turns = [first, {"role": "assistant", "content": "yes?"}, {"role": "user", "content": TEXT}]
    told = await ask(side, {"messages": turns}, b"x-sidecar-tags: kind=sums, task=other")
    assert told.facts.task == "sums"
    assert same(told.facts.text, TEXT, salt)
    assert not same(told.facts.text, TEXT, salt + 1)
    assert context_of(told)["task"] == "sums"
    assert "bill" not in str(row(told, "bot"))
    again = await ask(side, {"messages": turns[:1]})
    assert (again.facts.task, again.facts.key, again.facts.key_source) == ("", told.facts.key, "conversation")
    assert same(again.facts.text, "hello", salt)
    named = await ask(side, {"messages": turns}, b"x-sidecar-session: s")
    assert named.facts.key_source == "session"
    assert same(named.facts.text, TEXT, salt)
    silent = await ask(side, {"messages": [{"role": "assistant", "content": "x"}]})
    assert silent.facts.text is None


@pytest.mark.parametrize("mode", ["canary", "observe"])
async def test_nobody_looks_at_texts_unasked(sim: Sim, serve: Serve, tmp_path: Path, mode: str) -> None:
    """Without `text: true` no features are made; where no arm is chosen there is no task either."""
    provider = await sim()
    side = await running(provider, serve, tmp_path, mode=mode, context={"text": mode == "observe"})
    told = await ask(side, {"messages": [{"role": "user", "content": TEXT}]}, b"x-sidecar-tags: task=sums")
    assert told.facts.text is None
    assert told.facts.task == ("sums" if mode == "canary" else "")


async def test_seconds_of_a_machine(sim: Sim, serve: Serve, tmp_path: Path) -> None:
    """A server paid by the second costs the time from sent to the end, with and without usage; an error its moment."""
    provider = await sim()
    provider.set_model("gpt-4o", SimulatedModel(ttft=Distribution(0.05)))
    policy = route(provider.port, mode="observe", arms=[], rollout=None)
    policy["upstreams"]["one"] = {
        "dialect": "openai",
        "base_url": f"http://127.0.0.1:{provider.port}/v1",
        "price": {"second_usd": 0.001},
        "usage": "never",
    }
    side = await serve(provider, policies=written(tmp_path / "p", policy), environ={"NEW_KEY": "k"})
    body = {"messages": [{"role": "user", "content": TEXT}]}
    for stream, has_usage in ((False, True), (True, False)):
        told = (await ask(side, body | {"stream": stream})).outcome
        clocks = told.clocks
        assert clocks.sent_s is not None
        took_s = clocks.duration_s - clocks.sent_s
        assert told.cost_nusd == round(took_s * 1e6)  # a nano-dollar a microsecond
        assert took_s > 0.045
        assert (told.cost_kind, told.price_version) == ("exact", "policy")
        assert (told.usage_source == "provider") == has_usage
    provider.set_faults([Fault("status", status=503)])
    rows = rows_of(side)
    async with talking(side) as app:
        await app.ask()
    assert rows[-1].outcome.cost_kind == "lower_bound"
