"""Ways in which a plugin may leave the process, as reasons of a failed stage."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the public functions make an enum of each
import os
import signal
import threading
from collections.abc import Callable
from os import _exit as real_exit
from typing import Any, NoReturn


class Interrupted(KeyboardInterrupt):
    """The user's Ctrl-C, which ends a run. A plugin's own ``KeyboardInterrupt`` fails its stage."""


class Left(BaseException):
    """A plugin called a function that would have ended the process. The message says which."""


def describe_error(error: BaseException, *, at_import: bool = False) -> str:
    """The reason of a failure: what a plugin raised, or how it tried to leave.

    A file that exits ``at_import`` is a script: what it raised is said as it is.
    """
    if isinstance(error, SystemExit) and not at_import:
        code = "" if error.code is None else repr(error.code)
        return f"it called sys.exit({code})" + _argparse(error)
    if isinstance(error, Left):
        return f"it called {error}"
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:  # its own __str__ is broken too
        text = "(without a message)"
    described = f"{name}: {text}" if text else name
    if isinstance(error, EOFError):
        return f"{described} (a plugin has no input: give it options)"
    return described if isinstance(error, Exception | SystemExit) else f"it raised {described}"


def _argparse(error: SystemExit) -> str:
    """A hint for an exit from within ``argparse``, which reads the harness's own arguments by default."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or trace.tb_frame.f_globals.get("__name__") != "argparse":
        return ""
    return " from argparse, which read the arguments of the harness: give parse_args() a list"


_guarded: list[int] = []
"""Ids of the process, one for each guard that is active in it."""


def _instead_of(name: str) -> Callable[..., NoReturn]:
    """A function in the place of ``os.NAME``: the real one, but where a plugin runs in this very process."""
    real = getattr(os, name)

    def leave(*arguments: Any, **named: Any) -> NoReturn:
        if _guarded and _guarded[-1] == os.getpid():  # a forked child may end as it likes
            raise Left(f"os.{name}({', '.join(map(repr, arguments[:1]))})")
        real(*arguments, **named)
        raise AssertionError(f"os.{name} came back")

    leave.__name__ = name
    leave.__doc__ = real.__doc__
    return leave


def watch_exits() -> list[int]:
    """Have ``os._exit`` and its like raise while a plugin runs. The list returned holds an entry while one does.

    In a worker process they stay what they are: its end is noticed, and fails its stage alone.
    """
    if _expendable:
        return []
    if not hasattr(os._exit, _MARK):
        for name in ("_exit", "abort", "execv", "execve"):
            instead = _instead_of(name)
            setattr(instead, _MARK, True)
            setattr(os, name, instead)
    return _guarded


_expendable: list[bool] = []


def end_freely() -> None:
    """Say that this process may end at any time: it is a worker."""
    _expendable.append(True)


_MARK = "__harness__"


def _interrupt(signum: int, frame: object) -> None:
    raise Interrupted


def own_interrupts() -> bool:
    """Have Ctrl-C raise :class:`Interrupted` where it would raise a bare ``KeyboardInterrupt``; true if it did not."""
    if _signal.getsignal(_SIGINT) is not signal.default_int_handler:
        return False
    if threading.current_thread() is not threading.main_thread():
        return False
    _signal.signal(_SIGINT, _interrupt)
    return True


def python_interrupts() -> None:
    """Undo :func:`own_interrupts`."""
    _signal.signal(_SIGINT, signal.default_int_handler)


_SIGINT = int(signal.SIGINT)


__all__ = [
    "Interrupted",
    "Left",
    "describe_error",
    "end_freely",
    "own_interrupts",
    "python_interrupts",
    "real_exit",
    "watch_exits",
]
