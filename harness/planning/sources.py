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
import hashlib
import inspect
import linecache
import os
import symtable
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import Distribution
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any
from urllib.parse import quote, unquote

from harness.errors import UsageError
from harness.files import user_path
from harness.planning import loading
from harness.planning.by_value import dumps
from harness.planning.graph import make_id, source_digest, text_digest
from harness.planning.homes import MOST_BYTES, Home, content, covered, data_state, home_of, home_of_name
from harness.planning.syntax import Import, dotted_names, reads

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
        typed = _Typed()
        typed.add(cls)
        DIGESTS[cls] = make_id(*sorted(typed.found.values()))[:16] + _text(typed.beside)
    return DIGESTS[cls]


def digest_of_files(names: Sequence[str], *, must_exist: bool) -> str:
    """The part of a digest that tells what the files of these names hold, such as ``,file my_net.py=9e1b0c2f6d3a4b57``.

    Of a Python file its code counts, and the code of what it imports from its folder. Raises :class:`UsageError` for a
    file that is not there, or leaves it out.
    """
    parts: dict[str, str] = {}
    for name in names:
        path = user_path(name).resolve()
        if path.is_dir():
            parts |= {f"file {name}/{each.name}": _bytes_digest(each) for each in sorted(path.iterdir())}
        elif path.suffix == ".py" and path.is_file():
            beside = _parts(Home((path.parent,), nested=True), path, path.parent)
            parts[f"file {name}"] = text_digest(content(path))
            parts |= {f"file {each}": digest for each, digest in beside.items()}
        elif path.is_file():
            parts[f"file {name}"] = _bytes_digest(path)
        elif must_exist:
            raise UsageError(f"no file {name!r} here ({path})")
    return _text(parts)


def _bytes_digest(path: Path) -> str:
    if not path.is_file():
        return "-"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


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
    home, path = _home_of(name), Path(file)
    if home and loading.home_of_loaded(sys.modules[name]) is None:
        _see(path, *covered(home, path).imported)
    parts = _parts(home, path, path.parent) if home else {}
    distribution, _ = _DISTRIBUTIONS.get(name.partition(".")[0], (None, None))
    if distribution is not None:
        parts[f"package {distribution.name}"] = quote(distribution.version)
    return _text(parts)


def _home_of(name: str) -> Home | None:
    """The home of the imported module ``name``."""
    _, more = _DISTRIBUTIONS.get(name.partition(".")[0], (None, frozenset()))
    return loading.home_of_loaded(sys.modules[name]) or home_of(sys.modules[name], more)


