"""Standard streams while a plugin runs: what it prints goes to stderr, and there is nothing for it to read."""

from __future__ import annotations

import ctypes
import io
import os
import sys
from contextlib import suppress
from functools import cache
from typing import Any, TextIO, cast


class _ToStderr(io.TextIOBase):
    """Stands in for ``sys.stdout``: writes to whatever ``sys.stderr`` is, and is never closed."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text) if sys.stderr else len(text)

    def flush(self) -> None:
        with suppress(AttributeError, OSError, ValueError):
            sys.stderr.flush()

    def close(self) -> None:
        """Do nothing: stderr is not the plugin's to close."""

    def fileno(self) -> int:
        return sys.stderr.fileno()

    def isatty(self) -> bool:
        return sys.stderr.isatty()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return sys.stderr.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return sys.stderr.errors

    def __getattr__(self, name: str) -> Any:  # `buffer`, `reconfigure`
        return getattr(sys.stderr, name)


_TO_STDERR = cast("TextIO", _ToStderr())


class Redirected:
    """Plugins' standard streams, from :meth:`begin` to :meth:`end`.

    The file descriptors of this process are redirected only where its streams are the real ones: a notebook's and a
    test runner's are not.
    """

    def begin(self) -> None:
        self.streams = sys.stdout, sys.stdin
        self.descriptors: list[tuple[int, int]] = []
        if sys.stdout is _TO_STDERR:  # a guard within a guard, or a worker process
            return
        if _is_real(sys.stdout, 1):
            with suppress(OSError, ValueError):
                sys.stdout.flush()
            self._redirect(1, 2)
        if _is_real(sys.stdin, 0):
            self._redirect(0, _nothing())
        sys.stdout = _TO_STDERR
        sys.stdin = _empty()

    def _redirect(self, descriptor: int, to: int) -> None:
        with suppress(OSError):
            saved = os.dup(descriptor)
            self.descriptors.append((descriptor, saved))
            os.dup2(to, descriptor)

    def end(self) -> None:
        before = self.streams[0]
        if self.descriptors:
            with suppress(AttributeError, OSError, ValueError):
                before.flush()  # a plugin may have written to `sys.__stdout__`
            with suppress(AttributeError, OSError, TypeError):
                c_library().fflush(None)  # what C code printed
        for descriptor, saved in self.descriptors:
            with suppress(OSError):
                os.dup2(saved, descriptor)
                os.close(saved)
        sys.stdout, sys.stdin = self.streams


def for_life() -> None:
    """Redirect the streams of this process, which runs nothing but plugins: a worker."""
    with suppress(OSError):
        os.dup2(2, 1)
    with suppress(OSError):
        os.dup2(_nothing(), 0)
    sys.stdout, sys.stdin = _TO_STDERR, _empty()


def _is_real(stream: TextIO | None, descriptor: int) -> bool:
    try:
        return stream is not None and stream.fileno() == descriptor
    except (AttributeError, OSError, ValueError):  # a notebook's, or closed
        return False


def _empty() -> TextIO:
    if not _EMPTY or _EMPTY[0].closed:
        _EMPTY[:] = [io.TextIOWrapper(io.BytesIO(), "utf-8")]
    return _EMPTY[0]


_EMPTY: list[TextIO] = []


@cache
def c_library() -> ctypes.CDLL:
    """The C library of this process. Raises ``TypeError`` on Windows, where it has no name."""
    return ctypes.CDLL(None)


@cache
def _nothing() -> int:
    """A descriptor that reads as an empty file."""
    return os.open(os.devnull, os.O_RDONLY)
