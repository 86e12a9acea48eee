"""The door of all that commands print: untrusted text escaped, lines folded where a terminal ends, every character in
those of the stream.
"""

from __future__ import annotations

import codecs
import io
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from textwrap import wrap
from typing import TextIO

import click

from harness.errors import UsageError
from harness.text import printable, spell

NO_READER = 141
"""Exit code where the reader of the output has gone, as of a process that the system ends for it: 128 + SIGPIPE."""


def open_streams() -> None:
    """Have stdout and stderr take every text: a character that their encodings lack is written in ASCII.

    A stream that was closed, as by ``>&-``, swallows what is written to it.
    """
    codecs.register_error("harness", spell)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, io.TextIOWrapper(Path(os.devnull).open("wb"), "utf-8"))  # noqa: SIM115 (stays open)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="harness")


def say(head: str, text: str = "", *, err: bool = False) -> None:
    """Print one line, on stderr if ``err``, with what would not show as a character as its code.

    ``text`` stands behind ``head``, under which it goes on where the terminal ends; its first line alone is printed.
    """
    whole = printable(head + text.partition("\n")[0]).rstrip()
    is_folded = bool(text) and (sys.stderr if err else sys.stdout).isatty()
    width = shutil.get_terminal_size().columns if is_folded else 0
    if len(whole) <= width or width <= 2 * len(head):
        echo(whole, err=err)
        return
    rest = " " * len(head)
    folded = wrap(whole[len(head) :], width - len(head), break_on_hyphens=False)
    echo(f"\n{rest}".join([head + folded[0], *folded[1:]]), err=err)


def warn(message: str) -> None:
    """Say what the user should know, on stderr."""
    say(f"warning: {message}", err=True)


def echo(text: str = "", *, nl: bool = True, err: bool = False) -> None:
    """Print text as it is, on stderr if ``err``: what is safe to print, or is for programs.

    Ends the command where nobody reads any more. Raises :class:`harness.UsageError` where it cannot be written.
    """
    stream = sys.stderr if err else sys.stdout
    try:
        # The stream is named, or click would write UTF-8 to one that says it is ASCII.
        click.echo(text, file=stream, nl=nl)
    except BrokenPipeError:
        _hush(stream)
        raise click.exceptions.Exit(NO_READER) from None
    except OSError as error:
        _hush(stream)
        raise UsageError(f"the output cannot be written: {error.strerror or error}") from error


def _hush(stream: TextIO) -> None:
    """Have what is left in the stream's buffer go nowhere, or Python would complain of it at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
