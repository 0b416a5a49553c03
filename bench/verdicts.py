"""How often a canary's verdict is wrong, and how soon it is right, when it is looked at after EVERY request.

**Errors** (`canary`). The guardrail `error_rate` of a rollout with the default policy (`RolloutSpec`), through steps of 5,
25 and 50 % with STAGE requests each. The real classes count every request; those without harm are skipped, which is exact:
they change the counts and nothing else (a test compares this with the whole `Rollout`, one request at a time). Of the
policy's `false_rollback` (2 % for the whole rollout) the guardrail of errors has `alpha_errors`; the other two that are
always there have the rest and see nothing here.

**The bound.** A gambler who KNOWS that each canary request fails with p1 if the canary is bad, and with p0 if it is not,
and that neither ever changes, wins on average KL = p1 ln(p1/p0) + (1-p1) ln((1-p1)/(1-p0)) nats a canary request when
it is bad, and no test wins more (Wald 1945; it is the growth rate of the likelihood ratio). To turn 1 into 1/alpha takes
ln(1/alpha) nats, so about ln(1/alpha) / KL canary requests on average: 328 for 1 % against 3 %, 30 against 10 %, at the
alpha_errors of the default policy. `ratio_*` is the median number of canary requests until the rollback (never: infinite)
over that. Medians are below means, so a ratio of 1 can be undercut; our test knows neither rate.

**Robustness.** `identical_drifting`: both arms share an error rate that swings between 0.2 and 4 %, with outages of both in
which most requests fail. `always_*`: canary requests that a canary survives which always fails.

**Latency** (`latency_canary`). The guardrail `latency_p95: 1.2x` on real latencies (the matrix `bfcl_fc`): each run takes
one of its models, each request the latency of a prompt by chance; a slow canary takes a multiple of it.

**Not inferior** (`canary`, `equal_*`): scores of an arm that is equal, of mean 0.9, until its guardrail shows that it is at
most 5 % worse; `inferior_*`: how often that is shown of an arm that is exactly 5 % worse, within 2,000 scores.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.figures import Figure, Z, figure, share_of
from bench.matrices import load
from sidecar.core.bounded_guard import BoundedGuard
from sidecar.core.guardrails import guards_of
from sidecar.core.number_guard import NumberGuard
from sidecar.core.policy import Guardrail, RolloutSpec
from sidecar.core.verdict import Guard, Sample

STEPS: Final = (0.05, 0.25, 0.50)
STAGE: Final = 20_000  # requests a step
LATENCY_STAGE: Final = 5_000
BASE: Final = 0.01  # error rate
SPEC: Final = RolloutSpec()
MATRIX: Final = "bfcl_fc.csv.gz"
QUALITY: Final = 0.9
_FAILED: Final = Sample(failed=True)
_SERVED: Final = Sample(failed=False)
_FOUND: Final = {2: (1.0, None), 3: (1.0, 380.0), 10: (1.0, 60.0)}  # e-process of 2 %: caught, canary requests

Say = Callable[[str], None]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Rates = float | Floats
Stage = tuple[float, Bools, Bools]  # share of the canary; of each request: had it the canary, did it fail


def figures(runs: int, data: Path | None, say: Say) -> dict[str, dict[str, Figure]]:
    """All figures; `runs` is the number of identical canaries, the rest follows from it. `data`: the folder of matrices,
    without which there is no `latency_canary`. Takes about two minutes of one core for 10,000 runs."""
    found = {"canary": {**_errors(runs, say), **_proofs(max(1, runs // 50), say)}}
    if data is not None and (data / MATRIX).exists():
        latencies = load(data / MATRIX).latency_s
        found["latency_canary"] = _latencies(latencies, max(1, runs // 20), say)
    return found


# ---- errors


def kl(bad: float, good: float) -> float:
    """Kullback-Leibler divergence of two Bernoulli rates in nats; `good` in (0, 1), `bad` in (0, 1]."""
    rest = (1 - bad) * math.log((1 - bad) / (1 - good)) if bad < 1 else 0.0
    return bad * math.log(bad / good) + rest


def bound(bad: float, good: float, alpha: float) -> float:
    """Canary requests that the best test with both rates known needs on average."""
    return math.log(1 / alpha) / kl(bad, good)


def error_guard(spec: RolloutSpec = SPEC) -> BoundedGuard:
    """The guardrail `error_rate` as a rollout of this spec makes it."""
    guard = guards_of(spec)[1][0]
    assert isinstance(guard, BoundedGuard)
    return guard


def until_rollback(guard: BoundedGuard, stages: Sequence[Stage]) -> int | None:
    """Canary requests until `guard` demands the rollback, looked at after every request; None: never."""
    seen = 0
    for share, canary, failed in stages:
        number = np.cumsum(canary)
        at, evident = 0, False  # the next request; E is high enough, so that any request may decide
        for harm in [*np.flatnonzero(failed).tolist(), len(canary)]:
            if evident:
                for one in range(at, harm):
                    guard.observe(_SERVED, canary=bool(canary[one]), share=share)
                    if guard.fails():
                        return seen + int(number[one])
            elif harm > at:
                canaries = int(number[harm - 1] - (number[at - 1] if at else 0))
                guard.observe_harmless(canaries, canary=True)
                guard.observe_harmless(harm - at - canaries, canary=False)
            if harm < len(canary):
                guard.observe(_FAILED, canary=bool(canary[harm]), share=share)
                if guard.fails():
                    return seen + int(number[harm])
                if evident or canary[harm]:
                    evident = guard.status().e_value >= guard.status().needed
            at = harm + 1
        seen += int(number[-1])
    return None


def stage(rng: np.random.Generator, share: float, rates: tuple[Rates, Rates], requests: int) -> Stage:
    """Requests by chance; `rates` are the error rates of control and canary, one each or one for each request."""
    canary = rng.random(requests) < share
    return share, canary, rng.random(requests) < np.where(canary, rates[1], rates[0])


def trials(rng: np.random.Generator, runs: int, rates: tuple[Rates, Rates], say: Say) -> list[int | None]:
    """Whole rollouts until the rollback of each."""
    found = []
    for run in range(runs):
        found.append(until_rollback(error_guard(), list(_stages(rng, rates))))
        if run % 1000 == 999:
            say(f"verdicts: {run + 1} of {runs} rollouts, {sum(one is not None for one in found)} rolled back")
    return found


def _stages(rng: np.random.Generator, rates: tuple[Rates, Rates]) -> list[Stage]:
    return [stage(rng, share, rates, STAGE) for share in STEPS]


def swinging(requests: int) -> Floats:
    """An error rate that both arms share: 0.2 to 4 % in waves of 3,000 requests, and 60 % in an outage of 100 each 2,500."""
    at = np.arange(requests)
    rate = 0.002 * 20 ** (0.5 - 0.5 * np.cos(2 * np.pi * at / 3000))
    return np.where(at % 2500 >= 2400, 0.6, rate)


def _errors(runs: int, say: Say) -> dict[str, Figure]:
    alpha = 1 / error_guard().status().needed
    found = {
        "alpha_rollout": figure(SPEC.false_rollback),
        "alpha_errors": figure(alpha),
        "identical_rolled_back": _rolled_back(trials(np.random.default_rng(1), runs, (BASE, BASE), say), 0.016),
    }
    same = swinging(STAGE)
    drifting = trials(np.random.default_rng(2), max(1, runs // 10), (same, same), say)
    found["identical_drifting_rolled_back"] = _rolled_back(drifting, None)
    for times, (share, requests) in _FOUND.items():
        say(f"verdicts: errors x {times}")
        bad = BASE * times
        seen = trials(np.random.default_rng(times), max(1, runs // (5 if times == 10 else 10)), (BASE, bad), say)
        found[f"caught_{times}x"] = share_of(sum(one is not None for one in seen), len(seen), share)
        found[f"canary_requests_{times}x"] = median = _median(seen, requests)
        found[f"ratio_{times}x"] = _over(median, bound(bad, BASE, alpha), 1.35 if times > 2 else None)
        found[f"ratio_{times}x_at_alpha_rollout"] = _over(median, bound(bad, BASE, SPEC.false_rollback), None)
    for share in STEPS:
        rng = np.random.default_rng(100)
        seen = [
            until_rollback(error_guard(), [stage(rng, share, (BASE, 1.0), 2_000)]) for _ in range(max(1, runs // 10))
        ]
        found[f"always_failing_at_{share:.0%}"] = _median(seen, None)
    return found


def _rolled_back(seen: Sequence[int | None], reference: float | None) -> Figure:
    return share_of(sum(one is not None for one in seen), len(seen), reference)


def _median(seen: Sequence[int | None], reference: float | None) -> Figure:
    """The median with the order statistics that enclose it with 95 % (normal approximation of their ranks)."""
    ordered, n = sorted(math.inf if one is None else float(one) for one in seen), len(seen)
    half = Z * math.sqrt(n) / 2
    low, high = max(0, math.floor(n / 2 - half)), min(n - 1, math.ceil(n / 2 + half))
    return figure(float(np.median(ordered)), reference, ordered[low], ordered[high])


def _over(median: Figure, by: float, reference: float | None) -> Figure:
    mean, lo, hi = (None if median[part] is None else (median[part] or 0.0) / by for part in ("mean", "lo", "hi"))
    return figure(mean, reference, lo, hi)


# ---- non-inferiority


def until_proof(rng: np.random.Generator, qualities: tuple[float, float], share: float, scores: int) -> int | None:
    """Scores of the canary until it is shown to be at most 5 % worse; None: not within `scores`. The scores are 0 or 1, of
    these mean qualities of control and canary: the hardest of that mean."""
    guard = BoundedGuard("quality", 0.95, 0.01, margin=SPEC.margin)
    seen = 0
    while seen < scores:
        canary = bool(rng.random() < share)
        guard.observe(Sample(labelled=float(rng.random() < qualities[canary])), canary=canary, share=share)
        seen += canary
        if canary and guard.not_inferior():
            return seen
    return None


def _proofs(runs: int, say: Say) -> dict[str, Figure]:
    found = {}
    for share in STEPS:
        say(f"verdicts: proofs of non-inferiority at {share:.0%}")
        rng = np.random.default_rng(3)
        equal = [until_proof(rng, (QUALITY, QUALITY), share, 4_000) for _ in range(runs)]
        found[f"equal_scores_until_proof_at_{share:.0%}"] = _median(equal, None)
    worse = (QUALITY, QUALITY * (1 - SPEC.margin))
    wrong = [until_proof(np.random.default_rng([4, run]), worse, STEPS[1], 2_000) for run in range(runs)]
    return {**found, "inferior_called_equal": _rolled_back(wrong, None)}


# ---- latency


def latency_guard() -> Guard:
    """The guardrail `latency_p95: 1.2x` as a rollout makes it."""
    spec = replace(SPEC, guardrails=(Guardrail("latency_p95", ratio=1.2),))
    (guard,) = (one for one in guards_of(spec)[1] if isinstance(one, NumberGuard))
    return guard


def until_slow(
    rng: np.random.Generator, latencies: Floats, times: float, stages: Sequence[tuple[float, int]]
) -> int | None:
    """Canary requests until the guardrail of latency demands the rollback of a canary that takes so many times as long."""
    guard, seen = latency_guard(), 0
    for share, requests in stages:
        canary = rng.random(requests) < share
        seconds = rng.choice(latencies, requests) * np.where(canary, times, 1.0)
        for is_canary, value in zip(canary.tolist(), seconds.tolist(), strict=True):
            seen += int(is_canary)
            guard.observe(Sample(latency_s=value), canary=is_canary, share=share)
            if guard.fails():
                return seen
    return None


def _latencies(latencies: Floats, runs: int, say: Say) -> dict[str, Figure]:
    """`latencies` (prompts, models)."""
    models = latencies.shape[1]
    steps = [(share, LATENCY_STAGE) for share in STEPS]

    def trial(times: float, number: int, stages: Sequence[tuple[float, int]]) -> Iterator[int | None]:
        rng = np.random.default_rng([7, round(100 * times)])
        for run in range(number):
            if run % 100 == 0:
                say(f"verdicts: latency x {times:g}, {run} of {number}")
            yield until_slow(rng, latencies[:, run % models], times, stages)

    found = {"identical_rolled_back": _rolled_back(list(trial(1.0, runs, steps)), None)}
    for times in (1.25, 1.5, 2.0):
        seen = list(trial(times, runs, [(STEPS[0], STAGE)]))
        found[f"caught_{times:g}x"] = share_of(sum(one is not None for one in seen), len(seen))
        found[f"canary_requests_{times:g}x"] = _median(seen, None)
    return found
