"""Checks of plugins in a process of their own, for ``harness plugins check``: one that leaves, crashes or hangs there
fails its own check.

The plugins share the process until one takes it down, or leaves in it what cannot be put back.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import IO, Any

from harness.errors import UsageError
from harness.isolation import describe_error, end_kept, stays_here
from harness.planning.graph import Kind
from harness.running.processes import describe_end, leave_with_the_run, starting

LIMIT = 120.0
"""Seconds that the check of a plugin may take."""
START = 600.0
"""Seconds that the process may take to import torch and all plugins."""


@dataclass(frozen=True)
class Checked:
    """A plugin, and all that is wrong with it: empty if it keeps its contract."""

    kind: Kind
    name: str
    problems: list[str]


def check_apart(
    plugins: Sequence[tuple[Kind, str]], folders: Sequence[Path], limit: float = LIMIT
) -> Iterator[Checked]:
    """Check plugins, of built-in and installed ones and of ``folders``, in order; each within ``limit`` seconds."""
    checker: _Checker | None = None
    try:
        for kind, name in plugins:
            checker = checker or _Checker(folders)
            problems, goes_on = checker.check(kind, name, limit)
            if not goes_on:
                checker.end()
                checker = None
            yield Checked(kind, name, problems)
    finally:
        if checker:
            checker.end()


class _Checker:
    """The process in which plugins are checked, as the process of the command sees it."""

    def __init__(self, folders: Sequence[Path]) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, tuple(folders)), name="plugin checks")
        try:
            with starting():
                self.process.start()
        except OSError as error:
            raise UsageError(f"cannot start a process to check plugins in ({error})") from error
        theirs.close()
        self.ready = False

    def check(self, kind: Kind, name: str, limit: float) -> tuple[list[str], bool]:
        """The problems of a plugin; and whether the process can check another."""
        try:
            if not self.ready and (not self.connection.poll(START) or self.connection.recv() != "ready"):
                return [f"its process did not start within {START:g} s"], False
            self.ready = True
            self.connection.send((kind, name))
            if not self.connection.poll(limit):
                return [f"its check took longer than {limit:g} s: --timeout SECONDS allows for more"], False
            problems, goes_on = self.connection.recv()
        except (EOFError, OSError):
            while_ = "was checked" if self.ready else "was loaded"
            return [f"its process {self.end()} while it {while_}"], False
        return problems, goes_on

    def end(self) -> str:
        """End the process, and say how it ended."""
        self.connection.close()
        self.process.join(1.0 if self.process.is_alive() and self.ready else 0.0)
        self.process.kill()
        self.process.join()
        return describe_end(self.process.exitcode or 0)


# --- in the process of the checks -------------------------------------------------------------------------------------


def _serve(connection: Connection, folders: tuple[Path, ...]) -> None:
    """Check one plugin after the other, until the pipe ends."""
    Thread(target=leave_with_the_run, daemon=True).start()
    import torch

    from harness.planning.registry import load_registry
    from harness.testing import check_plugin

    with _captured():
        registry = load_registry(folders)
    torch.set_num_threads(1)  # as a run does: the checks are small, and threads would only wait for each other
    with suppress(EOFError, OSError):
        connection.send("ready")
        while True:
            kind, name = connection.recv()
            problems = _checked(partial(check_plugin, registry.found[kind, name], registry))
            connection.send((problems, not stays_here()))
    end_kept()


def _checked(check: Callable[[], list[str]]) -> list[str]:
    """The problems that a check finds, those of which only a process of its own tells included."""
    before = set(_files_here())
    with _captured() as printed:
        try:
            problems = check()
        except BaseException as error:  # Ctrl-C ends the process of the command, and that this one
            problems = [describe_error(error)]
    if said := _without_torch(printed()):
        problems.append(f"it prints, or programs that it starts: {said[:60]!r}")
    if new := sorted(set(_files_here()) - before):
        problems.append(f"it writes into the current folder: {', '.join(new[:3])}")
    return problems


def _files_here() -> list[str]:
    with suppress(OSError):
        return os.listdir()  # noqa: PTH208 - names, not paths
    return []


@contextmanager
def _captured() -> Iterator[Callable[[], str]]:
    """Collect what is written to the descriptors of stdout and stderr; a function that gives it once that has ended."""
    said: list[str] = []
    with tempfile.TemporaryFile() as file:
        saved = [os.dup(descriptor) for descriptor in (1, 2)]
        _flush()
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        try:
            yield lambda: "".join(said)
        finally:
            _flush()
            for descriptor, before in zip((1, 2), saved, strict=True):
                os.dup2(before, descriptor)
                os.close(before)
            said.append(_content(file))


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace").strip()


def _flush() -> None:
    streams: Any = (sys.stdout, sys.stderr)
    for stream in streams:
        with suppress(AttributeError, OSError, ValueError):
            stream.flush()


def _without_torch(text: str) -> str:
    """``text`` without the warnings of torch's C++ code, such as ``[W NNPACK.cpp:64] ...``."""
    return "\n".join(line for line in text.splitlines() if not line.startswith("[W"))


__all__ = ["LIMIT", "Checked", "check_apart"]
