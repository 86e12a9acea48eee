"""``harness leaderboard``: rank the schemes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import open_results, results_option, rules_options
from harness.cli.tables import HUMAN, check_output, format_option, output_option, show, write_rows

if TYPE_CHECKING:
    from harness.ranking.scoring import Rules


@click.command(epilog="Example: harness leaderboard --dataset digits --format markdown")
@results_option
@click.option("--dataset", "datasets", multiple=True, help="Datasets to keep, as globs; by default all.")
@click.option("--defense", "defenses", multiple=True, help="Schemes to keep, as globs; by default all.")
@click.option("--attack", "attacks", multiple=True, help="Attacks to keep, as globs; by default all.")
@rules_options()
@click.option(
    "--by",
    type=click.Choice(["dataset", "attack", "family"]),
    help="Only the ranking of each dataset, or the success left by each attack or family of attacks.",
)
@format_option
@output_option
def leaderboard(
    results: str,
    datasets: tuple[str, ...],
    defenses: tuple[str, ...],
    attacks: tuple[str, ...],
    rules: Rules,
    by: str | None,
    style: str,
    output: Path | None,
) -> None:
    """Rank the schemes of a results folder by the success that attacks leave, with n, spread and the cells left out."""
    from harness.ranking.columns import VIEWS, board_sheet
    from harness.ranking.reading import read_board

    check_output(style, output)
    board = read_board(
        open_results(results)[1],
        rules,
        datasets=datasets,
        defenses=defenses,
        attacks=attacks,
        intervals=style not in HUMAN,  # people see no intervals of single attacks, and there may be thousands
    )
    if style in HUMAN:
        show(style, board_sheet(board, by))
    elif style == "json":
        click.echo(json.dumps(board.as_dict(), indent=1))
    else:
        view, *_ = VIEWS[by]
        write_rows(view.of, getattr(board, view.records), output)
