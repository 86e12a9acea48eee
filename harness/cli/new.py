"""``harness new``: a plugin file to start from."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

import click

from harness.cli.options import UserPath
from harness.cli.text import say
from harness.text import command_line

TEMPLATES = {
    "dataset": "--dataset {name}",
    "defense": "--defense {name}",
    "black-box-attack": "--attack {name}",
    "white-box-attack": "--attack {name}",
    "detector": "--attack {name}",
    "evasion": "--attack {name}",
    "forgery": "--attack {name}",
    "architecture": "--dataset digits[architecture={name}]",
    "analysis": "--analysis {name}",
}
"""Templates, and the option of ``harness run`` that a plugin made from one is tried by."""
ALIASES = {"attack": "white-box-attack"}


@click.command(epilog="Example: harness new defense my-mark ~/my-plugins")
@click.argument("kind", type=click.Choice([*TEMPLATES, *ALIASES]))
@click.argument("name")
@click.argument("folder", type=UserPath())
def new(kind: str, name: str, folder: Path) -> None:
    """Write a plugin file that works as it is, named NAME, into FOLDER."""
    from importlib.resources import files

    kind = ALIASES.get(kind, kind)
    _check_name(kind, name)
    template = (files("harness") / "templates" / f"{kind}.py.txt").read_text("utf-8")
    path = folder / f"{name.replace('-', '_')}.py"
    _write(path, template.replace("my-plugin", name).replace("MyPlugin", _class_name(kind, name)))
    say(f"wrote {path}")
    tried = TEMPLATES[kind].format(name=name).split()
    say(f"next: {command_line('plugins', 'check', name, plugins=[path.parent])}")
    say(f"then: {command_line('run', '--matrix', 'smoke', *tried, plugins=[path.parent])}")


def _check_name(kind: str, name: str) -> None:
    """Raise :class:`harness.UsageError` for what is not a name, or is another plugin's."""
    from harness.errors import UsageError
    from harness.planning.registry import load_registry

    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UsageError(f"{name!r} is not a plugin name: lower-case letters, digits and '-', such as my-mark")
    general = kind if kind in ("dataset", "defense", "architecture", "analysis") else "attack"
    for (known, taken), found in load_registry().found.items():
        if (known, taken) == (general, name):
            raise UsageError(f"there is {name!r} already ({found.origin}): choose another name")


def _class_name(kind: str, name: str) -> str:
    """``my-mark`` as ``MyMark``; with the kind behind it where Python, or :mod:`harness`, has a meaning for that."""
    import harness

    words = name.split("-")
    if keyword.iskeyword(name.capitalize()) or "".join(map(str.capitalize, words)) in harness.__all__:
        words += kind.split("-")
    return "".join(map(str.capitalize, words))


def _write(path: Path, text: str) -> None:
    """Write a file that is not there yet, with the folders above it. Raises :class:`harness.UsageError`."""
    from harness.errors import UsageError
    from harness.files import whole_file

    if path.parent.exists() and not path.parent.is_dir():
        raise UsageError(f"{str(path.parent)!r} is a file: name a folder")
    if path.exists():
        raise UsageError(f"{str(path)!r} exists already: choose another name or folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            partial.write_text(text, "utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {str(path)!r}: {error.strerror}") from error
