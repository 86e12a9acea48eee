"""``harness submit``: check a record as a public leaderboard would."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import data_option, load_plugins, plugins_option
from harness.cli.record import ranked
from harness.cli.running import execute, warn
from harness.running.machine import Machine, make_executor

if TYPE_CHECKING:
    from harness.planning.registry import Registry
    from harness.records.replay import Replayed


@click.command(epilog="Example: harness submit results/records/2026-11-21-ewe --replay 2")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--min-seeds", type=click.IntRange(1), default=3, show_default=True, help="Of every scheme.")
@click.option("--min-nulls", type=click.IntRange(0), default=3, show_default=True, help="Null models of every cell.")
@click.option(
    "--replay", type=click.IntRange(0, 1000), default=0, metavar="K", help="Run K cells, by chance, again here."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of that choice.")
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
    replay: int,
    seed: int,
    tolerance: float,
    as_json: bool,
    data_named: Path | None,
    plugin_folders: tuple[Path, ...],
) -> int:
    """Check the record DIR: its files, checksums, tables, numbers and pages; exit code 1 if something is wrong.

    Nothing of it is run. A replayed cell is the harness's own run of the plugins here that the cell names, on the CPU:
    its model's id must be the same, and all counts and accuracies equal to the last bit, which holds on the platform
    and the versions of environment.json. Elsewhere give a --tolerance, with which detectors' scores are not compared.
    """
    from harness.errors import UsageError
    from harness.records.check import check
    from harness.storage.text import printable

    if tolerance and not replay:
        raise UsageError("--tolerance is for cells that are run again: type --replay K, too")
    registry = load_plugins(plugin_folders)
    findings = check(folder, min_seeds, min_nulls, registry, lambda folder: ranked(str(folder)))
    replayed = None
    if replay and not findings:
        machine = Machine(data_named, plugins=plugin_folders, device="cpu", jobs=1)
        replayed = _replay(folder, replay, seed, tolerance, registry, machine)
        findings = replayed.findings
    if as_json:
        told: dict[str, Any] = {"accepted": not findings, "findings": [printable(line) for line in findings]}
        if replayed:
            counts = {"equal": replayed.equal, "within": replayed.within, "most_points": replayed.most}
            told["replayed"] = counts
        click.echo(json.dumps(told, indent=1))
        return 1 if findings else 0
    for line in findings:
        click.echo(printable(line))
    again = f", {replayed}" if replayed else ""
    click.echo(f"{len(findings)} findings" if findings else f"accepted: {printable(folder)}{again}", err=bool(findings))
    return 1 if findings else 0


def _replay(folder: Path, count: int, seed: int, tolerance: float, registry: Registry, machine: Machine) -> Replayed:
    """Run a sample of the cells that ended ok in a folder that is deleted then, and compare."""
    from harness.errors import UsageError
    from harness.records.replay import compare
    from harness.storage.tables import Tables

    record = Tables(folder)
    cells = record.read("cells")
    cells = cells[cells["status"] == "ok"]
    chosen = cells.sample(min(count, len(cells)), random_state=seed % 2**32)
    problems = []
    with TemporaryDirectory() as scratch:
        for row in chosen.to_dict("records"):
            try:
                _run_again(row, Path(scratch), registry, machine)
            except UsageError as error:
                problems.append(f"replay: {error}")
        replayed = compare(record, chosen, Tables(Path(scratch)), tolerance)
    replayed.findings[:0] = problems
    return replayed


def _run_again(row: dict[Any, Any], scratch: Path, registry: Registry, machine: Machine) -> None:
    """Run the cell that a row names, and no other."""
    from harness.planning.builder import make_plan
    from harness.planning.matrix import parse_chain, parse_entry
    from harness.running.session import Options, Session
    from harness.storage.store import Store
    from harness.storage.tables import Tables

    dataset, defense = (
        registry.component("dataset", parse_entry(row["dataset"])),
        registry.component("defense", row["defense"]),
    )
    chains = registry.chains([parse_chain(row["attack"])])
    plan = make_plan([dataset], [defense], chains, [int(row["seed"])], int(row["nulls"]), registry.component)
    store = Store(scratch)
    session = Session(plan, store, Tables(scratch), Options())
    runner = make_executor(session, store, registry, plan, machine, warn)
    store.prepare()
    execute(session, runner, quiet=True)
