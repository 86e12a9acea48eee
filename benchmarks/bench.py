"""``python -m benchmarks.bench``: measures the harness, prints a table, and writes ``build/bench.json``."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import (
    attacks,
    bf16,
    claims,
    equal,
    floor,
    framework,
    gates,
    gpu,
    innocents,
    official,
    scaling,
    steps,
    training,
)
from benchmarks.measure import Benchmark, Row

OUTPUT = Path(__file__).parents[1] / "build"

BENCHMARKS = {
    "cpu": [
        Benchmark("help", framework.help_, n=11, quick=3),
        Benchmark("smoke", framework.smoke, n=3, quick=1),
        Benchmark("finished", framework.finished, n=5, quick=2),
        Benchmark("plan-10000", framework.plan_10000, n=7, quick=2),
        Benchmark("overhead", framework.overhead, n=3, quick=1),
        Benchmark("floor", floor.floor, n=5, quick=1),
        Benchmark("cnn-step", steps.cnn_step, n=7, quick=2),
        Benchmark("lstm-step", steps.lstm_step, n=7, quick=2),
        Benchmark("resnet-step", steps.resnet_step, n=3, quick=1),
        Benchmark("two-workers", training.two_workers, n=7, quick=2),
        Benchmark("snnl", training.snnl, n=11, quick=3),
        Benchmark("snnl-share", training.snnl_share, n=7, quick=2),
        Benchmark("digits-victim", training.digits_victim, n=3, quick=1),
        Benchmark("neural-cleanse", attacks.neural_cleanse, n=3, quick=1),
        Benchmark("jsma", attacks.jsma, n=5, quick=1),
        Benchmark("pruning-sweep", attacks.pruning_sweep, n=3, quick=1),
        Benchmark("speech", attacks.speech, n=3, quick=1),
        Benchmark("equal", equal.equal, n=10, quick=3, long=True),
        Benchmark("bf16", bf16.bf16, n=10, quick=3, long=True),
        Benchmark("innocents", innocents.innocents, n=20, quick=6, long=True),
        Benchmark("gates", gates.gates, n=3, quick=1, long=True),
        Benchmark("claims", claims.claims, n=5, quick=2, long=True),
        Benchmark("official", official.official, n=1, quick=1, long=True),
        Benchmark("scale-plan", scaling.plan, n=3, quick=1, long=True),
        Benchmark("scale-run", scaling.matrix, n=1, quick=1, long=True),
        Benchmark("scale-rank", scaling.rank, n=3, quick=1, long=True),
    ],
    "cuda": gpu.BENCHMARKS,
}
NAMES = sorted({benchmark.name for benchmarks in BENCHMARKS.values() for benchmark in benchmarks})


@click.command(epilog="Example: python -m benchmarks.bench --only cnn-step --quick")
@click.option("--only", type=click.Choice(NAMES), multiple=True, help="Measure this; may be repeated.")
@click.option("--quick", is_flag=True, help="Fewer repetitions.")
@click.option("--long", is_flag=True, help="Also what takes longer than five minutes.")
@click.option("--device", type=click.Choice(sorted(BENCHMARKS)), default="cpu", show_default=True)
@click.pass_context
def main(context: click.Context, only: tuple[str, ...], quick: bool, long: bool, device: str) -> None:
    """Measure what the harness costs: its own overhead, and its training against plain PyTorch."""
    if device == "cuda" and not torch.cuda.is_available():
        click.echo("error: no CUDA device here: these benchmarks need one", err=True)
        context.exit(2)
    chosen = [b for b in BENCHMARKS[device] if b.name in only or (not only and (long or not b.long))]
    if not chosen:
        raise click.UsageError(f"not measured on {device}: {', '.join(only)}")
    rows: list[Row] = []
    before = load()
    try:
        for benchmark in chosen:
            click.echo(f"{benchmark.name} ...", err=True)
            rows += benchmark.measure(benchmark.quick if quick else benchmark.n)
    finally:  # what was measured before one that failed
        console = Console(width=None if os.isatty(1) else 200)
        console.print(table(rows))
        console.print(f"{machine(device)}; load average {before:.1f} before, {load():.1f} after", highlight=False)
        if before > 0.5:
            console.print("other work ran beside: threads that wait for each other then cost most, ratios included")
        write(device, rows)


def write(device: str, rows: Sequence[Row]) -> None:
    """The rows as a file."""
    OUTPUT.mkdir(exist_ok=True)
    text = json.dumps([row.as_json() for row in rows], indent=1) + "\n"
    (OUTPUT / ("bench.json" if device == "cpu" else f"bench-{device}.json")).write_text(text, "utf-8")


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
        words = (row.unit, str(len(row.samples)), row.peer_is, row.note)
        drawn.add_row(escape(row.name), *numbers, *words)  # options in brackets are no markup
    return drawn


def short(value: float) -> str:
    """Three digits that count, never in exponents."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def load() -> float:
    """The load of the machine over the last minute; one CPU-bound process is 1."""
    return os.getloadavg()[0]


def machine(device: str) -> str:
    """The machine and versions of the measurement."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "pyarrow"))
    where = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    if device == "cuda":
        where += f", {torch.cuda.get_device_name()}"
    return f"{where}, Python {platform.python_version()}, {versions}"


if __name__ == "__main__":
    main()
