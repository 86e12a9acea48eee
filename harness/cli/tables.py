"""Tables on paper: for people in a terminal or as Markdown, for programs as CSV or Parquet."""

from __future__ import annotations

import csv
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import click

if TYPE_CHECKING:
    from rich.console import Console


HUMAN = ("terminal", "markdown")
"""The formats that people read."""
LEFT = ("scheme", "attack", "family", "worst attack", "not counted")

Section: TypeAlias = tuple[str, Sequence[str], list[list[str]]]
"""Title, columns and rows of a table, for people."""


def check_output(style: str, output: Path | None) -> None:
    """Raise :class:`UsageError` unless there is a file for Parquet, and for nothing else."""
    from harness.errors import UsageError

    if (style == "parquet") != (output is not None):
        raise UsageError("--format parquet needs a file, and the others none: type --format parquet --output FILE")


def show(style: str, sections: list[Section], notes: list[str]) -> None:
    """Print tables and what is to be known of them."""
    from harness.storage.text import printable

    texts = [
        (printable(title), columns, [[printable(value) for value in row] for row in rows])
        for title, columns, rows in sections
    ]
    (_terminal if style == "terminal" else _markdown)(texts, notes)


def _terminal(sections: list[Section], notes: list[str]) -> None:
    from rich.console import Console

    # No markup and no emoji codes: names may be a stranger's.
    console = Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False, highlight=False)
    for title, columns, rows in sections:
        console.print(title, style="bold")
        for part in _parts(columns, rows, console.width):
            _print_table(console, [columns[place] for place in part], [[row[place] for place in part] for row in rows])
    for line in notes:
        console.print(line)


NAME = 24
"""Characters of a name beside which numbers are to have room; longer ones fold."""


def _parts(columns: Sequence[str], rows: list[list[str]], width: int) -> Iterator[list[int]]:
    """Which columns stand together: all where they fit; else as many as do, below each other, behind the names."""
    texts = [[*_header(column).split("\n"), *(row[place] for row in rows)] for place, column in enumerate(columns)]
    widths = [2 + max(map(len, each)) for each in texts]
    widths = [min(w, 2 + NAME) if column in LEFT else w for w, column in zip(widths, columns, strict=True)]
    names = list(range(columns.index("n") if "n" in columns else 1))
    part, used = list(names), sum(widths[place] for place in names)
    for place in range(len(names), len(columns)):
        if len(part) > len(names) and used + widths[place] > width - 2:
            yield part
            part, used = list(names), sum(widths[place] for place in names)
        part.append(place)
        used += widths[place]
    yield part


def _header(column: str) -> str:
    """Two words over narrow numbers stand one above the other, so that the names have room."""
    return column if column in LEFT else column.replace(" ", "\n")


def _print_table(console: Console, columns: Sequence[str], rows: list[list[str]]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True)
    for place, column in enumerate(columns):
        word = max(map(len, column.split()))
        numbers = 0 if column in LEFT else max([0, *(len(row[place]) for row in rows)])
        # Where it is tight long names fold: neither headers nor numbers.
        header, least = _header(column), min(max(word, numbers), console.width // 3)
        table.add_column(header, justify="left" if column in LEFT else "right", overflow="fold", min_width=least)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _markdown(sections: list[Section], notes: list[str]) -> None:
    for title, columns, rows in sections:
        click.echo(f"**{_literal(title)}**\n")
        click.echo(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
        for row in rows:
            click.echo(f"| {' | '.join(map(_literal, row))} |")
        click.echo()
    for line in notes:
        click.echo(f"{_literal(line)}\n")


def _literal(text: str) -> str:
    """``text`` as Markdown: names may be a stranger's, and no cell, tag or link of theirs begins or ends here."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("](", "]\\(")


def write_rows(kind: type[Any], rows: Iterable[Any], output: Path | None) -> None:
    """Records of one dataclass as CSV, or into a Parquet file: a summary takes five columns, a table a row each."""
    columns, values = _flat_columns(kind), [_flat(row) for row in rows]
    if output is None:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(row.get(name)) for name in columns] for row in values)
    else:
        _write_parquet(columns, values, output)


def _cell(value: Any) -> Any:
    """Several numbers in one field of CSV."""
    return " ".join(map(str, value)) if isinstance(value, list) else value


SUMMARY = ("n", "mean", "sd", "low", "high")


def _flat_columns(kind: type[Any]) -> list[str]:
    parts = [(f.name, SUMMARY if str(f.type).startswith("Summary") else ()) for f in fields(kind)]
    return [each for name, of in parts for each in ([f"{name}_{part}" for part in of] or [name])]


def _flat(row: Any) -> dict[str, Any]:
    """What is not a finite number is none."""
    from harness.storage.store import plain
    from harness.storage.text import printable

    flat: dict[str, Any] = {}
    for name, value in plain(asdict(row)).items():
        parts = {f"{name}_{part}": each for part, each in value.items()} if isinstance(value, dict) else {name: value}
        flat |= {part: printable(each) if isinstance(each, str) else each for part, each in parts.items()}
    return flat


def _write_parquet(columns: list[str], rows: list[dict[str, Any]], output: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame(rows, columns=columns)
    write_whole(output, lambda handle: frame.to_parquet(handle, index=False))
    click.echo(f"{len(rows)} rows in {output}")


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file, and the folders above it, whole or not at all. Raises :class:`UsageError` where that cannot be."""
    from harness.errors import UsageError

    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as handle:
            write(handle)
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {str(path)!r}: {error.strerror or error}; choose another --output") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
