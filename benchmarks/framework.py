"""Costs of the harness itself: the command line, planning, and the bookkeeping around stages that do nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.measure import Row, alternate, seconds, threads
from harness.data import Data
from harness.planning.builder import make_plan
from harness.planning.graph import Plan
from harness.planning.matrix import Chain, Entry, Matrix
from harness.planning.registry import Registry, load_registry, resolve
from harness.running.executor import Serial
from harness.running.session import Options, Outcome, Session
from harness.storage.store import Store
from harness.storage.tables import Tables

DO_NOTHING = Path(__file__).parent / "do_nothing"
CELLS = 2000
NOT_IMPORTED = """
import sys
from harness.cli import main
try:
    main()
finally:
    assert "torch._C" not in sys.modules, "torch was imported"
"""


# --- the command line -------------------------------------------------------------------------------------------------


@contextmanager
def folder() -> Iterator[Path]:
    """A fresh folder, removed afterwards."""
    with TemporaryDirectory(prefix="harness-bench-") as made:
        yield Path(made)


def call(*command: str | Path) -> None:
    """Run a command to its end, without the user's plugins. Raises when it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "HARNESS_PLUGINS"}
    subprocess.run(list(map(str, command)), check=True, env=environment, stdout=subprocess.DEVNULL)


def harness(*arguments: str | Path) -> None:
    """Run the installed ``harness`` script."""
    call(Path(sysconfig.get_path("scripts")) / "harness", *arguments)


def help_(n: int) -> list[Row]:
    """Wall time of ``harness --help``, against the bare import of the two packages that it cannot do without."""
    ours, peer = alternate(
        n,
        lambda: seconds(lambda: harness("--help")),
        lambda: seconds(lambda: call(sys.executable, "-c", "import click, pluggy")),
    )
    return [Row("help", ours, peer, "s", "measured: python -c 'import click, pluggy'", "target 0.3 s")]


def smoke(n: int) -> list[Row]:
    """Wall time of the smoke matrix into a fresh folder: 20 cells of real training on digits."""

    def fresh() -> None:
        with folder() as results:
            harness("run", "--matrix", "smoke", "--results", results, "--quiet")

    return [Row("smoke", [seconds(fresh) for _ in range(n)], [25.0], "s", "target")]


def finished(n: int) -> list[Row]:
    """Wall time of a run with nothing left to do. It must not import torch: one more run checks that."""
    with folder() as results:
        arguments = ("run", "--matrix", "smoke", "--results", results, "--quiet")
        harness(*arguments)
        samples = [seconds(lambda: harness(*arguments)) for _ in range(n)]
        call(sys.executable, "-c", NOT_IMPORTED, *arguments)
    return [Row("finished", samples, [4.0], "s", "target", "torch was not imported")]


# --- planning ---------------------------------------------------------------------------------------------------------


def make(matrix: Matrix, registry: Registry) -> Plan:
    """The plan of ``matrix``; with a registry that has found its plugins and used none of them."""
    unused = Registry(registry.found)
    axes = resolve(unused, matrix)
    return make_plan(axes.datasets, axes.defenses, axes.chains, matrix.seeds, matrix.nulls, unused.component)


def plan_10000(n: int) -> list[Row]:
    """Seconds, in process, from a matrix to the plan of 10,000 cells: every option checked, every stage addressed."""
    prunings = [Entry("pruning", (("fraction", i / 1000),)) for i in range(250)]
    retrainings = [Entry("retraining", (("queries", i + 1),)) for i in range(250)]
    schemes = (Entry("baseline"), Entry("baseline", (("placement", "gradient"),)), Entry("ewe"), Entry("adi"))
    attacks = tuple((attack,) for attack in (*prunings, *retrainings))
    matrix = Matrix("plan", (Entry("digits"),), schemes, attacks, seeds=tuple(range(5)))
    registry = load_registry()
    made = make(matrix, registry)
    assert len(made.cells) == 10_000
    samples = [seconds(lambda: make(matrix, registry)) for _ in range(n)]
    return [Row("plan-10000", samples, [2.0], "s", "target", f"{len(made.stages)} stages")]


