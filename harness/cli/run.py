"""``harness run``: run a matrix."""

from __future__ import annotations

from typing import Any

import click

from harness.cli.options import matrix_options, open_results, planning_registry, results_option
from harness.cli.running import execute, machine_options, report
from harness.cli.text import say, warn
from harness.planning.narrowing import Narrowing, planned
from harness.running.machine import Machine
from harness.text import command_line


@click.command(epilog="Example: harness run --matrix smoke --defense 'ewe*' --seeds 0-4")
@matrix_options
@results_option
@machine_options
@click.option(
    "--deterministic", is_flag=True, help="Use only operations that give the same bits every time (on a GPU)."
)
@click.option(
    "--rerun",
    type=click.Choice(["never", "failed", "all"]),
    default="failed",
    show_default=True,
    help="Finished stages to run again.",
)
@click.option(
    "--profile", is_flag=True, help="Write a timeline of each stage, for ui.perfetto.dev or chrome://tracing."
)
@click.option("--dry-run", is_flag=True, help="Print the number of stages that would run, and stop.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first stage that fails.")
@click.option("--debug", is_flag=True, help="Open the debugger where a plugin fails.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--log-json", is_flag=True, help="Progress as JSON lines on stdout.")
def run(
    matrix_name: str,
    narrowing: Narrowing,
    results: str,
    machine: Machine,
    rerun: Any,
    dry_run: bool,
    fail_fast: bool,
    quiet: bool,
    log_json: bool,
) -> int:
    """Run a matrix: every dataset x defense x attack x seed. Finished stages are not run again."""
    from harness.running.session import Options, Session
    from harness.running.start import changed_data, check_names

    matrix = narrowing.of(matrix_name)
    store, tables = open_results(results)
    registry = planning_registry(machine.plugins, machine.data, tables, fetch=not dry_run)
    plan = planned(registry, matrix)
    options = Options(rerun, fail_fast or machine.debug)
    if dry_run:
        check_names(plan, tables)
        session = Session(plan, store, tables, options)
        for warning in (*session.warnings, *changed_data(plan, registry, tables)):
            warn(warning)
        say(f"{len(plan.cells)} cells, {len(plan.stages)} stages: {len(session.todo)} to run")
        return 0
    outcome = execute(plan, registry, store, tables, machine, options, quiet=quiet, log_json=log_json)
    code = report(outcome, plan, store.address, err=log_json)
    store.flush()
    if machine.profile and outcome.ran:
        say(f"timelines in {store.profiles}", err=True)
    if outcome.counts["ok"] and not outcome.interrupted:
        say(f"next: {command_line('leaderboard', results=store.address)}", err=log_json)
    return code
