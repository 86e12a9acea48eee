"""Plugins that exist in memory: classes, and objects of classes, that a script or a notebook gives to
:func:`harness.run`.

The digest of a class typed in ``__main__`` covers its own source and, recursively, what that names of ``__main__``:
functions, classes and constants. It does not cover values that are reached in another way (``globals()``, an enclosing
function's variables). A class of an imported module has the digest of that module's file, as a plugin file has.

A worker process receives such classes by value over its pipe; nothing pickled touches the disk.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import linecache
import pickle
import symtable
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import fields
from types import FunctionType, ModuleType
from typing import Any, get_type_hints

from harness.contracts import Plugin
from harness.errors import PluginError, UsageError
from harness.planning.graph import make_id, source_digest, text_digest
from harness.planning.matrix import Entry
from harness.planning.registry import PluginInfo, Registry, check_class, kind_of

ORIGIN = "given in Python"
"""Origin of these plugins in a registry."""
_MAIN = "__main__"

_digests: dict[type, str] = {}
"""Digests of classes in ``__main__``; a worker process knows only those that it was sent."""


# --- in the process of the run ----------------------------------------------------------------------------------------


def register(registry: Registry, classes: Iterable[type[Plugin]]) -> None:
    """Add plugin classes to a registry. Raises :class:`UsageError` for one that is not a plugin or whose name is taken.

    A class that the registry has already (of a plugin folder, or given twice) is left as it is.
    """
    _digests.clear()  # a helper may have been typed again since, which leaves the class the same object
    for cls in classes:
        try:
            kind = kind_of(cls)
            known = registry.found.get((kind, getattr(cls, "name", "")))
            if known is not None and known.cls is cls:
                continue
            check_class(cls, kind)
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
        registry.found[kind, cls.name] = PluginInfo(kind, cls, ORIGIN, digest_of(cls))


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
        if base.__module__ == _MAIN:
            own = vars(base).get("__annotations__", {})
            base.__annotations__ = {name: hints[name] for name in own}


# --- digests ----------------------------------------------------------------------------------------------------------


def digest_of(cls: type) -> str:
    """The digest of a class's source: of its file, or for one typed in ``__main__`` of what decides what it does.

    Raises :class:`UsageError` where its source cannot be found.
    """
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if cls.__module__ != _MAIN and file:
        return source_digest(file)
    if cls not in _digests:
        found: dict[object, tuple[str, str]] = {}
        _add(cls, found)
        _digests[cls] = make_id(*sorted(found.values()))[:16]
    return _digests[cls]


def _add(given: type | FunctionType, found: dict[object, tuple[str, str]]) -> None:
    """Add name and digest of a class or function, and of all in its module that it names or derives from."""
    source = source_of(given)
    if source is None:
        raise UsageError(
            f"the source of {given.__qualname__} cannot be found, and results are addressed by it: "
            "put the class into a file and name its folder, plugins=['FOLDER']"
        )
    found[given] = given.__qualname__, text_digest(source.encode())
    module = vars(sys.modules[given.__module__]) if given.__module__ in sys.modules else {}
    # Bases by themselves: their names may stand for something else by now, as after `class Mine(Mine)`.
    values: dict[object, Any] = {base: base for base in given.__bases__} if isinstance(given, type) else {}
    values |= {name: module[name] for name in _names(source) if name in module}
    for key, value in values.items():
        if isinstance(value, type | FunctionType):
            if value.__module__ == given.__module__ and value not in found:
                _add(value, found)
        elif not isinstance(value, ModuleType) and key not in found:
            found[key] = str(key), _value_digest(value)


def source_of(given: type | FunctionType) -> str | None:
    """The source text of a class or function of a file, a notebook's cell or a prompt that keeps it."""
    if isinstance(given, type):
        return next((source for file in _files_of(given) if (source := _class_in(file, given))), None)
    try:
        return textwrap.dedent(inspect.getsource(given))
    except (OSError, TypeError):
        return None


def _files_of(cls: type) -> Iterator[str]:
    """Names under which Python's line cache may have the source of a class: its methods' first.

    ``inspect.getsource`` does not find a notebook's classes before Python 3.13.
    """
    functions = (inspect.unwrap(value) for value in vars(cls).values() if isinstance(value, FunctionType))
    yield from dict.fromkeys(
        each.__code__.co_filename for each in functions if each.__qualname__.startswith(f"{cls.__qualname__}.")
    )
    if file := getattr(sys.modules.get(cls.__module__), "__file__", None):
        yield file
    # Of a class without methods: the latest cell that has it. What is not a file has no time of change.
    yield from [name for name, entry in reversed(list(linecache.cache.items())) if len(entry) > 1 and entry[1] is None]


def _class_in(file: str, cls: type) -> str | None:
    lines = linecache.getlines(file)
    try:
        tree = ast.parse("".join(lines))
    except (SyntaxError, ValueError):
        return None
    for node in reversed(list(ast.walk(tree))):
        if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            return textwrap.dedent("".join(lines[first - 1 : node.end_lineno]))
    return None


def _names(source: str) -> Iterator[str]:
    """The global names that a piece of source refers to."""
    try:
        tables = [symtable.symtable(source, "plugin", "exec")]
    except SyntaxError:  # a part of an expression, as the source of a lambda may be
        return
    while tables:
        table = tables.pop()
        yield from (symbol.get_name() for symbol in table.get_symbols() if symbol.is_global())
        tables += table.get_children()


def _value_digest(value: object) -> str:
    """The digest of a constant. One that differs from process to process costs a run again, never a wrong result."""
    try:
        return make_id(dumps(value).hex())
    except Exception:  # whatever an object raises that cannot be pickled
        return type(value).__qualname__


# --- to worker processes ----------------------------------------------------------------------------------------------


def dumps(value: object) -> bytes:
    """``value`` pickled, with the classes and functions that no other process can import in it by value."""
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, given: Any) -> Any:
            # Modules of a class of their own, which cloudpickle does not know: `torch.classes`, one not used yet.
            if isinstance(given, ModuleType) and type(given) is not ModuleType and given.__name__ in sys.modules:
                return _module, (given.__name__,)
            return super().reducer_override(given)

    file = io.BytesIO()
    Pickler(file).dump(value)
    return file.getvalue()


def _module(name: str) -> Any:
    """The module of that name. Of a package's attribute that only looks like one the package is imported first."""
    package, _, last = name.rpartition(".")
    return getattr(_module(package), last) if package else importlib.import_module(name)


def pack(registry: Registry) -> bytes:
    """The classes in memory that a registry has, for :func:`unpack` in a worker process; empty where it has none.

    Raises :class:`UsageError` for one that holds what cannot be sent.
    """
    infos = [info for info in registry.found.values() if info.origin == ORIGIN]
    if not infos:
        return b""
    try:
        return dumps((infos, _digests))
    except Exception as error:  # whatever an object raises that cannot be pickled
        names = ", ".join(info.cls.__qualname__ for info in infos)
        raise UsageError(
            f"{names} cannot be sent to worker processes ({type(error).__name__}: {error}): "
            "run with jobs=1, or put the class into a file and name its folder, plugins=['FOLDER']"
        ) from error


def unpack(packed: bytes, registry: Registry) -> None:
    """Add to a registry the classes that :func:`pack` packed."""
    if packed:
        infos, digests = pickle.loads(packed)
        _digests.update(digests)
        registry.found.update({(info.kind, info.cls.name): info for info in infos})
