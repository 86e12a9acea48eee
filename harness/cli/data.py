"""``harness data``: the data sets found, and fetching missing ones."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import data_option, load_plugins, plugins_option
from harness.cli.text import say


@click.group(epilog="Example: harness data list")
def data() -> None:
    """List the data sets found, and fetch missing ones."""


@data.command("list", epilog="Example: harness data list --data ~/data")
@data_option
@plugins_option
def list_(data_named: Path | None, plugin_folders: tuple[Path, ...]) -> None:
    """List every dataset: found and checked, or missing with the reason."""
    from harness.data import Data, data_folder
    from harness.errors import BrokenDataset, DataError, MissingData, how_to_find
    from harness.fields import required_options

    registry = load_plugins(plugin_folders)
    folder, _ = data_folder(data_named)
    say(f"data folder: {folder}")
    names, missing = registry.names("dataset"), list[str]()
    width = max(map(len, names))
    for name in names:
        if needed := required_options(registry.found["dataset", name].cls):
            say(f"  {name:{width}} your own files: {name}[{','.join(f'{option}=...' for option in needed)}]")
            continue
        dataset = registry.component("dataset", name).plugin
        try:
            arrays = Data(folder).arrays(dataset)
        except MissingData as error:
            say(f"  {name:{width}} missing: {error.fact.removeprefix(f'{name}: ')}")
            missing += [name] if error.download else []
        except DataError as error:
            say(f"  {name:{width}} missing: {str(error).removeprefix(f'{name}: ')}")
        except BrokenDataset as error:
            say(f"  {name:{width}} broken: {str(error).removeprefix(f'{name}: ')}")
        else:
            say(f"  {name:{width}} {len(arrays.y_train)} train, {len(arrays.y_test)} test, {arrays.x_train.shape[1:]}")
    if missing:
        say(f"of those that are missing: {how_to_find(missing)}")


@data.command(epilog="Example: harness data fetch mnist fashion-mnist")
@click.argument("names", nargs=-1, required=True)
@data_option
@plugins_option
def fetch(names: tuple[str, ...], data_named: Path | None, plugin_folders: tuple[Path, ...]) -> None:
    """Download data sets that are missing, into --data or the per-user cache."""
    from harness.data import Data, data_folder

    registry = load_plugins(plugin_folders)
    folder, _ = data_folder(data_named)
    for name in names:
        Data(folder, download=True).arrays(registry.component("dataset", name).plugin)
        say(f"{name}: found in {folder}")
