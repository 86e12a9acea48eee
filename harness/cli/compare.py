"""``harness compare``: two schemes, paired over their seeds."""

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


@click.command(epilog="Example: harness compare ewe baseline --dataset digits --attack 'retraining*'")
@click.argument("first")
@click.argument("second")
@results_option
@plugins_unread
@click.option("--dataset", "datasets", multiple=True, help="Data sets to keep, as globs; by default all.")
@click.option("--attack", "attacks", multiple=True, help="Attacks to keep, as globs; by default all.")
@rules_options("test", "confidence", "max_drop", "fpr")
@format_option
@output_option
def compare(
    first: str,
    second: str,
    results: str,
    datasets: tuple[str, ...],
    attacks: tuple[str, ...],
    rules: Rules,
    style: str,
    output: Path | None,
) -> None:
    """Say how two schemes differ, over the seeds and attacks that both have, and how many more seeds would settle it.

    FIRST and SECOND are schemes of the results folder, with their options, or globs that fit one each.
    """
    from harness.ranking.compare import Compared
    from harness.ranking.paired import comparison_sheet
    from harness.ranking.reading import read_comparison

    check_output(style, output)
    made = read_comparison(open_results(results)[1], first, second, rules, datasets=datasets, attacks=attacks)
    if style in HUMAN:
        show(style, comparison_sheet(made))
    elif style == "json":
        echo(json.dumps(made.as_dict(), indent=1))
    else:
        for note in made.notes:
            warn(note)
        write_rows(Compared, made.rows, output)
