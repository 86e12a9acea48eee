"""``harness report``: a results folder as one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import UserPath, load_plugins, open_results, plugins_option, results_option, rules_options
from harness.cli.tables import write_whole
from harness.cli.text import say
from harness.text import command_line

if TYPE_CHECKING:
    from harness.report import About
    from harness.verdicts.rules import Rules


@click.command(epilog="Example: harness report --results results --output report.html")
@results_option
@click.option("--output", type=UserPath(), help="File to write; by default report.html in the results folder.")
@rules_options()
@plugins_option
def report(results: str, output: Path | None, rules: Rules, plugin_folders: tuple[Path, ...]) -> None:
    """Write one HTML file that shows a results folder: ranking, maps, seeds, curves, costs, failures, provenance.

    It needs no network and no file beside it. Of a URL it is written to the current folder.
    """
    from harness.report import Results, render
    from harness.storage.remote import is_url

    path = output or (Path() if is_url(results) else Path(results)) / "report.html"
    _check(path)
    registry = load_plugins(plugin_folders)
    _, tables = open_results(results)
    read = Results.of(tables, rules)
    page = render(read, _about(results, rules), registry)
    write_whole(path, lambda handle: handle.write(page.encode()))
    say(str(path))


def _check(path: Path) -> None:
    from harness.errors import UsageError
    from harness.storage.files import refuse_links, refuse_record

    refuse_links(path)
    refuse_record(path.parent)
    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder: name a file, such as --output {str(path / 'report.html')!r}")


def _about(results: str, rules: Rules) -> About:
    from datetime import UTC, datetime

    import harness
    from harness.report import About
    from harness.running.checkout import commit

    told = {name: value for name, value in vars(rules).items() if value is not None}
    options = [word for name, value in told.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = command_line("report", "--results", results, *options)
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return About(results, command, now, f"watermark-harness {harness.__version__}", commit() or "")
