"""Plots as SVG that is part of the page: they take its colours, light or dark, and need no file beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

WIDTH, LEFT, RIGHT, TOP, HEIGHT = 480, 52, 14, 12, 220
ROW = 38
COLOURS = 8
"""Of lines in one plot; the style sheet has as many, and dashes to tell them apart without colour."""
LETTERS = 66
"""Of a label that fit the width."""


@dataclass(frozen=True)
class Axis:
    """What an axis says, and from where to where."""

    label: str
    low: float = 0.0
    high: float = 100.0
    log: bool = False

    def share(self, value: float) -> float:
        """Where ``value`` lies between the ends, 0..1."""
        low, high, value = (math.log10(v) for v in (self.low, self.high, value)) if self.log else self._plain(value)
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def _plain(self, value: float) -> tuple[float, float, float]:
        return self.low, self.high, value

    def ticks(self) -> list[float]:
        """Round numbers along the axis."""
        if self.log:
            return [10.0**power for power in range(math.ceil(math.log10(self.low)), int(math.log10(self.high)) + 1)]
        return [self.low + (self.high - self.low) * i / 5 for i in range(6)]


@dataclass(frozen=True)
class Dot:
    """One observation: where, what a pointer over it is told, and whether it counts (a void one is hollow)."""

    x: float
    y: float
    told: str
    counts: bool = True


@dataclass(frozen=True)
class Series:
    """What is drawn in one colour: a line, dots, and marks with a number beside them."""

    name: str
    line: Sequence[tuple[float, float]] = ()
    dots: Sequence[Dot] = ()
    marks: Sequence[tuple[float, float, str]] = field(default=())


def chart(series: Sequence[Series], x: Axis, y: Axis, text: str, *, legend: bool = True) -> Markup:
    """Lines and dots over two axes; ``text`` is what somebody hears who does not see it."""
    named = series if legend else ()
    bottom = TOP + HEIGHT
    parts = [_grid(x, bottom), *(_level(y, tick) for tick in y.ticks())]
    parts += [_drawn(each, x, y, place) for place, each in enumerate(series)]
    parts.append(_words(WIDTH / 2 + LEFT / 2, bottom + 34, x.label, "middle"))
    parts.append(
        Markup('<text class="axis" transform="translate(13 {}) rotate(-90)" text-anchor="middle">{}</text>').format(
            TOP + HEIGHT / 2, y.label
        )
    )
    for place, each in enumerate(named):
        height = bottom + 54 + 17 * place
        parts.append(Markup('<path class="line s{}" d="M{} {}h26"/>').format(place % COLOURS, LEFT, height - 4))
        parts.append(_words(LEFT + 34, height, each.name, limit=58))
    return _svg(parts, bottom + 46 + 17 * len(named), text)


def strips(rows: Sequence[tuple[str, Sequence[Dot], float]], x: Axis, text: str) -> Markup:
    """A row a thing: its label, a dot an observation (by ``x``), and a bar at their mean."""
    bottom = TOP + ROW * len(rows)
    parts = [_grid(x, bottom, left=10)]
    for place, (label, dots, mean) in enumerate(rows):
        top = TOP + ROW * place
        parts.append(_words(10, top + 12, label))
        if math.isfinite(mean):
            parts.append(Markup('<path class="mean" d="M{} {}v18"/>').format(_across(x, mean, 10), top + 16))
        # Spread by rank, not by chance: the same results make the same page.
        for rank, dot in enumerate(dots):
            height = top + 19 + 12 * (rank + 0.5) / len(dots)
            parts.append(_dot(_across(x, dot.x, 10), height, dot, 0))
    parts.append(_words(WIDTH / 2, bottom + 32, x.label, "middle"))
    return _svg(parts, bottom + 42, text)


def _svg(parts: Iterable[Markup], height: float, text: str) -> Markup:
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, round(height), text)
    return head + Markup("").join(parts) + Markup("</svg>")


def _across(axis: Axis, value: float, left: int = LEFT) -> float:
    return round(left + (WIDTH - left - RIGHT) * axis.share(value), 1)


def _down(axis: Axis, value: float) -> float:
    return round(TOP + HEIGHT * (1 - axis.share(value)), 1)


def _grid(x: Axis, bottom: float, left: int = LEFT) -> Markup:
    made = Markup("")
    for tick in x.ticks():
        place = _across(x, tick, left)
        made += Markup('<path class="grid" d="M{} {}V{}"/>').format(place, TOP, bottom)
        made += _words(place, bottom + 16, f"{tick:,.4g}", "middle")
    return made


def _level(y: Axis, tick: float) -> Markup:
    place = _down(y, tick)
    line = Markup('<path class="grid" d="M{} {}H{}"/>').format(LEFT, place, WIDTH - RIGHT)
    return line + _words(LEFT - 6, place + 4, f"{tick:.4g}", "end")


def _words(x: float, y: float, text: str, anchor: str = "start", limit: int = LETTERS) -> Markup:
    short = text if len(text) <= limit else f"{text[: limit // 2]}…{text[-(limit - limit // 2 - 1) :]}"
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(x, y, anchor, short)


def _dot(x: float, y: float, dot: Dot, place: int) -> Markup:
    look = f"dot s{place % COLOURS}" if dot.counts else f"dot void s{place % COLOURS}"
    return Markup('<circle class="{}" cx="{}" cy="{}" r="3.5"><title>{}</title></circle>').format(
        look, round(x, 1), round(y, 1), dot.told
    )


def _drawn(series: Series, x: Axis, y: Axis, place: int) -> Markup:
    made = Markup("")
    if series.line:
        points = " ".join(f"{_across(x, a)},{_down(y, b)}" for a, b in series.line)
        made += Markup('<polyline class="line s{}" points="{}"/>').format(place % COLOURS, points)
    for dot in series.dots:
        made += _dot(_across(x, dot.x), _down(y, dot.y), dot, place)
    for a, b, text in series.marks:
        left, top = _across(x, a), _down(y, b)
        made += Markup('<path class="mark" d="M{} {}l5 5l-5 5l-5-5z"/>').format(left, top - 5)
        made += _words(left + 7 if left < WIDTH - 40 else left - 20, top - 5, text)
    return made
