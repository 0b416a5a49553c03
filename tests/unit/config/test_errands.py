"""A route's judge, shadow and cascade, from the file to the policy."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.config.policy import Loaded, load_text
from sidecar.core.policy import Cascade, Judge, Route, Shadow

HEAD = """version: 1
replicas: {replicas}
upstreams:
  openai: {{dialect: openai, base_url: "https://api.openai.com/v1"}}
  own: {{dialect: openai, base_url: "http://127.0.0.1:8000/v1"}}
  held: {{dialect: openai, base_url: "http://127.0.0.1:8000/v1", api_key: {{file: /key}}, price: free}}
routes:
  - name: r
    mode: {mode}
    baseline: {{id: base, upstream: openai, model: gpt-4o}}
    arms: [{{id: mini, upstream: openai, model: gpt-4o-mini}}, {{id: local, upstream: held, model: l}}]
"""


DOCS = Path(__file__).parents[3] / "docs" / "cascade-shadow-judge.md"


def test_the_examples_of_the_docs() -> None:
    """Each loads without a warning and is about what it says."""
    examples = re.findall(r"```yaml\n(version: 1\n.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    loaded = [load_text(example, DOCS, {}) for example in examples]
    assert [one.warnings for one in loaded] == [()] * 3
    cascade, shadow, judge = (one.policy.routes[0] for one in loaded)
    assert cascade.cascade is not None
    assert shadow.shadow == Shadow("llama")
    assert judge.quality.judge is not None
    assert judge.quality.judge.criteria == "polite, and right about our prices"


def load(more: str, mode: str = "optimize", replicas: int = 1) -> Loaded:
    return load_text(HEAD.format(mode=mode, replicas=replicas) + more, Path("p.yaml"), {})


def route(more: str, mode: str = "optimize", replicas: int = 1) -> Route:
    return load(more, mode, replicas).policy.routes[0]


@pytest.mark.parametrize(
    ("judge", "loaded"),
    [
        ("null", None),
        ("base", Judge("openai", "gpt-4o")),
        ("local", Judge("held", "l")),
        ("{upstream: held, model: j}", Judge("held", "j")),
        (
            "{upstream: openai, model: j, sample: 0.5, daily_usd: 0.2, per_minute: 7, criteria: be kind}",
            Judge("openai", "j", 0.5, 200_000_000, 7, "be kind"),
        ),
    ],
)
def test_a_judge(judge: str, loaded: Judge | None) -> None:
    """An arm's id or a model of its own; what is not written is the default; no warning."""
    made = load(f"    quality: {{judge: {judge}}}\n")
    assert made.policy.routes[0].quality.judge == loaded
    assert made.warnings == ()


def test_every_pod_has_its_part() -> None:
    """Daily money is divided by `replicas`, calls in a minute are each pod's."""
    more = "    quality: {judge: base}\n    shadow: {arm: mini, daily_usd: 3}\n"
    made = route(more, "shadow", 4)
    assert made.quality.judge == Judge("openai", "gpt-4o", daily_nusd=250_000_000)
    assert made.shadow == Shadow("mini", daily_nusd=750_000_000)
    more = "    quality: {judge: {upstream: held, model: j, daily_usd: 1}}\n"
    assert route(more, replicas=2).quality.judge == Judge("held", "j", daily_nusd=500_000_000)


@pytest.mark.parametrize(
    ("mode", "more", "loaded"),
    [
        ("shadow", "", Shadow("mini")),
        ("shadow", "    shadow: {arm: local, sample: 0.5, per_minute: 9}\n", Shadow("local", 0.5, per_minute=9)),
        ("canary", "    rollout: {strategy: shadow}\n", Shadow("mini")),
        ("optimize", "    rollout: {strategy: shadow}\n    shadow: {arm: local}\n", Shadow("local")),
        ("optimize", "", None),
        ("observe", "", None),
    ],
)
def test_a_shadow(mode: str, more: str, loaded: Shadow | None) -> None:
    """Mode shadow and strategy shadow have one, of the first arm when none is named."""
    made = load(more, mode)
    assert made.policy.routes[0].shadow == loaded
    assert made.warnings == ()


def test_the_guardrails_of_a_shadow() -> None:
    """`rollout` means something in mode shadow: how harm is told."""
    made = load("    rollout: {guardrails: {cost: 1.5x}}\n", "shadow")
    assert made.warnings == ()
    rollout = made.policy.routes[0].rollout
    assert rollout is not None
    assert [guard.metric for guard in rollout.guardrails] == ["cost"]


def test_a_cascade_and_its_validators() -> None:
    """What an answer has to pass is also what teaches its arm."""
    made = route("    quality: {validators: [refusal]}\n    cascade: {arms: [mini, base], on: [empty, refusal]}\n")
    assert made.cascade == Cascade(("mini", "base"), ("empty", "refusal"))
    assert made.quality.validators == ("refusal", "empty")
    more = "    cascade: {arms: [mini, local, base], min_confidence: 60%}\n"
    assert route(more).cascade == Cascade(("mini", "local", "base"), (), 0.6)
    assert route(more) == replace(route(""), cascade=route(more).cascade)


@pytest.mark.parametrize(
    ("mode", "more", "warning"),
    [
        ("observe", "    shadow: {arm: mini}\n", "routes[0].shadow: means nothing in mode observe"),
        ("optimize", "    shadow: {arm: mini}\n", "use mode shadow, or `rollout: {strategy: shadow}`"),
        ("observe", "    cascade: {arms: [mini, base], on: [empty]}\n", "routes[0].cascade: means nothing"),
        ("shadow", "    shadow: {arm: mini}\n    fallback: {arms: [base], on: [429]}\n", "routes[0].fallback: means"),
    ],
)
def test_warnings(mode: str, more: str, warning: str) -> None:
    """What does nothing is said."""
    assert warning in "\n".join(load(more, mode).warnings)


def test_unknown_prices_are_told() -> None:
    """Without prices nothing can be bounded, so nothing is sent, and `check` says so."""
    text = HEAD.replace("api_key: {{file: /key}}, price: free", "api_key: {{file: /key}}")
    text = text.format(mode="shadow", replicas=1)
    more = "    shadow: {arm: local}\n    quality: {judge: {upstream: held, model: j}}\n"
    warnings = "\n".join(load_text(text + more, Path("p.yaml"), {}).warnings)
    assert "routes[0].shadow: the prices of held are not known, so its cost cannot be bounded and no call" in warnings
    assert "routes[0].quality.judge.upstream: the prices of held are not known" in warnings
    warnings = "\n".join(load_text(text + "    quality: {judge: local}\n", Path("p.yaml"), {}).warnings)
    assert "nothing is graded" in warnings


def test_a_shadow_without_arms() -> None:
    """Nothing to copy to is a warning, and no shadow."""
    text = HEAD.format(mode="shadow", replicas=1)
    loaded = load_text(text[: text.index("    arms:")], Path("p.yaml"), {})
    assert "there is no arm that calls could be copied to" in "\n".join(loaded.warnings)
    assert loaded.policy.routes[0].shadow is None
