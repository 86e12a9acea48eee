"""``harness compare``: two schemes, paired over their seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import chosen, open_results, results_option, rules_options
from harness.cli.tables import HUMAN, check_output, format_option, output_option, show, write_rows

if TYPE_CHECKING:
    from harness.ranking.scoring import Rules


@click.command(epilog="Example: harness compare ewe baseline --dataset digits --attack 'retraining*'")
@click.argument("first")
@click.argument("second")
@results_option
@click.option("--dataset", "datasets", multiple=True, help="Only these (globs); by default all.")
@click.option("--attack", "attacks", multiple=True, help="Only these (globs); by default all.")
@rules_options("confidence", "max_drop", "fpr")
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
    from harness.errors import UsageError
    from harness.ranking.columns import comparison_sheet
    from harness.ranking.compare import Compared, make_comparison
    from harness.ranking.scoring import CELL_COLUMNS

    check_output(style, output)
    _, tables = open_results(results)
    cells = tables.read("cells", CELL_COLUMNS)
    if cells.empty:
        raise UsageError("no results yet: type harness run --matrix smoke")
    ours, theirs = _only(cells, first), _only(cells, second)
    cells = chosen(chosen(cells, "dataset", datasets), "attack", attacks)
    made = make_comparison(cells.reset_index(drop=True), ours, theirs, rules)
    if style in HUMAN:
        show(style, comparison_sheet(made))
    elif style == "json":
        click.echo(json.dumps(made.as_dict(), indent=1))
    else:
        write_rows(Compared, made.rows, output)


def _only(cells: Any, name: str) -> str:
    """The one scheme whose name equals or fits ``name``. Raises :class:`UsageError` where there are several."""
    from harness.errors import UsageError
    from harness.storage.text import printable

    known = list(dict.fromkeys(cells["defense"]))
    if name in known:
        return name
    found = list(dict.fromkeys(chosen(cells, "defense", (name,))["defense"]))
    if len(found) > 1:
        raise UsageError(f"{name!r} fits {len(found)} schemes: {', '.join(map(printable, found))}. Name one of them")
    return str(found[0])
