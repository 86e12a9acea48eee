"""``harness run``: run a matrix."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import (
    chosen_matrix,
    data_option,
    load_plugins,
    matrix_options,
    planned,
    plugins_option,
    results_option,
)

if TYPE_CHECKING:
    from harness.execute import Outcome, Session
    from harness.plan import Plan
    from harness.registry import Registry
    from harness.stages import Worker
    from harness.store import Store


@click.command(epilog="Example: harness run --matrix smoke --defense 'ewe*' --seeds 0-4")
@matrix_options
@results_option
@data_option
@plugins_option
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="CPU threads of torch. Another number sums in another order: other numbers, within rounding.",
)
@click.option("--deterministic", is_flag=True, help="On a GPU: only operations that give the same bits every time.")
@click.option(
    "--rerun",
    type=click.Choice(["never", "failed", "all"]),
    default="failed",
    show_default=True,
    help="Finished stages to run again.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be run, and stop.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first stage that fails.")
@click.option("--debug", is_flag=True, help="Open the debugger where a plugin fails.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--log-json", is_flag=True, help="Progress as JSON lines on stdout.")
def run(
    matrix_name: str,
    datasets: tuple[str, ...],
    defenses: tuple[str, ...],
    attacks: tuple[str, ...],
    seeds: str | None,
    nulls: int | None,
    results: Path,
    data_named: Path | None,
    plugin_folders: tuple[Path, ...],
    device: str,
    threads: int,
    deterministic: bool,
    rerun: Any,
    dry_run: bool,
    fail_fast: bool,
    debug: bool,
    quiet: bool,
    log_json: bool,
) -> int:
    """Run a matrix: every dataset x defense x attack x seed. What is stored already is not run again."""
    from harness.execute import Options, Session
    from harness.store import Store
    from harness.tables import Tables

    registry = load_plugins(plugin_folders)
    plan = planned(registry, chosen_matrix(matrix_name, datasets, defenses, attacks, seeds, nulls))
    store = Store(results)
    store.check_format()
    session = Session(plan, store, Tables(results), Options(rerun, fail_fast or debug))
    for warning in session.warnings:
        click.echo(f"warning: {warning}", err=True)
    if dry_run:
        click.echo(f"{len(plan.cells)} cells, {len(plan.stages)} stages: {len(session.todo)} to run")
        return 0
    worker = None
    if session.todo:
        worker = _worker(session, store, registry, plan, data_named, device, threads, deterministic)
        worker.debug = debug
    # Last, so that a mistake in the command leaves the results folder as it was.
    store.prepare()
    outcome = _execute(session, worker, quiet, log_json)
    return _report(outcome, plan, results, log_json)


def _worker(
    session: Session,
    store: Store,
    registry: Registry,
    plan: Plan,
    data_named: Path | None,
    device: str,
    threads: int,
    deterministic: bool,
) -> Worker:
    """The worker, once it is sure that every data set that is needed is there."""
    import torch

    from harness.data import Data, data_folder
    from harness.stages import Worker

    torch.set_num_threads(threads)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
        torch.use_deterministic_algorithms(True)
    chosen, data = _device(device), Data(*data_folder(data_named))
    # A dict, not a set: of two sets that are missing it is always the same one that is named.
    for dataset in dict.fromkeys(use for stage in session.todo for use in (stage.dataset, stage.data) if use):
        data.arrays(dataset.plugin)

    def warn(message: str) -> None:
        click.echo(f"warning: {message}", err=True)

    return Worker(store, data, plan.stages, registry.use, chosen, warn=warn)


def _device(name: str) -> Any:
    """The torch device of ``name``. Raises :class:`UsageError` for one that is not there."""
    import torch

    from harness.errors import UsageError

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("not supported")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"no device {name!r} here ({reason}): auto, cpu, cuda or cuda:N") from error
    return device


def _execute(session: Session, worker: Worker | None, quiet: bool, log_json: bool) -> Outcome:
    from harness.cli.progress import watcher
    from harness.execute import Serial

    def work(stage: Any) -> dict[str, Any]:
        assert worker is not None  # there is one whenever there is something to run
        return worker.run(stage)

    with _stop_on_interrupt() as stopping, watcher(len(session.todo), quiet, log_json) as watching:
        try:
            return session.run(Serial(), work, watching, stopping)
        except Exception:
            if worker is not None and worker.debug:
                import pdb

                pdb.post_mortem()
            raise


@contextmanager
def _stop_on_interrupt() -> Iterator[Any]:
    """Ctrl-C asks to stop after the current stage; a second one stops at once."""
    asked = False

    def handle(signum: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        click.echo("\nstopping after the current stage (Ctrl-C again: at once)", err=True)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def _report(outcome: Outcome, plan: Plan, results: Path, log_json: bool) -> int:
    """Say how it ended, and what to type next; the exit code."""
    counts = ", ".join(f"{count} {status}" for status, count in sorted(outcome.counts.items()))
    where = "" if str(results) == "results" else f" --results {results}"
    for cell, reason in outcome.failures[:20]:
        click.echo(f"failed: {cell}: {reason.partition(chr(10))[0]}", err=True)
    if len(outcome.failures) > 20:
        click.echo(f"... and {len(outcome.failures) - 20} more: see the cells table", err=True)
    did = f"ran {outcome.ran} stages" if outcome.ran else "nothing to do"
    click.echo(f"{did}: {len(plan.cells)} cells ({counts}), tables in {results / 'tables'}", err=log_json)
    if outcome.interrupted:
        click.echo("interrupted: the same command goes on where this one stopped", err=True)
        return 130
    if outcome.counts["ok"]:
        click.echo(f"next: harness leaderboard{where}", err=log_json)
    return 1 if outcome.failures else 0
