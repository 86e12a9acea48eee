"""Contents of the template: sections of tables, maps, pictures and descriptions. It knows no table of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from markupsafe import Markup

    from harness.ranking.values import Value

ROWS = 1000
"""Rows of a table."""
PLOTS = 12
"""Pictures of a kind, and what is listed of a kind."""

TEXT = frozenset(
    (
        *("dataset", "scheme", "attack", "on the line", "quantity", "each seed"),
        *("status", "reason", "cells", "action", "plugin"),
    )
)
"""Columns that hold words beside those that a table names; all others hold numbers, and stand on the right."""
ABOUT = ("scheme", "attack")
"""Columns that name what a row is about, if it is not the first one with words."""

Tags: TypeAlias = tuple[tuple[str, str], ...]
"""Keys and values by which a filter knows a thing; several values of one key stand on lines of their own."""


class Link(str):
    """Words of a cell or a fact that lead to another page."""

    href: str

    @classmethod
    def to(cls, href: str, words: str) -> Link:
        """The words, leading to ``href``."""
        made = cls(words)
        made.href = href
        return made


class Code(str):
    """Words to type."""

    is_code = True


class Row(NamedTuple):
    """A row of a table, and what a filter knows of it."""

    values: list[Value]
    tags: Tags = ()
    hidden: bool = False


@dataclass(frozen=True)
class Grid:
    """A table."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Row]
    note: str = ""
    tags: Tags = ()
    words: frozenset[str] = TEXT
    """Columns that hold words."""
    lines: Sequence[tuple[str, str]] = ()
    """Names without numbers, and the reason."""
    foot: Sequence[Row] = ()
    """Rows below a line."""

    @property
    def looks(self) -> list[str]:
        """Kind of each column: numbers (``n``), words (``w``), or the name that a row is about (``name``)."""
        looks = ["w" if column in self.words else "n" for column in self.columns]
        about = next((i for i, column in enumerate(self.columns) if column in ABOUT), None)
        if about is None:
            about = next((i for i, column in enumerate(self.columns) if column in self.words - {"dataset"}), None)
        return ["name" if i == about else look for i, look in enumerate(looks)]


@dataclass(frozen=True)
class Ranking:
    """A data set's schemes: what may be concluded, a picture, and the table behind it."""

    lead: Sequence[str]
    picture: Markup | None
    grid: Grid
    notes: Sequence[str]
    tags: Tags


@dataclass(frozen=True)
class Map:
    """Numbers in coloured cells, with the verdicts: schemes by attacks."""

    title: str
    columns: list[tuple[str, Tags]]
    rows: list[tuple[str, list[tuple[str, str, Tags]]]]
    tags: Tags


@dataclass(frozen=True)
class Plot:
    """One or more pictures, and the table behind them."""

    title: str
    pictures: list[Markup]
    grid: Grid
    tags: Tags


@dataclass(frozen=True)
class Described:
    """A plugin's description, and the results with it."""

    name: str
    summary: str
    reference: str
    text: str
    grid: Grid


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it: a text, what is shown, what its words mean, and what was left out."""

    id: str
    title: str
    text: str = ""
    rankings: Sequence[Ranking] = ()
    maps: Sequence[Map] = ()
    grids: Sequence[Grid] = ()
    plots: Sequence[Plot] = ()
    plugins: Sequence[Described] = ()
    facts: Sequence[tuple[str, Sequence[str]]] = ()
    terms: Sequence[tuple[str, str]] = ()
    left_out: str = ""


@dataclass(frozen=True)
class Page:
    """All that the template shows. ``filters`` are a key, a label and values; ``data`` is embedded as JSON."""

    lead: str
    filters: list[tuple[str, str, list[str]]]
    sections: list[Section]
    data: Mapping[str, Any] = field(default_factory=dict)
    title: str = "Watermark robustness report"
    counted: tuple[str, str] = ("left", "attacks")
    """The section whose rows the filters count, and what a row is of."""
    up: Sequence[Link] = ()
    """Pages above this one."""


def shortened(there: int, limit: int, what: str) -> str:
    """Note that only some are shown; empty where all are."""
    if there <= limit:
        return ""
    return f"The first {limit:,} of {there:,} {what} are shown; harness leaderboard --format csv has all."


def together(*told: str) -> str:
    """One text of the sentences, without those that are empty."""
    return " ".join(filter(None, told))
