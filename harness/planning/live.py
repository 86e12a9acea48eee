"""Plugins that exist in memory: classes, and objects of classes, that a script or a notebook gives to
:func:`harness.run`. A worker process receives them by value over its pipe; nothing pickled touches the disk.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, get_type_hints

from harness.contracts import Plugin
from harness.errors import PluginError, UsageError
from harness.planning.by_value import dumps, loads
from harness.planning.matrix import Entry
from harness.planning.registry import Registry, kind_of, plugin_info
from harness.planning.sources import DIGESTS, MAIN

ORIGIN = "given in Python"
"""Origin of these plugins in a registry."""


# --- in the process of the run ----------------------------------------------------------------------------------------


def register(registry: Registry, classes: Iterable[type[Plugin]]) -> None:
    """Add plugin classes to a registry. Raises :class:`UsageError` for one that is not a plugin or whose name is taken.

    A class that the registry has already (of a plugin folder, or given twice) is left as it is.
    """
    DIGESTS.clear()  # a helper may have been typed again since, which leaves the class the same object
    for cls in classes:
        try:
            kind = kind_of(cls)
            known = registry.found.get((kind, getattr(cls, "name", "")))
            if known is not None and known.cls is cls:
                continue
            info = plugin_info(cls, ORIGIN, kind)
        except PluginError as error:
            raise UsageError(str(error)) from error
        if known is not None and known.origin == ORIGIN:
            raise UsageError(
                f"two different classes are named {cls.name!r} ({cls.__qualname__}): give one another name"
            )
        if known is not None:
            raise UsageError(
                f"{kind} {cls.name!r} exists already ({known.origin}): give {cls.__qualname__} another name"
            )
        _resolve_annotations(cls)
        registry.found[kind, cls.name] = info


def entry_of(given: object) -> tuple[Entry, type[Plugin]]:
    """The entry that a plugin class, or an object with its options, stands for; and the class.

    Raises :class:`UsageError` for anything else.
    """
    cls: Any = given if isinstance(given, type) else type(given)
    try:
        kind_of(cls)
    except PluginError as error:
        raise UsageError(str(error)) from error
    name = str(getattr(cls, "name", cls.__name__))
    if isinstance(given, type):
        return Entry(name), cls
    values = [(f.name, getattr(given, f.name), f.default) for f in fields(cls)]
    changed = [(option, "none" if value is None else value) for option, value, default in values if value != default]
    return Entry(name, tuple(changed)), cls


def _resolve_annotations(cls: type) -> None:
    """Replace annotations that are text by the types that they name: a worker process lacks this ``__main__``."""
    hints = get_type_hints(cls, include_extras=True)
    for base in cls.__mro__:
        if base.__module__ == MAIN:
            own = vars(base).get("__annotations__", {})
            base.__annotations__ = {name: hints[name] for name in own}


# --- to worker processes ----------------------------------------------------------------------------------------------


def pack(registry: Registry) -> bytes:
    """The classes in memory that a registry has, for :func:`unpack` in a worker process; empty where it has none.

    Raises :class:`UsageError` for one that holds what cannot be sent.
    """
    infos = [info for info in registry.found.values() if info.origin == ORIGIN]
    if not infos:
        return b""
    try:
        return dumps((infos, DIGESTS))
    except Exception as error:  # whatever an object raises that cannot be pickled
        names = ", ".join(info.cls.__qualname__ for info in infos)
        raise UsageError(
            f"{names} cannot be sent to worker processes ({type(error).__name__}: {error}): "
            "run with jobs=1, or put the class into a file and name its folder, plugins=['FOLDER']"
        ) from error


def unpack(packed: bytes, registry: Registry) -> None:
    """Add to a registry the classes that :func:`pack` packed."""
    if packed:
        infos, digests = loads(packed)
        DIGESTS.update(digests)
        registry.found.update({(info.kind, info.cls.name): info for info in infos})
