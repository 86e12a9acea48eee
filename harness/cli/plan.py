"""``harness plan``: show a matrix without running it."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import (
    data_option,
    matrix_options,
    open_results,
    planning_registry,
    plugins_option,
    results_option,
)
from harness.cli.text import say
from harness.planning.narrowing import Narrowing, planned


@click.command(epilog="Example: harness plan --matrix paper --defense 'ewe*'")
@matrix_options
@results_option
@plugins_option
@data_option
@click.option("--stages", "list_stages", is_flag=True, help="List every stage.")
def plan(
    matrix_name: str,
    narrowing: Narrowing,
    results: str,
    plugin_folders: tuple[Path, ...],
    data_named: Path | None,
    list_stages: bool,
) -> None:
    """Show a matrix's cells and stages, the number that is stored, the time it takes, and why cells are skipped."""
    from harness.inspect.outline import outline
    from harness.running.eta import EtaEstimator

    matrix = narrowing.of(matrix_name)
    store, tables = open_results(results)
    plan = planned(planning_registry(plugin_folders, data_named, tables), matrix)
    stored = store.ids()
    takes = EtaEstimator(tables, plan.without(stored), jobs=1).split()
    for line in outline(matrix, plan, stored, *takes, stages=list_stages):
        say(line)
