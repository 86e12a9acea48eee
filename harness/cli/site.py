"""``harness site``: records as the static pages of a public leaderboard."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import UserPath, enough_options, load_plugins, plugins_option
from harness.cli.record import ranked
from harness.cli.text import say


@click.command(epilog="Example: harness site results/records/* --output site")
@click.argument("folders", metavar="RECORD...", nargs=-1, required=True, type=UserPath())
@click.option(
    "--output",
    type=UserPath(),
    default=Path("site"),
    show_default=True,
    metavar="DIR",
    help="Folder of the pages: a new one, or an older site, which is replaced.",
)
@enough_options
@plugins_option
def site(
    folders: tuple[Path, ...], output: Path, min_seeds: int, min_nulls: int, plugin_folders: tuple[Path, ...]
) -> int:
    """Write the pages of a leaderboard over records: an index with filters, a page for each record, scheme and attack.

    Each record is checked as by `harness submit`, once for its content; one that fails is refused in one line, and then
    the exit code is 1. The pages need no network.
    """
    from harness.site.accepted import Demands
    from harness.site.build import build

    demands = Demands(min_seeds, min_nulls, load_plugins(plugin_folders), lambda folder: ranked(str(folder)))
    built = build(folders, output, demands)
    for line in built.refused:
        say(line, err=True)
    if built.accepted:
        records = f"{built.accepted} record{'s' * (built.accepted != 1)}"
        say(f"{output / 'index.html'}: {records}, {built.pages} pages")
    return 1 if built.refused else 0
