"""Columns and tables, of which every format is made: see :mod:`harness.ranking.render`.

The words are in :mod:`harness.ranking.glossary`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeAlias, TypeVar

from harness.ranking import values
from harness.ranking.values import UNKNOWN, Value

T = TypeVar("T")
Columns: TypeAlias = "tuple[Column[T], ...]"


@dataclass(frozen=True)
class Column(Generic[T]):
    """One column of a table of records."""

    name: str
    show: Callable[[T], Value]
    """Text and sort key of a record's cell."""
    unit: str = "%"
    """Unit of its numbers; empty for words and plain numbers."""
    words: bool = False
    """Holds words, which stand on the left and may fold; numbers stand on the right and never do."""
    term: str = ""
    """Entry of the glossary, if it is not ``name``."""
    sketch: bool = False
    """Draws with characters, for formats without pictures of their own."""
    rigid: bool = False
    """Holds words that must not fold."""
    over: str = ""
    """Heading that stands once over neighbours with the same."""
    short: str = ""
    """Name below such a heading, and where room is scarce."""
    brief: bool = False
    """Holds names of which parts may be left out where room is scarce, so that each stays on one line."""

    @property
    def header(self) -> str:
        """Name below its heading, with the unit where it is not %, in which all shares are."""
        named = f"{self.over}: {self.name}" if self.over else self.name
        return f"{named} ({self.unit})" if self.unit not in ("", "%") else named

    @property
    def narrow(self) -> str:
        """Header for a terminal, where the heading has a line of its own."""
        return self.short or replace(self, over="").header


@dataclass(frozen=True)
class Table:
    """Records of one kind under a title."""

    title: str
    columns: Columns[Any]
    records: Sequence[Any]
    term: str = ""
    """Entry of the glossary on the whole table."""
    style: Callable[[Any], str | None] = lambda record: None
    """Colour of a record's row in a terminal."""
    lead: Sequence[str] = ()
    """Sentences above the table: the first is what may be concluded from it."""
    lines: Sequence[tuple[str, str]] = ()
    """Names that have no numbers, and the reason: rows below those of the records."""
    foot: Sequence[Any] = ()
    """Records whose rows come last, below a line."""
    notes: Sequence[str] = ()
    """Sentences below the table."""

    def rows(self) -> list[list[str]]:
        """Texts of the records' cells."""
        return [self.row(record) for record in self.records]

    def row(self, record: Any) -> list[str]:
        """Texts of one record's cells."""
        return [column.show(record)[0] for column in self.columns]

    def told(self) -> Table:
        """The table without the columns that say nothing of any record."""
        rows = [*self.rows(), *map(self.row, self.foot)]
        silent = [all(cell == UNKNOWN[0] for cell in cells) for cells in zip(*rows, strict=True)]
        kept = [column for column, is_silent in zip(self.columns, silent, strict=False) if not is_silent]
        return replace(self, columns=tuple(kept)) if rows else self


@dataclass(frozen=True)
class Sheet:
    """Tables, the meanings of their terms, and remarks on all of them."""

    tables: Sequence[Table]
    terms: Sequence[tuple[str, str]] = ()
    remarks: Sequence[str] = ()
    title: str = ""
    lead: Sequence[str] = field(default_factory=tuple)
    """Sentences above the tables."""


def _name(name: str, of: str) -> Column[Any]:
    return Column(name, lambda record: values.text(getattr(record, of)), unit="", words=True)


DATASET = _name("dataset", "dataset")
SCHEME = _name("scheme", "defense")
ATTACK = _name("attack", "attack")
NOT_COUNTED: Column[Any] = Column("not counted", values.not_counted, unit="", words=True)
