"""The door of all that commands print: untrusted text escaped, lines folded where a terminal ends."""

from __future__ import annotations

import shutil
import sys
from textwrap import wrap

import click

from harness.text import printable


def say(head: str, text: str = "", *, err: bool = False) -> None:
    """Print one line, on stderr if ``err``, with what would not show as a character as its code.

    ``text`` stands behind ``head``, under which it goes on where the terminal ends; its first line alone is printed.
    """
    whole = printable(head + text.partition("\n")[0]).rstrip()
    is_folded = bool(text) and (sys.stderr if err else sys.stdout).isatty()
    width = shutil.get_terminal_size().columns if is_folded else 0
    if len(whole) <= width or width <= 2 * len(head):
        click.echo(whole, err=err)
        return
    rest = " " * len(head)
    folded = wrap(whole[len(head) :], width - len(head), break_on_hyphens=False)
    click.echo(f"\n{rest}".join([head + folded[0], *folded[1:]]), err=err)
