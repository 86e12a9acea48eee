"""Files and folders written whole or not at all: under a name of their own beside the place, then renamed.

Whatever a killed process leaves has a name of :data:`PARTIAL`, by which ``harness gc`` finds it.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.partial", re.DOTALL)
"""The name of what is being written: hidden, the name that it will have, and some digits of its own."""
PATIENCE = 3600.0
"""Seconds after which such a file is taken for abandoned: writing one takes moments."""


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
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder to write to, which is renamed to ``path`` at the end; removed where an exception ends it.

    ``path`` must not be there then, or be an empty folder.
    """
    with temporary_folder(path) as partial:
        yield partial
        partial.replace(path)
