"""What a policy file says of experiments: more classes of the kind that `written` describes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sidecar.config import kinds
from sidecar.config.document import Node, Problems
from sidecar.config.kinds import Kind, Wrong, choice, key, list_of, map_of, struct, within
from sidecar.core import policy as core

_EXPERIMENT, _VARIANT = core.ExperimentSpec(), core.Variant("", "")
MAX_PROMPT = 65_536  # characters of a prompt text
GENERATORS = ("compress", "structure", "few_shot_trim", "constraints")


def _read_prompt(node: Node, problems: Problems) -> str:
    """A text of any lines. What is wrong with it is told without it: prompts stand in no message. Raises Wrong."""
    if node.kind != "scalar" or not node.text.strip() or len(node.text) > MAX_PROMPT or "\0" in node.text:
        problems.add(node, f"is no text of 1 to {MAX_PROMPT} characters", "write some, or use `file`")
        raise Wrong
    return node.text


PROSE = Kind("text of any lines", _read_prompt)


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """What a variant does to the system prompt: at most one of `text` and `file`, then `generate` in its order."""

    node: Node
    text: str | None = field(default=None, metadata=key(PROSE, "Replaces the request's system prompt."))
    file: str | None = field(
        default=None,
        metadata=key(kinds.TEXT, "Path of a text file that does, read with the policy; relative to the policy file."),
    )
    generate: tuple[str, ...] = field(
        default=(), metadata=key(list_of(choice(*GENERATORS)), "Rewrites the system prompt by fixed rules.")
    )
    keep: int = field(
        default=0, metadata=key(within(kinds.INTEGER, 0, 100), "`few_shot_trim`: how many examples stay.")
    )
    constraints: tuple[str, ...] = field(
        default=(), metadata=key(list_of(PROSE), "`constraints`: the lines that are added.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One side of an experiment. The first is the control; what is not written is as in the arm."""

    node: Node
    id: str = field(metadata=key(kinds.NAME, "Its name in decisions, events and the CLI."))
    arm: str | None = field(default=None, metadata=key(kinds.NAME, "An arm of the route; without it the baseline."))
    params: Mapping[str, object] = field(
        default_factory=dict, metadata=key(map_of(kinds.JSON, "JSON values"), "Set in the body besides the arm's.")
    )
    system: System | None = field(
        default=None, metadata=key(struct(System, "a system prompt"), "What happens to the system prompt.")
    )
    weight: float = field(
        default=_VARIANT.weight, metadata=key(within(kinds.NUMBER, 0.01, 100.0), "Proportion of the first shares.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """An A/B test, for mode `ab`: which of two to five variants is best."""

    node: Node
    variants: tuple[Variant, ...] = field(
        metadata=key(list_of(struct(Variant, "a variant")), "Two to five; the first is the control.")
    )
    metric: str = field(
        default=_EXPERIMENT.metric,
        metadata=key(
            choice("quality", "cost", "latency", "ttft", "error_rate"),
            "What is compared: more `quality` is better, less of the others.",
        ),
    )
    allocation: str = field(
        default=_EXPERIMENT.allocation,
        metadata=key(choice("uniform", "adaptive"), "Shares as in `weight`, or where they give the answer soonest."),
    )
    alpha: float = field(
        default=_EXPERIMENT.alpha,
        metadata=key(
            within(kinds.FRACTION, 0.0001, 0.5), "Probability, over all variants and all times, of a false winner."
        ),
    )
    min_samples: int = field(
        default=_EXPERIMENT.min_samples,
        metadata=key(within(kinds.INTEGER, 1, 10**9), "Values of each variant before there is an answer."),
    )
    min_effect: float | None = field(
        default=None,
        metadata=key(
            within(kinds.FRACTION, 0.0001, 1.0),
            "The smallest difference that matters; 0.05 is 5 points of quality or error rate, or 5 % of the others.",
        ),
    )
    max_duration: float = field(
        default=_EXPERIMENT.max_duration_s, metadata=key(kinds.DURATION, "Then it ends without an answer.")
    )
    on_winner: str = field(
        default=_EXPERIMENT.on_winner,
        metadata=key(
            choice("report", "promote"),
            "New units then go to the control; or to the winner, by the control loop.",
        ),
    )
