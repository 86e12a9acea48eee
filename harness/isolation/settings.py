"""Settings of the process that plugins change: how each is read, and put back.

Each group belongs to a module, and counts from when that module is there: planning must not import torch.
"""

from __future__ import annotations

import _locale
import _signal  # type: ignore[import-not-found]  # the public getsignal() makes an enum of each
import decimal
import gc
import locale
import logging
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

from harness.isolation.torch_settings import numpy_settings, torch_settings


class Setting(NamedTuple):
    """A setting: its name in messages, a function that reads it, one that sets it to what was read."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


def settings_here() -> list[Setting]:
    """The settings of the modules that this process has imported."""
    found = [*_PROCESS]
    for module, make in _MODULES.items():
        here = sys.modules.get(module)
        if here is not None and _is_complete(here):
            found += (Setting(*each) for each in make(here))
    return found


def _is_complete(module: ModuleType) -> bool:
    """False for a module that is being imported, or that planning only pretends to have."""
    spec = vars(module).get("__spec__")
    return type(module) is ModuleType and not getattr(spec, "_initializing", False)


_MODULES: Mapping[str, Callable[[Any], list[tuple[str, Callable[[], Any], Callable[[Any], object]]]]] = {
    "numpy": numpy_settings,
    "torch": torch_settings,
}


# --- the interpreter and the operating system -------------------------------------------------------------------------


def _folder() -> str | None:
    with suppress(OSError):
        return os.getcwd()  # noqa: PTH109 - a Path costs more than the call
    return None  # it was removed


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _environment() -> dict[Any, Any]:
    return dict(os.environ._data)  # type: ignore[attr-defined]  # a copy that decodes takes a hundred times as long


def _set_environment(before: Mapping[Any, Any]) -> None:
    decode = os.fsdecode if os.name != "nt" else str
    wanted = {decode(name): decode(value) for name, value in before.items()}
    for name in set(os.environ) - set(wanted):
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


_SIGNALS = sorted(
    int(number)
    for number in signal.valid_signals()
    if isinstance(number, signal.Signals) and number.name not in ("SIGKILL", "SIGSTOP", "SIGRTMIN", "SIGRTMAX")
)


def _handlers() -> list[Any]:
    handler = _signal.getsignal
    return [handler(number) for number in _SIGNALS]


def _set_handlers(before: list[Any]) -> None:
    for number, handler, now in zip(_SIGNALS, before, _handlers(), strict=True):
        if handler is not now and handler is not None:
            signal.signal(number, handler)


_TIMERS = [getattr(signal, name) for name in ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF") if hasattr(signal, name)]


def _timers() -> list[bool]:
    ask = signal.getitimer
    return [ask(timer)[0] > 0 for timer in _TIMERS]


def _set_timers(before: list[bool]) -> None:
    for timer, armed in zip(_TIMERS, before, strict=True):
        if not armed:
            signal.setitimer(timer, 0)


def _filters() -> tuple[Any, ...]:
    return warnings.filters, tuple(warnings.filters), warnings.showwarning, warnings.formatwarning


def _set_filters(before: tuple[Any, ...]) -> None:
    filters, content, warnings.showwarning, warnings.formatwarning = before
    warnings.filters = filters
    filters[:] = content
    with warnings.catch_warnings():  # tells the module that its filters have changed
        pass


def _path() -> tuple[Any, ...]:
    return sys.path, tuple(sys.path)


def _set_path(before: tuple[Any, ...]) -> None:
    sys.path = before[0]
    sys.path[:] = before[1]


def _logging() -> tuple[Any, ...]:
    root = logging.root
    return (
        root.level,
        tuple(root.handlers),
        tuple(root.filters),
        root.disabled,
        root.manager.disable,
        (logging.raiseExceptions),
    )


def _set_logging(before: tuple[Any, ...]) -> None:
    root = logging.root
    root.setLevel(before[0])
    for handler in [*root.handlers]:
        if handler not in before[1]:
            root.removeHandler(handler)
    root.handlers[:] = before[1]
    root.filters[:] = before[2]
    root.disabled = before[3]
    logging.disable(before[4])
    logging.raiseExceptions = before[5]


def _decimal() -> tuple[Any, ...]:
    known = decimal.getcontext()
    traps = known.traps.copy()
    return known.prec, known.rounding, known.Emin, known.Emax, known.capitals, known.clamp, traps


def _set_decimal(before: tuple[Any, ...]) -> None:
    known = decimal.getcontext()
    known.prec, known.rounding, known.Emin, known.Emax, known.capitals, known.clamp, traps = before
    known.traps.update(traps)


def _start_method() -> str:
    return multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]


def _set_collector(before: tuple[bool, tuple[int, int, int]]) -> None:
    (gc.enable if before[0] else gc.disable)()
    gc.set_threshold(*before[1])


def _attribute(module: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], object]]:
    return partial(getattr, module, name), partial(setattr, module, name)


_PROCESS = [
    Setting("working directory", _folder, os.chdir),
    Setting("environment variables", _environment, _set_environment),
    Setting("umask", _umask, os.umask),
    # Not the module's own function, which looks for the name's aliases.
    Setting("locale", partial(_locale.setlocale, locale.LC_ALL), partial(_locale.setlocale, locale.LC_ALL)),
    Setting("signal handlers", _handlers, _set_handlers),
    Setting("timers", _timers, _set_timers),
    Setting("warning filters", _filters, _set_filters),
    Setting("logging", _logging, _set_logging),
    Setting("sys.stdout", *_attribute(sys, "stdout")),
    Setting("sys.stderr", *_attribute(sys, "stderr")),
    Setting("sys.stdin", *_attribute(sys, "stdin")),
    Setting("sys.path", _path, _set_path),
    Setting("sys.argv", lambda: [*sys.argv], lambda before: setattr(sys, "argv", before)),
    Setting("sys.excepthook", *_attribute(sys, "excepthook")),
    Setting("threading.excepthook", *_attribute(threading, "excepthook")),
    Setting("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    Setting("switch interval", sys.getswitchinterval, sys.setswitchinterval),
    Setting("garbage collector", lambda: (gc.isenabled(), gc.get_threshold()), _set_collector),
    Setting("decimal context", _decimal, _set_decimal),
    Setting(
        "multiprocessing start method",
        _start_method,
        lambda before: multiprocessing.set_start_method(before, force=True),
    ),
]
if hasattr(signal, "pthread_sigmask"):  # not Windows
    _PROCESS.append(
        Setting(
            "blocked signals",
            lambda: _signal.pthread_sigmask(signal.SIG_BLOCK, ()),
            lambda before: signal.pthread_sigmask(signal.SIG_SETMASK, before),
        )
    )
if hasattr(os, "sched_getaffinity"):  # Linux
    _PROCESS.append(
        Setting("CPU affinity", lambda: os.sched_getaffinity(0), lambda before: os.sched_setaffinity(0, before))
    )
