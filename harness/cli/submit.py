"""``harness submit``: check a record as a public leaderboard would."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from harness.cli.options import data_option, load_plugins, plugins_option


@click.command(epilog="Example: harness submit results/records/2026-11-21-ewe --replay 2")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--min-seeds", type=click.IntRange(1), default=3, show_default=True, help="Of every scheme.")
@click.option("--min-nulls", type=click.IntRange(0), default=3, show_default=True, help="Null models of every cell.")
@click.option(
    "--replay", type=click.IntRange(0, 1000), default=0, metavar="K", help="Run K cells, by chance, again here."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of that choice.")
@click.option("--json", "as_json", is_flag=True, help="Findings as JSON.")
@data_option
@plugins_option
def submit(
    folder: Path,
    min_seeds: int,
    min_nulls: int,
    replay: int,
    seed: int,
    as_json: bool,
    data_named: Path | None,
    plugin_folders: tuple[Path, ...],
) -> int:
    """Check the record DIR: its files, checksums, tables and numbers; exit code 1 if something is wrong.

    Nothing of it is run. A replayed cell is the harness's own run of the plugins here that the cell names: all counts
    and accuracies must be equal to the last bit, which holds on the platform and the versions of environment.json.
    """
    from harness.submission import check
    from harness.tables import printable

    findings = check(folder, min_seeds, min_nulls)
    if replay and not findings:
        findings = _replay(folder, replay, seed, data_named, plugin_folders)
    if as_json:
        click.echo(json.dumps({"accepted": not findings, "findings": [printable(line) for line in findings]}, indent=1))
    else:
        for line in findings:
            click.echo(printable(line))
        replayed = f", {replay} cells run again" if replay else ""
        click.echo(f"{len(findings)} findings" if findings else f"accepted: {folder}{replayed}", err=bool(findings))
    return 1 if findings else 0


def _replay(folder: Path, count: int, seed: int, data: Path | None, plugins: tuple[Path, ...]) -> list[str]:
    """Run a sample of the cells that ended ok in a folder that is deleted then; what differs."""
    from harness.errors import UsageError
    from harness.submission import compare
    from harness.tables import Tables

    cells = Tables(folder).read("cells")
    cells = cells[cells["status"] == "ok"]
    chosen = cells.sample(min(count, len(cells)), random_state=seed % 2**32)
    findings = []
    with TemporaryDirectory() as scratch:
        for row in chosen.to_dict("records"):
            try:
                _run_again(row, Path(scratch), data, plugins)
            except UsageError as error:
                findings.append(f"replay: {error}")
        return findings + compare(chosen, Tables(Path(scratch)).read("cells"))


def _run_again(row: dict[Any, Any], scratch: Path, data: Path | None, plugins: tuple[Path, ...]) -> None:
    """Run the cell that a row names, and no other."""
    from harness.cli.running import Machine, execute, make_executor
    from harness.execute import Options, Session
    from harness.matrix import parse_chain, parse_entry
    from harness.plan import make_plan
    from harness.store import Store
    from harness.tables import Tables

    registry = load_plugins(plugins)
    dataset, defense = (registry.use("dataset", parse_entry(row["dataset"])), registry.use("defense", row["defense"]))
    chains = registry.chains([parse_chain(row["attack"])])
    plan = make_plan([dataset], [defense], chains, [int(row["seed"])], int(row["nulls"]), registry.use)
    store = Store(scratch)
    session = Session(plan, store, Tables(scratch), Options())
    runner = make_executor(session, store, registry, plan, Machine(data, plugins=plugins, device="cpu", jobs=1))
    store.prepare()
    execute(session, runner, quiet=True)
