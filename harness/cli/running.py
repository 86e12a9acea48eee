"""Running a plan from the command line: the options, the executor, the progress, Ctrl-C. Shared by the commands that
run.

Only what there is to run imports torch.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import F, data_option, gathered, plugins_option
from harness.running.machine import WORKERS_A_GPU, Machine

if TYPE_CHECKING:
    from harness.planning.graph import Plan
    from harness.running.executor import Executor
    from harness.running.session import Outcome, Session
    from harness.storage.tables import Tables


def _jobs(context: click.Context, option: click.Parameter, value: str) -> int | None:
    if value == "auto":
        return None
    if not (value.isascii() and value.isdigit() and 1 <= int(value) <= 1024):
        raise click.BadParameter(f"expected a whole number from 1 to 1024, or auto, not {value!r}")
    return int(value)


def _address(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value is not None and context.params.get("executor") != "ray":
        raise click.BadParameter(f"{value!r} names a Ray cluster, which needs --executor ray")
    return value


def _machine(data_named: Path | None, plugin_folders: tuple[Path, ...], **named: Any) -> Machine:
    return Machine(data=data_named, plugins=plugin_folders, **named)


def machine_options(command: F) -> F:
    """Where to run, with what data and plugins: given to the command as one ``machine``. What more of :class:`Machine`
    a command has options for is in it too."""
    command = gathered("machine", _machine, ["data_named", "plugin_folders", *(f.name for f in fields(Machine))])(
        command
    )
    for option in (
        click.option(
            "--precision",
            type=click.Choice(["fp32", "tf32", "bf16"]),
            default="tf32",
            show_default=True,
            help="Of training. tf32: of a GPU's matrix products (a CPU trains in fp32). bf16: autocast to bfloat16.",
        ),
        click.option(
            "--threads",
            type=click.IntRange(1, 1024),
            default=1,
            show_default=True,
            help="CPU threads of torch. Another number sums in another order: other numbers, within rounding.",
        ),
        click.option(
            "--stage-timeout",
            type=click.FloatRange(0, min_open=True),
            metavar="SECONDS",
            help="A stage that takes longer fails: its process is killed, and the others go on.",
        ),
        click.option(
            "--jobs",
            metavar="N|auto",
            callback=_jobs,
            default="auto",
            envvar="HARNESS_JOBS",
            show_default=True,
            help="Stages at a time; from 2 on in worker processes. auto: one a CPU (for --threads of it, and 2 GiB), "
            f"{WORKERS_A_GPU} a GPU, all of a cluster. Also: HARNESS_JOBS.",
        ),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
        click.option(
            "--address",
            metavar="HOST:PORT|auto",
            callback=_address,
            help="Of the Ray cluster's head. Without: a cluster of this machine alone, for this run.",
        ),
        click.option(
            "--executor",
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            is_eager=True,  # --address depends on it
            help="local: this machine. ray: a Ray cluster, see docs/clusters.md.",
        ),
        plugins_option,
        data_option,
    ):
        command = option(command)
    return command


def mend(tables: Tables) -> None:
    """Set aside what a power cut left of tables, and say so."""
    for path in tables.mend():
        warn(f"{path} is cut short: it is set aside with what later runs wrote, and all rows are written anew")


def warn(message: str) -> None:
    from harness.storage.text import printable

    click.echo(f"warning: {printable(message)}", err=True)


def execute(session: Session, executor: Executor, quiet: bool, log_json: bool = False, debug: bool = False) -> Outcome:
    """Run what is left of a session, watched, until it ends or is interrupted."""
    from harness.cli.progress import watcher

    with _stop_on_interrupt() as stopping, watcher(len(session.todo), quiet, log_json) as watching:
        try:
            return session.run(executor, watching, stopping)
        except Exception:
            if debug:
                import pdb

                pdb.post_mortem()
            raise


@contextmanager
def _stop_on_interrupt() -> Iterator[Any]:
    """Ctrl-C asks to stop after what runs now; a second one stops at once."""
    asked = False

    def handle(signum: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        click.echo("\nstopping after what runs now (Ctrl-C again: at once)", err=True)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def report(outcome: Outcome, plan: Plan, results: str, err: bool, name: str = "") -> int:
    """Say how a run ended, on stderr if ``err``; its exit code."""
    from harness.cli.progress import first_line
    from harness.storage.text import printable

    counts = ", ".join(f"{count} {status}" for status, count in sorted(outcome.counts.items()))
    for cell, reason in outcome.failures[:20]:
        click.echo(f"failed: {printable(cell)}: {first_line(reason)}", err=True)
    if len(outcome.failures) > 20:
        click.echo(f"... and {len(outcome.failures) - 20} more: see the cells table", err=True)
    did = f"ran {outcome.ran - outcome.elsewhere} stages" if outcome.ran or outcome.interrupted else "nothing to do"
    if outcome.elsewhere:
        did += f", and another run {outcome.elsewhere} more"
    start = f"{name}: " if name else ""
    click.echo(f"{start}{did}: {len(plan.cells)} cells ({counts}), tables in {results}/tables", err=err)
    if outcome.interrupted:
        click.echo("interrupted: the same command goes on where this one stopped", err=True)
        return 130
    return 1 if outcome.failures else 0
