"""``harness submit``: check a record as a public leaderboard would."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from harness.cli.options import UserPath, data_option, enough_options, load_plugins, planning_registry, plugins_option
from harness.cli.record import ranked
from harness.cli.text import echo, say, warn
from harness.running.machine import Machine


@click.command(epilog="Example: harness submit results/records/2026-11-21-ewe --replay 2")
@click.argument("folder", metavar="DIR", type=UserPath())
@enough_options
@click.option(
    "--replay",
    "cells",
    type=click.IntRange(0, 1000),
    default=0,
    metavar="K",
    help="Run K randomly chosen cells again here.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of that random choice.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 100),
    default=0.0,
    show_default=True,
    metavar="POINTS",
    help="Percentage points by which accuracies and trigger rates of a replayed cell may differ.",
)
@click.option("--json", "as_json", is_flag=True, help="Findings as JSON.")
@data_option
@plugins_option
def submit(
    folder: Path,
    min_seeds: int,
    min_nulls: int,
    cells: int,
    seed: int,
    tolerance: float,
    as_json: bool,
    data_named: Path | None,
    plugin_folders: tuple[Path, ...],
) -> int:
    """Check the record DIR: its files, checksums, tables, numbers and pages; exit code 1 if something is wrong.

    No code of the record is run. Of an older harness's record, what rests on its withdrawn test is not checked.

    --replay runs cells again on the CPU with the plugins that are installed here: the
    model's id must be the same, and all counts and accuracies equal to the last bit, which holds on the platform and
    with the versions of environment.json. Elsewhere give a --tolerance; detectors' scores are then not compared.
    """
    from harness.errors import UsageError
    from harness.records.check import check, notes
    from harness.records.replay import replay
    from harness.running.start import stop_on_interrupt
    from harness.storage.tables import Tables

    if tolerance and not cells:
        raise UsageError("--tolerance is for cells that are run again: type --replay K, too")
    registry = load_plugins(plugin_folders)
    findings = check(folder, min_seeds, min_nulls, registry, lambda folder: ranked(str(folder)))
    replayed = None
    if cells and not findings:
        machine = Machine(data_named, plugins=plugin_folders, device="cpu", jobs=1)
        registry = planning_registry(plugin_folders, data_named, Tables(folder), fetch=True)
        with stop_on_interrupt(partial(echo, err=True)) as stopping:
            replayed = replay(folder, cells, seed, tolerance, registry, machine, warn, stopping)
        findings = replayed.findings
    remarks = [] if findings else notes(folder)
    if as_json:
        told: dict[str, Any] = {"accepted": not findings, "findings": findings, "notes": remarks}
        if replayed:
            told["replayed"] = {"equal": replayed.equal, "within": replayed.within, "most_points": replayed.most}
        echo(json.dumps(told, indent=1))
        return 1 if findings else 0
    for line in findings:
        say(line)
    for line in remarks:
        say(line, err=True)
    again = f", {replayed}" if replayed else ""
    say(f"{len(findings)} findings" if findings else f"accepted: {folder}{again}", err=bool(findings))
    return 1 if findings else 0
