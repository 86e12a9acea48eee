"""``harness export``: one cell's models and key as a folder to hand over."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import UserPath, open_results, plugins_unread, results_option
from harness.cli.text import echo, say


@click.command(epilog="Example: harness export 'digits / ewe / none #0' out --without-key")
@click.argument("cell")
@click.argument("folder", metavar="DIR", type=UserPath())
@results_option
@plugins_unread
@click.option("--without-key", is_flag=True, help="Leave the owner's secret out.")
def export(cell: str, folder: Path, results: str, without_key: bool) -> None:
    """Write the victim, the key and the surrogate of a cell into the new folder DIR, with a page on how to load them.

    CELL is its id, the beginning of it, or its words: 'digits / ewe / retraining #0'.
    """
    from harness.inspect.export import export as write
    from harness.inspect.export import find_cell

    found = find_cell(*open_results(results), cell)
    files = write(found, folder, not without_key)
    say(f"{found.words}: wrote {folder}: {', '.join(files)}")
    if not without_key:
        echo("key.safetensors is the owner's secret: --without-key leaves it out")
