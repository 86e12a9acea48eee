"""Data sets that are downloaded: into a folder beside their place, which they get once they have been loaded whole."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.contracts import InputSet
from harness.errors import DataError, HarnessError
from harness.files import temporary_folder

SILENCE = 30.0
"""Seconds that a server may be silent."""


def fetch(dataset: InputSet, folder: Path, check: Callable[[Path], object]) -> None:
    """Download a set below ``folder`` if ``check`` passes what came; else nothing of it stays.

    Raises :class:`DataError`, one line whatever a server answers.
    """
    name = dataset.name
    try:
        with temporary_folder(folder / name) as partial:
            try:
                with _impatient(), downloading(name):
                    dataset.fetch(partial)
                    check(partial)
            except HarnessError as error:
                reason = str(error).replace(str(partial), str(folder)) + _page(partial)
                raise DataError(f"{reason}; to try again, type: harness data fetch {name}") from error
            _move(partial, folder)
    except OSError as error:
        raise DataError(
            f"{name} cannot be written below {folder} ({error.strerror or error}): name another folder with --data DIR"
        ) from error


@contextmanager
def downloading(name: str) -> Iterator[None]:
    """Turn errors while the set ``name`` is downloaded into a :class:`DataError`."""
    try:
        yield
    except HarnessError:
        raise
    except (Exception, SystemExit) as error:  # whatever libraries make of what a server answers
        first, *more = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        # torchvision names the file, then each server that it tried with the error.
        reason = f"{first} {more[-1]}" if first.endswith(":") and more else first
        raise DataError(f"{name} cannot be downloaded ({reason}): name a folder with --data DIR") from error


@contextmanager
def _impatient() -> Iterator[None]:
    """Let a silent server end a download, and not hold it up for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _page(folder: Path) -> str:
    """Words on a file that is a web page, as a proxy answers that wants a login; empty where there is none."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                begin = file.read(512).lstrip().lower()
            if begin.startswith((b"<!doctype html", b"<html")):
                return f" (instead of {path.name} came a web page: a proxy's login, perhaps)"
    return ""


def _move(source: Path, target: Path) -> None:
    """Move what a folder holds into another, over what is there."""
    for path in list(source.iterdir()):
        place = target / path.name
        if path.is_dir() and place.is_dir() and not place.is_symlink():
            _move(path, place)
            continue
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        path.replace(place)
