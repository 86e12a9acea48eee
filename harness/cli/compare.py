"""``harness compare``: two schemes, paired over their seeds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.leaderboard import format_option, output_option
from harness.cli.options import chosen, open_results, results_option, rules_options
from harness.cli.tables import HUMAN, Section, check_output, show, write_rows
from harness.cli.text import interval, points, whole

if TYPE_CHECKING:
    from harness.ranking.compare import Compared, Comparison
    from harness.ranking.scoring import Rules

COLUMNS = ("attack", "n", "first", "second", "difference", "interval", "p", "Holm p", "more seeds", "left out")


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
        show(style, _sections(made), _notes(made))
    elif style == "json":
        click.echo(json.dumps(made.as_dict(), indent=1))
    else:
        write_rows(Compared, made.rows, output)


def _only(cells: Any, name: str) -> str:
    """The one scheme that is or fits ``name``."""
    from harness.errors import UsageError
    from harness.storage.text import printable

    known = list(dict.fromkeys(cells["defense"]))
    if name in known:
        return name
    found = list(dict.fromkeys(chosen(cells, "defense", (name,))["defense"]))
    if len(found) > 1:
        raise UsageError(f"{name!r} fits {len(found)} schemes: {', '.join(map(printable, found))}. Name one of them")
    return str(found[0])


def _sections(made: Comparison) -> list[Section]:
    datasets = dict.fromkeys(row.dataset for row in made.rows)
    return [
        (
            f"{'all datasets' if dataset == 'all' else dataset}: {made.ours} less {made.theirs}",
            COLUMNS,
            [_row(row) for row in made.rows if row.dataset == dataset],
        )
        for dataset in datasets
    ]


def _row(row: Compared) -> list[str]:
    name = f"({row.quantity})" if not row.attack else "(all attacks)" if row.attack == "all" else row.attack
    sd = "" if math.isnan(row.sd) else f" ± {points(row.sd)}"
    return [
        name,
        str(row.n),
        points(row.ours),
        points(row.theirs),
        f"{points(row.difference)}{sd}",
        interval(row.low, row.high),
        *("-" if math.isnan(p) else f"{p:.3f}" if p >= 0.001 else "<0.001" for p in (row.p_value, row.p_adjusted)),
        whole(row.more_seeds, "no end"),
        str(row.left_out or "-"),
    ]


def _notes(made: Comparison) -> list[str]:
    from harness.statistics.paired import fewest_seeds
    from harness.storage.text import printable

    rules = made.rules
    false = "the null models'" if rules.fpr is None else f"{points(rules.fpr)}, assumed by --fpr"
    return [
        f"first: {printable(made.ours)}. second: {printable(made.theirs)}. All in %, means over the n seeds on which "
        "both count; difference: mean ± SD of the first less the second, paired by seed, with Student's "
        f"{rules.confidence:.0%} interval. An attack's row is about the margin: success less {false}. (all attacks): "
        "of each seed the mean over the extractions and removals that count for both. accuracy cost: the null models' "
        "accuracy less the victim's.",
        f"p: two-sided sign-flip test over the seeds, which takes {fewest_seeds(rules.confidence)} of them to reach "
        f"{1 - rules.confidence:.3g}; Holm p: corrected for all rows. more seeds: until the test can reach that and "
        "the interval leaves out zero with a power of 80%, if mean and SD stay. left out: cells that are void, failed "
        "or skipped, or without a partner.",
    ]
