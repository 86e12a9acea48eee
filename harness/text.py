"""Untrusted text, made safe to print; and any text, in the characters that a stream has.

Names and reasons in results may come from anybody, and are read as they are: tables are joined by them, and compared
with a plan. They are escaped at the doors through which text leaves: the message of every error
(:class:`harness.errors.HarnessError`), every line that a command prints (:func:`harness.cli.text.say`), and the values
of tables, pages and pictures where these are made.
"""

from __future__ import annotations

import shlex
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path

ASCII = {
    **{"±": "+-", "\N{MULTIPLICATION SIGN}": "x", "…": "...", "≥": ">=", "≤": "<=", "≠": "!=", "≈": "~", "·": "."},
    **dict.fromkeys("\N{MINUS SIGN}\N{EN DASH}\N{EM DASH}\N{HYPHEN}\N{NON-BREAKING HYPHEN}─━", "-"),
    **dict.fromkeys("\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}", "'"),
    **dict.fromkeys("\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}", '"'),
    **dict(zip("▁▂▃▄▅▆▇█", ".:-=+*#@", strict=True)),
    **{"→": "->", "│": "|", "•": "*", "°": "deg", "ß": "ss", "æ": "ae", "ø": "o"},
}
"""Readable ASCII for characters that the harness writes, or that names often have."""


def printable(text: object) -> str:
    """``text`` for a terminal: what would not show as a character, such as an escape sequence, stands as its code."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def duration(seconds: float) -> str:
    """``seconds`` in words: 8 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def command_line(*words: object, results: str = "", plugins: Iterable[object] = ()) -> str:
    """A command of the harness as it is pasted into a shell: ``command_line("leaderboard", results="a folder")`` is
    ``harness leaderboard --results 'a folder'``. ``results`` is left out where it is the default.
    """
    named = {"--results": [results] if results and Path(results).absolute() != Path("results").absolute() else []}
    named["--plugins"] = list(map(str, plugins))
    options = [word for name, values in named.items() for value in values for word in option_words(name, value)]
    return " ".join(map(quoted, ["harness", *map(str, words), *options]))


def option_words(name: str, value: str) -> list[str]:
    """An option as words: one that begins with a dash would be taken for an option of its own."""
    return [f"{name}={value}"] if value.startswith("-") else [name, value]


def quoted(word: str) -> str:
    """One word for a shell: what would not print as a character as its bytes, in the quotes that read their codes."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(map(_in_quotes, word)) + "'"


def _in_quotes(character: str) -> str:
    if character.isprintable():
        return f"\\{character}" if character in "\\'" else character
    data = character.encode("utf-8", "surrogateescape" if "\udc80" <= character <= "\udcff" else "replace")
    return "".join(f"\\x{byte:02x}" for byte in data)


def legible(text: str, encoding: str | None = None) -> str:
    """``text`` in the characters of an encoding, by default that of stdout: each other one as readable ASCII.

    A letter loses its accent; what has no ASCII that resembles it is a question mark.
    """
    encoding = encoding or getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(c if _encodes(c, encoding) else _in_ascii(c) for c in text)
    return text


def spell(error: UnicodeError) -> tuple[str, int]:
    """Go on where a stream's encoding lacks characters, as :func:`legible`: a handler for ``codecs.register_error``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_in_ascii, error.object[error.start : error.end])), error.end


def _encodes(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _in_ascii(character: str) -> str:
    if found := ASCII.get(character):
        return found
    plain = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
    return plain if plain and plain.isascii() else "?"
