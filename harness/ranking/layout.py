"""Tables as lines of text: numbers on the right, names that fold or are shortened, and parts where a line is too short.

A number is never broken. Where a table is wider than a line its names fold first; what then does not fit stands in
further parts below, each behind the names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any, TypeAlias

from rich.cells import cell_len

from harness.ranking.columns import Column, Table

Line: TypeAlias = tuple[str, str | None]
"""A line and its style."""

NAME = 24
"""Columns of a name beside which numbers are to have room; longer ones fold."""
LEAST = 12
"""Columns of a name that folds, where a line is very short."""
BRIEF = 16
"""Columns of a name that may be shortened, at least."""
HEAD = "bold"


def table_lines(table: Table, width: int) -> Iterator[Line]:
    """The table in lines of at most ``width`` columns, without its title, lead and notes."""
    rows = [*table.rows(), *map(table.row, table.foot)]
    if table.lines and not rows:
        yield from _without(table, 0, width)
        return
    parts = list(_parts(table.columns, rows, width))
    for number, places in enumerate(parts):
        if number:
            yield "", None
        part = _Part([table.columns[place] for place in places], [[row[place] for place in places] for row in rows])
        yield from part.lines(table, width, is_last=number == len(parts) - 1)


@dataclass(frozen=True)
class _Part:
    """Columns that stand side by side, and the texts of their cells."""

    columns: list[Column[Any]]
    rows: list[list[str]]

    def lines(self, table: Table, width: int, *, is_last: bool) -> Iterator[Line]:
        widths = self._widths(width)
        gaps = [_gap(*pair) for pair in zip(self.columns, self.columns[1:], strict=False)]
        yield from ((line, HEAD) for line in _headers(self.columns, widths, gaps))
        rule = "─" * (sum(widths) + sum(gaps))
        yield rule, None
        cells = [self._column(place, widths[place]) for place in range(len(self.columns))]
        lines = [
            [(line, table.style(record)) for line in self._row([column[number] for column in cells], widths, gaps)]
            for number, record in enumerate((*table.records, *table.foot))
        ]
        yield from chain.from_iterable(lines[: len(table.records)])
        if table.lines and is_last:
            if table.records:
                yield rule, None
            yield from _without(table, widths[0] + 2, width)
        if table.foot:
            yield rule, None
            yield from chain.from_iterable(lines[len(table.records) :])

    def _widths(self, width: int) -> list[int]:
        """Columns of each column: names give way first."""
        widths = [_natural(column, self._texts(place)) for place, column in enumerate(self.columns)]
        _widen(widths, self.columns)
        excess = sum(widths) + sum(map(_gap, self.columns, self.columns[1:])) - width
        for fits in (_is_brief, _folds):
            giving = [place for place, column in enumerate(self.columns) if fits(column)]
            while excess > 0 and (open_ := [place for place in giving if widths[place] > _least(self.columns[place])]):
                widths[max(open_, key=widths.__getitem__)] -= 1
                excess -= 1
        return widths

    def _texts(self, place: int) -> list[str]:
        return [row[place] for row in self.rows]

    def _column(self, place: int, width: int) -> list[list[str]]:
        """Lines of each cell."""
        texts = self._texts(place)
        texts = shortened(texts, width) if self.columns[place].brief else texts
        return [folded(text, width) if _folds(self.columns[place]) else [text] for text in texts]

    def _row(self, cells: list[list[str]], widths: list[int], gaps: list[int]) -> Iterator[str]:
        for number in range(max(map(len, cells))):
            texts = [lines[number] if number < len(lines) else "" for lines in cells]
            yield _joined([_placed(c, t, w) for c, t, w in zip(self.columns, texts, widths, strict=True)], gaps)


def _without(table: Table, indent: int, width: int) -> Iterator[Line]:
    """Rows of the names without numbers: the reason goes across all columns."""
    reasons = max(cell_len(words) for _, words in table.lines)
    names = shortened([name for name, _ in table.lines], max(indent - 2, NAME, width - 2 - reasons))
    indent = max(indent, 2 + max(map(cell_len, names)))
    for name, (_, words) in zip(names, table.lines, strict=True):
        first, *more = folded(words, max(LEAST, width - indent))
        yield _padded(name, indent) + first, "dim"
        yield from ((" " * indent + line, "dim") for line in more)


# --- columns ----------------------------------------------------------------------------------------------------------


def _is_brief(column: Column[Any]) -> bool:
    return column.brief


def _folds(column: Column[Any]) -> bool:
    return column.words and not column.rigid


def _least(column: Column[Any]) -> int:
    word = max(map(cell_len, column.narrow.split()), default=0)
    return max(word, BRIEF if column.brief else LEAST)


def _gap(left: Column[Any], right: Column[Any]) -> int:
    return 1 if left.over and left.over == right.over else 2


def _header(column: Column[Any]) -> list[str]:
    """Two words over narrow numbers stand one above the other, so that the names have room."""
    return [column.narrow] if column.words or column.over else column.narrow.split(" ")


def _natural(column: Column[Any], texts: Sequence[str]) -> int:
    return max(map(cell_len, [*_header(column), *texts]), default=0)


def _widen(widths: list[int], columns: Sequence[Column[Any]]) -> None:
    """Give the last column below a heading the room that the heading needs."""
    for over, group in groupby(range(len(columns)), key=lambda place: columns[place].over):
        places = list(group)
        if over:
            widths[places[-1]] += max(0, cell_len(over) - sum(widths[place] for place in places) - len(places) + 1)


def _parts(columns: Sequence[Column[Any]], rows: list[list[str]], width: int) -> Iterator[list[int]]:
    """Places of the columns that stand together: all where they fit; else as many as do, each part behind the names.

    Columns below one heading stay together.
    """
    widths = [_natural(column, [row[place] for row in rows]) for place, column in enumerate(columns)]
    _widen(widths, columns)
    limits = [BRIEF if column.brief else NAME if _folds(column) else None for column in columns]
    widths = [2 + (w if most is None else min(w, max(most, _least(c)))) for w, most, c in
              zip(widths, limits, columns, strict=True)]  # fmt: skip
    named = [column.name for column in columns]
    names = list(range(named.index("n") if "n" in named else 1))
    part, used = list(names), sum(widths[place] for place in names)
    units = groupby(range(len(names), len(columns)), key=lambda place: columns[place].over or place)
    for unit in (list(group) for _, group in units):
        more = sum(widths[place] for place in unit) - len(unit) + 1
        if len(part) > len(names) and used + more - 2 > width:
            yield part
            part, used = list(names), sum(widths[place] for place in names)
        part += unit
        used += more
    yield part


def _headers(columns: Sequence[Column[Any]], widths: list[int], gaps: list[int]) -> Iterator[str]:
    """Lines of the header: the first has the headings, each in the middle of its columns."""
    texts = [["", *_header(column)] if column.over else _header(column) for column in columns]
    high = max(map(len, texts))
    for number in range(high):
        line = [stack[number - high + len(stack)] if number >= high - len(stack) else "" for stack in texts]
        cells = [_placed(c, t, w) for c, t, w in zip(columns, line, widths, strict=True)]
        yield _headings(columns, cells, gaps) if number == 0 else _joined(cells, gaps)


def _headings(columns: Sequence[Column[Any]], cells: list[str], gaps: list[int]) -> str:
    """A line of the header where neighbours below one heading share it."""
    texts, between = [], []
    for over, group in groupby(range(len(columns)), key=lambda place: columns[place].over or place):
        places = list(group)
        room = sum(len(cells[place]) for place in places) + sum(gaps[place] for place in places[:-1])
        texts.append(f"{over:^{room}}" if isinstance(over, str) else cells[places[0]])
        between += gaps[places[-1] : places[-1] + 1]
    return _joined(texts, between)


def _joined(texts: Sequence[str], gaps: Sequence[int]) -> str:
    return "".join(text + " " * gap for text, gap in zip(texts, [*gaps, 0], strict=True)).rstrip()


def _placed(column: Column[Any], text: str, width: int) -> str:
    return _padded(text, width) if column.words else " " * (width - cell_len(text)) + text


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


# --- names ------------------------------------------------------------------------------------------------------------


def folded(text: str, width: int) -> list[str]:
    """Words and long names in lines that begin with a word, with a name's options or with one option."""
    lines = [""]
    for piece in re.findall(r"\[?[^\[, ]+[, ]?|\[|[, ]", text):
        if lines[-1] and cell_len(lines[-1] + piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return [part for line in lines for part in _cut(line.rstrip(), width)]


def _cut(text: str, width: int) -> Iterator[str]:
    """A text without a place to fold, in pieces."""
    while cell_len(text) > width:
        count = max(1, next(n for n in range(len(text), 0, -1) if n == 1 or cell_len(text[:n]) <= width))
        yield text[:count]
        text = text[count:]
    yield text


def shortened(names: Sequence[str], width: int) -> list[str]:
    """Names of at most ``width`` columns, where they can be told apart so: first without the options that all of the
    same plugin share, then without their middle. Names that would look alike stay whole."""
    long = [name for name in names if cell_len(name) > width]
    if not long:
        return list(names)
    brief = {name: _middle(_telling(name, names), width) for name in long}
    times = Counter(brief.get(name, name) for name in set(names))
    return [name if times[brief.get(name, name)] > 1 else brief.get(name, name) for name in names]


def _telling(name: str, names: Sequence[str]) -> str:
    """The name with the options by which it differs from others of the same plugin."""
    plugin, options = _options(name)
    others = [set(also) for head, also in map(_options, set(names) - {name}) if head == plugin]
    kept = [option for option in options if not others or not all(option in also for also in others)]
    return name if len(kept) == len(options) else f"{plugin}[{','.join([*kept, '…'])}]"


def _options(name: str) -> tuple[str, list[str]]:
    found = re.fullmatch(r"([^\[\]|]*)\[([^\[\]]*)\]", name)
    return (found[1], found[2].split(",")) if found else (name, [])


def _middle(name: str, width: int) -> str:
    """The name with its middle left out."""
    if cell_len(name) <= width:
        return name
    tail = (width - 1) // 3
    head = next(_cut(name, width - 1 - tail))
    end = name[-tail:]
    while cell_len(end) > tail:
        end = end[1:]
    return f"{head}…{end}"
