"""``harness why``: the state of one stage or cell, and what changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import data_option, matrix_options, plugins_option, results_option, surveyed
from harness.cli.text import say
from harness.planning.narrowing import Narrowing

if TYPE_CHECKING:
    from harness.inspect.why import Part


@click.command(epilog="Example: harness why 'digits / ewe / retraining #0'")
@click.argument("what", metavar="STAGE|CELL")
@matrix_options
@results_option
@plugins_option
@data_option
def why(
    what: str,
    matrix_name: str,
    narrowing: Narrowing,
    results: str,
    plugin_folders: tuple[Path, ...],
    data_named: Path | None,
) -> None:
    """Explain why a stage or cell of a matrix is done, waits or is to be run again.

    STAGE|CELL is an id, the beginning of one, or a cell's words: 'digits / ewe / retraining #0'.
    """
    from harness.inspect.why import Asked

    matrix, plan, survey, _ = surveyed(matrix_name, narrowing, plugin_folders, results, data_named)
    answer = Asked(plan, matrix.name, survey).answer(what)
    say("", answer.title)
    for name, fact in answer.facts:
        say(f"  {name:9}  ", fact)
    if answer.parts:
        say("", "made from")
        _tell(answer.parts)


def _tell(parts: tuple[Part, ...], depth: int = 1) -> None:
    for part in parts:
        say(f"{'  ' * depth}{part.state:7}  {part.id[:8]}  ", f"{part.role}: {part.label}")
        _tell(part.parts, depth + 1)
