"""``harness leaderboard``: rank the schemes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import open_results, plugins_unread, results_option, rules_options
from harness.cli.tables import HUMAN, check_output, format_option, output_option, show, write_rows
from harness.cli.text import echo, warn

if TYPE_CHECKING:
    from harness.verdicts.rules import Rules

WIDTH = 100
"""Columns of the overview, at most."""


@click.command(epilog="Example: harness leaderboard --dataset digits --details")
@results_option
@plugins_unread
@click.option("--dataset", "datasets", multiple=True, help="Data sets to keep, as globs; by default all.")
@click.option("--defense", "defenses", multiple=True, help="Schemes to keep, as globs; by default all.")
@click.option("--attack", "attacks", multiple=True, help="Attacks to keep, as globs; by default all.")
@rules_options()
@click.option(
    "--details", is_flag=True, help="All tables: attacks, costs, queries, filters, detectors, forgeries, innocents."
)
@click.option("--explain", is_flag=True, help="Print the meanings of the words in the tables.")
@click.option(
    "--by",
    type=click.Choice(["dataset", "attack", "family"]),
    help="The tables of the schemes of each data set, or of each attack or family of attacks.",
)
@format_option
@output_option
def leaderboard(
    results: str,
    datasets: tuple[str, ...],
    defenses: tuple[str, ...],
    attacks: tuple[str, ...],
    rules: Rules,
    details: bool,
    explain: bool,
    by: str | None,
    style: str,
    output: Path | None,
) -> None:
    """Rank the schemes of a results folder by the worst case that attacks leave of their marks.

    One table a data set, under a sentence that says what may be concluded.
    """
    from harness.ranking.overview import overview_sheet
    from harness.ranking.views import details_sheet, rows_by
    from harness.verdicts.reading import read_board

    check_output(style, output)
    board = read_board(
        open_results(results)[1],
        rules,
        datasets=datasets,
        defenses=defenses,
        attacks=attacks,
        intervals=style not in HUMAN,  # people see no intervals of single rates, and there may be thousands
    )
    if style == "json":
        echo(json.dumps(board.as_dict(), indent=1))
    elif style not in HUMAN:
        for note in board.notes:
            warn(note)
        write_rows(*rows_by(board, by), output)
    elif details or by:
        show(style, details_sheet(board, by, explain=explain))
    else:
        # A table for a page does not say where its folder was.
        named = results if style == "terminal" else ""
        show(style, overview_sheet(board, explain=explain, results=named), WIDTH, most=WIDTH)
