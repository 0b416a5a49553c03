"""The guardrails of one rollout: each compares one metric of the canary with the concurrent control.

What a limit means. `error_rate: 1.5x` fails when BOTH hold now: the harm test rejects "the canary is no worse than
the control" (E >= 1/alpha, `core.sequential`), and the canary is beyond the limit: its error rate so far is above 1.5
times the control's, or a second test rejects "at no time above 1.5 times". Evidence of harm inside the limit is shown and
does not fail. `quality: -5%` fails below 95 % of the control's mean score, `latency_p95: 1.2x` above 1.2 times its 95th
percentile, `cost: 1.2x` above 1.2 times its mean.

The second test finds a canary that breaks after a long good time, whose measure over all units stays small for as long
again; an arm inside the limit it takes for one beyond with the same alpha at most. Of a percentile it compares how often
the canary's values lie above the limit with how often the control's lie above theirs; of costs their mean, each value cut
at ten times the control's.

`false_rollback`, the chance that any of them ever rolls back an arm that is no worse, is divided among them (Bonferroni):
`rejections` and `gave_up`, which nobody asked for and which look for arms that break outright, get a quarter of what each
of the others gets (SMALL_PART), as a few units show that at any alpha.

Some guardrails are there without being asked for, because few policies want the contrary: `error_rate` (limit 1.5x when
not stated), and `rejections`: the share of calls answered as the CALLER'S mistake. Those never count as errors, but
callers are spread by a hash, so their mistakes are equally frequent in both groups; an arm that rejects more (a model
name that does not exist, a parameter it lacks) does so itself. `gave_up`: the share of units whose client left before
the first token (without a stream: before the answer) after it had waited longer than 95 % of the control's answers of
the same kind take (PATIENCE_S while fewer than 20 are known). So a canary that HANGS shows harm although no call of it
ever ends by itself; people who close their tabs do so in both groups. `gave_up: off` takes it away, for callers that
leave as a matter of course. `quality` brings `validated_quality`: labels (feedback, judge) and validators are never
mixed, as their coverage differs.

Who leaves after t seconds without an answer also leaves a CENSORED number for `ttft_p95` and `latency_p95`: at least t
(`core.order`). What an aborted call cost or was worth is never counted. What the sidecar itself refused (OURS) says
nothing of any arm.

A verdict (`core.verdict`) that passes is no proof of equality: `non_inferior` wants one, from each guardrail of a mean in
[0, 1] (`sequential.MarginTest`, PROOF_ALPHA).
"""

from collections.abc import Mapping
from typing import Final

from sidecar.core.bounded_guard import BoundedGuard, PatienceGuard
from sidecar.core.number_guard import NumberGuard
from sidecar.core.policy import Guardrail, RolloutSpec
from sidecar.core.verdict import Guard

DEFAULT_ERROR_RATIO: Final = 1.5
DEFAULT_REJECTION_RATIO: Final = 2.0  # callers' mistakes come in clusters: only a clear difference is the arm's
DEFAULT_GAVE_UP_RATIO: Final = 2.0  # leaving is rare and comes in clusters, as a person's mood does
SMALL_PART: Final = 0.25  # 0.05..1 of a full part of alpha, for _COARSE metrics that nobody asked for; smaller: slower
_COARSE: Final = frozenset({"rejections", "gave_up"})  # they look for arms that break outright: few units show that
_BOUNDED: Final = frozenset({"error_rate", "rejections", "quality", "validated_quality"})


def guards_of(spec: RolloutSpec, *, paired: bool = False) -> tuple[PatienceGuard, tuple[Guard, ...]]:
    """The guardrails of a rollout, `false_rollback` divided among them, errors first and `gave_up` last; and the one
    that knows what patience is, which is there also where `gave_up` is off."""
    wanted: dict[str, Guardrail] = {each.metric: each for each in spec.guardrails}
    limits = {
        "error_rate": DEFAULT_ERROR_RATIO, "rejections": DEFAULT_REJECTION_RATIO, "gave_up": DEFAULT_GAVE_UP_RATIO,
    }  # fmt: skip
    limits |= {metric: _limit(guardrail) for metric, guardrail in wanted.items()}
    if "quality" in limits:
        limits["validated_quality"] = limits["quality"]
    watched = [metric for metric in limits if metric not in wanted or not wanted[metric].off]
    parts = {metric: SMALL_PART if metric in _COARSE - wanted.keys() else 1.0 for metric in watched}
    alpha = spec.false_rollback / spec.replicas / sum(parts.values())
    margin = spec.margin if spec.require == "non_inferior" else None
    patience = PatienceGuard(limits.pop("gave_up"), alpha * parts.pop("gave_up", SMALL_PART), margin=margin)
    others: list[Guard] = [
        BoundedGuard(metric, limits[metric], alpha * part, margin=margin)
        if metric in _BOUNDED
        else NumberGuard(metric, limits[metric], alpha * part, paired=paired)
        for metric, part in parts.items()
    ]
    return patience, (*others, patience) if "gave_up" in watched else tuple(others)


def _limit(guardrail: Guardrail) -> float:
    if guardrail.ratio is not None:
        return guardrail.ratio
    loss = guardrail.loss or 0.0
    return 1 - loss if guardrail.metric == "quality" else 1 + loss


def restore_guards(guards: tuple[Guard, ...], state: Mapping[str, object]) -> tuple[str, ...]:
    """Gives each guardrail its part of `state`; names those that had to begin anew (absent or unreadable)."""
    fresh = []
    for guard in guards:
        part = state.get(guard.metric)
        try:
            guard.restore(part if isinstance(part, list) else [])
        except (ValueError, TypeError, IndexError):
            fresh.append(guard.metric)
    return tuple(fresh)
