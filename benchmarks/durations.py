"""Durations of built-in plugins' stages, by which ``harness plan`` tells the time of a matrix that was never run.

``python -m benchmarks.durations results`` takes them from finished runs, and writes ``harness/running/durations.csv``.
"""

from __future__ import annotations

from pathlib import Path

import click
import pandas as pd

from harness.planning.registry import load_registry
from harness.running.eta import DURATIONS, plugin_name
from harness.storage.tables import Tables

DIGITS = 2
"""Significant digits of a duration: machines differ by more."""


@click.command(epilog="Example: python -m benchmarks.durations results")
@click.argument("results", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(results: tuple[Path, ...]) -> None:
    """Write the median seconds of each kind of stage; kinds that these results lack stay as they are."""
    kind = ["action", "dataset", "plugin"]
    stages = pd.concat([Tables(folder).read("stages", [*kind, "status", "seconds"]) for folder in results])
    stages = stages[stages["status"] == "ok"]
    stages["plugin"] = stages["plugin"].map(plugin_name)
    registry = load_registry()
    built_in = {"", *(name for each in ("dataset", "defense", "attack", "analysis") for name in registry.names(each))}
    stages = stages[stages["plugin"].isin(built_in) & stages["dataset"].map(plugin_name).isin(built_in)]
    measured = stages.groupby(kind, as_index=False)["seconds"].median()
    measured["seconds"] = measured["seconds"].map(lambda seconds: f"{seconds:.{DIGITS}g}")
    known = pd.read_csv(DURATIONS, dtype=str, keep_default_na=False)
    both = pd.concat([known, measured]).drop_duplicates(kind, keep="last").sort_values(kind)
    both.to_csv(DURATIONS, index=False)
    click.echo(f"{len(measured)} kinds of stages measured, {len(both)} in {DURATIONS}")


if __name__ == "__main__":
    main()
