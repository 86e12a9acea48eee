"""Pictures as SVG that is part of the page: they take its colours, light or dark, and need no file beside it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from markupsafe import Markup

WIDTH, LEFT, RIGHT, TOP, HEIGHT = 480, 52, 24, 20, 220
ROW, LINE = 26, 16
"""Heights of a row of dots, and of a line of words."""
LETTERS = 56
"""Number of letters of a line that fits the width."""
SHAPES = (
    "m-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z",
    "m-3 -3h6v6h-6z",
    "m0 -4l4 7h-8z",
    "m0 -4.5l4.5 4.5l-4.5 4.5l-4.5-4.5z",
    "m0 4l4 -7h-8z",
    "m-1.3 -4h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7z",
    "m-4 0l7 -4v8z",
    "m4 0l-7 -4v8z",
)
"""Paths of the dots of one series each: with its dashes they tell a series without its colour."""
COLOURS = len(SHAPES)
"""Series in one picture; the style sheet has as many."""


@dataclass(frozen=True)
class Axis:
    """An axis: its label and its ends."""

    label: str
    low: float = 0.0
    high: float = 100.0
    log: bool = False
    steps: int = 5
    """Number of intervals between its ticks."""

    def share(self, value: float) -> float:
        """Place of ``value`` between the ends, 0..1."""
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return min(1.0, max(0.0, (at - low) / (high - low)))

    def ticks(self) -> list[float]:
        """Round numbers along the axis."""
        if self.log:
            return [10.0**power for power in range(math.ceil(math.log10(self.low)), int(math.log10(self.high)) + 1)]
        return [self.low + (self.high - self.low) * i / self.steps for i in range(self.steps + 1)]


@dataclass(frozen=True)
class Dot:
    """One observation: where, what a pointer over it is told, and whether it counts (a void one is hollow)."""

    x: float
    y: float
    told: str
    counts: bool = True


@dataclass(frozen=True)
class Series:
    """Drawing in one colour and shape: a line, dots, and diamonds with a number beside them."""

    name: str
    line: Sequence[tuple[float, float]] = ()
    dots: Sequence[Dot] = ()
    marks: Sequence[tuple[float, float, str]] = ()


def chart(series: Sequence[Series], x: Axis, y: Axis, text: str, *, legend: bool = True) -> Markup:
    """Lines and dots over two axes; ``text`` is what somebody hears who does not see it."""
    bottom = TOP + HEIGHT
    parts = [_grid(x, bottom), *(_level(y, tick) for tick in y.ticks())]
    parts += [_drawn(each, x, y, place) for place, each in enumerate(series)]
    parts.append(_words((WIDTH + LEFT - RIGHT) / 2, bottom + 36, x.label, "middle"))
    parts.append(
        Markup('<text transform="translate(13 {}) rotate(-90)" text-anchor="middle">{}</text>').format(
            TOP + HEIGHT / 2, y.label
        )
    )
    height = bottom + 58.0
    for place, each in enumerate(series if legend else ()):
        lines = folded(each.name, LETTERS - 5)
        parts.append(Markup('<path class="line s{}" d="M{} {}h30"/>').format(place, LEFT, height - 4))
        parts.append(_shape(place, LEFT + 15, height - 4))
        parts += [_words(LEFT + 38, height + LINE * i, line) for i, line in enumerate(lines)]
        height += LINE * len(lines) + 2
    return _svg(parts, height - 10, text)


def strips(rows: Sequence[tuple[str, Sequence[Dot], float]], x: Axis, text: str) -> Markup:
    """A row a thing: its label, a dot an observation (by ``x``), and a bar at their mean."""
    labels = [folded(label, LETTERS) for label, _, _ in rows]
    tops = list(accumulate((ROW + LINE * len(lines) for lines in labels), initial=TOP))
    parts = [_grid(x, tops[-1], left=10)]
    for lines, (_, dots, mean), top in zip(labels, rows, tops, strict=False):
        parts += [_words(10, top + 11 + LINE * i, line) for i, line in enumerate(lines)]
        middle = top + LINE * len(lines)
        if math.isfinite(mean):
            parts.append(Markup('<path class="mean" d="M{} {}v20"/>').format(_across(x, mean, 10), middle))
        # Spread by rank, not by chance: the same results make the same page.
        for rank, dot in enumerate(dots):
            parts.append(_dot(_across(x, dot.x, 10), middle + 3 + 14 * (rank + 0.5) / len(dots), dot, 0))
    parts.append(_words(WIDTH / 2, tops[-1] + 36, x.label, "middle"))
    return _svg(parts, tops[-1] + 46, text)


@dataclass(frozen=True)
class Bar:
    """A bar from zero to a value, with the interval of the value; NaN ends where there is none."""

    series: int
    value: float
    low: float
    high: float
    told: str


BAR, SPACE = 11, 3
"""Height of a bar, and the space below it."""


def bars(rows: Sequence[tuple[str, Sequence[Bar]]], series: Sequence[str], x: Axis, text: str) -> Markup:
    """Groups of bars below their labels, one bar a series; ``text`` is what somebody hears who does not see it."""
    labels = [folded(label, LETTERS) for label, _ in rows]
    high = [LINE * len(lines) + (BAR + SPACE) * len(own) + 10 for lines, (_, own) in zip(labels, rows, strict=True)]
    tops = list(accumulate(high, initial=TOP + (LINE if len(series) > 1 else 0)))
    zero = Markup('<path class="zero" d="M{} {}V{}"/>').format(_across(x, 0.0, 10), tops[0], tops[-1])
    parts = [_grid(x, tops[-1], left=10), zero]
    for lines, (_, own), top in zip(labels, rows, tops, strict=False):
        parts += [_words(10, top + 11 + LINE * i, line) for i, line in enumerate(lines)]
        first = top + LINE * len(lines)
        parts += [_bar(bar, x, first + (BAR + SPACE) * place) for place, bar in enumerate(own)]
    parts.append(_words(WIDTH / 2, tops[-1] + 36, x.label, "middle"))
    for place, name in enumerate(series if len(series) > 1 else ()):
        left = 10 + 150 * place
        parts.append(Markup('<path class="bar s{}" d="M{} 6h22v{}h-22z"/>').format(place, left, BAR))
        parts.append(_words(left + 28, 16, name))
    return _svg(parts, tops[-1] + 46, text)


def _bar(bar: Bar, x: Axis, top: float) -> Markup:
    zero, end = _across(x, 0.0, 10), _across(x, bar.value, 10)
    left, wide = min(zero, end), max(1.0, round(abs(end - zero), 1))
    title = Markup("<title>{}</title>").format(bar.told)
    made = Markup('<path class="bar s{}" d="M{} {}h{}v{}h-{}z">{}</path>').format(
        bar.series, left, top, wide, BAR, wide, title
    )
    if math.isnan(bar.low):
        return made + _shape(bar.series, end, top + BAR / 2, "dot void", bar.told)
    low, high, middle = _across(x, bar.low, 10), _across(x, bar.high, 10), top + BAR / 2
    ends = Markup("M{} {}v6M{} {}v6").format(low, middle - 3, high, middle - 3)
    return made + Markup('<path class="whisker" d="M{} {}H{}{}"/>').format(low, middle, high, ends)


def folded(text: str, limit: int) -> list[str]:
    """A name in at most three lines, broken before an option or a step of a chain; what is still too long is cut."""
    lines = [""]
    for part in re.findall(r"[^,\[|]*[,\[|]?", text):
        for piece in (part[i : i + limit] for i in range(0, len(part), limit)):
            if len(lines[-1]) + len(piece) <= limit:
                lines[-1] += piece
            else:
                lines.append(piece)
    return lines if len(lines) <= 3 else [*lines[:2], f"{lines[2][: limit - 1]}…"]


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
        made += _words(place, bottom + 17, f"{tick:,.4g}", "middle")
    return made


def _level(y: Axis, tick: float) -> Markup:
    place = _down(y, tick)
    line = Markup('<path class="grid" d="M{} {}H{}"/>').format(LEFT, place, WIDTH - RIGHT)
    return line + _words(LEFT - 6, place + 4, f"{tick:.4g}", "end")


def _words(x: float, y: float, text: str, anchor: str = "start") -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(x, round(y, 1), anchor, text)


def _shape(place: int, x: float, y: float, look: str = "dot", told: str = "") -> Markup:
    title = Markup("<title>{}</title>").format(told) if told else ""
    return Markup('<path class="{} s{}" d="M{} {}{}">{}</path>').format(
        look, place, round(x, 1), round(y, 1), SHAPES[place], title
    )


def _dot(x: float, y: float, dot: Dot, place: int) -> Markup:
    return _shape(place, x, y, "dot" if dot.counts else "dot void", dot.told)


def _drawn(series: Series, x: Axis, y: Axis, place: int) -> Markup:
    made = Markup("")
    line = [(_across(x, a), _down(y, b)) for a, b in series.line]
    if line:
        points = " ".join(f"{a},{b}" for a, b in line)
        made += Markup('<polyline class="line s{}" points="{}"/>').format(place, points)
    if not series.dots:
        made += Markup("").join(_shape(place, a, b) for a, b in line)
    for dot in series.dots:
        made += _dot(_across(x, dot.x), _down(y, dot.y), dot, place)
    marks = [(_across(x, a), _down(y, b), text) for a, b, text in series.marks]
    for left, top, _ in marks:
        made += Markup('<path class="mark" d="M{} {}l5 5l-5 5l-5-5z"/>').format(left, top - 5)
    return made + Markup("").join(_number(*mark) for mark in _apart(marks))


def _number(left: float, top: float, text: str) -> Markup:
    """Number beside a diamond, on the side where there is room."""
    room = left < WIDTH - 40
    return Markup('<text class="number" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        round(left + (7 if room else -7), 1), round(top - 6, 1), "start" if room else "end", text
    )


def _apart(marks: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Numbers that would stand on each other stand in one text, at the first of them."""
    made: list[tuple[float, float, str]] = []
    for left, top, text in marks:
        # At the right edge a number stands on the other side, so two on both sides of that meet from further away.
        close = [abs(a - left) < (40 if max(a, left) >= WIDTH - 40 else 16) and abs(b - top) < 13 for a, b, _ in made]
        if any(close):
            a, b, others = made[close.index(True)]
            made[close.index(True)] = a, b, f"{others}, {text}"
        else:
            made.append((left, top, text))
    return made
