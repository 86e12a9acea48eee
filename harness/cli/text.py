"""Text for people: lines folded where a terminal ends, and numbers as words."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from harness.statistics.intervals import Summary

import shutil
from textwrap import wrap


def say(head: str, text: str = "") -> None:
    """Print ``text`` behind ``head``, under which it goes on where the terminal ends; its first line alone."""
    from harness.storage.text import printable

    whole = printable(head + text.partition("\n")[0]).rstrip()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    if len(whole) <= width or width <= 2 * len(head):
        click.echo(whole)
        return
    rest = " " * len(head)
    folded = wrap(whole[len(head) :], width - len(head), break_on_hyphens=False)
    click.echo(f"\n{rest}".join([head + folded[0], *folded[1:]]))


def interval(low: float, high: float) -> str:
    """In percent."""
    return "-" if math.isnan(low) else f"{points(low)} to {points(high)}"


def spread(summary: Summary | None, unit: float = 0.01) -> str:
    """In percent, or in another unit."""
    if summary is None:
        return "-"
    mean, sd = (points(0.01 * value / unit) for value in (summary.mean, summary.sd))
    return mean if math.isnan(summary.sd) else f"{mean} ± {sd}"


def bars(counts: Sequence[int]) -> str:
    """A bar a number, as high as its share of all."""
    total = sum(counts)
    return "".join(" ▁▂▃▄▅▆▇█"[-(-8 * count // total)] if count else "·" for count in counts) if total else "-"


def points(share: float) -> str:
    """In percent."""
    # Rounded first, so that a rate of -0.0 reads as 0.
    return "-" if math.isnan(share) else f"{round(100 * share, 1) + 0.0:.1f}"


def percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.0f}%"


def whole(count: float, endless: str, digits: int = 0) -> str:
    """A number of queries or seeds."""
    if math.isnan(count):
        return "-"
    return endless if math.isinf(count) else f"{count:,.{digits}f}"


def number(summary: Summary | None) -> str:
    if summary is None:
        return "-"
    return f"{summary.mean:.2f}" if math.isnan(summary.sd) else f"{summary.mean:.2f} ± {summary.sd:.2f}"
