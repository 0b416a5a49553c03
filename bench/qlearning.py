"""`python -m bench.qlearning --data DIR --seeds N`: the engine against epsilon-greedy Q-learning, on real matrices.

Q-learning is what "self-learning router" often means: a table of values per state and arm, here state = task x bucket of the
text's length, Q += ALPHA (r + gamma max Q' - Q), and EPSILON of the choices made at random. Two questions, the same streams
for everybody (each prompt once, only the chosen arm's score is seen, exploration included, 95 % intervals over seeds):

* quality alone: regret against the best fixed model;
* told "at most 5 % quality loss, else cheap": how often it is kept and what is saved. Q-learning has no constraint, so it
  gets the usual reward 0.6 quality + 0.3 cost + 0.1 latency instead.

gamma 0 is Q-learning at its best here: a request does not depend on what served the last one, so that a value of the next
state is noise. gamma 0.9 is what copies of a textbook do.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from bench.matrices import Matrix, MatrixError, Point, load_all
from bench.replay import Told, order, replay
from bench.tape import Tape, tape
from sidecar.core.reward import cost_score

ALPHA: Final = 0.1
EPSILON: Final = 0.1
DECAY: Final = 0.999  # a call, down to LEAST
LEAST: Final = 0.01
LOSS: Final = 0.05
NEUTRAL: Final = 0.5  # latency score: most matrices have no latencies
BEGIN, END = "<!-- qlearning: begin -->\n", "<!-- qlearning: end -->"


@dataclass(frozen=True, slots=True)
class Learner:
    """One variant of Q-learning."""

    name: str
    gamma: float = 0.0
    decays: bool = False


LEARNERS: Final = (
    Learner("Q-learning, epsilon .1"),
    Learner("Q-learning, epsilon decayed", decays=True),
    Learner("Q-learning, gamma .9", gamma=0.9),
)
ENGINE: Final = "engine"


def q_learning(matrix: Matrix, seed: int, learner: Learner, weights: tuple[float, float, float]) -> Point:
    """(mean cost in dollars, mean quality) of one stream; `weights` are those of quality, cost and latency."""
    rng = np.random.default_rng([seed, 3])
    arms, table = len(matrix.models), dict[tuple[str, int], list[float]]()
    reference = float(matrix.cost_usd[:, matrix.best].mean())
    costs, scores = matrix.cost_usd.tolist(), matrix.quality.tolist()
    stream = order(matrix, seed).tolist()
    states = [(matrix.tasks[one], len(matrix.prompts[one]).bit_length()) for one in stream]
    cost = quality = 0.0
    epsilon = EPSILON
    for number, prompt in enumerate(stream):
        values = table.setdefault(states[number], [0.0] * arms)
        if rng.random() < epsilon:
            arm = int(rng.integers(arms))
        else:
            best = max(values)
            arm = int(rng.choice([at for at, value in enumerate(values) if value == best]))
        reward = weights[0] * scores[prompt][arm] + weights[2] * NEUTRAL
        reward += weights[1] * cost_score(costs[prompt][arm], reference)
        after = max(table.get(states[number + 1], [0.0])) if number + 1 < len(stream) else 0.0
        values[arm] += ALPHA * (reward + learner.gamma * after - values[arm])
        if learner.decays:
            epsilon = max(LEAST, epsilon * DECAY)
        cost += costs[prompt][arm]
        quality += scores[prompt][arm]
    return cost / len(stream), quality / len(stream)


def compared(matrix: Matrix, seeds: int, say: Callable[[str], None]) -> dict[str, dict[str, list[float]]]:
    """By player: `regret` (relative, quality alone), `loss` and `saving` (told 5 %), one value a seed."""
    best_cost, best_quality = matrix.points[matrix.best]
    ready: Tape = tape(matrix)
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(seeds):
        players: dict[str, tuple[Point, Point]] = {
            ENGINE: (
                replay(ready, seed, Told(cost_weight=0.0)).point,
                replay(ready, seed, Told(max_quality_loss=LOSS)).point,
            )
        }
        for learner in LEARNERS:
            alone = q_learning(matrix, seed, learner, (1.0, 0.0, 0.0))
            players[learner.name] = (alone, q_learning(matrix, seed, learner, (0.6, 0.3, 0.1)))
        for name, (alone, told) in players.items():
            figures = found.setdefault(name, {"regret": [], "loss": [], "saving": []})
            figures["regret"].append(1 - alone[1] / best_quality)
            figures["loss"].append(1 - told[1] / best_quality)
            figures["saving"].append(1 - told[0] / best_cost)
        say(f"{matrix.name} seed {seed + 1}/{seeds}")
    return found


def markdown(found: dict[str, dict[str, dict[str, list[float]]]], seeds: int) -> str:
    """The table of the docs."""
    lines = [
        f"`python -m bench.qlearning --data DIR --seeds {seeds}`: mean and 1.96 standard errors over the seeds,",
        "exploration included. A regret below zero is a gain over the best fixed model; `kept` counts seeds that lost at",
        "most 5 %.",
        "",
        "| matrix | player | quality alone: regret against the best fixed model | told 5 %: loss | kept | saved |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, players in found.items():
        for player, figures in players.items():
            kept = sum(loss <= LOSS for loss in figures["loss"])
            lines.append(
                f"| {name} | {player} | {_shown(figures['regret'])} | {_shown(figures['loss'])} | "
                f"{kept} of {len(figures['loss'])} | {_shown(figures['saving'])} |"
            )
    return "\n".join(lines) + "\n"


def _shown(values: Sequence[float]) -> str:
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.1%}"
    return f"{mean:.1%} ± {1.96 * float(np.std(values, ddof=1)) / math.sqrt(len(values)):.1%}"


def filled(page: str, table: str) -> str:
    """The page with the table between its marks. Raises ValueError when the page has none."""
    if BEGIN not in page or END not in page:
        raise ValueError(f"the page lacks the marks {BEGIN.strip()} and {END}")
    before, rest = page.split(BEGIN, 1)
    return f"{before}{BEGIN}{table}{END}{rest.split(END, 1)[1]}"


def main(argv: Sequence[str]) -> int:
    """Exit code 0, or 2 when the folder cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m bench.qlearning", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of matrices")
    parser.add_argument("--seeds", type=int, default=5, metavar="N")
    parser.add_argument("--only", default="", metavar="NAME,...", help="matrices")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--into", type=Path, metavar="FILE.md", help="put the table between the marks of a page")
    options = parser.parse_args(argv)
    wanted = {name for name in options.only.split(",") if name}
    try:
        matrices = [one for one in load_all(options.data) if not wanted or one.name in wanted]
        page = options.into.read_text(encoding="utf-8") if options.into else f"{BEGIN}{END}"
        filled(page, "")
    except (MatrixError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    found = {one.name: compared(one, options.seeds, lambda text: print(text, file=sys.stderr)) for one in matrices}
    table = markdown(found, options.seeds)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if options.into:
        options.into.write_text(filled(page, table), encoding="utf-8")
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
