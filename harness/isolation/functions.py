"""Functions that plugins replace: of torch, numpy, the standard library and the harness.

A stage's check is one comparison of lists, which is quick as long as nothing was replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

_MODULES = (
    *("builtins", "os", "os.path", "random", "time", "json", "math", "pickle"),
    *("numpy", "numpy.random", "numpy.linalg"),
    *("torch", "torch.nn", "torch.nn.functional", "torch.nn.init", "torch.optim", "torch.autograd", "torch.utils.data"),
    *("harness.contracts", "harness.values", "harness.fields", "harness.errors", "harness.nets"),
    *(
        "harness.losses",
        "harness.metrics",
        "harness.data",
        "harness.adversarial",
        "harness.inversion",
        "harness.triggers",
        "harness.whitebox",
    ),
    "harness.engine.train",
)
"""Modules whose functions and classes are watched."""
_CLASSES = (
    *(("torch", "Tensor"), ("torch", "Generator"), ("torch.nn", "Module"), ("torch.nn", "Parameter")),
    *(("torch.optim", "Optimizer"), ("torch.utils.data", "DataLoader")),
    *(("harness.nets", "Net"), ("harness.engine.train", "Engine"), ("harness.values", "Key")),
    *(
        ("harness.values", "Split"),
        ("harness.oracles", "Oracle"),
        ("harness.oracles", "Meter"),
        ("harness.data", "Data"),
    ),
)
"""Classes whose methods are watched."""
_METHODS = {"torch.nn": "forward", "torch.optim": "step"}
"""The one method that is watched in every class of a module."""


@dataclass
class Functions:
    """The functions of this process as they were when they were first seen."""

    _spaces: dict[str, Any] = field(default_factory=dict)
    """Modules and classes that are watched, by name."""
    _known: dict[str, dict[str, Any]] = field(default_factory=dict)
    _mappings: list[Mapping[str, Any]] = field(default_factory=list)
    _methods: list[tuple[attrgetter[Any], list[type]]] = field(default_factory=list)
    _values: list[list[Any]] = field(default_factory=list)
    _imported: int = 0
    """Number of modules that there were when it last looked."""

    def look(self) -> None:
        """Watch the modules that were imported since the last call."""
        if len(sys.modules) == self._imported:
            return
        self._imported = len(sys.modules)
        for name, space in _spaces_here():
            if name not in self._spaces:
                self._spaces[name] = space
                self._know(name)

    def _know(self, name: str) -> None:
        space = self._spaces[name]
        self._known[name] = dict(vars(space))
        self._mappings.append(vars(space))
        if name in _METHODS:
            method = _METHODS[name]
            classes = [value for value in vars(space).values() if isinstance(value, type) and method in vars(value)]
            for cls in classes:
                owner = f"{name}.{cls.__name__}"
                self._spaces.setdefault(owner, cls)
                self._known.setdefault(owner, dict(vars(cls)))
            self._methods.append((attrgetter(method), classes))
        self._values = self._now()

    def _now(self) -> list[list[Any]]:
        values = [list(mapping.values()) for mapping in self._mappings]
        return values + [list(map(method, classes)) for method, classes in self._methods]

    def _as_known(self) -> bool:
        try:
            return self._now() == self._values
        except Exception:  # whatever a value raises that does not compare
            return False

    def accept(self) -> None:
        """Take the functions as they are now for theirs: a user may have replaced some on purpose."""
        self.look()
        if not self._as_known():
            self._known = {owner: dict(vars(space)) for owner, space in self._spaces.items()}
            self._values = self._now()

    def put_back(self) -> list[str]:
        """Put back the functions that were replaced; their names."""
        if self._as_known():
            return []
        names = [name for owner in [*self._known] for name in self._put_back(owner)]
        self._values = self._now()
        return names

    def _put_back(self, owner: str) -> Iterator[str]:
        space, known = self._spaces[owner], self._known[owner]
        for name in [name for name in vars(space) if name not in known]:
            if _shadows(space, name):
                delattr(space, name)
                yield f"{owner}.{name}"
            else:  # imported on first use, or a new attribute, which hurts nobody
                known[name] = vars(space)[name]
        for name, value in known.items():
            now = vars(space).get(name, _MISSING)
            if now is value or (now is _MISSING and getattr(space, name, None) is value):
                continue
            if callable(_bare(value)) and not _wraps(now, value, owner.partition(".")[0]):
                setattr(space, name, value)
                yield f"{owner}.{name}"
            else:  # a counter, a cache, a function that its own library wraps on first use
                known[name] = now


_MISSING = object()


def _bare(value: Any) -> Any:
    """The function of a static or class method, and of a property."""
    if isinstance(value, property):
        return value.fget
    return getattr(value, "__func__", value)


def _shadows(space: Any, name: str) -> bool:
    """True for what was added to a class in the place of a method that it inherits."""
    bases = space.__mro__[1:] if isinstance(space, type) else ()
    return any(callable(_bare(vars(base)[name])) for base in bases if name in vars(base))


def _wraps(now: Any, before: Any, package: str) -> bool:
    """True for a wrapper of ``before`` that ``package`` itself made, as torch does with an optimizer's ``step``."""
    code = getattr(now, "__code__", None)
    folder = str(Path(getattr(sys.modules[package], "__file__", None) or "?").parent)
    return getattr(now, "__wrapped__", None) is before and code is not None and code.co_filename.startswith(folder)


def _spaces_here() -> Iterator[tuple[str, Any]]:
    for name in _MODULES:
        module = sys.modules.get(name)
        spec = getattr(module, "__spec__", None) if type(module) is ModuleType else None
        if module is not None and spec is not None and not getattr(spec, "_initializing", False):
            yield name, module
    for name, cls in _CLASSES:
        module = sys.modules.get(name)
        if type(module) is ModuleType and cls in vars(module):
            yield f"{name}.{cls}", vars(module)[cls]
