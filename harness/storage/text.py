"""Untrusted text, made safe to print."""

from __future__ import annotations


def printable(text: object) -> str:
    """``text`` for a terminal: what would not show as a character, such as an escape sequence, stands as its code."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
