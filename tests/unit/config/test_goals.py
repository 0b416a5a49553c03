"""Context, goals, ceilings and the price of time, from the file to the policy."""

from pathlib import Path

import pytest

from sidecar.config.policy import Loaded, load_text
from sidecar.core.policy import Budget, Context, FlatPrice, Objective, Route

HEAD = """version: 1
upstreams:
  own: {{dialect: openai, base_url: "http://127.0.0.1:8000/v1", price: {price}}}
routes:
  - name: r
    mode: optimize
    baseline: {{id: a, upstream: own, model: m}}
    arms: [{{id: b, upstream: own, model: n}}]
"""


def load(more: str = "", price: str = "free") -> Loaded:
    return load_text(HEAD.format(price=price) + more, Path("p.yaml"), {})


def route(more: str) -> Route:
    return load(more).policy.routes[0]


@pytest.mark.parametrize(
    ("price", "loaded"),
    [
        ("{second_usd: 0.0006}", FlatPrice(0, 0, second_fusd=600_000_000_000)),
        ("{gpu_hour_usd: 3.6}", FlatPrice(0, 0, second_fusd=10**12)),
        ("{gpu_hour_usd: 2.2}", FlatPrice(0, 0, second_fusd=611_111_111_111)),
        ("{second_usd: 0}", FlatPrice(0, 0)),
        (
            "{input_mtok: 0.1, output_mtok: 0.2, second_usd: 0.001}",
            FlatPrice(10**8, 2 * 10**8, second_fusd=10**12),
        ),
    ],
)
def test_time_has_a_price(price: str, loaded: FlatPrice) -> None:
    """Seconds and hours of a machine, alone or beside tokens; an hour is 3,600 seconds, rounded to femto-dollars."""
    assert load(price=price).policy.upstreams["own"].price == loaded


def test_context() -> None:
    """The tag that names the task, and whether the text is looked at; without it the defaults."""
    assert route("    context: {tag: kind, text: true}\n").context == Context("kind", True)
    assert route("    context: {text: true}\n").context == Context("task", True)
    assert route("").context == Context("task", False)


def test_objective() -> None:
    """Limits on time are seconds, what a late call costs is nano-dollars, weights keep their defaults."""
    written = "    objective: {ttft: 2s, latency: 10s, late_usd: 0.001, weights: {cost: 1}}\n"
    assert route(written).objective == Objective(cost_weight=1.0, ttft_s=2.0, latency_s=10.0, late_nusd=1_000_000)
    assert route("    objective: {latency: 500ms, late_usd: 1}\n").objective == Objective(
        latency_s=0.5, late_nusd=10**9
    )
    assert route("    objective: {minimize: latency, ttft: 2s}\n").objective == Objective("latency", ttft_s=2.0)


def test_ceilings_on_means_and_windows() -> None:
    """A window's total is divided by the pods, a mean is not: each pod's mean is the service's mean."""
    written = "    budget: {mean_request_usd: 0.002, window_usd: 5, window: 30m}\nreplicas: 4\n"
    assert route(written).budget == Budget(mean_request_nusd=2_000_000, window_nusd=1_250_000_000, window_s=1800.0)
    assert route("    budget: {window_usd: 5}\n").budget == Budget(window_nusd=5 * 10**9, window_s=3600.0)


@pytest.mark.parametrize(
    ("more", "warning"),
    [
        ("    budget: {mean_request_usd: 1, per_request_usd: 0.5}\n", "routes[0].budget.mean_request_usd: is never"),
        ("    context: {text: true}\n", "routes[0].context: means nothing in mode canary"),
    ],
)
def test_what_does_nothing_is_said(more: str, warning: str) -> None:
    """A ceiling under another one, and a context that nobody asks for."""
    text = HEAD.format(price="free").replace("optimize", "canary") + more
    assert warning in "\n".join(load_text(text, Path("p.yaml"), {}).warnings)
    assert load("    budget: {mean_request_usd: 0.1, per_request_usd: 0.5}\n    context: {}\n").warnings == ()
