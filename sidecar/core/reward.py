"""What one exchange was worth: quality, cost and latency scores in [0, 1], and one reward in [0, 1] or none.

    reward = (w_q quality + w_c cost + w_l latency) / (w_q + w_c + w_l)

* quality: 0 for an exchange that failed by the arm's fault; else the product of the listed validators as far as the
  outcome tells: `finish_reason`, `refusal` and `empty` from its fields, those that read the answer (JSON schema, tool
  arguments, language, patterns) from `checks`, where the shell puts what they found. A feedback score replaces it
  later. None when nothing is known.
* cost: 0.5 - 0.5 log(cost / reference) / log(COST_SPAN), cut to [0, 1]. Logarithmic because list prices span three
  orders of magnitude and a linear score sees only the dearest arm (RouterArena, `compute_scores.py`). The reference
  is what the baseline's calls cost, so 0.5 means "as dear as the baseline".
* latency: 1 - log(t / FAST) / log(SLOW / FAST), cut to [0, 1]; t is TTFT - sent for streams, duration - sent
  otherwise. The two have different scales and their scores are never mixed in one posterior. TTFT is never divided by
  the length of the answer: that made slow starters look fast elsewhere (GW-09).

Without quality there is no reward: a cheap, fast answer of unknown worth must not teach that cheap and fast is good.
An unknown cost or latency counts as NEUTRAL, so that reporting less never pays. Aborted exchanges and the caller's
own mistakes teach nothing.

Scores that come later, from named sources (`policy.Source`):

    score = (v - low) / (high - low), or with `log`  log(1 + v - low) / log(1 + high - low);  1 - score when less is better
    label of a decision = sum_i share_i score_i,   share_i = min(max_share_i, c weight_i),   c such that they sum to 1

A source is never more than `max_share` of a label while others have spoken; where all are at that limit (their limits
sum to less than 1) the shares are in proportion to the limits. Sources that the policy does not name are together one
source, with the mean of their scores, so that inventing names gains nothing. The label counts min(1, sum of weights)
of a whole one. It depends on the latest score of each source only, not on their order.
"""

from collections.abc import Mapping
from math import isfinite, log, log1p

from msgspec import Struct

from sidecar.core.policy import OTHER, SOURCES, Objective, Source
from sidecar.core.types import Outcome

# 10..1000; cost ratio at which the score saturates; smaller hides big savings, larger flattens small ones
COST_SPAN = 100.0
STREAM_FAST_S, STREAM_SLOW_S = 0.05, 60.0  # nobody feels faster, nobody waits longer for a first token
WHOLE_FAST_S, WHOLE_SLOW_S = 0.1, 300.0  # the same for a whole answer
NEUTRAL = 0.5  # score of what is unknown; 1 would reward silence, 0 would punish providers without usage

FINISHED = frozenset(
    {"stop", "end_turn", "stop_sequence", "tool_calls", "tool_use", "function_call", "completed", "STOP", "pause_turn"}
)
CUT_OFF = frozenset({"length", "max_tokens", "max_output_tokens", "incomplete", "MAX_TOKENS"})
CUT_OFF_QUALITY = 0.5  # 0..1; a truncated answer is half an answer: the caller's limit has its part in it

Weights = tuple[float, float, float]  # of quality, cost, latency; they sum to 1
_COST_SCALE = 0.5 / log(COST_SPAN)
_STREAM_SCALE, _WHOLE_SCALE = 1.0 / log(STREAM_SLOW_S / STREAM_FAST_S), 1.0 / log(WHOLE_SLOW_S / WHOLE_FAST_S)


class Signal(Struct, frozen=True, gc=False):
    """What one exchange teaches. None: unknown. `answered` is 1 for a fine answer, 0 for none, of an exchange that
    counts."""

    answered: float | None = None
    quality: float | None = None
    quality_source: str | None = None
    latency: float | None = None
    reward: float | None = None


SILENT = Signal()


def measure(outcome: Outcome, weighing: Weights, validators: tuple[str, ...], reference_nusd: float | None) -> Signal:
    """The signal of one settled exchange; `reference_nusd` is the mean cost of the baseline's calls, if known."""
    if outcome.kind == "aborted" or outcome.caller_fault:
        return SILENT
    if outcome.kind == "failed":
        reward = weigh(weighing, 0.0, NEUTRAL, 0.0)
        return Signal(0.0, 0.0, "outcome", None, reward)
    quality = validate(outcome, validators) if validators else None
    latency = latency_score(outcome)
    if quality is None:
        return Signal(1.0, None, None, latency, None)
    reward = weigh(
        weighing, quality, cost_score(outcome.cost_nusd, reference_nusd), NEUTRAL if latency is None else latency
    )
    return Signal(quality, quality, "validators", latency, reward)


