"""Options and output of the commands that run a plan. :mod:`harness.running.start` runs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import F, data_option, gathered, plugins_option
from harness.cli.text import echo, say, warn
from harness.errors import UsageError
from harness.running.machine import EXECUTORS, MAX_THREADS, PRECISIONS, WORKERS_A_GPU, Machine, parse_jobs

if TYPE_CHECKING:
    from harness.planning.graph import Plan
    from harness.planning.registry import Registry
    from harness.running.session import Options, Outcome, Watcher
    from harness.storage.store import Store
    from harness.storage.tables import Tables

SHOWN = 20
"""Failed cells that are named at the end of a run."""


def _jobs(context: click.Context, option: click.Parameter, value: str) -> int | None:
    try:
        return parse_jobs(value)
    except UsageError as error:
        raise click.BadParameter(str(error).removeprefix("jobs: ")) from error


def _address(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value is not None and context.params.get("executor") != "ray":
        raise click.BadParameter(f"{value!r} names a Ray cluster, which needs --executor ray")
    return value


def _machine(data_named: Path | None, plugin_folders: tuple[Path, ...], **named: Any) -> Machine:
    return Machine(data=data_named, plugins=plugin_folders, **named)


_MACHINE_OPTIONS = (
    click.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        default="tf32",
        show_default=True,
        help="Precision of training. tf32: a GPU's matrix products (a CPU uses fp32). bf16: autocast to bfloat16.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(1, MAX_THREADS),
        default=1,
        show_default=True,
        help="CPU threads of torch. Changing it changes results within rounding error.",
    ),
    click.option(
        "--stage-timeout",
        type=click.FloatRange(0, min_open=True),
        metavar="SECONDS",
        help="Time limit of a stage: its process is killed, the stage fails, and the others continue.",
    ),
    click.option(
        "--jobs",
        metavar="N|auto",
        callback=_jobs,
        default="auto",
        envvar="HARNESS_JOBS",
        show_default=True,
        help="Stages at a time; 2 or more run in worker processes. auto: one per CPU (with --threads N one per N "
        f"CPUs, and per 2 GiB of memory), {WORKERS_A_GPU} per GPU, all of a cluster. Also: HARNESS_JOBS.",
    ),
    click.option(
        "--device", default="auto", show_default=True, help="Device to compute on: auto, cpu, cuda or cuda:N."
    ),
    click.option(
        "--address",
        metavar="HOST:PORT|auto",
        callback=_address,
        help="Address of the Ray cluster's head. Without it: a cluster of this machine alone, for this run.",
    ),
    click.option(
        "--executor",
        type=click.Choice(EXECUTORS),
        default="local",
        show_default=True,
        is_eager=True,  # --address depends on it
        help="Place to run. local: this machine. ray: a Ray cluster, see docs/clusters.md.",
    ),
    plugins_option,
    data_option,
)


def machine_options(command: F) -> F:
    """Options of devices, processes, data and plugins: given to the command as one ``machine``, with the fields of
    :class:`Machine` that a command has options of its own for."""
    command = gathered("machine", _machine, ["data_named", "plugin_folders", *(f.name for f in fields(Machine))])(
        command
    )
    for option in _MACHINE_OPTIONS:
        command = option(command)
    return command


def execute(
    plan: Plan,
    registry: Registry,
    store: Store,
    tables: Tables,
    machine: Machine,
    options: Options,
    *,
    quiet: bool,
    log_json: bool = False,
) -> Outcome:
    """Run what is left of a plan, with progress, until it ends or is interrupted."""
    from harness.running.start import run_plan, stop_on_interrupt

    with stop_on_interrupt(partial(echo, err=True)) as stopping:
        return run_plan(
            plan,
            registry,
            store,
            tables,
            machine,
            options,
            warn=warn,
            watch=partial(_watched, quiet=quiet, log_json=log_json, debug=machine.debug),
            stopping=stopping,
        )


@contextmanager
def _watched(total: int, quiet: bool, log_json: bool, debug: bool) -> Iterator[Watcher]:
    from harness.running.progress import watcher

    with watcher(total, quiet, log_json) as watching:
        try:
            yield watching
        except Exception:
            if debug:
                import pdb

                pdb.post_mortem()
            raise


def report(outcome: Outcome, plan: Plan, results: str, err: bool, name: str = "") -> int:
    """Say how a run ended, on stderr if ``err``; its exit code."""
    from harness.running.progress import first_line

    for cell, reason in outcome.failures[:SHOWN]:
        say(f"failed: {cell}: {first_line(reason)}", err=True)
    if len(outcome.failures) > SHOWN:
        say(f"... and {len(outcome.failures) - SHOWN} more: see the cells table", err=True)
    start = f"{name}: " if name else ""
    say(f"{start}{outcome.summary(len(plan.cells))}, tables in {results}/tables", err=err)
    if outcome.interrupted:
        echo("interrupted: the same command goes on where this one stopped", err=True)
        return 130
    return 1 if outcome.failures else 0
