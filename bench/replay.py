"""A stream of a matrix's prompts through a new engine: decide, settle, feedback, refresh, tick, nothing else.

A stream has phases. Each has its prompts, and may have other scores, other prices or fewer arms than the matrix says:
scores change in silence, prices are told (`price_of`), arms come by `apply` and are promoted at once, because how an
arm comes in is the rollout's question and not the router's. The engine sees the cost and the score of the chosen
model only, and begins with nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.matrices import Floats, Matrix, Point
from bench.tape import Tape, times
from sidecar.core.cost import RateCard, flat_card
from sidecar.core.engine import Engine
from sidecar.core.policy import (
    Arm,
    Budget,
    Context,
    Match,
    Objective,
    Policy,
    Quality,
    RolloutSpec,
    Route,
    Upstream,
)
from sidecar.core.route import PriceOf
from sidecar.core.types import Clocks, Decision, Facts, Feedback, Outcome

SECOND: Final = 1.0  # between two calls
TICK_EVERY: Final = 16  # calls
REFRESH_EVERY: Final = 4  # calls; the shell does it behind every answer
START: Final = 1_763_683_200.0  # midnight, so that a stream does not begin at the end of a day
ROUTE: Final = "bench"
Make = Callable[[Policy, np.random.Generator, float, PriceOf], Engine]


@dataclass(frozen=True, slots=True)
class Told:
    """What the policy asks of the engine."""

    quality_weight: float = 0.6
    cost_weight: float = 0.3
    max_quality_loss: float = 1.0
    ceiling_usd: float | None = None  # on the mean cost of a request
    base: int | None = None  # the app's own model; None: the best one


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a stream. None and empty: as the matrix says, a call a second."""

    prompts: NDArray[np.intp]
    quality: Floats | None = None  # (N, K)
    price: tuple[float, ...] = ()  # what each arm's price is multiplied with
    absent: frozenset[int] = frozenset()  # arms that the policy does not have; those of the first phase may come later
    gaps_s: Floats | None = None  # before each call


@dataclass(frozen=True, slots=True)
class Trail:
    """What happened to each request of a stream."""

    arms: NDArray[np.intp]  # -1: refused, which costs nothing and is worth nothing
    cost_usd: Floats
    quality: Floats

    @property
    def point(self) -> Point:
        """(mean cost in dollars, mean quality)."""
        return float(self.cost_usd.mean()), float(self.quality.mean())


def replay(
    tape: Tape,
    seed: int,
    told: Told,
    phases: Sequence[Phase] = (),
    *,
    seen: float = 1.0,
    make: Make = Engine,
) -> Trail:
    """One stream: all prompts once in an order of the seed, or the given phases. Equal arguments give equal trails.

    `seen` is the share (0..1) of the calls whose score comes back; `make` makes the engine.
    """
    played = phases or (Phase(order(tape.matrix, seed)),)
    stream = _Stream(tape, seed, told, tape.matrix.best if told.base is None else told.base, played[0], make)
    for phase in played:
        stream.play(phase, seen)
    return Trail(np.array(stream.arms), np.array(stream.cost_nusd) / 1e9, np.array(stream.quality))


def order(matrix: Matrix, seed: int) -> NDArray[np.intp]:
    """All prompts once, in the order of a seed."""
    return np.random.default_rng(seed).permutation(len(matrix.prompts))


