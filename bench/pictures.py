"""`python -m bench.pictures`: draws the pictures of docs/decisions.md anew, from real runs (`bench.scenes`)."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from bench import scenes
from bench.matrices import hull
from bench.scenes import ALPHA, COST_USD, MODELS
from bench.svg import COLOURS, INK, PALE, Frame, Picture, thin

FOLDER: Final = Path(__file__).resolve().parents[1] / "docs" / "images"
BLUE, ORANGE, GREEN, PURPLE, _ = COLOURS
MAX_BYTES: Final = 30_000


def posteriors() -> Picture:
    """What is believed of three models after 10, 60 and 600 calls."""
    picture = Picture(720, 275, "Beliefs about three models, as bell curves that narrow with the number of calls")
    for number, calls in enumerate((10, 60, 600)):
        found = scenes.beliefs(calls)
        frame = Frame(
            (40 + 232 * number, 40, 200, 150), (0.0, 1.2), (0.0, 1.0), f"after {calls} calls", ("quality", "")
        )
        picture.axes(frame, ((0, 0.5, 1), ()))
        x = np.linspace(0.0, 1.2, 121)
        for place, ink in enumerate((BLUE, ORANGE, GREEN)):
            z = (x - found.mean[place]) / found.sd[place]
            bell = np.exp(-0.5 * z * z) * 0.9
            picture.area(frame, list(zip(x.tolist(), bell.tolist(), strict=True)), ink)
        told = ", ".join(f"{model} {count}" for model, count in zip(MODELS, found.calls.tolist(), strict=True))
        picture.text(40 + 232 * number, 240, f"calls: {told}", size=10)
    for place, entry in enumerate(zip(MODELS, (BLUE, ORANGE, GREEN), strict=True)):
        picture.legend((40 + 100 * place, 265), [entry])
    return picture


def promise() -> Picture:
    """Cost and quality of the models, their mixes, fixed weights, and a run that was told a promise."""
    found = scenes.promise()
    points = found.matrix.points
    picture = Picture(720, 330, "Quality over cost: three models, their mixes, the promise, and the engine's run")
    frame = Frame(
        (60, 40, 420, 230), (0.0, 11.0), (0.6, 0.95), "What is possible", ("$ per 1,000 calls", "mean quality")
    )
    picture.axes(frame, ((0, 2, 4, 6, 8, 10), (0.6, 0.7, 0.8, 0.9)))
    picture.line(frame, [(cost * 1e3, quality) for cost, quality in hull(points)], INK, dash="5 4", width=1.5)
    wanted = 0.95 * points[0][1]
    picture.line(frame, [(0.0, wanted), (11.0, wanted)], PURPLE, width=1.5)
    for (cost, quality), model, part in zip(points, MODELS, _parts(found.weighted), strict=True):
        picture.dot(frame.at(cost * 1e3, quality), BLUE, radius=5)
        x, y = frame.at(cost * 1e3, quality)
        dear = cost > 0.005
        anchor, below = ("end", -12) if dear else ("start", 20)
        picture.text(x - 8, y + below, f"{model}: {part:.0%} of weights", size=11, anchor=anchor)
    cost, quality = found.trail.point
    picture.dot(frame.at(cost * 1e3, quality), ORANGE, radius=6)
    mix = scenes.static_mix(found.matrix, wanted)
    picture.dot(frame.at(mix[0] * 1e3, mix[1]), GREEN, radius=5)
    picture.legend(
        (500, 70),
        [
            ("a model alone", BLUE),
            ("fixed mixes of models", INK),
            ("the promise: 95 % of large", PURPLE),
            ("best mix that keeps it (hindsight)", GREEN),
            ("the engine, learning included", ORANGE),
        ],
    )
    picture.text(500, 180, f"engine: {1 - quality / points[0][1]:.1%} quality lost,", size=11)
    picture.text(500, 196, f"{1 - cost / points[0][0]:.0%} of the cost saved", size=11)
    picture.text(500, 212, f"best mix: {1 - mix[0] / points[0][0]:.0%} saved", size=11)
    return picture


def _parts(weighted: Sequence[int]) -> list[float]:
    """The share of all weightings that takes each model."""
    return [sum(one == model for one in weighted) / len(weighted) for model in range(len(MODELS))]


def price() -> Picture:
    """The same run in time: quality against the promise, and the price that holds it."""
    found = scenes.promise()
    calls = len(found.trail.quality)
    base = found.matrix.points[0][1]
    picture = Picture(720, 420, "Quality of a run over time above the promise, and the price that the controller sets")
    upper = Frame((60, 40, 620, 150), (0, calls), (0.8, 1.1), "Quality so far, relative to the baseline model")
    picture.axes(upper, (range(0, calls + 1, 1000), (0.8, 0.9, 0.95, 1.0, 1.1)))
    means = np.cumsum(found.trail.quality) / np.arange(1, calls + 1) / base
    picture.line(upper, thin([(at + 1, min(1.1, float(means[at]))) for at in range(20, calls)]), BLUE)
    picture.line(upper, [(0, 0.95), (calls, 0.95)], PURPLE, dash="5 4", width=1.5)
    lower = Frame(
        (60, 250, 620, 120), (0, calls), (0, 2.5), "Price: how much cost weighs against quality", ("call", "")
    )
    picture.axes(lower, (range(0, calls + 1, 1000), (0, 1, 2)))
    pace = calls / max(1, len(found.prices))
    picture.line(lower, thin([(at * pace, min(2.5, one)) for at, one in enumerate(found.prices)]), ORANGE)
    return picture


def ceilings() -> Picture:
    """Mean cost so far over the ceiling."""
    found = scenes.ceilings()
    picture = Picture(720, 280, "Mean cost so far divided by the ceiling, for three ceilings: all end at or below one")
    frame = Frame((60, 40, 480, 180), (0, 2000), (0.0, 2.0), "Mean cost so far / ceiling", ("call", ""))
    picture.axes(frame, (range(0, 2001, 500), (0, 0.5, 1.0, 1.5, 2.0)))
    picture.line(frame, [(0, 1.0), (2000, 1.0)], INK, dash="5 4", width=1.5)
    inks = (BLUE, ORANGE, GREEN)
    for line, ink in zip(found.values(), inks, strict=True):
        picture.line(frame, thin([(at, min(2.0, one)) for at, one in line]), ink)
    entries = [(f"${ceiling * 1e3:g} per 1,000 calls", ink) for ceiling, ink in zip(found, inks, strict=True)]
    picture.legend((560, 60), entries)
    dear, cheap = COST_USD[0] * 1e3, COST_USD[-1] * 1e3
    picture.text(560, 130, f"large costs ${dear:g}, small ${cheap:g}", size=11)
    return picture


def canary() -> Picture:
    """Conversations on the line of the hash, and the steps."""
    picture = Picture(720, 190, "Conversations as dots on a line from 0 to 100; those below the step are the canary's")
    for number, step in enumerate((5, 25, 50)):
        y = 50.0 + 50 * number
        picture.text(10, y + 4, f"{step} %", size=12)
        picture.rect((60, y - 12, 640 * step / 100, 24), "#ffe5d0", round_=3)
        for place in scenes.places():
            picture.dot(
                (60 + 640 * place, y + 14 * (place * 977 % 1 - 0.5)), ORANGE if place < step / 100 else PALE, radius=2
            )
    picture.text(60, 182, "Who is in at 5 % is in at 25 %: the place is a hash of conversation and rollout.", size=11)
    return picture


def peeking() -> Picture:
    """Equal canaries that are rolled back."""
    found = scenes.peeking()
    picture = Picture(720, 310, "Share of harmless canaries rolled back over canary calls, for three rules")
    title = "Harmless canaries that are rolled back (1,000 runs, looked at after every call)"
    frame = Frame((60, 40, 620, 210), (0, 4000), (0.0, 0.5), title, ("canary calls", ""))
    picture.axes(frame, (range(0, 4001, 1000), (0, 0.1, 0.2, 0.3, 0.4, 0.5)))
    picture.line(frame, [(0, ALPHA), (4000, ALPHA)], INK, dash="5 4", width=1)
    inks = (ORANGE, PURPLE, GREEN)
    for line, ink in zip(found.values(), inks, strict=True):
        picture.line(frame, thin(line), ink)
    last = [(f"{name}: {line[-1][1]:.1%}", ink) for (name, line), ink in zip(found.items(), inks, strict=True)]
    picture.legend((380, 150), last)
    return picture


def drift() -> Picture:
    """A model that gets bad and good again."""
    line, third = scenes.drop()
    picture = Picture(720, 290, "Share of a model over time: it falls after the model got worse")
    frame = Frame((60, 40, 620, 190), (0, 3 * third), (0.0, 1.0), "Share of `large` in the last 50 calls", ("call", ""))
    left, _ = frame.at(third, 0)
    right, _ = frame.at(2 * third, 0)
    picture.rect((left, 40, right - left, 190), "#fff1e5")
    picture.axes(frame, (range(0, 3 * third + 1, third // 2), (0, 0.5, 1)))
    picture.line(frame, thin(line, 300), BLUE)
    picture.text((left + right) / 2, 58, "its answers got worse, nobody said so", size=11, anchor="middle", ink=ORANGE)
    return picture


def questions() -> Picture:
    """Three other policies, asked of one log."""
    found = scenes.questions()
    picture = Picture(720, 300, "For three policies: the true quality, and three estimates with their intervals")
    frame = Frame((170, 40, 520, 200), (0.78, 0.95), (0.0, 3.0), "One log, three other policies", ("quality", ""))
    picture.axes(frame, ((0.8, 0.85, 0.9, 0.95), ()))
    for row, (name, truth, answer) in enumerate(found):
        _, y = frame.at(0.8, 2.5 - row)
        picture.text(160, y + 4, name, anchor="end")
        x, _ = frame.at(truth, 0)
        picture.path([(x, y - 26), (x, y + 26)], INK, width=1.5, dash="3 3")
        for place, (estimate, ink) in enumerate(
            zip((answer.ips, answer.snips, answer.dr), (ORANGE, PURPLE, GREEN), strict=True)
        ):
            at = y - 14 + 14 * place
            low, high = frame.at(estimate.low, 0)[0], frame.at(estimate.high, 0)[0]
            picture.path([(low, at), (high, at)], ink)
            picture.dot((frame.at(estimate.value, 0)[0], at), ink)
    picture.legend((190, 270), [("IPS", ORANGE)])
    picture.legend((270, 270), [("SNIPS", PURPLE)])
    picture.legend((360, 270), [("doubly robust", GREEN)])
    picture.legend((490, 270), [("truth (dashed)", INK)])
    return picture


def cycle() -> Picture:
    """The control loop's states."""
    picture = Picture(720, 190, "States of the control loop from idle to complete, with the ways to rolling back")
    names = ("idle", "observing", "analysing", "deciding", "validating", "deploying", "monitoring")
    for number, name in enumerate(names):
        _box(picture, 14 + 101 * number, 40, name, BLUE)
        if number:
            picture.path([(3 + 101 * number, 56), (14 + 101 * number, 56)], INK, width=1.5)
    _box(picture, 620, 120, "complete", GREEN)
    _box(picture, 500, 120, "rolling back", ORANGE)
    picture.path([(665, 72), (665, 120)], INK, width=1.5)
    picture.path([(640, 72), (560, 120)], ORANGE, width=1.5)
    picture.path([(590, 136), (620, 136)], INK, width=1.5)
    picture.path([(460, 72), (460, 165), (665, 165), (665, 152)], INK, width=1, dash="4 3")
    picture.text(452, 180, "a rule denies it", size=11, anchor="end")
    picture.text(575, 92, "harm", size=11, ink=ORANGE)
    return picture