def unread_data(cls: type) -> str:
    """A sentence on data beside the module of a class that are too large to be read; empty where there are none."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    home = _home_of(cls.__module__) if file and cls.__module__ != MAIN else None
    if file and home and covered(home, Path(file)).too_large:
        return (
            f"the data beside {Path(file).name} are more than {MOST_BYTES // 1024**2} MiB: "
            "they count by their names and sizes, so another content of the same size is not seen"
        )
    return ""


def _parts(home: Home, file: Path, folder: Path) -> dict[str, str]:
    """Digests of what decides, beside itself, what a file does: by path, as seen from ``folder``."""
    found = covered(home, file)
    digests = [*((each, text_digest(content(each))) for each in (*found.imported, *found.perhaps)), *data_state(found)]
    return {Path(os.path.relpath(each, folder)).as_posix(): digest for each, digest in digests}


def _text(parts: Mapping[str, str]) -> str:
    if len(parts) > MOST_NAMED:
        parts = {f"{len(parts)} files": make_id(*sorted(parts.items()))[:16]}
    return "".join(f",{quote(name)}={digest}" for name, digest in sorted(parts.items()))


# --- of what is typed in __main__ -------------------------------------------------------------------------------------


class _Typed:
    """All that a class typed in ``__main__`` names, directly or not."""

    def __init__(self) -> None:
        self.found: dict[object, tuple[str, str]] = {}
        """Names and digests of what is in ``__main__`` too."""
        self.beside: dict[str, str] = {}
        """Digests of the modules beside the script or notebook, by path."""
        script = getattr(sys.modules[MAIN], "__file__", None)
        self.folders = tuple(dict.fromkeys((*((Path(script).resolve().parent,) if script else ()), Path.cwd())))

    def add(self, given: type | FunctionType) -> None:
        """Add a class or function, and all in its module that it names or derives from."""
        source = source_of(given)
        if source is None:
            raise UsageError(
                f"the source of {given.__qualname__} cannot be found, and results are addressed by it: "
                "put the class into a file and name its folder, plugins=['FOLDER']"
            )
        self.found[given] = given.__qualname__, text_digest(source.encode())
        module = vars(sys.modules[given.__module__]) if given.__module__ in sys.modules else {}
        # Bases by themselves: their names may stand for something else by now, as after `class Mine(Mine)`.
        values: dict[object, Any] = {base: base for base in given.__bases__} if isinstance(given, type) else {}
        values |= {name: module[name] for name in _names(source) if name in module}
        for key, value in values.items():
            self._add_value(given.__module__, key, value)
        for each in reads(source.encode()).imports:
            self._add_import(each)
        for chain in _chains(source):
            self._add_modules(module, chain)

    def _add_value(self, module: str, key: object, value: Any) -> None:
        if isinstance(value, type | FunctionType):
            if value.__module__ != module:
                self._add_module(sys.modules.get(value.__module__))
            elif value not in self.found:
                self.add(value)
        elif not isinstance(value, ModuleType) and key not in self.found:
            self.found[key] = str(key), _value_digest(value)
            if type(value).__module__ == module and type(value) not in self.found:
                self.add(type(value))

    def _add_modules(self, names: Mapping[str, Any], chain: Sequence[str]) -> None:
        """Add the modules on the way of ``package.module.name``."""
        for name in chain:
            value = names.get(name)
            if not isinstance(value, ModuleType):
                break
            self._add_module(value)
            names = vars(value)

    def _add_import(self, given: Import) -> None:
        home = None if given.level else home_of_name(given.name.partition(".")[0])
        located = home.locate(home.roots[0] / MAIN, 0, given.name) if home else None
        for file in located.files if home and located else ():
            self._add_file(home, file)

    def _add_module(self, module: ModuleType | None) -> None:
        file = getattr(module, "__file__", None)
        home = home_of(module) if module and file and not loading.home_of_loaded(module) else None
        if home and file:
            self._add_file(home, Path(file))

    def _add_file(self, home: Home | None, file: Path) -> None:
        """Add a file that lies beside the script or notebook, and what it imports from there."""
        folder = next((each for each in self.folders if each in file.parents), None)
        if home and folder and home.names is None:
            _see(file, *covered(home, file).imported)
            here = Path(os.path.relpath(file, folder)).as_posix()
            self.beside |= {here: text_digest(content(file)), **_parts(home, file, folder)}


_SEEN: dict[Path, tuple[object, str]] = {}
"""Modules that Python itself has imported, by file: with the import that made each, and the digest that it had then."""


def _see(*files: Path) -> None:
    """Raise :class:`UsageError` where a file was edited since its module was imported, which still is the old one."""
    # Not by getattr, at which some stand-ins import what they stand for.
    modules = {getattr(each, "__dict__", {}).get("__file__"): each for each in [*sys.modules.values()]}
    for file in files:
        module, digest = modules.get(str(file)), text_digest(content(file))
        if module is None:
            continue
        imported, before = _SEEN.get(file, (None, digest))
        if imported is module.__spec__ and before != digest:
            name = module.__name__
            raise UsageError(
                f"{file.name} was edited after it was imported: restart Python, or call importlib.reload({name}) and "
                "run again what imports from it"
            )
        _SEEN[file] = module.__spec__, digest


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


def _chains(source: str) -> Iterator[tuple[str, ...]]:
    try:
        yield from dotted_names(ast.parse(source))
    except SyntaxError:  # as in _names
        return


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
