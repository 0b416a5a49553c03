"""The processes of a campaign of faults: a provider whose models fail in known ways, and a sidecar with a policy for each
shape of call."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.fault_plan import MAX_BODY, MAX_STREAMS, ROUTE_BODY_MAX, TIMEOUT_S
from tests.e2e.process import Provider, Sidecar

HELD_KEY = "sk-campaign-0123456789"  # of the routes of the policy; elsewhere the client's passes
_TIMERS = ("connect_timeout", "first_byte_timeout", "idle_timeout", "body_stall_timeout", "head_timeout")
_SETTINGS = {
    **dict.fromkeys(_TIMERS, f"{TIMEOUT_S}s"),
    "upstream_idle": "1s",
    "keepalive_idle": "5s",
    "route_body_max_bytes": ROUTE_BODY_MAX,
    "max_body_bytes": MAX_BODY,
    "max_streams": MAX_STREAMS,
    "log_level": "error",
}
_FAULTS: tuple[dict[str, object], ...] = (
    {"kind": "status", "status": 429, "retry_after_s": 1, "models": ["m-s429"]},
    {"kind": "status", "status": 500, "models": ["m-s500", "m-fall"]},
    {"kind": "reset_before", "models": ["m-reset"]},
    {"kind": "truncate", "after_tokens": 6, "models": ["m-dies"]},
    {"kind": "no_done", "after_tokens": 6, "models": ["m-nodone"]},
    {"kind": "error_event", "after_tokens": 6, "models": ["m-errs"]},
)
PRICED = ("chat", "claude", "command", "converse")  # upstreams of the policy that answer, and what a token costs there
INPUT_NUSD, OUTPUT_NUSD = 1000, 4000
_POLICY = """
version: 1
service: bot
upstreams:
  chat:
    {{dialect: openai, base_url: "{url}/v1", api_key: &k {{env: CAMPAIGN_KEY}}, price: &p {{input_mtok: 1, output_mtok: 4}}}}
  claude: {{dialect: anthropic, base_url: "{url}", api_key: *k, price: *p}}
  command: {{dialect: cohere, base_url: "{url}", api_key: *k, price: *p}}
  converse: {{dialect: bedrock, base_url: "{url}", api_key: *k, price: *p}}
  nobody: {{dialect: openai, base_url: "{nobody}/v1", api_key: *k, price: *p}}
routes:
{routes}
  - name: dead
    match: {{models: ["dead-*"]}}
    mode: optimize
    baseline: {{id: gone, upstream: nobody, model: m-gone}}
    arms: [{{id: there, upstream: chat, model: m-there}}]
    fallback: {{arms: [there], on: [connect]}}
  - name: fall
    match: {{models: ["fall-*"]}}
    mode: optimize
    baseline: {{id: sick, upstream: chat, model: m-fall}}
    arms: [{{id: well, upstream: chat, model: m-well}}]
    fallback: {{arms: [well], on: [connect, timeout, 5xx]}}
  - name: cross
    match: {{models: ["cross-*"]}}
    mode: optimize
    baseline: {{id: sick, upstream: chat, model: m-fall}}
    arms: [{{id: other, upstream: claude, model: m-other}}]
    fallback: {{arms: [other], on: [connect, timeout, 5xx]}}
  - name: climb
    match: {{models: ["climb-*"]}}
    mode: optimize
    baseline: {{id: strong, upstream: chat, model: m-strong}}
    arms: [{{id: weak, upstream: chat, model: m-weak}}]
    rollout: {{strategy: canary, steps: [5, 100], min_requests: 10, interval: 1s, max_wait: 1h}}
    cascade: {{arms: [weak, strong], on: [refusal_text, empty]}}
  - name: poor
    match: {{models: ["poor-*"]}}
    mode: optimize
    baseline: {{id: dear, upstream: chat, model: m-dear}}
    budget: {{per_request_usd: 0.0000001, on_exceeded: deny}}
"""
_ROUTE = """
  - name: {name}
    match: {{models: ["{name}-*"]}}
    mode: optimize
    baseline: {{id: only, upstream: {upstream}, model: m-{name}}}
"""
_PLAIN_ROUTES = {
    "far": "claude", "near": "chat", "s429": "chat", "s500": "chat", "reset": "chat", "dies": "chat", "nodone": "chat",
    "errs": "chat", "slow": "chat", "long": "chat", "hear": "command", "rock": "converse",
}  # fmt: skip
_MODELS = ("m-weak:refusal=1.0", "m-slow:ttft=1.0", "m-long:output_tokens=6000", "m-long:itl=0.0")


def provider(folder: Path) -> Provider:
    """The simulated provider: short answers, and models named for what is wrong with them."""
    return Provider(folder, "default:ttft=0.003", "default:itl=0.001", *_MODELS, faults=_FAULTS)


@contextlib.contextmanager
def refusing() -> Iterator[int]:
    """A port that refuses connections for as long as this lasts: bound, so that nobody else gets it, and not listening."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield int(sock.getsockname()[1])


def sidecar(folder: Path, port: int, nobody: int, workers: int = 1) -> Sidecar:
    """A sidecar whose upstreams are all at `port`, but one at `nobody`; every timer is `TIMEOUT_S`."""
    url = f"http://127.0.0.1:{port}"
    routes = "".join(_ROUTE.format(name=name, upstream=upstream) for name, upstream in _PLAIN_ROUTES.items())
    policies = folder / "policies"
    policies.mkdir()
    text = _POLICY.format(url=url, nobody=f"http://127.0.0.1:{nobody}", routes=routes)
    (policies / "bot.yaml").write_text(text)
    environ = {"CAMPAIGN_KEY": HELD_KEY, "SIDECAR_WORKERS": str(workers)}
    return Sidecar(folder, url, policies=policies, environ=environ, **_SETTINGS)