def validate(outcome: Outcome, validators: tuple[str, ...]) -> float | None:
    """Quality of a completed answer by the listed validators: their product, None when none could tell."""
    quality: float | None = None
    for name in validators:
        score = form_score(outcome, name)
        if score is None and outcome.checks:
            score = next((found for check, found in outcome.checks if check == name), None)
        if score is not None:
            quality = score if quality is None else quality * score
    return quality


def form_score(outcome: Outcome, validator: str) -> float | None:
    """What a validator that needs no text says; None for one that does, and where it cannot tell."""
    if validator == "finish_reason" and outcome.finish is not None:
        return 1.0 if outcome.finish in FINISHED else CUT_OFF_QUALITY if outcome.finish in CUT_OFF else 0.0
    if validator == "refusal":
        return 0.0 if outcome.refused else 1.0
    if validator == "empty" and outcome.empty is not None:
        return 0.0 if outcome.empty else 1.0
    return None


def scaled(source: Source, value: float) -> float | None:
    """The score in [0, 1] that a value of this source stands for; None when it lies outside of the source's scale."""
    if not isfinite(value) or not source.low <= value <= source.high:
        return None
    part, span = value - source.low, source.high - source.low
    score = log1p(part) / log1p(span) if source.log else part / span
    return score if source.better == "higher" else 1.0 - score


def label(scores: Mapping[str, float], sources: Mapping[str, Source]) -> tuple[float, float]:
    """One label of all sources that scored a decision: (score, weight), both in [0, 1]. `scores` is not empty."""
    merged = {name: score for name, score in scores.items() if name in sources and name != OTHER}
    unnamed = [score for name, score in scores.items() if name not in merged]
    if unnamed:
        merged[OTHER] = sum(unnamed) / len(unnamed)
    spoke = [sources.get(name, SOURCES[OTHER]) for name in merged]
    parts = shares([(source.weight, source.max_share) for source in spoke])
    mean = sum(part * score for part, score in zip(parts, merged.values(), strict=True))
    return min(1.0, max(0.0, mean)), min(1.0, sum(source.weight for source in spoke))


def shares(limits: list[tuple[float, float]]) -> list[float]:
    """Parts that sum to 1 for (weight, max_share > 0) of each source: in proportion to the weights, none above its
    limit.

    Where the limits sum to less than 1 nobody can keep them: the parts are in proportion to the limits. All zero when
    no source has a weight.
    """
    found = [0.0] * len(limits)
    left, free = 1.0, [at for at, (weight, _) in enumerate(limits) if weight > 0]
    while free:
        each = left / sum(limits[at][0] for at in free)
        over = [at for at in free if each * limits[at][0] > limits[at][1]]
        for at in over or free:
            found[at] = limits[at][1] if over else each * limits[at][0]
            left -= found[at]
        free = [at for at in free if over and at not in over]
    whole = sum(found)
    return [part / whole for part in found] if whole > 0 else found


def latency_score(outcome: Outcome) -> float | None:
    """Score of raw TTFT (streams) or duration, both counted from when the request was sent. None when not measured."""
    if not outcome.stream:
        return _log_score(outcome.clocks.latency_s, WHOLE_FAST_S, _WHOLE_SCALE)
    ttft_s = outcome.clocks.first_token_latency_s
    return None if ttft_s is None else _log_score(ttft_s, STREAM_FAST_S, _STREAM_SCALE)


def cost_score(cost_nusd: float | None, reference_nusd: float | None) -> float:
    """1 for free, 0.5 for as dear as the reference, 0 for COST_SPAN times as dear; NEUTRAL when either is unknown."""
    if cost_nusd is None or reference_nusd is None:
        return NEUTRAL
    if cost_nusd <= 0:
        return NEUTRAL if reference_nusd <= 0 else 1.0
    if reference_nusd <= 0:
        return 0.0
    return min(1.0, max(0.0, 0.5 - _COST_SCALE * log(cost_nusd / reference_nusd)))


def weights(objective: Objective) -> Weights:
    """Normalised weights of quality, cost, latency; with `minimize: latency` the last two change places."""
    quality, cost, latency = objective.quality_weight, objective.cost_weight, objective.latency_weight
    if objective.minimize == "latency":
        cost, latency = latency, cost
    total = quality + cost + latency
    return (quality / total, cost / total, latency / total) if total > 0 else (1.0, 0.0, 0.0)


def weigh(weighing: Weights, quality: float, cost: float, latency: float) -> float:
    """The reward of three scores in [0, 1]; weights that were rounded may add up to a little more than 1."""
    return min(1.0, weighing[0] * quality + weighing[1] * cost + weighing[2] * latency)


def _log_score(seconds: float, fast_s: float, scale: float) -> float:
    if seconds <= fast_s:
        return 1.0
    return max(0.0, 1.0 - log(seconds / fast_s) * scale)
