"""Running a plan from the command line: the options, the worker, the progress, Ctrl-C. Shared by the commands that run.

Only what there is to run imports torch.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import F

if TYPE_CHECKING:
    from harness.execute import Outcome, Session
    from harness.plan import Plan
    from harness.registry import Registry
    from harness.stages import Worker
    from harness.store import Store


@dataclass(frozen=True)
class Machine:
    """Where to run: what the command line says of devices and data."""

    data: Path | None = None
    device: str = "auto"
    threads: int = 1
    deterministic: bool = False


def machine_options(command: F) -> F:
    """``--device`` and ``--threads``."""
    for option in (
        click.option(
            "--threads",
            type=click.IntRange(1, 1024),
            default=1,
            show_default=True,
            help="CPU threads of torch. Another number sums in another order: other numbers, within rounding.",
        ),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
    ):
        command = option(command)
    return command


def make_worker(session: Session, store: Store, registry: Registry, plan: Plan, machine: Machine) -> Worker | None:
    """The worker, once it is sure that every data set that is needed is there; ``None`` if there is nothing to run."""
    if not session.todo:
        return None
    import torch

    from harness.data import Data, data_folder
    from harness.stages import Worker

    torch.set_num_threads(machine.threads)
    if machine.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
        torch.use_deterministic_algorithms(True)
    chosen, data = _device(machine.device), Data(*data_folder(machine.data))
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


def execute(session: Session, worker: Worker | None, quiet: bool, log_json: bool = False) -> Outcome:
    """Run what is left of a session, watched, until it ends or is interrupted."""
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


def report(outcome: Outcome, plan: Plan, results: Path, err: bool, name: str = "") -> int:
    """Say how a run ended, on stderr if ``err``; its exit code."""
    counts = ", ".join(f"{count} {status}" for status, count in sorted(outcome.counts.items()))
    for cell, reason in outcome.failures[:20]:
        click.echo(f"failed: {cell}: {reason.partition(chr(10))[0]}", err=True)
    if len(outcome.failures) > 20:
        click.echo(f"... and {len(outcome.failures) - 20} more: see the cells table", err=True)
    did = f"ran {outcome.ran} stages" if outcome.ran else "nothing to do"
    start = f"{name}: " if name else ""
    click.echo(f"{start}{did}: {len(plan.cells)} cells ({counts}), tables in {results / 'tables'}", err=err)
    if outcome.interrupted:
        click.echo("interrupted: the same command goes on where this one stopped", err=True)
        return 130
    return 1 if outcome.failures else 0
