"""``harness figures``: every picture that a results folder allows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import load_plugins, open_results, plugins_option, results_option, rules_options
from harness.cli.text import say, warn
from harness.text import command_line

if TYPE_CHECKING:
    from harness.verdicts.rules import Rules


@click.command(epilog="Example: harness figures --format pdf --only success --only matrix")
@results_option
@plugins_option
@click.option(
    "--format",
    "style",
    type=click.Choice(["svg", "pdf", "png"]),
    default="svg",
    show_default=True,
    help="Format of the files.",
)
@click.option("--only", multiple=True, metavar="NAME", help="Picture to draw; may be repeated; by default all.")
@click.option(
    "--list", "listing", is_flag=True, help="List the pictures and what the missing ones lack, without drawing."
)
@rules_options("test", "confidence", "min_margin", "max_drop", "fpr")
def figures(
    results: str,
    plugin_folders: tuple[Path, ...],
    style: str,
    only: tuple[str, ...],
    listing: bool,
    rules: Rules,
) -> None:
    """Draw what the tables show into figures/ of the results folder, as wide as a column of a paper."""
    from harness.figures.catalogue import PICTURES, collect, draw_all
    from harness.figures.shown import Shown
    from harness.storage.contents import CONTENTS, mixed

    store, tables = open_results(results)
    shown = Shown(tables, load_plugins(plugin_folders).component, rules)
    collected = collect(shown, only)
    for missing in shown.missing:
        warn(missing)
    where = command_line(results=store.address).removeprefix("harness")  # behind the command that each needs
    if listing:
        wide = max(map(len, collected))
        for name, data in collected.items():
            said = PICTURES[name].title if len(data) else f"no: it needs {PICTURES[name].needs}{where}"
            say(f"{name:<{wide}} {said}")
        return
    for line in mixed(tables.read("cells", ["nulls", CONTENTS])):
        warn(line)
    paths = draw_all(collected, store.results / "figures", style)
    store.flush()
    for name in (name for name, data in collected.items() if data.empty):
        say(f"{name}: not drawn: it needs {PICTURES[name].needs}{where}", err=True)
    say(f"wrote {len(paths)} figures to {store.address}/figures: {', '.join(path.name for path in paths)}")
