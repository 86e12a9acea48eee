"""``harness doctor``: the facts that a bug report needs."""

from __future__ import annotations

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from harness import __version__
from harness.cli.options import data_option, plugins_option, results_option
from harness.cli.text import echo, say

PACKAGES = (
    "torch",
    "torchvision",
    "torchaudio",
    "numpy",
    "pandas",
    "pyarrow",
    "scipy",
    "scikit-learn",
    "pluggy",
    "click",
)


@click.command(epilog="Example: harness doctor --plugins ~/my-plugins")
@results_option
@data_option
@plugins_option
def doctor(results: str, data_named: Path | None, plugin_folders: tuple[Path, ...]) -> int:
    """Show versions, devices, data found, free disk and broken plugins. Exit code 1 if a plugin is broken."""
    import torch

    from harness.data import Data, data_folder
    from harness.engine.bfloat16 import bfloat16_gain
    from harness.errors import BrokenDataset, DataError
    from harness.fields import required_options
    from harness.planning.registry import load_registry
    from harness.running.cores import usable_cores
    from harness.storage.remote import results_folder

    say(f"watermark-harness {__version__}, Python {platform.python_version()}, {platform.platform()}")
    say("packages: " + ", ".join(f"{name} {_version(name)}" for name in PACKAGES))
    say(f"cpu: {usable_cores()} cores for this process, {torch.get_num_threads()} threads of torch")
    gain = bfloat16_gain()
    worth = "pays" if gain > 1 else "does not pay"
    say(f"bfloat16: {gain:.1f} times as fast as float32 on this CPU: --precision bf16 {worth}")
    for i in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(i)
        say(f"cuda:{i}: {card.name}, {card.total_memory / 2**30:.0f} GiB")
    if not torch.cuda.is_available():
        echo("cuda: none; everything runs on the CPU")
    here = results_folder(results)
    there = next(p for p in (here, *here.absolute().parents) if p.exists())
    say(f"results: {results}, {shutil.disk_usage(there).free / 2**30:.0f} GiB free")
    folder, download = data_folder(data_named)
    say(f"data: {folder}" + (" (missing sets are downloaded)" if download else ""))
    registry = load_registry(plugin_folders)
    for name in registry.names("dataset"):
        if required_options(registry.found["dataset", name].cls):  # the user's own
            continue
        try:
            Data(folder).arrays(registry.component("dataset", name).plugin)
            say(f"  {name}: found")
        except (BrokenDataset, DataError) as error:
            say(f"  {name}: missing ({error})")
    say(f"plugins: {len(registry.found)} loaded, {len(registry.problems)} broken")
    for problem in registry.problems:
        say(f"  broken: {problem}")
    return 1 if registry.problems else 0


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
