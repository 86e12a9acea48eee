"""The guard around a call of a plugin: what it changed in the process is put back, and named."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.isolation import leftovers
from harness.isolation.exits import own_interrupts, python_interrupts, real_exit, watch_exits
from harness.isolation.functions import Functions
from harness.isolation.output import Redirected
from harness.isolation.settings import Setting, settings_here
from harness.isolation.torch_settings import equal_states, random_states, seed_all, set_random_states

LONG = 0.01
"""Seconds from which a call is so long that looking for replaced functions, 0.1 ms, does not count."""
SELDOM = frozenset(
    {
        *("timers", "signal handlers", "blocked signals", "CPU affinity", "umask", "locale", "decimal context"),
        *("multiprocessing start method", "numpy print options", "torch print options"),
    }
)
"""Settings that change no number, and take long to read: like replaced functions, not looked at after quick calls."""


class Guard:
    """A context around a call of a plugin. It catches no exception; see :func:`describe_error` for those.

    Settings of the process, replaced functions, threads and child processes are put back as they were, and
    :attr:`changed` names them. What the plugin prints goes to stderr, and its standard input is empty, unless it is
    ``interactive``. With a ``seed`` the global random states start from it; they are as before afterwards.
    A ``strict`` guard names the global random state too, where the plugin drew from it.

    The settings are those that the guard ``after`` which it comes left. A ``quick`` guard looks for replaced functions,
    and for settings that are seldom changed, only where the call took long enough for that not to count.
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        interactive: bool = False,
        after: Guard | None = None,
        quick: bool = False,
        strict: bool = False,
    ) -> None:
        self._changed: dict[str, bool] = {}
        """The names of what changed; true where it could not be put back."""
        self._seed, self._output, self._after = seed, None if interactive else Redirected(), after
        self._quick, self._strict = quick, strict
        self._settings: list[Setting] = []
        self._known: list[Any] = []
        self._often = 0
        """Number of the settings, the first ones, that are looked at after every call."""
        self._children: frozenset[int] = frozenset()
        self._imported = 0

    @property
    def changed(self) -> tuple[str, ...]:
        """The names of what the plugin changed, such as ``working directory``."""
        return tuple(self._changed)

    @property
    def stays(self) -> tuple[str, ...]:
        """Those of :attr:`changed` that could not be put back."""
        return tuple(name for name, stays in self._changed.items() if stays)

    def warnings(self, who: str) -> list[str]:
        """Sentences that say what ``who`` changed."""
        back = [name for name, stays in self._changed.items() if not stays]
        said = [f"{who} changed the process's {', '.join(back)}: put back"] if back else []
        if self.stays:
            said.append(f"{who} left what cannot be put back: {', '.join(self.stays)}")
        return said

    def __enter__(self) -> Guard:
        self._pid, self._began, self._modules = os.getpid(), time.monotonic(), len(sys.modules)
        self._guarded = watch_exits()
        self._own_interrupts = own_interrupts()
        if self._output:
            self._output.begin()
        # A stage's guard comes after another's: none of them needs the states of before.
        self._random = random_states() if self._after is None or self._seed is None or self._strict else None
        if self._seed is not None:
            seed_all(self._seed)
        if self._strict:
            self._seeded = random_states()
        before, self._after = self._after, None
        if before is None:
            self._look()
            _functions.accept()
        else:
            self._settings, self._known, self._often = before._settings, before._known, before._often
            self._children, self._imported = before._children, before._imported
            _functions.look()
        self._threads = leftovers.threads()
        _active.append(self)
        self._guarded.append(self._pid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._pid:  # a child that the plugin forked, and which returned from the call
            real_exit(0 if kind is None else 1)
        self._guarded.pop()
        _active.remove(self)
        # Some libraries draw when they are imported: the next trial tells.
        drew = self._strict and len(sys.modules) == self._modules and not equal_states(random_states(), self._seeded)
        self._changed.update({"global random state": False} if drew else {})
        if leftovers.threads() != self._threads:
            self._changed.update(dict.fromkeys(leftovers.left_threads(self._threads), True))
        if leftovers.has_children():
            self._changed.update(dict.fromkeys(leftovers.end_children(self._children), False))
        self.put_back()
        if self._random is not None:
            set_random_states(self._random)
        if self._output:
            self._output.end()
        if self._own_interrupts:
            python_interrupts()
        _stay.extend(self.stays)

    @property
    def _is_short(self) -> bool:
        return self._quick and time.monotonic() - self._began <= LONG

    def settle(self) -> None:
        """Put back what was changed until now, before something is measured. A short quick call waits for its end."""
        if not self._is_short:
            self.put_back()

    def put_back(self) -> None:
        """Put back the settings and functions that were changed until now."""
        changed = self._put_back_settings()
        if not self._is_short:
            changed.update(dict.fromkeys(_functions.put_back(), False))
        self._quick, self._began = True, time.monotonic()
        self._changed.update(changed)
        if changed or len(sys.modules) != self._imported:
            self._look()  # for the guard that comes after this one

    def _put_back_settings(self) -> dict[str, bool]:
        changed: dict[str, bool] = {}
        if self._is_short and len(sys.modules) == self._imported:
            often = self._often
            if [read() for _, read, _ in self._settings[:often]] == self._known[:often]:
                return changed
        now = [read() for _, read, _ in self._settings]
        if now != self._known:
            for setting, before, after in zip(self._settings, self._known, now, strict=True):
                if before != after and not self._excused(setting.name, before, after):
                    with suppress(Exception):
                        setting.write(before)
                    changed[setting.name] = setting.read() != before
        return changed

    def _look(self) -> None:
        """Note the settings and child processes that there are."""
        self._settings = _settings()
        self._known = [setting.read() for setting in self._settings]
        self._often = sum(setting.name not in SELDOM for setting in self._settings)
        self._children, self._imported = leftovers.children(), len(sys.modules)

    def arrived(self) -> None:
        """Read the settings of a module that has just been imported, before the plugin can change them."""
        names = {setting.name for setting in self._settings}
        new = [setting for setting in _settings() if setting.name not in names]
        self._settings = [*self._settings, *new]
        self._known = [*self._known, *(setting.read() for setting in new)]
        _functions.look()

    def _excused(self, name: str, before: Any, after: Any) -> bool:
        """True for what a library sets while a plugin runs: when it is imported, or first used."""
        if name == "signal handlers":
            return all(_is_of_library(handler) for was, handler in zip(before, after, strict=True) if was != handler)
        new = list(sys.modules)[self._imported :]
        if not new:
            return False
        if name == "warning filters":
            added = [each for each in after[1] if each not in before[1]]
            lost = [each for each in before[1] if each not in after[1]]
            return before[2:] == after[2:] and not lost and all(map(_is_specific, added))
        if name == "environment variables":
            names = {os.fsdecode(each) for each in after if each not in before}
            kept = all(after.get(each) == value for each, value in before.items())
            return kept and _named_in_libraries(names, new)
        return False


_active: list[Guard] = []
_functions = Functions()
_stay: list[str] = []
_known_settings: dict[int, list[Setting]] = {}


def _settings() -> list[Setting]:
    """The settings of the modules that are imported now."""
    imported = len(sys.modules)
    if imported not in _known_settings:
        _known_settings.clear()
        _known_settings[imported] = sorted(settings_here(), key=lambda setting: setting.name in SELDOM)
    return _known_settings[imported]


def arrived() -> None:
    """A module was imported that planning had only pretended to have: guards note its settings."""
    for guard in _active:
        guard.arrived()


def stays_here() -> bool:
    """True if a plugin changed this process in a way that cannot be put back: another should take its place."""
    return bool(_stay)


def _is_of_library(handler: Any) -> bool:
    """True for a handler of an installed module, such as the one with which torch watches a loader's processes."""
    return callable(handler) and not leftovers.is_of_plugin(getattr(handler, "__module__", None) or "")


def _is_specific(entry: tuple[Any, ...]) -> bool:
    """True for a filter of a message, of a module or of a library's own category of warnings."""
    return bool(entry[1] or entry[3] or entry[2].__module__ not in ("builtins", "warnings"))


def _named_in_libraries(names: Iterable[str], modules: Iterable[str]) -> bool:
    """True if each of ``names`` stands in the source of an installed module of ``modules``."""
    left = set(names)
    for source in _sources(modules):
        left = {name for name in left if name.encode() not in source}
        if not left:
            return True
    return False


def _sources(modules: Iterable[str]) -> Iterator[bytes]:
    for name in modules:
        path = getattr(sys.modules.get(name), "__file__", None)
        if path and path.endswith(".py") and not name.startswith(("harness_plugin_", "__main__")):
            with suppress(OSError):
                yield Path(path).read_bytes()


__all__ = ["Guard", "arrived", "stays_here"]
