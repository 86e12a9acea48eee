"""Digests of classes: of what decides what they do.

The digest of a class is that of its file; after it, by name, those of the modules of its own plugin folder or package
that the file imports, directly or not, of data files that one of them may read, and the version of its package. The
digest of a class typed in ``__main__`` (a script, a notebook) covers its own source and, recursively, the functions,
classes and constants of ``__main__`` that it names or derives from, and the modules beside the script or notebook that
these name or import. It does not cover values that are reached in another way (``globals()``, an enclosing function's
variables), nor installed libraries.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import os
import symtable
import sys
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import Distribution
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any
from urllib.parse import quote, unquote

from harness.errors import UsageError
from harness.planning import loading
from harness.planning.by_value import dumps
from harness.planning.graph import make_id, source_digest, text_digest
from harness.planning.homes import Home, content, covered, data_state, home_of

MAIN = "__main__"
DIGESTS: dict[type, str] = {}
"""Digests of classes in ``__main__``; a worker process knows only those that it was sent."""
MOST_NAMED = 20
"""Number of files that a digest names; of more it has their number, and one digest of all."""


def digest_of(cls: type) -> str:
    """The digest of a class, such as ``44087f3d53e7815d,_helper.py=9e1b0c2f6d3a4b57``.

    Raises :class:`UsageError` where its source cannot be found.
    """
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if cls.__module__ != MAIN and file:
        return source_digest(file) + _beside(cls.__module__, file)
    if cls not in DIGESTS:
        found: dict[object, tuple[str, str]] = {}
        _add(cls, found)
        DIGESTS[cls] = make_id(*sorted(found.values()))[:16]
    return DIGESTS[cls]


def parts_of(digest: str) -> tuple[str, dict[str, str]]:
    """A digest taken apart: that of the source itself, and those of what lies beside it, by name."""
    own, *beside = digest.split(",")
    return own, {unquote(name): each for name, _, each in (text.rpartition("=") for text in beside)}


def forget() -> None:
    """Read all files again."""
    loading.forget()
    _beside.cache_clear()


def came_with(distribution: Distribution, module: str) -> None:
    """Remember that an entry point of an installed package named ``module``."""
    listed = (distribution.read_text("top_level.txt") or "").split()
    files = {file.parts[0].removesuffix(".py") for file in distribution.files or () if file.suffix == ".py"}
    for name in (module.partition(".")[0], *listed, *files):
        _DISTRIBUTIONS[name] = distribution, frozenset((*listed, *files))


_DISTRIBUTIONS: dict[str, tuple[Distribution, frozenset[str]]] = {}
"""Distributions that registered plugins, and their top-level names, by top-level name."""


@cache
def _beside(name: str, file: str) -> str:
    """The part of a digest that tells what lies beside the file of the module ``name``."""
    module = sys.modules[name]
    distribution, more = _DISTRIBUTIONS.get(name.partition(".")[0], (None, frozenset()))
    home = loading.home_of_loaded(module) or home_of(module, more)
    parts = _parts(home, Path(file), Path(file).parent) if home else {}
    if distribution is not None:
        parts[f"package {distribution.name}"] = quote(distribution.version)
    return _text(parts)


def _parts(home: Home, file: Path, folder: Path) -> dict[str, str]:
    """Digests of what decides, beside itself, what a file does: by path, as seen from ``folder``."""
    found = covered(home, file)
    digests = [*((each, text_digest(content(each))) for each in found.code), *data_state(found)]
    return {Path(os.path.relpath(each, folder)).as_posix(): digest for each, digest in digests}


def _text(parts: Mapping[str, str]) -> str:
    if len(parts) > MOST_NAMED:
        parts = {f"{len(parts)} files": make_id(*sorted(parts.items()))[:16]}
    return "".join(f",{quote(name)}={digest}" for name, digest in sorted(parts.items()))


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
            if type(value).__module__ == given.__module__ and type(value) not in found:
                _add(type(value), found)


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
    if isinstance(value, set | frozenset):  # whose order does
        value = sorted(map(repr, value))
    if type(value).__module__ == MAIN:  # its class counts by its source
        value = getattr(value, "__dict__", repr(value))
    try:
        return make_id(dumps(value).hex())
    except Exception:  # whatever an object raises that cannot be pickled
        return type(value).__qualname__
