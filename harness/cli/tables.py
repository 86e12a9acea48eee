"""Tables for people in a terminal, as Markdown or as LaTeX, for programs as CSV or Parquet."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from harness.cli.options import UserPath
from harness.cli.text import echo, say

if TYPE_CHECKING:
    from harness.ranking.columns import Sheet

HUMAN = ("terminal", "markdown", "latex")
"""Formats that people read."""
LEAST = 20
"""Columns of a terminal: one that says it has fewer does not know."""

format_option = click.option(
    "--format",
    "style",
    type=click.Choice(["terminal", "markdown", "latex", "csv", "json", "parquet"]),
    default="terminal",
    show_default=True,
    help="Format of the output; parquet needs --output.",
)
output_option = click.option("--output", type=UserPath(), help="File for --format parquet.")


def check_output(style: str, output: Path | None) -> None:
    """Raise :class:`UsageError` unless there is a file for Parquet, and for nothing else."""
    from harness.errors import UsageError

    if (style == "parquet") != (output is not None):
        raise UsageError("--format parquet needs a file, and the others none: type --format parquet --output FILE")


def show(style: str, sheet: Sheet, width: int = 160, most: int | None = None) -> None:
    """Print tables, the meanings of their terms and remarks, in ``width`` columns where the output is not a terminal.

    In a terminal in as many columns as it has, ``most`` at most.
    """
    from harness.ranking.latex import latex
    from harness.ranking.render import markdown, print_sheet, spelled

    if style != "terminal":
        echo({"markdown": markdown, "latex": latex}[style](sheet), nl=False)
        return
    from rich.console import Console

    is_terminal, text = sys.stdout.isatty(), io.StringIO()
    # No markup and no emoji codes: names may be untrusted.
    console = Console(
        file=text,
        width=None if is_terminal else width,
        force_terminal=is_terminal,  # whatever FORCE_COLOR says: a notebook exports it, and a file shows the codes
        force_jupyter=False,
        markup=False,
        emoji=False,
        highlight=False,
    )
    if most and console.width > most:
        console.width = most
    if console.width < LEAST:  # COLUMNS=0, as in some containers
        console.width = width
    print_sheet(spelled(sheet, getattr(sys.stdout, "encoding", None) or "utf-8"), console)
    echo(text.getvalue(), nl=False)


def write_rows(kind: type[Any], records: Sequence[Any], output: Path | None) -> None:
    """Records of one dataclass as CSV, or into a Parquet file: a summary takes five columns, a table a row each."""
    from harness.ranking.render import flat_columns, flat_rows

    columns, rows = flat_columns(kind), flat_rows(records)
    if output is None:
        echo(csv_text([columns, *([_field(row.get(name)) for name in columns] for row in rows)]), nl=False)
    else:
        _write_parquet(columns, rows, output)


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _field(value: Any) -> Any:
    """Several numbers in one field of CSV."""
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _write_parquet(columns: list[str], rows: list[dict[str, Any]], output: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame(rows, columns=columns)
    write_whole(output, lambda handle: frame.to_parquet(handle, index=False))
    say(f"{len(rows)} rows in {output}")


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file, and the folders above it, whole or not at all. Raises :class:`UsageError` where that cannot be."""
    from harness.errors import UsageError
    from harness.files import whole_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial, partial.open("wb") as handle:
            write(handle)
    except OSError as error:
        raise UsageError(f"cannot write {str(path)!r}: {error.strerror or error}; choose another --output") from error
