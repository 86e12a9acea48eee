"""``harness report``: a results folder as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.cli.leaderboard import max_drop_option, test_option
from harness.cli.options import load_plugins, open_results, plugins_option, results_option


@click.command(epilog="Example: harness report --results results --output report.html")
@results_option
@click.option("--output", type=click.Path(path_type=Path), help="The file; by default report.html in the results.")
@test_option
@click.option("--confidence", type=float, default=0.95, show_default=True, help="Of a verification.")
@max_drop_option
@plugins_option
def report(
    results: str, output: Path | None, test: Any, confidence: float, max_drop: float, plugin_folders: tuple[Path, ...]
) -> None:
    """Write one HTML file that shows a results folder: ranking, maps, seeds, curves, costs, failures, provenance.

    It needs no network and no file beside it. Of a URL it is written to the current folder.
    """
    from harness.leaderboard import Rules
    from harness.remote import is_url
    from harness.report import Results, render
    from harness.tables import printable

    rules = Rules(test, confidence, max_drop)
    path = output or (Path() if is_url(results) else Path(results)) / "report.html"
    _check(path)
    _, tables = open_results(results)
    read = Results(tables.read("cells"), tables.read("detections"), tables.read("stages"), rules)
    page = render(read, _about(results, rules), load_plugins(plugin_folders))
    _write(path, page)
    click.echo(printable(path))


def _check(path: Path) -> None:
    from harness.errors import UsageError
    from harness.tables import refuse_links

    refuse_links(path)
    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder: name a file, such as --output {str(path / 'report.html')!r}")


def _write(path: Path, page: str) -> None:
    """Whole or not at all."""
    import uuid
    from contextlib import suppress

    from harness.errors import UsageError

    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(page, "utf-8")
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise UsageError(f"cannot write {str(path)!r}: {error.strerror or error}; choose another --output") from error


def _about(results: str, rules: Any) -> Any:
    from datetime import UTC, datetime

    import harness
    from harness.checkout import commit
    from harness.report import About

    command = f"harness report --results {results} --test {rules.test} --confidence {rules.confidence} "
    command += f"--max-drop {rules.max_drop}"
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return About(results, command, now, f"watermark-harness {harness.__version__}", commit() or "")
