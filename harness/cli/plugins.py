"""``harness plugins``: list plugins, and check that they keep the contract."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import load_plugins, plugins_option
from harness.cli.text import say

if TYPE_CHECKING:
    from harness.planning.registry import Registry


@click.group(epilog="Example: harness plugins check my-defense --plugins ~/my-plugins")
def plugins() -> None:
    """List the plugins, and check that they keep the contract."""


@plugins.command("list", epilog="Example: harness plugins list ewe --options")
@click.argument("names", nargs=-1)
@plugins_option
@click.option("--options", "with_options", is_flag=True, help="Show each option: default, values, meaning.")
def list_(names: tuple[str, ...], plugin_folders: tuple[Path, ...], with_options: bool) -> None:
    """List plugins by kind, all or the named ones, with their files. Those that could not be loaded come first."""
    from harness.planning.options import options_of

    registry = load_plugins(plugin_folders)
    known_plugins(registry, names)
    for kind in ("dataset", "defense", "attack", "architecture", "analysis"):
        of_kind = {name: found for (its, name), found in sorted(registry.found.items()) if its == kind}
        listed = {name: found for name, found in of_kind.items() if name in names or not names}
        if listed or not names:
            say(f"{kind}s:" if kind != "analysis" else "analyses:")
        width = max(map(len, listed), default=0)
        for name, found in listed.items():
            say(f"  {name:{width}}  ", found.summary)
            say(f"  {'':{width}}  ", found.origin + (f"; {found.cls.reference}" if found.cls.reference else ""))
            for option in options_of(found.cls) if with_options else ():
                say(f"      {option.name}={option.default}  ", f"({option.values})")
                if option.words:
                    say(" " * 10, option.words)


def known_plugins(registry: Registry, names: tuple[str, ...]) -> None:
    """Raise :class:`UsageError` unless there is a plugin of each name."""
    from harness.errors import UnknownName, UsageError

    known = {name for _, name in registry.found}
    for name in names:
        if name not in known:
            broken = "".join(f"; not loaded: {problem}" for problem in registry.problems)
            raise UsageError(f"{UnknownName('plugin', name, known)}{broken}")


@plugins.command(epilog="Example: harness plugins check ewe baseline")
@click.argument("names", nargs=-1)
@plugins_option
def check(names: tuple[str, ...], plugin_folders: tuple[Path, ...]) -> int:
    """Run the contract checks on the named plugins, or on all; exit code 1 if one fails."""
    registry = load_plugins(plugin_folders)
    known_plugins(registry, names)
    import torch

    from harness.testing import check_plugin

    torch.set_num_threads(1)  # as a run does: the checks are small, and threads would only wait for each other
    failed = len(registry.problems) if not names else 0
    for (kind, name), found in sorted(registry.found.items()):
        if names and name not in names:
            continue
        problems = check_plugin(found, registry)
        say(f"{'ok' if not problems else 'FAILED':7} {kind} {name}")
        for problem in problems:
            say(f"        {problem}")
        failed += bool(problems)
    return 1 if failed else 0
