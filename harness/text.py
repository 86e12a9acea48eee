"""Untrusted text, made safe to print.

Names and reasons in results may come from anybody, and are read as they are: tables are joined by them, and compared
with a plan. They are escaped at the doors through which text leaves: the message of every error
(:class:`harness.errors.HarnessError`), every line that a command prints (:func:`harness.cli.text.say`), and the values
of tables, pages and pictures where these are made.
"""

from __future__ import annotations


def printable(text: object) -> str:
    """``text`` for a terminal: what would not show as a character, such as an escape sequence, stands as its code."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
