"""Limits, drift, anomalies and tuning, from the file to the policy."""

import math
import re
from pathlib import Path

import pytest

from sidecar.config.policy import Loaded, load_text
from sidecar.core.policy import Anomalies, AutoLimit, Changes, Drift, Knob, Route, Threshold, Tuning
from sidecar.errors import ConfigError

HEAD = """version: 1
upstreams:
  own: {{dialect: openai, base_url: "http://127.0.0.1:8000/v1"}}
routes:
  - name: r
    mode: {mode}
    baseline: {{id: a, upstream: own, model: m}}
    arms: [{{id: b, upstream: own, model: n{params}}}]
"""
TUNED = "    tuning: {max_tokens: {min: 100, max: 2000, start: 1000}}\n"


def load(more: str, mode: str = "canary", params: str = "") -> Loaded:
    return load_text(HEAD.format(mode=mode, params=params) + more, Path("p.yaml"), {})


def route(more: str) -> Route:
    return load(more).policy.routes[0]


def threshold(text: str, more: str = TUNED) -> Threshold:
    return route(f"    thresholds: [{{name: t, {text}}}]\n{more}").thresholds[0]


@pytest.mark.parametrize(("window", "seconds"), [("1m", 60.0), ("5m", 300.0), ("15m", 900.0), ("1h", 3600.0)])
def test_windows_of_thresholds(window: str, seconds: float) -> None:
    assert threshold(f"metric: error_rate, above: 5%, window: {window}, action: log").window_s == seconds


def test_limits_that_tune_themselves() -> None:
    """Until the baseline is learnt nothing is beyond them."""
    made = threshold("metric: ttft_p95, above: auto, sigma: 4, ratio: 1.5, per_day: 5%, action: log")
    assert (made.above, made.below, made.auto) == (math.inf, None, AutoLimit(4.0, 1.5, 0.05))
    made = threshold("metric: quality, below: auto, action: log")
    assert (made.above, made.below, made.auto) == (None, 0.0, AutoLimit())


@pytest.mark.parametrize(
    ("text", "adjust"),
    [
        ("metric: cost_per_request, above: 0.02", ("max_tokens", "down")),
        ("metric: latency_p95, above: 20s, action: adjust", ("max_tokens", "down")),
        ("metric: quality, below: 0.8, adjust: max_tokens up", ("max_tokens", "up")),
        ("metric: quality, below: 0.8", None),
        ("metric: ttft_p95, above: 2s", None),
        ("metric: cost_per_request, below: 0.0001", None),
        ("metric: cost_per_request, above: 0.02, action: log", None),
    ],
)
def test_what_the_action_adjust_moves(text: str, adjust: object) -> None:
    """`max_tokens down` by itself where fewer tokens help; what the policy says otherwise."""
    assert threshold(text).adjust == adjust


def test_without_tuning_nothing_is_adjusted() -> None:
    assert threshold("metric: cost_per_request, above: 0.02", "").adjust is None
    loaded = load("    thresholds: [{name: t, metric: cost_per_request, above: 0.02, action: adjust}]\n")
    assert any("adjusts nothing" in warning for warning in loaded.warnings)


def test_defaults_are_those_of_the_core() -> None:
    made = route("    drift: {}\n    anomalies: {}\n" + TUNED)
    assert made.drift == Drift()
    assert made.anomalies == Anomalies()
    assert made.tuning == Tuning((Knob("max_tokens", 100, 2000, 1000, whole=True),))
    assert (route("").drift, route("").anomalies, route("").tuning) == (None, None, None)


def test_everything_written_arrives() -> None:
    made = route(
        "    drift: {metrics: [cost, cost, quality], window: 1h, samples: 200, false_alarms_per_10k: 0.5, severity: high}\n"
        "    anomalies: {metrics: [ttft], method: iqr, sigma: 8, window: 5m, samples: 30, false_alarms_per_10k: 10,"
        " severity: medium}\n"
        "    tuning:\n"
        "      temperature: {min: 0.2, max: 1, start: 0.7}\n"
        "      top_p: {min: 0.5, max: 1, start: 0.9}\n"
        "      per_day: 2%\n"
        "      false_moves: 0.01\n"
        "      max_samples: 5000\n"
    )
    assert made.drift == Drift(("cost", "quality"), 3600.0, 200, 0.5, "high")
    assert made.anomalies == Anomalies(("ttft",), "iqr", 8.0, 300.0, 30, 10.0, "medium")
    knobs = (Knob("temperature", 0.2, 1.0, 0.7), Knob("top_p", 0.5, 1.0, 0.9))
    assert made.tuning == Tuning(knobs, 0.02, 0.01, 5000)


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ("    thresholds: [{name: t, metric: quality, below: 0.5, sigma: 3}]\n", "means nothing with a fixed limit"),
        ("    thresholds: [{name: t, metric: quality, below: 0.5, adjust: top_p up}]\n", "top_p is not in `tuning`"),
        (
            "    thresholds: [{name: t, metric: quality, below: 0.5, action: log, adjust: top_p up}]\n",
            "means nothing with the action log",
        ),
        ("    drift: {metrics: [ttft_p95]}\n", "is not one of"),
        ("    drift: {false_alarms_per_10k: 0}\n", "is outside"),
        ("    tuning: {per_day: 2%}\n", "tunes nothing"),
        ("    tuning: {per_day: 6%, top_p: {min: 0, max: 1, start: 1}}\n", "is outside"),
        ("    tuning: {temperature: {min: 0, max: 1, start: 1.5}}\n", "is not between min 0 and max 1"),
        ("    tuning: {temperature: {min: 0, max: 3, start: 1}}\n", "3 is above 2"),
        ("    tuning: {max_tokens: {min: 0, max: 30, start: 1.5}}\n", "is no whole number above 0"),
    ],
)
def test_what_cannot_be_meant_is_told(more: str, what: str) -> None:
    with pytest.raises(ConfigError, match=r"p\.yaml:") as found:
        load(more)
    assert what in str(found.value)


def test_a_parameter_that_an_arm_sets_cannot_be_tuned() -> None:
    with pytest.raises(ConfigError, match="arm 'b' sets max_tokens itself"):
        load(TUNED, params=", params: {max_completion_tokens: 5}")
    assert load(TUNED, params=", params: {temperature: 0.5}").policy.routes


def test_the_example_of_the_docs_loads() -> None:
    docs = Path(__file__).parents[3] / "docs" / "drift.md"
    examples = re.findall(r"```yaml\n(version: 1\n.*?)```", docs.read_text(encoding="utf-8"), re.DOTALL)
    assert [load_text(example, docs, {}).warnings for example in examples] == [()]


def test_tuning_needs_a_mode_that_changes_calls() -> None:
    assert any("changes no call" in warning for warning in load(TUNED, mode="observe").warnings)


def test_what_the_control_loop_may_do() -> None:
    """Both are on by default, each can be switched off, and only a pool has arms that could rest."""
    head = "    objective: {max_quality_loss: 5%}\n"
    assert load(head, "optimize").policy.routes[0].changes == Changes(hold=True, retire=True)
    made = load(f"{head}    changes: {{retire: false}}\n", "optimize")
    assert made.policy.routes[0].changes == Changes(hold=True, retire=False)
    assert made.warnings == ()
    assert any(
        "changes: means nothing in mode canary" in text for text in load("    changes: {hold: false}\n").warnings
    )
