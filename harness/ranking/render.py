"""Sheets of tables as text, Markdown and HTML, and their records as rows for programs."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from html import escape
from typing import TYPE_CHECKING, Any

from harness.ranking.columns import Column, Sheet, Table
from harness.ranking.values import Value
from harness.storage.store import plain
from harness.text import ASCII, legible, printable
from harness.verdicts.board import THREATS, Standing

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console


@dataclass(frozen=True, repr=False)
class Shown:
    """Tables as text of 100 columns, and as HTML in a notebook."""

    sheet: Sheet

    def __repr__(self) -> str:
        return legible(text(self.sheet, encoding=getattr(sys.stdout, "encoding", None) or "utf-8"))

    def _repr_html_(self) -> str:
        return html(self.sheet)


# --- text -------------------------------------------------------------------------------------------------------------


def text(sheet: Sheet, width: int = 100, encoding: str = "utf-8") -> str:
    """The sheet as plain text of so many columns, without colours, in the characters of an encoding."""
    from rich.console import Console

    out = io.StringIO()
    # In a notebook rich would show it there and then, and leave the file empty.
    plain_text: dict[str, Any] = {"color_system": None, "force_jupyter": False, "force_terminal": False}
    console = Console(file=out, width=width, markup=False, emoji=False, highlight=False, **plain_text)
    print_sheet(spelled(sheet, encoding), console)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def spelled(sheet: Sheet, encoding: str) -> Sheet:
    """The sheet in the characters of an encoding: before it is laid out, since their fallbacks may be longer."""
    glyphs = "".join(ASCII)
    if legible(glyphs, encoding) == glyphs:
        return sheet

    def column(of: Column[Any]) -> Column[Any]:
        def show(record: Any) -> Value:
            shown, key = of.show(record)
            return legible(shown, encoding), key

        return replace(of, show=show)

    tables = [replace(table, columns=tuple(map(column, table.columns))) for table in sheet.tables]
    return replace(sheet, tables=tables)


def print_sheet(sheet: Sheet, console: Console) -> None:
    """Print the sheet to a console: tables in as many parts as its width takes, then terms and remarks."""
    _print_prose([sheet.title] if sheet.title else [], console, "bold")
    _print_prose(sheet.lead, console)
    tables = [table.told() for table in sheet.tables]
    for number, table in enumerate(tables):
        if number or sheet.title or sheet.lead:
            console.print()
        _print_table(table, console)
    _print_terms(sheet, {column.name for table in tables for column in table.columns}, console)
    _print_prose(sheet.remarks, console)


def _print_table(table: Table, console: Console) -> None:
    from harness.ranking.layout import table_lines

    _print_prose(table.lead[:1], console, "bold")
    _print_prose(table.lead[1:], console)
    if table.lead:
        console.print()
    _print_prose([table.title] if table.title else [], console, "bold")
    for line, style in table_lines(table, console.width):
        _print_line(line, console, style)
    _print_prose(table.notes, console)


def _print_prose(sentences: Iterable[str], console: Console, style: str | None = None) -> None:
    """Print sentences, each folded."""
    from harness.ranking.layout import folded

    for sentence in sentences:
        for line in folded(sentence, console.width):
            _print_line(line, console, style)


def _print_line(line: str, console: Console, style: str | None = None) -> None:
    from rich.text import Text

    console.print(Text(line), style=style, no_wrap=True, overflow="ignore", crop=False)


def _print_terms(sheet: Sheet, shown: set[str], console: Console) -> None:
    """Print the meanings beside their terms, without those of columns that are not shown."""
    from rich.text import Text

    silent = {column.name for table in sheet.tables for column in table.columns} - shown
    terms = [(term, meaning) for term, meaning in sheet.terms if term not in silent]
    indent = 2 + max((len(term) for term, _ in terms), default=0)
    if terms:
        console.print()
    for term, meaning in terms:
        folded = Text(meaning).wrap(console, console.width - indent)
        heads = [f"{term:<{indent}}", *[" " * indent] * len(folded)]
        for head, words in zip(heads, folded, strict=False):
            console.print(Text(head, style="bold").append(words.plain.rstrip(), style="not bold"))


# --- Markdown and HTML ------------------------------------------------------------------------------------------------


def markdown(sheet: Sheet) -> str:
    """The sheet as Markdown."""
    blocks = [f"**{_literal(sheet.title)}**"] if sheet.title else []
    blocks += map(_literal, sheet.lead)
    for table in sheet.tables:
        blocks += [*map(_literal, table.lead), *([f"**{_literal(table.title)}**"] if table.title else [])]
        blocks += [_markdown_table(table), *map(_literal, table.notes)]
    blocks += ["\n".join(f"- **{_literal(term)}**: {_literal(meaning)}" for term, meaning in sheet.terms)]
    blocks += map(_literal, sheet.remarks)
    return "\n\n".join(filter(None, blocks)) + "\n"


def _markdown_table(table: Table) -> str:
    sides = ["---" if column.words else "--:" for column in table.columns]
    without = [[name, words, *[""] * (len(sides) - 2)] for name, words in table.lines]
    rows = [*table.rows(), *without, *map(table.row, table.foot)]
    lines = [[column.header for column in table.columns], sides, *([_literal(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
    rows, foot = (
        ["".join(f"<td{side}>{escape(cell)}</td>" for side, cell in zip(sides, row, strict=True)) for row in part]
        for part in (table.rows(), map(table.row, table.foot))
    )
    across = f'<td colspan="{max(1, len(sides) - 1)}" style="text-align:left">'
    rows += [f"<td{sides[0]}>{escape(name)}</td>{across}{escape(words)}</td>" for name, words in table.lines]
    body = "".join(f"<tr>{row}</tr>" for row in (*rows, *foot))
    caption = f'<caption style="text-align:left"><b>{escape(table.title)}</b></caption>' if table.title else ""
    grid = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    first, *more = [*table.lead, ""]
    told = [f"<p><b>{escape(first)}</b></p>"] if first else []
    told += [f"<p>{escape(line)}</p>" for line in more if line]
    return "\n".join([*told, grid, *(f"<p><small>{escape(line)}</small></p>" for line in table.notes)])


# --- rows for programs ------------------------------------------------------------------------------------------------

PARTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("Summary", "Estimate"), ("n", "mean", "sd", "low", "high")),
    "Share": ("count", "of", "low", "high"),
}
"""Columns of a value that takes several."""


def flat_columns(kind: type[Any]) -> list[str]:
    """Columns of records of a dataclass, where a summary takes five, and a scheme's standing several a threat model."""
    return [column for each in fields(kind) for column in _columns(each.name, str(each.type))]


