"""Text for people: lines folded where a terminal ends."""

from __future__ import annotations

import shutil
import sys
from textwrap import wrap

import click


def say(head: str, text: str = "") -> None:
    """Print ``text`` behind ``head``, under which it goes on where the terminal ends; its first line alone."""
    from harness.storage.text import printable

    whole = printable(head + text.partition("\n")[0]).rstrip()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    if len(whole) <= width or width <= 2 * len(head):
        click.echo(whole)
        return
    rest = " " * len(head)
    folded = wrap(whole[len(head) :], width - len(head), break_on_hyphens=False)
    click.echo(f"\n{rest}".join([head + folded[0], *folded[1:]]))
