"""Modules that are imported on first use, so that a plugin file may write ``import torch`` at its top and cost nothing.

Planning, listing and leaderboards read plugins' names and options only; importing torch takes seconds. The standard
library's ``LazyLoader`` does not serve: since CPython 3.11 the import statement itself reads ``__spec__``, which
triggers it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from harness.isolation import arrived


class _LazyModule(ModuleType):
    """Stands in ``sys.modules`` for a module that has not run yet, and becomes it on the first attribute asked."""

    def __getattr__(self, attribute: str) -> Any:
        spec = importlib.util.find_spec(self.__name__) if self.__spec__ is None else self.__spec__
        if spec is None or spec.loader is None:  # pragma: no cover - lazy_module checked
            raise ImportError(self.__name__)
        # `__path__` is left out until now: importing a submodule asks for it, and so runs the parent first.
        self.__dict__.update(importlib.util.module_from_spec(spec).__dict__)
        self.__class__ = ModuleType  # type: ignore[assignment]
        try:
            spec.loader.exec_module(self)
        except BaseException:
            sys.modules.pop(self.__name__, None)
            raise
        arrived()
        return getattr(self, attribute)


class _Absent(ModuleType):
    """Stands for a module that is not installed, and says so on the first attribute asked."""

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # what Python asks every module
            raise AttributeError(attribute)
        raise ModuleNotFoundError(f"No module named {self.__name__!r}", name=self.__name__)


@contextmanager
def absent_allowed(*names: str) -> Iterator[None]:
    """Let files import the modules ``names`` while the block runs, those that are not installed too.

    A data set that only downloads by such a module is loaded, and fails where it uses it.
    """
    absent = [name for name in names if name not in sys.modules and importlib.util.find_spec(name) is None]
    sys.modules.update({name: _Absent(name) for name in absent})
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)


def lazy_module(name: str) -> ModuleType:
    """The module ``name``, run when its first attribute is read; the module itself if it was imported before."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    module = _LazyModule(name)
    module.__spec__ = spec
    # `inspect` asks every module in `sys.modules` for its file, torch's own import does so too: that must not run it.
    module.__file__ = spec.origin
    sys.modules[name] = module
    return module