# --- overhead a cell --------------------------------------------------------------------------------------------------


class Nobody:
    """Watches a run, and says nothing."""

    def started(self, stage: object) -> None:
        """A stage began."""

    def ended(self, record: object, done: int, total: int, seconds_left: float | None) -> None:
        """A stage ended."""


def run(plan: Plan, registry: Registry, results: Path, data: Data) -> Outcome:
    """Run ``plan`` in this process, as ``harness run`` does, on the CPU. Raises unless every cell is ok."""
    import torch

    from harness.running.worker import StageRunner

    store = Store(results)
    store.prepare()
    session = Session(plan, store, Tables(results), Options())
    worker = StageRunner(store, data, plan.stages, registry.component, torch.device("cpu"))
    outcome = session.run(Serial(worker.run), Nobody())
    if outcome.counts["ok"] != len(plan.cells):
        raise RuntimeError(f"{dict(outcome.counts)} of {len(plan.cells)} cells: {outcome.failures[:3]}")
    return outcome


def idle(cells: int) -> Matrix:
    """A matrix of ``cells`` cells in which nothing is done: a sweep over an option that means nothing."""
    attacks: tuple[Chain, ...] = tuple((Entry("idle", (("number", i + 1),)),) for i in range(cells))
    return Matrix("idle", (Entry("dots"),), (Entry("nothing"),), attacks, nulls=0)


def overhead(n: int) -> list[Row]:
    """Milliseconds a cell of a matrix whose plugins do nothing: planned, run, and then found to be finished.

    Each of the cells is an attack and a verification: two artifacts written, one read, five table rows.
    """
    registry = load_registry([DO_NOTHING])

    def once(results: Path, cells: int = CELLS) -> None:
        run(make(idle(cells), registry), registry, results, Data(results))

    full, nothing, cpu = [], [], []
    with threads(1), folder() as warm:
        once(warm, 10)
        for _ in range(n):
            with folder() as results:
                begin = time.process_time()
                full.append(seconds(partial(once, results)) * 1000 / CELLS)
                cpu.append((time.process_time() - begin) * 1000 / CELLS)
                nothing.append(seconds(partial(once, results)) * 1000 / CELLS)
    spent = f"target 6; in process; {median(cpu):.1f} CPU ms"
    return [
        Row("overhead full", full, [11.0], "ms/cell", "published: benchopt 1.10", spent),
        Row("overhead nothing-to-do", nothing, [1.6], "ms/cell", "published: benchopt 1.10", "target 0.5; in process"),
        *_overhead_of_commands(n),
    ]


def _overhead_of_commands(n: int) -> list[Row]:
    """The same through the command line: the wall time of 2,000 cells without that of one cell."""
    full, nothing = [], []
    for _ in range(n):
        with folder() as place:
            many, one = (_command(place, cells) for cells in (CELLS, 1))
            full.append((seconds(many) - seconds(one)) * 1000 / (CELLS - 1))
            # What is left is a fraction of the start of the process: the least disturbed of five starts each.
            again = alternate(5, partial(seconds, many), partial(seconds, one))
            nothing.append((min(again[0]) - min(again[1])) * 1000 / (CELLS - 1))
    return [
        Row("overhead full, command", full, [11.0], "ms/cell", "published: benchopt 1.10", "target 6"),
        Row("overhead nothing-to-do, command", nothing, [1.6], "ms/cell", "published: benchopt 1.10", "target 0.5"),
    ]


def _command(place: Path, cells: int) -> Callable[[], None]:
    """``harness run`` on a matrix of so many idle cells, into a folder of its own below ``place``."""
    matrix = place / f"idle-{cells}.toml"
    numbers = json.dumps(list(range(1, cells + 1)))
    matrix.write_text(
        f'datasets = ["dots"]\ndefenses = ["nothing"]\nattacks = [{{name = "idle", number = {numbers}}}]\nnulls = 0\n',
        "utf-8",
    )
    options = ("--plugins", DO_NOTHING, "--results", place / f"results-{cells}", "--data", place, "--quiet")
    return partial(harness, "run", "--matrix", matrix, *options)
