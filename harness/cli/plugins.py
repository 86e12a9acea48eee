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
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=120,
    show_default=True,
    metavar="SECONDS",
    help="Time limit of the check of a plugin.",
)
@plugins_option
def check(names: tuple[str, ...], timeout: float, plugin_folders: tuple[Path, ...]) -> int:
    """Run the contract checks on the named plugins, or on all, in a process of their own.

    Exit code 1 if one fails.
    """
    from harness.checking import check_apart

    registry = load_plugins(plugin_folders)
    known_plugins(registry, names)
    failed = len(registry.problems) if not names else 0
    asked = [(kind, name) for kind, name in sorted(registry.found) if name in names or not names]
    for checked in check_apart(asked, plugin_folders, timeout):
        say(f"{'FAILED' if checked.problems else 'ok':7} {checked.kind} {checked.name}")
        for problem in checked.problems:
            say(f"        {problem}")
        failed += bool(checked.problems)
    return 1 if failed else 0
