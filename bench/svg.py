"""Small pictures as SVG text: axes, lines, bands, points, bars, words. No library, no font of its own, a few kB each."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

INK: Final = "#24292f"
PALE: Final = "#d0d7de"
COLOURS: Final = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989")
Point = tuple[float, float]


@dataclass(slots=True)
class Frame:
    """A rectangle of the picture with axes: data from `x` and `y` (low, high) are drawn into `box` (left, top, width,
    height)."""

    box: tuple[float, float, float, float]
    x: tuple[float, float]
    y: tuple[float, float]
    title: str = ""
    names: tuple[str, str] = ("", "")

    def at(self, x: float, y: float) -> Point:
        """Where a point of the data lies in the picture."""
        left, top, width, height = self.box
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return left + width * across, top + height * (1 - up)


@dataclass(slots=True)
class Picture:
    """One SVG file in the making."""

    width: int
    height: int
    what: str  # for those who cannot see it
    parts: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, words: str, *, size: int = 12, anchor: str = "start", ink: str = INK) -> None:
        """Words whose base line begins (or is centred, or ends) at a place of the picture."""
        self.parts.append(
            f'<text x="{_n(x)}" y="{_n(y)}" font-size="{size}" text-anchor="{anchor}" fill="{ink}">{escape(words)}</text>'
        )

    def rect(self, box: tuple[float, float, float, float], fill: str, *, edge: str = "none", round_: int = 0) -> None:
        left, top, width, height = (_n(one) for one in box)
        self.parts.append(
            f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="{round_}" fill="{fill}" stroke="{edge}"/>'
        )

    def path(
        self, points: Sequence[Point], ink: str, *, width: float = 2.0, dash: str = "", fill: str = "none"
    ) -> None:
        """A line through places of the picture."""
        where = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        shape = "polygon" if fill != "none" else "polyline"
        opacity = ' fill-opacity="0.2"' if fill != "none" else ""
        self.parts.append(
            f'<{shape} points="{where}" fill="{fill}"{opacity} stroke="{ink}" stroke-width="{_n(width)}"{dashed}/>'
        )

    def dot(self, where: Point, ink: str, *, radius: float = 4.0) -> None:
        self.parts.append(f'<circle cx="{_n(where[0])}" cy="{_n(where[1])}" r="{_n(radius)}" fill="{ink}"/>')

    # ---- in a frame

    def axes(self, frame: Frame, ticks: tuple[Sequence[float], Sequence[float]], style: str = "{:g}") -> None:
        """The frame with its title, the names of its axes and ticks across and up."""
        left, top, width, height = frame.box
        self.text(left, top - 10, frame.title, size=13)
        for value in ticks[1]:
            _, y = frame.at(frame.x[0], value)
            self.path([(left, y), (left + width, y)], PALE, width=0.7)
            self.text(left - 6, y + 4, style.format(value), size=11, anchor="end")
        for value in ticks[0]:
            x, _ = frame.at(value, frame.y[0])
            self.path([(x, top + height), (x, top + height + 4)], INK, width=1)
            self.text(x, top + height + 17, f"{value:g}", size=11, anchor="middle")
        self.path([(left, top), (left, top + height), (left + width, top + height)], INK, width=1)
        self.text(left + width, top + height + 33, frame.names[0], size=11, anchor="end")
        self.text(left + 6, top + 12, frame.names[1], size=11)

    def line(self, frame: Frame, data: Sequence[Point], ink: str, *, width: float = 2.0, dash: str = "") -> None:
        self.path([frame.at(*one) for one in data], ink, width=width, dash=dash)

    def area(self, frame: Frame, data: Sequence[Point], ink: str) -> None:
        """The area between a line and the bottom of the frame."""
        ends = [(data[-1][0], frame.y[0]), (data[0][0], frame.y[0])]
        self.path([frame.at(*one) for one in [*data, *ends]], ink, width=1, fill=ink)

    def legend(self, place: Point, entries: Sequence[tuple[str, str]]) -> None:
        """(words, colour) below each other."""
        for number, (words, ink) in enumerate(entries):
            x, y = place[0], place[1] + 17 * number
            self.path([(x, y - 4), (x + 16, y - 4)], ink, width=3)
            self.text(x + 22, y, words, size=11)

    def svg(self) -> str:
        """The file's text."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'role="img" font-family="system-ui, sans-serif"><title>{escape(self.what)}</title>'
            f'<rect width="{self.width}" height="{self.height}" fill="#ffffff"/>'
        )
        return "\n".join([head, *self.parts, "</svg>"]) + "\n"


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def thin(data: Sequence[Point], most: int = 160) -> list[Point]:
    """At most about `most` of the points, the last among them."""
    step = max(1, len(data) // most)
    return [*data[::step], data[-1]]
