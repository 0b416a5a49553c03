"""Two real models as arms of one route: hundreds of real calls with checked answers, and their rows in the database."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.real import process
from tests.real.models import ModelServer
from tests.real.process import Sidecar
from tests.real.prompts import TASKS, score

pytestmark = pytest.mark.real

REQUESTS = 320
POLICY = """
version: 1
service: real-tests
upstreams:
  gemma: {{dialect: openai, base_url: "{gemma3}/v1", price: {{input_mtok: 2.5, output_mtok: 10}}}}
  smol:  # another origin than the baseline's: it has a key of its own, the client's never goes there
    dialect: openai
    base_url: "{smollm2}/v1"
    api_key: {{file: "{key}"}}
    price: {{input_mtok: 0.15, output_mtok: 0.6}}
routes:
  - name: tasks
    match: {{models: ["gemma-3-270m"]}}
    mode: optimize
    baseline: {{id: gemma, upstream: gemma, model: gemma-3-270m}}
    arms:
      - {{id: smol, upstream: smol, model: smollm2-135m-instruct}}
    objective: {{minimize: cost, max_quality_loss: 0.5}}
    sticky: request
    rollout: {{strategy: canary, steps: [25, 50, 100], min_requests: 15, interval: 1s, max_wait: 1h}}
    quality: {{validators: [empty], feedback: true, min_samples: 15}}
