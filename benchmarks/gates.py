"""Clean accuracy of each data set's default recipe, beside the gate that the data set states.

``python -m benchmarks.gates --dataset mnist --seeds 0-2`` chooses; ``python -m benchmarks.bench --only gates`` takes
every set that is found, with as many samples as each of its gates asks for. The results stay in ``build/gates``, so
that a second call computes what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import click

import harness
from benchmarks.measure import Row
from harness.contracts import Dataset, Gate
from harness.data import Data, data_folder
from harness.engine.train import Precision
from harness.errors import DataError
from harness.fields import required_options
from harness.planning.matrix import parse_seeds
from harness.planning.registry import load_registry

RESULTS = Path(__file__).parents[1] / "build" / "gates"
DEVELOPMENT = 100
"""The first of the seeds on which recipes are chosen: the benchmark's own begin at 0."""


def gates(n: int) -> list[Row]:
    """The gates of all data sets that are found here, by ``n`` unmarked models each."""
    return measured([], range(n), "tf32")


def measured(names: Sequence[str], seeds: Sequence[int], precision: Precision) -> list[Row]:
    """A row a gate of the named data sets, or of all that are found here."""
    registry = load_registry()
    data = Data(data_folder(None)[0])
    rows = []
    known = [name for name in registry.names("dataset") if not required_options(registry.found["dataset", name].cls)]
    for name in names or known:
        dataset = registry.component("dataset", name).plugin
        for gate in dataset.gates if isinstance(dataset, Dataset) else ():
            try:
                data.arrays(dataset)
            except DataError as error:
                if names:
                    raise
                click.echo(f"{name}: not measured: {error}", err=True)
                break
            rows.append(_row(name, gate, seeds, precision))
    return rows


def _row(name: str, gate: Gate, seeds: Sequence[int], precision: Precision) -> Row:
    entry = f"{name}[train={gate.train}]"
    results = RESULTS / precision
    run = harness.run(
        None,
        datasets=[entry],
        defenses=["unmarked"],
        attacks=["none"],
        seeds=seeds,
        nulls=0,
        results=results,
        precision=precision,
        jobs=1,
    )
    cells = run.cells()
    cells = cells[cells["status"] == "ok"]
    accuracies = [100 * float(each) for each in cells["victim_accuracy"]]
    if not accuracies:
        return Row(entry, [float("nan")], [100 * gate.accuracy], "%", f"gate: {gate.source}", "failed: no model")
    spread = f"{mean(accuracies):.2f}" + (f" ± {stdev(accuracies):.2f}" if len(accuracies) > 1 else "")
    seconds, images = float(cells["embed_seconds"].mean()), int(cells["test_samples"].max())
    ends = "pass" if mean(accuracies) >= 100 * gate.accuracy else "FAIL"
    note = f"{ends}: mean {spread}, n = {len(accuracies)}, {seconds:.0f} s a model, {images:,} test samples"
    return Row(entry, accuracies, [100 * gate.accuracy], "%", f"gate: {gate.source}", note)


@click.command(epilog="Example: python -m benchmarks.gates --dataset mnist --seeds 0-2 --precision bf16")
@click.option("--dataset", "names", multiple=True, help="Data set; may be repeated; by default all that are found.")
@click.option("--seeds", default=f"{DEVELOPMENT}", show_default=True, help="Seeds, such as 100-104.")
@click.option("--precision", type=click.Choice(["fp32", "tf32", "bf16"]), default="tf32", show_default=True)
def main(names: tuple[str, ...], seeds: str, precision: Precision) -> None:
    """Train unmarked models by default recipes, and compare their accuracy with the gates."""
    from rich.console import Console

    from benchmarks.bench import machine, table

    rows = measured(names, parse_seeds(seeds), precision)
    console = Console(width=200)
    console.print(table(rows))
    console.print(machine("cpu"), highlight=False)


if __name__ == "__main__":
    main()
