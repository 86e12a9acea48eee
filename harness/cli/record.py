"""``harness record``: freeze a results folder for others."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path

import click

from harness.cli.options import UserPath, load_plugins, open_results, results_option
from harness.cli.text import say


@click.command(epilog="Example: harness record 'EWE on digits' --command 'harness run --matrix quick'")
@click.argument("name")
@results_option
@click.option("--command", default="", metavar="TEXT", help="The command that made the results, for the page.")
@click.option(
    "--output",
    type=UserPath(),
    metavar="DIR",
    help="Folder instead of results/records/DATE-NAME. It must not exist.",
)
def record(name: str, results: str, command: str, output: Path | None) -> None:
    """Freeze tables, figures, ranking, report, versions and checksums of a results folder as the record NAME.

    Its README.md is to be completed by hand.
    """
    from harness.errors import UsageError
    from harness.records.freeze import record as write

    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not slug or not name.isprintable():
        raise UsageError(f"a record's name needs letters or digits, on one line, not {name!r}")
    folder = output or Path("results") / "records" / f"{datetime.now(UTC):%Y-%m-%d}-{slug}"
    files = write(*open_results(results), folder, name, command, load_plugins(()), ranked(results))
    say(f"wrote {len(files)} files to {folder}; complete its README.md, then: harness submit {folder}")


def ranked(results: str) -> str:
    """The ranking as `harness leaderboard --format markdown` prints it, with its defaults."""
    from harness.cli.leaderboard import leaderboard

    with redirect_stdout(io.StringIO()) as text:
        click.get_current_context().invoke(leaderboard, results=results, style="markdown")
    return text.getvalue()
