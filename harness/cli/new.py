"""``harness new``: a plugin file to start from."""

from __future__ import annotations

import re
from pathlib import Path

import click


@click.command(epilog="Example: harness new defense my-mark ~/my-plugins")
@click.argument("kind", type=click.Choice(["defense", "attack"]))
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def new(kind: str, name: str, folder: Path) -> None:
    """Write a plugin file that works as it is, named NAME, into FOLDER."""
    from importlib.resources import files

    from harness.errors import UsageError

    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise UsageError(f"{name!r} is no plugin name: lower-case letters, digits and '-', such as my-mark")
    path = folder / f"{name.replace('-', '_')}.py"
    if path.exists():
        raise UsageError(f"{path} exists already: choose another name or folder")
    template = (files("harness") / "templates" / f"{kind}.py.txt").read_text("utf-8")
    class_name = "".join(part.capitalize() for part in name.split("-"))
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(template.replace("my-mark", name).replace("MyMark", class_name), "utf-8")
    click.echo(f"wrote {path}")
    axis = "--defense" if kind == "defense" else "--attack"
    click.echo(f"next: harness plugins check {name} --plugins {folder}")
    click.echo(f"then: harness run --matrix smoke {axis} {name} --plugins {folder}")
