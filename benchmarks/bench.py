"""``python -m benchmarks.bench``: measures the harness, prints a table, and writes ``build/bench.json``."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks import attacks, framework, training
from benchmarks.measure import Row

OUTPUT = Path(__file__).parents[1] / "build" / "bench.json"


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: the function that measures it, and how many repetitions it gets."""

    name: str
    measure: Callable[[int], list[Row]]
    n: int
    quick: int


BENCHMARKS = [
    Benchmark("help", framework.help_, n=11, quick=3),
    Benchmark("smoke", framework.smoke, n=3, quick=1),
    Benchmark("finished", framework.finished, n=5, quick=2),
    Benchmark("plan-10000", framework.plan_10000, n=7, quick=2),
    Benchmark("overhead", framework.overhead, n=3, quick=1),
    Benchmark("cnn-step", training.cnn_step, n=7, quick=2),
    Benchmark("two-workers", training.two_workers, n=7, quick=2),
    Benchmark("snnl", training.snnl, n=11, quick=3),
    Benchmark("snnl-share", training.snnl_share, n=7, quick=2),
    Benchmark("digits-victim", training.digits_victim, n=3, quick=1),
    Benchmark("neural-cleanse", attacks.neural_cleanse, n=3, quick=1),
    Benchmark("jsma", attacks.jsma, n=5, quick=1),
    Benchmark("pruning-sweep", attacks.pruning_sweep, n=3, quick=1),
    Benchmark("speech", attacks.speech, n=3, quick=1),
]


@click.command(epilog="Example: python -m benchmarks.bench --only cnn-step --quick")
@click.option(
    "--only", type=click.Choice([b.name for b in BENCHMARKS]), multiple=True, help="Measure this; may be repeated."
)
@click.option("--quick", is_flag=True, help="Fewer repetitions.")
def main(only: tuple[str, ...], quick: bool) -> None:
    """Measure what the harness costs: its own overhead, and its training against plain PyTorch."""
    console = Console(width=None if os.isatty(1) else 200)
    rows: list[Row] = []
    before = load()
    for benchmark in BENCHMARKS:
        if not only or benchmark.name in only:
            click.echo(f"{benchmark.name} ...", err=True)
            rows += benchmark.measure(benchmark.quick if quick else benchmark.n)
    console.print(table(rows))
    console.print(f"{machine()}; load average {before} before, {load()} after", highlight=False)
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps([row.as_json() for row in rows], indent=1) + "\n", "utf-8")


def table(rows: Iterable[Row]) -> Table:
    """The rows, for people: medians with the range of our repetitions, and what the peer is."""
    drawn = Table("name", title="medians; ratio = ours / peer")
    for column in ("ours", "range", "peer", "ratio", "unit", "n"):
        drawn.add_column(column, justify="left" if column == "unit" else "right", no_wrap=True)
    drawn.add_column("the peer is")
    drawn.add_column("note")
    for row in rows:
        spread = f"{short(min(row.samples))}-{short(max(row.samples))}"
        numbers = (short(row.ours), spread, short(row.peer), f"{row.ratio:.2f}")
        drawn.add_row(row.name, *numbers, row.unit, str(len(row.samples)), row.peer_is, row.note)
    return drawn


def short(value: float) -> str:
    """Three digits that count, never in exponents."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def load() -> str:
    """The load of the machine over the last minute; one CPU-bound process is 1."""
    return f"{os.getloadavg()[0]:.1f}"


def machine() -> str:
    """What it was measured on."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "pyarrow"))
    where = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    return f"{where}, Python {platform.python_version()}, {versions}"


if __name__ == "__main__":
    main()