def _box(picture: Picture, x: float, y: float, words: str, ink: str) -> None:
    picture.rect((x, y, 90, 32), "#f6f8fa", edge=ink, round_=6)
    picture.text(x + 45, y + 20, words, size=12, anchor="middle")


PICTURES: Final[Mapping[str, Callable[[], Picture]]] = {
    "posteriors": posteriors,
    "promise": promise,
    "price": price,
    "ceilings": ceilings,
    "canary": canary,
    "peeking": peeking,
    "drift": drift,
    "questions": questions,
    "cycle": cycle,
}


def main(argv: Sequence[str]) -> int:
    """Writes the pictures; exit code 1 when one is too large for a page."""
    parser = argparse.ArgumentParser(prog="python -m bench.pictures", description=__doc__)
    parser.add_argument("--to", type=Path, default=FOLDER, metavar="DIR")
    parser.add_argument("--only", default=",".join(PICTURES), metavar="NAME,...")
    options = parser.parse_args(argv)
    options.to.mkdir(parents=True, exist_ok=True)
    large = []
    for name in options.only.split(","):
        text = PICTURES[name]().svg()
        (options.to / f"{name}.svg").write_text(text, encoding="utf-8")
        print(f"{name}.svg: {len(text)} bytes")
        if len(text) > MAX_BYTES:
            large.append(name)
    return 1 if large else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