def _columns(name: str, kind: str) -> list[str]:
    if kind == "Mapping[Threat, Standing]":
        inner = [column for column in flat_columns(Standing) if column != "threat"]
        return [f"{threat.replace(' ', '_')}_{column}" for threat in THREATS for column in inner]
    parts = PARTS.get(kind.removesuffix(" | None"), ())
    return [f"{name}_{part}" for part in parts] or [name]


def flat_rows(records: Iterable[Any]) -> list[dict[str, Any]]:
    """A dictionary a record, by :func:`flat_columns`; ``None`` for a number that is not finite."""
    return [_flat(record) for record in records]


def frame_of(kind: type[Any], records: Iterable[Any]) -> pd.DataFrame:
    """A row for each record of a dataclass."""
    import pandas as pd

    return pd.DataFrame(flat_rows(records), columns=flat_columns(kind))


def _flat(record: Any) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    columns, values = flat_columns(type(record)), plain(asdict(record))
    for threat, standing in values.pop("standings", {}).items():
        prefix = threat.replace(" ", "_")
        flat |= {f"{prefix}_{name}": value for name, value in _parts(standing).items()}
    flat |= _parts(values)
    return {name: _plain(flat.get(name)) for name in columns}


def _parts(values: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= {f"{name}_{part}": each for part, each in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _plain(value: Any) -> Any:
    """A value of one cell: several numbers stay a list, several names are one text."""
    if isinstance(value, list) and any(isinstance(each, str) for each in value):
        return printable("; ".join(value))
    return printable(value) if isinstance(value, str) else value
