"""A model server dies while it is a canary: the route takes it out on the evidence, and the app goes on."""

from pathlib import Path

import openai
import pytest

from tests.real import process
from tests.real.models import ModelServer
from tests.real.process import Sidecar

pytestmark = pytest.mark.real

MOST_REQUESTS = 150
POLICY = """
version: 1
service: real-tests
upstreams:
  smol: {{dialect: openai, base_url: "{steady}/v1", price: free}}
  new: {{dialect: openai, base_url: "{dying}/v1", price: free, api_key: {{file: "{key}"}}}}
routes:
  - name: tasks
    match: {{models: ["smollm2-135m-instruct"]}}
    mode: canary
    baseline: {{id: steady, upstream: smol, model: smollm2-135m-instruct}}
    arms:
      - {{id: dying, upstream: new, model: gemma-3-270m}}
    sticky: request
    rollout: {{strategy: canary, steps: [50, 100], min_requests: 200, interval: 1h, guardrails: {{error_rate: 1.5x}}}}
    {fallback}
"""


def _ask(client: openai.OpenAI) -> tuple[bool, str, str]:
    """(answered, arm's upstream and model, reason) of one small call."""
    try:
        raw = client.chat.completions.with_raw_response.create(
            model="smollm2-135m-instruct", messages=[{"role": "user", "content": "Say hi."}], max_tokens=2
        )
    except openai.APIStatusError as error:
        headers = error.response.headers
        return False, headers.get("x-sidecar-model", ""), headers.get("x-sidecar-reason", "")
    return True, raw.headers["x-sidecar-model"], raw.headers["x-sidecar-reason"]


def _until_rolled_back(sidecar: Sidecar, client: openai.OpenAI) -> tuple[int, int]:
    """(calls made, calls that failed) until the route does not use the canary for ten calls after one another."""
    failed = without = 0
    for number in range(1, MOST_REQUESTS + 1):
        good, _, reason = _ask(client)
        failed += not good
        without = without + 1 if reason in {"baseline", "passthrough"} else 0
        if without >= 10 and "rolled" in sidecar.verb("rollout", "status"):
            return number, failed
    raise AssertionError(f"not rolled back after {MOST_REQUESTS} calls:\n{sidecar.verb('rollout', 'status')}")


@pytest.mark.parametrize(
    "fallback", ["", "fallback: {arms: [steady], on: [connect], max: 1}"], ids=["no-fallback", "fallback"]
)
def test_a_canary_whose_server_dies_is_rolled_back(fallback: str, smollm2: ModelServer, tmp_path: Path) -> None:
    """The canary serves, its server is killed, and a few failed calls later it is out; then nothing fails any more.

    With a fallback to the baseline the app sees no failure at all, and the canary is blamed all the same.
    """
    policies = tmp_path / "policies"
    policies.mkdir()
    dying = ModelServer("gemma3").wait()
    try:
        (tmp_path / "key").write_text("sk-of-the-dying-one")
        written = POLICY.format(steady=smollm2.url, dying=dying.url, fallback=fallback, key=tmp_path / "key")
        (policies / "tasks.yaml").write_text(written)
        with (
            process.running(tmp_path, {"SIDECAR_POLICIES": str(policies)}) as sidecar,
            openai.OpenAI(base_url=sidecar.url + "/v1", api_key="sk-test", max_retries=0) as client,
        ):
            before = [_ask(client) for _ in range(20)]
            assert all(good for good, _, _ in before)
            assert {served for _, served, _ in before} == {"smol/smollm2-135m-instruct", "new/gemma-3-270m"}
            dying.kill()
            calls, failed = _until_rolled_back(sidecar, client)
            print(f"rolled back within {calls} calls of the kill, {failed} of them failed")
            assert failed == 0 if fallback else 0 < failed <= 60
            assert all(_ask(client)[:2] == (True, "smol/smollm2-135m-instruct") for _ in range(30))
    finally:
        dying.stop()