@dataclass(slots=True)
class _Stream:
    """The engine of one stream and its trail so far."""

    tape: Tape
    seed: int
    told: Told
    base: int
    first: Phase
    make: Make
    arms: list[int] = field(default_factory=list)
    cost_nusd: list[float] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)
    now: float = START
    present: frozenset[int] = frozenset()
    engine: Engine = field(init=False)
    rng: np.random.Generator = field(init=False)
    cards: dict[str, RateCard] = field(default_factory=dict)
    asked: str = field(init=False)  # the model that the app asks for

    def __post_init__(self) -> None:
        self.rng, self.asked = np.random.default_rng([self.seed, 2]), f"model{self.base}"
        self._price(self.first)
        self.present = self._everybody - self.first.absent
        policy = _policy(self.tape.matrix, self.told, self.base, self.present)
        self.engine = self.make(policy, np.random.default_rng([self.seed, 1]), START, lambda up, _: self.cards[up.name])
        self._promote(len(self.present) - 1)

    @property
    def _everybody(self) -> frozenset[int]:
        return frozenset(range(len(self.tape.matrix.models)))

    def play(self, phase: Phase, seen: float) -> None:
        """Every call of a phase; the score of `seen` (0..1) of them comes back as feedback."""
        self._turn(phase)
        count, engine = len(phase.prompts), self.engine
        scores = (self.tape.matrix.quality if phase.quality is None else phase.quality).tolist()
        factors = phase.price or (1.0,) * len(self.tape.matrix.models)
        gaps = [SECOND] * count if phase.gaps_s is None else phase.gaps_s.tolist()
        draws = self.rng.integers(1 << 63, size=count).tolist()
        shown = (self.rng.random(count) < seen).tolist()
        for prompt, gap, draw, show in zip(phase.prompts.tolist(), gaps, draws, shown, strict=True):
            self.now += gap
            facts = self._facts(prompt, draw)
            decision = engine.decide(facts, self.now)
            if decision.arm is None:
                self._note(-1, 0.0, 0.0)
            else:
                arm = int(decision.arm[3:])
                score = scores[prompt][arm]
                self._serve(facts, decision, prompt, factors[arm], score if show else None)
                self._note(arm, self.tape.cost_nusd[prompt][arm] * factors[arm], score)
            if len(self.arms) % REFRESH_EVERY == 0:
                engine.refresh(self.now)
            if len(self.arms) % TICK_EVERY == 0:
                engine.tick(self.now)

    def _facts(self, prompt: int, draw: int) -> Facts:
        tape = self.tape
        return Facts(
            endpoint="chat",
            dialect="openai",
            path="/v1/chat/completions",
            model=self.asked,
            stream=False,
            key=0,
            draw=draw,
            input_bytes=tape.sizes[prompt],
            task=tape.matrix.tasks[prompt],
            text=tape.texts[prompt],
        )

    def _serve(self, facts: Facts, decision: Decision, prompt: int, factor: float, score: float | None) -> None:
        """The exchange of one decision, and its score where that is seen."""
        assert decision.arm is not None
        tape, arm = self.tape, int(decision.arm[3:])
        outcome = Outcome(
            kind="completed",
            status=200,
            clocks=Clocks(sent_s=0.0, duration_s=tape.latency_s[prompt][arm]),
            usage=tape.usage[prompt][arm],
            usage_source="provider",
            cost_nusd=round(tape.cost_nusd[prompt][arm] * factor),
            cost_kind="exact",
            finish="stop",
            empty=False,
        )
        self.engine.settle(facts, decision, outcome, self.now)
        if score is not None:
            name = str(len(self.arms))
            told = Feedback(
                decision_id=name, route=ROUTE, arm=decision.arm, score=score, task=facts.task, text=facts.text
            )
            self.engine.feedback(told, self.now)

    def _note(self, arm: int, cost_nusd: float, quality: float) -> None:
        self.arms.append(arm)
        self.cost_nusd.append(cost_nusd)
        self.quality.append(quality)

    def _turn(self, phase: Phase) -> None:
        """What a new phase tells the engine: prices, and arms that came or went."""
        self._price(phase)
        present = self._everybody - phase.absent
        if present != self.present:
            new = len(present - self.present)
            self.present = present
            self.engine.apply(_policy(self.tape.matrix, self.told, self.base, present), self.now)
            self._promote(new)
        self.engine.tick(self.now)

    def _price(self, phase: Phase) -> None:
        for arm, price in enumerate(self.tape.prices):
            factor = phase.price[arm] if phase.price else 1.0
            self.cards[f"up{arm}"] = flat_card(times(price, factor))

    def _promote(self, count: int) -> None:
        for _ in range(count):
            self.engine.tick(self.now)
            self.engine.promote(ROUTE, self.now)


def _policy(matrix: Matrix, told: Told, base: int, present: frozenset[int]) -> Policy:
    """One optimize route over the arms that are present, the app's own model as the baseline."""
    arms = {at: Arm(f"arm{at}", f"up{at}", f"model{at}") for at in range(len(matrix.models))}
    upstreams = {arm.upstream: Upstream(arm.upstream, "openai", "https", "provider", 443) for arm in arms.values()}
    ceiling = None if told.ceiling_usd is None else Budget(mean_request_nusd=round(told.ceiling_usd * 1e9))
    route = Route(
        ROUTE,
        Match(),
        "optimize",
        arms[base],
        tuple(arms[at] for at in sorted(present - {base})),
        objective=Objective(
            max_quality_loss=told.max_quality_loss,
            quality_weight=told.quality_weight,
            cost_weight=told.cost_weight,
            latency_weight=0.0,
        ),
        context=Context(tag="task", text=True),
        sticky="request",
        rollout=RolloutSpec(steps=(100,)),
        budget=ceiling,
        quality=Quality(min_samples=0),
    )
    return Policy("bench", f"bench {sorted(present)}", upstreams, (route,))
