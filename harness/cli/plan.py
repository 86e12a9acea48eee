"""``harness plan``: what a matrix is made of, without running it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from harness.cli.options import (
    load_plugins,
    matrix_options,
    open_results,
    plugins_option,
    results_option,
)
from harness.planning.narrowing import Narrowing, planned


@click.command(epilog="Example: harness plan --matrix paper --defense 'ewe*'")
@matrix_options
@results_option
@plugins_option
@click.option("--stages", "list_stages", is_flag=True, help="List every stage.")
def plan(
    matrix_name: str,
    narrowing: Narrowing,
    results: str,
    plugin_folders: tuple[Path, ...],
    list_stages: bool,
) -> None:
    """Show a matrix's cells and stages, what is stored already, and what is skipped and why."""
    from harness.storage.text import printable

    registry = load_plugins(plugin_folders)
    matrix = narrowing.of(matrix_name)
    made = planned(registry, matrix)
    store, _ = open_results(results)
    stored = store.ids()
    click.echo(printable(f"matrix {matrix.name}: {matrix.description}".rstrip(": ")))
    for kind, names in (
        ("datasets", {c.dataset: None for c in made.cells}),
        ("defenses", {c.defense: None for c in made.cells}),
        ("attacks", {c.attack: None for c in made.cells}),
    ):
        click.echo(f"  {kind:9} {printable(', '.join(names))}")
    click.echo(f"  {'seeds':9} {', '.join(map(str, matrix.seeds))}    null models: {matrix.nulls}")
    total, done = Counter[str](), Counter[str]()
    for stage in made.stages.values():
        total[stage.action] += 1
        done[stage.action] += stage.id in stored
        if list_stages:
            click.echo(
                f"  {stage.id}  {'stored' if stage.id in stored else '-':6}  {stage.action}: {printable(stage.label)}"
            )
    click.echo(f"{len(made.cells)} cells, {len(made.stages)} stages, {sum(done.values())} stored:")
    for action, count in total.items():
        click.echo(f"  {action:9} {count:6}  ({done[action]} stored)")
    skipped = Counter(cell.skip for cell in made.cells if cell.skip)
    for reason, count in skipped.items():
        click.echo(f"skipped: {count} cells: {printable(reason)}")
