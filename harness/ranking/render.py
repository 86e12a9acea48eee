"""Sheets of tables as text, Markdown and HTML, and their records as rows for programs."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from html import escape
from typing import TYPE_CHECKING, Any

from harness.ranking.columns import Column, Sheet, Table, board_sheet, comparison_sheet
from harness.storage.store import plain
from harness.text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from harness.ranking.compare import Comparison
    from harness.ranking.leaderboard import Board


def board_text(board: Board, width: int = 100) -> str:
    """A ranking as plain text of so many columns, without colours."""
    return text(board_sheet(board), width)


def board_html(board: Board) -> str:
    """A ranking as a fragment of HTML, for a notebook."""
    return html(board_sheet(board))


def comparison_text(comparison: Comparison, width: int = 100) -> str:
    """A comparison as plain text of so many columns, without colours."""
    return text(comparison_sheet(comparison), width)


def comparison_html(comparison: Comparison) -> str:
    """A comparison as a fragment of HTML, for a notebook."""
    return html(comparison_sheet(comparison))


# --- text -------------------------------------------------------------------------------------------------------------

NAME = 24
"""Characters of a name beside which numbers are to have room; longer ones fold."""


def text(sheet: Sheet, width: int = 100) -> str:
    """The sheet as plain text of so many columns, without colours."""
    from rich.console import Console

    out = io.StringIO()
    # In a notebook rich would show it there and then, and leave the file empty.
    plain_text: dict[str, Any] = {"color_system": None, "force_jupyter": False, "force_terminal": False}
    print_sheet(sheet, Console(file=out, width=width, markup=False, emoji=False, highlight=False, **plain_text))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def print_sheet(sheet: Sheet, console: Console) -> None:
    """Print the sheet to a console: tables in as many parts as its width takes, then terms and remarks."""
    if sheet.title:
        console.print(sheet.title, style="bold")
    for line in sheet.lead:
        console.print(line)
    tables = [table.told() for table in sheet.tables]
    for table in tables:
        if table.title:
            console.print(table.title, style="bold")
        rows, styles = table.rows(), [table.style(record) for record in table.records]
        for part in _parts(table.columns, rows, console.width):
            columns = [table.columns[place] for place in part]
            _print_table(console, columns, [[row[place] for place in part] for row in rows], styles)
    _print_terms(sheet, {column.name for table in tables for column in table.columns}, console)
    for line in sheet.remarks:
        console.print(line)


def _print_terms(sheet: Sheet, shown: set[str], console: Console) -> None:
    """Print the meanings beside their terms, without those of columns that are not shown."""
    from rich.text import Text

    silent = {column.name for table in sheet.tables for column in table.columns} - shown
    terms = [(term, meaning) for term, meaning in sheet.terms if term not in silent]
    indent = 2 + max((len(term) for term, _ in terms), default=0)
    for term, meaning in terms:
        folded = Text(meaning).wrap(console, console.width - indent)
        heads = [f"{term:<{indent}}", *[" " * indent] * len(folded)]
        for head, words in zip(heads, folded, strict=False):
            console.print(Text(head, style="bold").append(words.plain.rstrip(), style="not bold"))


def _parts(columns: Sequence[Column[Any]], rows: list[list[str]], width: int) -> Iterator[list[int]]:
    """Places of the columns that stand together: all where they fit; else as many as do, below each other, each part
    behind the names."""
    texts = [[*_header(column).split("\n"), *(row[place] for row in rows)] for place, column in enumerate(columns)]
    widths = [2 + max(map(len, each)) for each in texts]
    folding = [column.words and not column.rigid for column in columns]
    widths = [min(w, 2 + NAME) if folds else w for w, folds in zip(widths, folding, strict=True)]
    named = [column.name for column in columns]
    names = list(range(named.index("n") if "n" in named else 1))
    part, used = list(names), sum(widths[place] for place in names)
    for place in range(len(names), len(columns)):
        if len(part) > len(names) and used + widths[place] > width - 2:
            yield part
            part, used = list(names), sum(widths[place] for place in names)
        part.append(place)
        used += widths[place]
    yield part


def _header(column: Column[Any]) -> str:
    """Two words over narrow numbers stand one above the other, so that the names have room."""
    return column.header if column.words else column.header.replace(" ", "\n")


def _print_table(
    console: Console, columns: Sequence[Column[Any]], rows: list[list[str]], styles: Sequence[str | None]
) -> None:
    from rich import box
    from rich.table import Table as Grid

    grid = Grid(box=box.SIMPLE_HEAD, collapse_padding=True)
    for place, column in enumerate(columns):
        word = max(map(len, column.header.split()))
        numbers = 0 if column.words and not column.rigid else max([0, *(len(row[place]) for row in rows)])
        # Where it is tight long names fold: neither headers nor numbers.
        header, least = _header(column), min(max(word, numbers), console.width // 3)
        grid.add_column(header, justify="left" if column.words else "right", overflow="fold", min_width=least)
    texts = [[*_header(column).split("\n"), *(row[place] for row in rows)] for place, column in enumerate(columns)]
    is_tight = sum(2 + max(map(len, each)) for each in texts) > console.width - 2
    for row, style in zip(rows, styles, strict=True):
        shown = [_folded(cell) if is_tight and c.words else cell for c, cell in zip(columns, row, strict=True)]
        grid.add_row(*shown, style=style)
    console.print(grid)


def _folded(text: str) -> str:
    """A long name in lines that begin with its options or an option, rather than within a word."""
    lines = [""]
    for piece in re.findall(r"\[?[^\[, ]+[, ]?|\[", text):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > NAME:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines) if "".join(lines) == text else text


# --- Markdown and HTML ------------------------------------------------------------------------------------------------


def markdown(sheet: Sheet) -> str:
    """The sheet as Markdown."""
    blocks = [f"**{_literal(sheet.title)}**"] if sheet.title else []
    blocks += map(_literal, sheet.lead)
    for table in sheet.tables:
        blocks += [f"**{_literal(table.title)}**"] if table.title else []
        head = [f"| {' | '.join(column.header for column in table.columns)} |", f"|{' --- |' * len(table.columns)}"]
        blocks.append("\n".join([*head, *(f"| {' | '.join(map(_literal, row))} |" for row in table.rows())]))
    blocks += ["\n".join(f"- **{_literal(term)}**: {_literal(meaning)}" for term, meaning in sheet.terms)]
    blocks += map(_literal, sheet.remarks)
    return "\n\n".join(filter(None, blocks)) + "\n"


def _literal(text: str) -> str:
    """``text`` as Markdown: no cell, tag or link of an untrusted name begins or ends here."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("](", "]\\(")


def html(sheet: Sheet) -> str:
    """The sheet as a fragment of HTML: tables whose headers say what they mean, and below them all meanings."""
    said = dict(sheet.terms)
    blocks = [f"<h4>{escape(sheet.title)}</h4>"] if sheet.title else []
    blocks += [f"<p>{escape(line)}</p>" for line in sheet.lead]
    blocks += [_html_table(table, said) for table in sheet.tables]
    if sheet.terms:
        meanings = "".join(f"<dt><b>{escape(term)}</b></dt><dd>{escape(words)}</dd>" for term, words in sheet.terms)
        blocks.append(f"<details><summary>Meaning of the columns</summary><dl>{meanings}</dl></details>")
    return "\n".join(["<div>", *blocks, *(f"<p><small>{escape(line)}</small></p>" for line in sheet.remarks), "</div>"])


def _html_table(table: Table, said: dict[str, str]) -> str:
    sides = [f' style="text-align:{"left" if column.words else "right"}"' for column in table.columns]
    head = "".join(
        f'<th{side} title="{escape(said.get(column.name, ""))}">{escape(column.header)}</th>'
        for side, column in zip(sides, table.columns, strict=True)
    )
    rows = (
        "".join(f"<td{side}>{escape(cell)}</td>" for side, cell in zip(sides, row, strict=True)) for row in table.rows()
    )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    caption = f'<caption style="text-align:left"><b>{escape(table.title)}</b></caption>'
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


# --- rows for programs ------------------------------------------------------------------------------------------------

SUMMARY = ("n", "mean", "sd", "low", "high")


def flat_columns(kind: type[Any]) -> list[str]:
    """Columns of records of a dataclass, where a summary takes five."""
    parts = [(f.name, SUMMARY if str(f.type).startswith("Summary") else ()) for f in fields(kind)]
    return [each for name, of in parts for each in ([f"{name}_{part}" for part in of] or [name])]


def flat_rows(records: Iterable[Any]) -> list[dict[str, Any]]:
    """A dictionary a record, by :func:`flat_columns`; ``None`` for a number that is not finite."""
    return [_flat(record) for record in records]


def _flat(record: Any) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in plain(asdict(record)).items():
        parts = {f"{name}_{part}": each for part, each in value.items()} if isinstance(value, dict) else {name: value}
        flat |= {part: printable(each) if isinstance(each, str) else each for part, each in parts.items()}
    return flat
