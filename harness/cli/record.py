"""``harness record``: freeze a results folder for others."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path

import click

from harness.cli.options import UserPath, load_plugins, open_results, plugins_option, results_option
from harness.cli.text import say, warn
from harness.text import command_line


@click.command(epilog="Example: harness record 'EWE on digits' --command 'harness run --matrix quick'")
@click.argument("name")
@results_option
@plugins_option
@click.option("--command", default="", metavar="TEXT", help="The command that made the results, for the page.")
@click.option(
    "--output",
    type=UserPath(),
    metavar="DIR",
    help="Folder instead of results/records/DATE-NAME. It must not exist.",
)
def record(name: str, results: str, plugin_folders: tuple[Path, ...], command: str, output: Path | None) -> None:
    """Freeze tables, figures, ranking, report, versions and checksums of a results folder as the record NAME.

    Its README.md is to be completed by hand.
    """
    from harness.errors import UsageError
    from harness.records.freeze import record as write
    from harness.storage.contents import CONTENTS, mixed

    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not slug or not name.isprintable():
        raise UsageError(f"a record's name needs letters or digits, on one line, not {name!r}")
    folder = output or Path("results") / "records" / f"{datetime.now(UTC):%Y-%m-%d}-{slug}"
    registry = load_plugins(plugin_folders)
    store, tables = open_results(results)
    for line in mixed(tables.read("cells", ["nulls", CONTENTS])):
        warn(line)
    files = write(store, tables, folder, name, command, registry, ranked(results))
    then = command_line("submit", "--", folder) if str(folder).startswith("-") else command_line("submit", folder)
    say(f"wrote {len(files)} files to {folder}; complete its README.md, then: {then}")


def ranked(results: str) -> str:
    """The ranking as `harness leaderboard --format markdown` prints it, with its defaults."""
    from harness.cli.leaderboard import leaderboard

    with redirect_stdout(io.StringIO()) as text:
        click.get_current_context().invoke(leaderboard, results=results, style="markdown")
    return text.getvalue()