"""
# (input, output): one US dollar per million tokens is a thousand nano-dollars per token.
NUSD_PER_TOKEN = {"gemma": (2500, 10000), "smol": (150, 600)}


@dataclass(frozen=True, slots=True)
class Answered:
    """What the client saw of one call."""

    decision: str
    served: str
    reason: str
    completion: str
    stream: bool
    usage: Any
    score: float


@pytest.fixture(scope="module")
def sidecar(servers: dict[str, ModelServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    folder = tmp_path_factory.mktemp("two-arms")
    policies = folder / "policies"
    policies.mkdir()
    (folder / "key").write_text("sk-of-smol")
    written = POLICY.format(gemma3=servers["gemma3"].url, smollm2=servers["smollm2"].url, key=folder / "key")
    (policies / "tasks.yaml").write_text(written)
    with process.running(folder, {"SIDECAR_POLICIES": str(policies)}) as running:
        yield running


def _ask(client: openai.OpenAI, number: int) -> Answered:
    task, stream = TASKS[number % len(TASKS)], number % 2 == 0
    create: Any = client.chat.completions.with_raw_response.create
    raw = create(
        model="gemma-3-270m",
        messages=[{"role": "user", "content": task.prompt}],
        max_tokens=16,
        temperature=0,
        stream=stream,
        **({"stream_options": {"include_usage": True}} if stream else {}),
    )
    answer: Any = raw.parse()
    if stream:
        chunks = list(answer)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        completion, usage = chunks[0].id, chunks[-1].usage
    else:
        text, completion, usage = answer.choices[0].message.content or "", answer.id, answer.usage
    header = raw.headers
    return Answered(
        decision=header["x-sidecar-decision"],
        served=header["x-sidecar-model"],
        reason=header["x-sidecar-reason"],
        completion=completion,
        stream=stream,
        usage=usage,
        score=score(task, text),
    )


@pytest.fixture(scope="module")
def answered(sidecar: Sidecar) -> dict[str, Answered]:
    """The calls, by decision id; each is scored before the next one is made, as an app with a checker does it."""
    calls: dict[str, Answered] = {}
    with openai.OpenAI(base_url=sidecar.url + "/v1", api_key="sk-test", max_retries=0) as client:
        for number in range(REQUESTS):
            call = _ask(client, number)
            calls[call.decision] = call
            assert sidecar.feedback(call.decision, call.score) == 202
    return calls


@pytest.fixture(scope="module")
def rows(sidecar: Sidecar, answered: dict[str, Answered]) -> dict[str, dict[str, Any]]:
    return sidecar.settled(set(answered))


def test_every_call_has_its_row(answered: dict[str, Answered], rows: dict[str, Any]) -> None:
    """No call is missing in the database, and each row names what the client was told in headers."""
    assert len(answered) == REQUESTS
    assert rows.keys() == answered.keys()
    for call in answered.values():
        row = rows[call.decision]
        assert (row["outcome"], row["status"], row["error"]) == ("completed", 200, None)
        assert f"{row['upstream']}/{row['model']}" == call.served
        assert (row["reason"], row["completion_id"], bool(row["stream"])) == (call.reason, call.completion, call.stream)
        assert (row["service"], row["route"], row["mode"]) == ("real-tests", "tasks", "optimize")
        assert row["requested_model"] == "gemma-3-270m"


def test_both_arms_served(rows: dict[str, Any]) -> None:
    """Both models serve: the dear baseline is never left alone, and the cheap arm is never given everything at once."""
    share = sum(row["arm"] == "smol" for row in rows.values()) / REQUESTS
    print(f"share of the cheap arm: {share:.3f}")
    assert 0.1 < share < 1.0
    assert {row["reason"] for row in rows.values()} >= {"canary"}


def test_clocks_are_those_of_a_stream(rows: dict[str, Any]) -> None:
    """Streams have four first-token clocks in their order; whole answers have none but that of the first byte."""
    for row in rows.values():
        assert 0 <= row["sent_s"] <= row["ttfb_s"] <= row["duration_s"]
        if row["stream"]:
            assert row["ttfb_s"] <= row["ttfe_s"] <= row["ttft_s"] <= row["duration_s"]
            assert row["ttft_s"] == row["ttfa_s"]
        else:
            assert (row["ttfe_s"], row["ttft_s"], row["ttfa_s"], row["itl_s"]) == (None, None, None, None)


def test_itl_is_plausible_for_these_models(rows: dict[str, Any]) -> None:
    """Inter-token latency of these models lies between 0.5 ms and 1 s on any machine that runs the tests."""
    measured = [row["itl_s"] for row in rows.values() if row["itl_s"] is not None]
    assert len(measured) > 20
    assert all(0.0005 < itl < 1.0 for itl in measured)


def test_tokens_and_money_are_the_providers(answered: dict[str, Answered], rows: dict[str, Any]) -> None:
    """Usage is what the model's server told the client; the cost is exactly tokens times the policy's price."""
    for call in answered.values():
        row = rows[call.decision]
        assert (row["usage_source"], row["cost_kind"]) == ("provider", "exact")
        assert (row["input_tokens"], row["output_tokens"]) == (call.usage.prompt_tokens, call.usage.completion_tokens)
        per_input, per_output = NUSD_PER_TOKEN[row["arm"]]
        assert row["cost_nusd"] == row["input_tokens"] * per_input + row["output_tokens"] * per_output
    spent = sum(row["cost_nusd"] for row in rows.values())
    asked = sum(row["input_tokens"] * 2500 + row["output_tokens"] * 10000 for row in rows.values())
    print(f"spent {spent / 1e9:.6f} USD; the same tokens at the baseline's prices are {asked / 1e9:.6f} USD")
    assert spent < asked


def test_every_choice_has_its_propensity(rows: dict[str, Any]) -> None:
    """A probability in (0, 1] for every assignment; inverse propensity weights recover the number of calls."""
    for row in rows.values():
        assert 0 < row["propensity"] <= 1
        assert row["arm"] in (json.loads(row["eligible"]) if isinstance(row["eligible"], str) else row["eligible"])
    weights = {arm: sum(1 / row["propensity"] for row in rows.values() if row["arm"] == arm) for arm in NUSD_PER_TOKEN}
    both = [row for row in rows.values() if 0 < row["propensity"] < 1]
    if both:  # E[1/p] of each arm is the number of calls in which it could be chosen; 5 standard errors at p >= 0.05
        slack = 5 * (REQUESTS * 19) ** 0.5
        assert all(weight < REQUESTS + slack for weight in weights.values()), weights


def test_every_score_is_kept(answered: dict[str, Answered], rows: dict[str, Any], sidecar: Sidecar) -> None:
    """The store holds the score that was sent for each decision, under its source."""
    with contextlib.closing(sqlite3.connect(f"file:{sidecar.db}?mode=ro", uri=True)) as database:
        kept = dict(database.execute("SELECT decision_id, score FROM feedback WHERE source = 'task'").fetchall())
    assert kept == {call.decision: call.score for call in answered.values()}
    for arm in NUSD_PER_TOKEN:
        scores = [answered[row["id"]].score for row in rows.values() if row["arm"] == arm]
        print(f"{arm}: {len(scores)} calls, {sum(scores) / len(scores):.3f} right")


def test_rows_are_in_time_and_after_another(answered: dict[str, Answered], rows: dict[str, Any]) -> None:
    """`at` is RFC 3339 in UTC, and decisions sort by id as by time."""
    ordered = [rows[decision] for decision in sorted(answered)]
    times = [datetime.fromisoformat(row["at"]) for row in ordered]
    assert times == sorted(times)
    assert all(time.utcoffset() is not None for time in times)


def test_explain_tells_the_story_of_a_decision(answered: dict[str, Answered], sidecar: Sidecar) -> None:
    """`explain` finds a decision by its own id or the completion id, and tells model, probability, cost and score."""
    call = list(answered.values())[-1]
    told = sidecar.verb("explain", call.decision)
    print(told)
    assert call.decision in told
    assert all(word in told for word in (call.served, "Probability", "Cost: $", f"Feedback: {call.score:g} by task"))
    assert call.decision in sidecar.verb("explain", call.completion)


def test_no_text_of_a_prompt_or_answer_is_stored(answered: dict[str, Answered], sidecar: Sidecar) -> None:
    """Neither database nor log holds a prompt or the key."""
    assert answered
    held = b"".join(path.read_bytes() for path in Path(sidecar.db).parent.glob("sidecar.*") if path.is_file())
    for secret in (b"sk-test", b"sk-of-smol", b"capital of", b"Repeat this text", b"Stockholm"):
        assert secret not in held


def test_the_database_is_whole(answered: dict[str, Answered], sidecar: Sidecar) -> None:
    """SQLite's own check passes while the sidecar is writing, and every decision of this test is there once."""
    with contextlib.closing(sqlite3.connect(f"file:{sidecar.db}?mode=ro", uri=True)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (count,) = database.execute("SELECT count(*) FROM decisions WHERE route = 'tasks'").fetchone()
    assert count == len(answered)
