"""``harness gc``: deleting what is not needed any more."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import (
    data_option,
    narrowing_options,
    open_results,
    planning_registry,
    plugins_option,
    results_option,
)
from harness.cli.text import echo, say
from harness.planning.narrowing import Narrowing, planned

if TYPE_CHECKING:
    from harness.inspect.gc import GarbageCollector, Goes

SHOWN = 20
"""The number of the largest files and folders that are named."""


@click.command(epilog="Example: harness gc --matrix paper --matrix mine.toml --delete")
@click.option(
    "--matrix",
    "matrix_names",
    multiple=True,
    help="A preset, or PATH.toml, whose cells are needed too; may be repeated. Then all that neither they nor the "
    "table `cells` need goes; else only what was computed again since.",
)
@narrowing_options
@results_option
@plugins_option
@data_option
@click.option("--prepared", is_flag=True, help="Also the decoded copies of data sets in the per-user cache.")
@click.option("--delete", is_flag=True, help="Delete it; without this it is only listed.")
def gc(
    matrix_names: tuple[str, ...],
    narrowing: Narrowing,
    results: str,
    plugin_folders: tuple[Path, ...],
    data_named: Path | None,
    prepared: bool,
    delete: bool,
) -> None:
    """List what in the results folder is not needed: artifacts of plugins edited since, and what killed commands left.

    What the rows of the tables were computed from stays, and so does what a running process has claimed.
    """
    began = time.time()
    from harness.files import PATIENCE
    from harness.inspect.gc import GarbageCollector
    from harness.storage.locks import Claims

    names = matrix_names or (("quick",) if narrowing else ())
    store, tables = open_results(results)
    registry = planning_registry(plugin_folders, data_named, tables)
    plans = [planned(registry, narrowing.of(name)) for name in names]
    claims = Claims(store.results)
    keeper = GarbageCollector(store, tables, claims, plans, began)
    _refuse_unplanned(keeper)
    goes = [*keeper.goes(), *(_prepared(began) if prepared else ())]
    uploads = store.unfinished(began - PATIENCE)
    _tell(goes)
    if uploads:
        say(f"{len(uploads)} unfinished uploads in {store.address}/partial")
    if keeper.untold:
        say(f"{keeper.untold} artifacts stay since their records do not say what they were made of")
    if not (goes or uploads) or not delete:
        say("nothing was deleted: --delete does" if goes or uploads else "nothing to delete")
        return
    store.discard_unfinished(uploads)
    gone = keeper.delete(goes)
    store.discard(each.id for each in gone if each.id and each.kind != "partial")
    claims.close()
    left = f"; {len(goes) - len(gone)} are claimed or newer, and stay" if len(gone) < len(goes) else ""
    say(f"deleted {len(gone)}, {_mib(gone)} MiB{left}")


def _refuse_unplanned(keeper: GarbageCollector) -> None:
    """Raise :class:`harness.UsageError` where a process computes what no matrix that was named has."""
    from harness.errors import UsageError

    if keeper.plans and keeper.unplanned:
        pid, host, label = (keeper.unplanned[0].get(name) for name in ("pid", "host", "label"))
        raise UsageError(
            f"process {pid} on {host} computes a stage of no matrix named here ({label}): "
            "name its matrix too, or wait for its end"
        )


def _prepared(began: float) -> list[Goes]:
    from harness.data import cache_folder
    from harness.inspect.gc import prepared_copies

    return prepared_copies(cache_folder() / "prepared", began)


def _tell(goes: list[Goes]) -> None:
    for kind, count in Counter(each.kind for each in goes).items():
        size = _mib(each for each in goes if each.kind == kind)
        say(f"{kind:9}  {count:6}  {size:>10} MiB")
    if goes:
        say(f"{'all':9}  {len(goes):6}  {_mib(goes):>10} MiB")
        echo()
    for each in sorted(goes, key=lambda each: -each.size)[:SHOWN]:
        say(f"  {each.id[:8]:8}  {_mib([each]):>8} MiB  ", f"{each.kind}: {each.label}")
    if len(goes) > SHOWN:
        say(f"  ... and {len(goes) - SHOWN} more")


def _mib(goes: Iterable[Goes]) -> str:
    return f"{sum(each.size for each in goes) / 2**20:.2f}"
