"""``harness plugins``: which plugins there are, and whether they keep the contract."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import load_plugins, plugins_option


@click.group(epilog="Example: harness plugins check my-defense --plugins ~/my-plugins")
def plugins() -> None:
    """List the plugins, and check that they keep the contract."""


@plugins.command("list", epilog="Example: harness plugins list --options")
@plugins_option
@click.option("--options", "with_options", is_flag=True, help="Show each plugin's options and their defaults.")
def list_(plugin_folders: tuple[Path, ...], with_options: bool) -> None:
    """Every plugin, by kind, with where it came from. What could not be loaded is named first."""
    from dataclasses import fields

    registry = load_plugins(plugin_folders)
    for kind in ("dataset", "defense", "attack", "architecture", "analysis"):
        click.echo(f"{kind}s:" if kind != "analysis" else "analyses:")
        of_kind = {name: found for (its, name), found in sorted(registry.found.items()) if its == kind}
        width = max(map(len, of_kind), default=0)
        for name, found in of_kind.items():
            click.echo(f"  {name:{width}}  {found.summary}")
            click.echo(f"  {'':{width}}  {found.origin}" + (f"; {found.cls.reference}" if found.cls.reference else ""))
            if with_options:
                for option in fields(found.cls):
                    click.echo(f"  {'':{width}}    {option.name}={option.default}  ({option.type})")


@plugins.command(epilog="Example: harness plugins check ewe baseline")
@click.argument("names", nargs=-1)
@plugins_option
def check(names: tuple[str, ...], plugin_folders: tuple[Path, ...]) -> int:
    """Run the contract checks on the named plugins, or on all of them; exit code 1 if one fails."""
    from harness.errors import UnknownName, UsageError

    registry = load_plugins(plugin_folders)
    known = {name for _, name in registry.found}
    for name in names:
        if name not in known:
            broken = "".join(f"; not loaded: {problem}" for problem in registry.problems)
            raise UsageError(f"{UnknownName('plugin', name, known)}{broken}")
    import torch

    from harness.testing import check_plugin

    torch.set_num_threads(1)  # as a run does: the checks are small, and threads would only wait for each other
    failed = len(registry.problems) if not names else 0
    for (kind, name), found in sorted(registry.found.items()):
        if names and name not in names:
            continue
        problems = check_plugin(found, registry)
        click.echo(f"{'ok' if not problems else 'FAILED':7} {kind} {name}")
        for problem in problems:
            click.echo(f"        {problem}")
        failed += bool(problems)
    return 1 if failed else 0
