"""Experiments of a policy file: what is read, what is refused, and where prompts come from."""

from pathlib import Path

import pytest

from sidecar.config.policy import load_text
from sidecar.core.policy import ExperimentSpec, Variant
from sidecar.core.variants import Compress, Constraints, FewShotTrim, Replace, Structure
from sidecar.errors import ConfigError

HEAD = """
version: 1
replicas: {replicas}
upstreams: {{up: {{dialect: openai, base_url: "http://127.0.0.1:9/v1", price: free}}}}
routes:
  - name: chat
    mode: {mode}
    baseline: {{id: base, upstream: up, model: m}}
    arms: [{{id: new, upstream: up, model: n}}]
    fallback: {{arms: [new], on: [5xx]}}
"""


def loaded(
    experiment: str, folder: Path, *, mode: str = "ab", replicas: int = 1
) -> tuple[ExperimentSpec, tuple[str, ...]]:
    found = load_text(HEAD.format(mode=mode, replicas=replicas) + experiment, folder / "p.yaml", {})
    spec = found.policy.routes[0].experiment
    assert spec is not None
    return spec, found.warnings


def refused(experiment: str, folder: Path) -> str:
    with pytest.raises(ConfigError) as told:
        loaded(experiment, folder)
    return str(told.value)


def test_defaults(tmp_path: Path) -> None:
    """Two ids are enough; the control is the baseline as it is, and nothing is warned of."""
    spec, warnings = loaded("    experiment: {variants: [{id: a}, {id: b, arm: new}]}", tmp_path)
    assert spec == ExperimentSpec((Variant("a", "base"), Variant("b", "new")))
    assert warnings == ()


def test_everything(tmp_path: Path) -> None:
    """Each key arrives; alpha is divided by the pods that decide by themselves."""
    (tmp_path / "prompt.txt").write_bytes(b"From a file.\r\n")
    spec, _ = loaded(
        """
    experiment:
      metric: cost
      allocation: uniform
      alpha: 0.1
      min_samples: 5
      min_effect: 0.03
      max_duration: 2h
      on_winner: promote
      variants:
        - {id: a, weight: 2}
        - {id: b, params: {temperature: 0.2}, system: {text: "T"}}
        - {id: c, system: {file: prompt.txt, generate: [compress, structure]}}
        - {id: d, system: {generate: [few_shot_trim, constraints], keep: 2, constraints: ["One.", "Two."]}}
""",
        tmp_path,
        replicas=2,
    )
    assert spec == ExperimentSpec(
        (
            Variant("a", "base", weight=2.0),
            Variant("b", "base", (("temperature", b"0.2"),), (Replace("T"),)),
            Variant("c", "base", system=(Replace("From a file.\n"), Compress(), Structure())),
            Variant("d", "base", system=(FewShotTrim(2), Constraints(("One.", "Two.")))),
        ),
        metric="cost",
        allocation="uniform",
        alpha=0.1,
        min_samples=5,
        min_effect=0.03,
        max_duration_s=7200.0,
        on_winner="promote",
        replicas=2,
    )
    assert spec.pod_alpha == 0.05


@pytest.mark.parametrize(
    ("variants", "problem"),
    [
        ("[{id: a}]", "1 variants cannot be compared; write two to five"),
        ("[{id: a}, {id: b}, {id: c}, {id: d}, {id: e}, {id: f}]", "6 variants cannot be compared"),
        ("[{id: a}, {id: a}]", "variant 'a' exists already"),
        ("[{id: a}, {id: 'b:c'}]", "has a colon"),
        ("[{id: a}, {id: b, arm: nwe}]", "arm 'nwe' is not in this route"),
        ("[{id: a}, {id: b, params: {model: x}}]", "is decided by the arm"),
        ("[{id: a}, {id: b, system: {}}]", "changes nothing"),
        ("[{id: a}, {id: b, system: {text: x, file: y}}]", "has both `text` and `file`"),
        ("[{id: a}, {id: b, system: {text: ' '}}]", "is no text of 1 to 65536 characters"),
        ("[{id: a}, {id: b, system: {text: [x]}}]", "is no text of 1 to 65536 characters"),
        ("[{id: a}, {id: b, system: {file: nothing.txt}}]", "cannot be read (FileNotFoundError)"),
        ("[{id: a}, {id: b, system: {file: empty.txt}}]", "has 0 characters"),
        ("[{id: a}, {id: b, system: {text: x, keep: 1}}]", "means nothing without `generate: few_shot_trim`"),
        ("[{id: a}, {id: b, system: {text: x, constraints: [y]}}]", "means nothing without `generate: constraints`"),
        ("[{id: a}, {id: b, system: {generate: constraints}}]", "constraints has nothing to add"),
        ("[{id: a}, {id: b, system: {generate: shorten}}]", "is not one of compress, structure"),
    ],
)
def test_refusals(variants: str, problem: str, tmp_path: Path) -> None:
    """What cannot be meant is told with its place."""
    (tmp_path / "empty.txt").write_text("")
    text = refused(f"    experiment: {{variants: {variants}}}", tmp_path)
    assert problem in text
    assert "p.yaml:" in text


def test_mode_and_experiment_belong_together(tmp_path: Path) -> None:
    """`ab` without one is refused, one without `ab` is doubtful."""
    assert "ab has nothing to compare" in refused("    sticky: request", tmp_path)
    assert (
        load_text(HEAD.format(mode="canary", replicas=1), tmp_path / "p.yaml", {}).policy.routes[0].experiment is None
    )
    _, warnings = loaded("    experiment: {variants: [{id: a}, {id: b}]}", tmp_path, mode="canary")
    assert any("means nothing in mode canary" in warning for warning in warnings)
