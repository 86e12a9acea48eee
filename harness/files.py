"""Paths and texts of users; and files and folders written whole or not at all, under a name of their own beside the
place, then renamed.

Whatever a killed process leaves has a name of :data:`PARTIAL`, by which ``harness gc`` finds it.
"""

from __future__ import annotations

import codecs
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.errors import UsageError

PARTIAL = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.partial", re.DOTALL)
"""The name of what is being written: hidden, the name that it will have, and some digits of its own."""
WEIGHTS = (".safetensors", ".pt", ".pth")
"""Endings of weights files in a folder."""
PATIENCE = 3600.0
"""Seconds after which such a file is taken for abandoned: writing one takes moments."""

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Encodings by the byte order mark that a text begins with; that of UTF-16 begins the one of UTF-32."""


def user_path(named: str | Path) -> Path:
    """The path that a user names: ``~`` and ``~user`` are home folders, also where no shell expanded them.

    Raises :class:`harness.UsageError` for an empty name, and for a home folder that is not known.
    """
    text = str(named)
    if not text.strip():
        raise UsageError("an empty text names no file or folder")
    try:
        return Path(text).expanduser() if text.startswith("~") else Path(text)
    except RuntimeError as error:
        home = Path(text).parts[0]
        raise UsageError(f"{text!r}: the home folder {home!r} is not known here: type the whole path") from error


def read_text(path: Path) -> str:
    """The text of a file that a user wrote: in UTF-8, or with the byte order mark of UTF-16 or UTF-32 before it.

    Raises :class:`OSError`, and :class:`harness.UsageError` for what is not text.
    """
    data = path.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise UsageError(f"{path}: it is not text in {name} (byte {error.start}): save it as UTF-8") from error
    if "\0" in text:
        raise UsageError(f"{path}: it is not text, or in UTF-16 without a byte order mark: save it as UTF-8")
    return text.replace("\r\n", "\n")


def partial_path(path: Path) -> Path:
    """A path beside ``path`` that no other process writes to."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which is renamed to ``path`` at the end; removed where an exception ends it."""
    partial = partial_path(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        with suppress(OSError):  # the disk that could not be written, say: the exception tells
            partial.unlink(missing_ok=True)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A new folder beside ``path``, with the folders above it; it is removed at the end."""
    partial = partial_path(path)
    try:
        partial.mkdir(parents=True)
        yield partial
    finally:
        if os.path.lexists(partial):  # nearly always it was renamed
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder to write to, which is renamed to ``path`` at the end; removed where an exception ends it.

    ``path`` must not be there then, or be an empty folder.
    """
    with temporary_folder(path) as partial:
        yield partial
        partial.replace(path)


def weights_in(folder: str) -> list[str]:
    """The weights files of a folder, in the order of their names. Raises :class:`UsageError` if there are none."""
    path = user_path(folder)
    found = sorted(each.name for each in path.iterdir() if each.suffix in WEIGHTS) if path.is_dir() else []
    if not found:
        raise UsageError(f"no weights files ({', '.join(WEIGHTS)}) in {folder!r}: expected a folder of them")
    return [f"{folder}/{each}" for each in found]
