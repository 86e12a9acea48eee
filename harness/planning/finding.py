"""The files of a plugin folder that define plugins, found by reading them: nothing else in a folder is ever executed.

A folder may be somebody's whole repository, with scripts that train for hours and virtual environments.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeAlias

import harness
from harness import hookspecs
from harness.contracts import Plugin
from harness.errors import PluginError
from harness.planning.graph import KINDS, text_digest
from harness.planning.homes import Home, Spot, content, home_of_name, spot_in, walked
from harness.planning.syntax import UNREADABLE, dotted_names, imported_words, parsed

_PLUGINS = frozenset(
    name for name, value in vars(harness).items() if isinstance(value, type) and issubclass(value, Plugin)
)
_HOOKS = frozenset(name for name in vars(hookspecs) if name.startswith("harness_"))


def plugin_files(home: Home) -> Iterator[tuple[Path, PluginError | None]]:
    """The files of a plugin folder that define plugins, sorted; with the reason, of one that only seems to."""
    asking = _Asking(home)
    for file, mentions in sorted(_candidates(home.roots[0])):
        try:
            if asking.defines_plugins(file):
                text_digest(content(file))  # which needs the syntax tree, while that is at hand
                yield file, None
        except (PluginError, *UNREADABLE) as error:
            if mentions:  # else it is none of our business; what is wrong with its syntax, Python says
                yield file, error if isinstance(error, PluginError) else None


# --- cheap tests ------------------------------------------------------------------------------------------------------


def _candidates(root: Path) -> Iterator[tuple[Path, bool]]:
    """Files that mention the harness (True), or that may have a plugin's base class from elsewhere (False): they import
    one that does, directly or not, or have a class with a name.
    """
    mention: list[Path] = []
    others: dict[Path, bytes] = {}
    for here, _, files in walked(root):
        for file in (here / name for name in files if name.endswith(".py")):
            source = _read(file)
            if b"harness" in source.replace(b"\0", b""):  # also in UTF-16, which loading complains of
                mention.append(file)
            elif b"import" in source:
                others[file] = source
    reached = [*mention, *_importing(root, mention, others)]
    reached += [
        file for file in others.keys() - reached if b"class " in (source := others[file]) and _NAMED.search(source)
    ]
    known = set(mention)
    yield from ((file, file in known) for file in reached if not _is_private(root, file))


_NAMED = re.compile(rb"\n[ \t]+name(?:[ \t]*:[^=\n]*)?[ \t]*=[ \t]*[\"']")


def _importing(root: Path, files: list[Path], others: dict[Path, bytes]) -> Iterator[Path]:
    """Those of ``others``, with their sources, that may import one of the files, directly or not."""
    left, words = dict(others), dict[Path, frozenset[str]]()
    while files:
        names = frozenset(name for file in files for name in _names_of(root, file))
        if len(names) < 20:  # which are looked for in less time than a file's imports
            asked = [
                f for f, source in left.items() if b"import *" in source or any(n.encode() in source for n in names)
            ]
        else:
            asked = list(left)
        words |= {file: imported_words(left[file]) for file in asked if file not in words}
        files = [file for file in asked if not words[file].isdisjoint({*names, "*"})]
        for file in files:
            del left[file]
        yield from files


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # a broken link
        return b""


def _names_of(root: Path, file: Path) -> Iterator[str]:
    """The names by which an import may mean a file: its own, and those of the packages that it lies in."""
    yield from (*file.relative_to(root).parent.parts, file.stem)


def _is_private(root: Path, file: Path) -> bool:
    return any(part.startswith(("_", ".")) for part in file.relative_to(root).parts)


# --- what a module's names stand for ----------------------------------------------------------------------------------


Dotted: TypeAlias = tuple[str, ...]
"""A name with the attributes that are read of it."""


class _Imported(NamedTuple):
    level: int
    module: str
    path: Dotted
    """The attribute of the module that a name stands for; empty for the module itself."""


@dataclass
class _Module:
    """The names at the top of a module, and what each may stand for."""

    classes: dict[str, list[Dotted]] = field(default_factory=dict)
    """Names in the bases of each class."""
    values: dict[str, list[Dotted]] = field(default_factory=dict)
    imports: dict[str, list[_Imported]] = field(default_factory=dict)
    stars: list[_Imported] = field(default_factory=list)
    named: list[str] = field(default_factory=list)
    """Public classes with a ``name``, as plugins have."""
    hooks: bool = False
    """True if it has a function that registers plugins."""

    @property
    def has_all(self) -> bool:
        """True if it takes all names of the harness."""
        return any(star.module == "harness" for star in self.stars)

    def meanings(self, name: str) -> Iterator[Dotted]:
        """Names of this module that a class derives from, or that a value is made of."""
        yield from (*self.classes.get(name, ()), *self.values.get(name, ()))


@cache
def _names_at_the_top(source: bytes) -> _Module:
    module = _Module()
    for node in _statements(parsed(source).body):
        match node:
            case ast.ClassDef(name=name, bases=bases):
                module.classes[name] = [chain for base in bases for chain in dotted_names(base)]
                if not name.startswith("_") and _has_name(node):
                    module.named.append(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                module.hooks |= name.startswith("harness_")
            case ast.Import():
                for alias in node.names:
                    name = alias.asname or alias.name.partition(".")[0]
                    meant = _Imported(0, alias.name if alias.asname else name, ())
                    module.imports.setdefault(name, []).append(meant)
            case ast.ImportFrom():
                for alias in node.names:
                    meant = _Imported(node.level, node.module or "", (alias.name,))
                    if alias.name == "*":
                        module.stars.append(meant)
                    else:
                        module.imports.setdefault(alias.asname or alias.name, []).append(meant)
            case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for name in (each.id for each in targets if isinstance(each, ast.Name)):
                    if isinstance(value, ast.Name | ast.Attribute | ast.Call | ast.IfExp | ast.Subscript):
                        module.values.setdefault(name, []).extend(dotted_names(value))
    module.hooks |= not _HOOKS.isdisjoint((*module.values, *module.imports))
    return module


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that importing a module runs, but those within functions and classes."""
    for node in body:
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or _is_main(node):
            continue
        for inner in (getattr(node, name, ()) for name in ("body", "orelse", "finalbody", "handlers", "cases")):
            for each in inner:
                yield from _statements([each] if isinstance(each, ast.stmt) else each.body)


def _is_main(node: ast.stmt) -> bool:
    """True for ``if __name__ == "__main__":``, which an import does not run."""
    match node:
        case ast.If(test=ast.Compare(left=ast.Name(id="__name__"), ops=[ast.Eq()])):
            return True
    return False


# --- whether a file defines plugins -----------------------------------------------------------------------------------


class _Asking:
    """Asks the files of one folder.

    Base classes are followed through its own modules first; through installed packages, which may be large, only for a
    class that has a plugin's ``name``.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self.abroad = False
        self.known: dict[tuple[Path, Dotted, bool], bool] = {}

    def defines_plugins(self, file: Path) -> bool:
        """True if importing ``file`` makes a plugin. Raises :class:`PluginError` for one that only seems to."""
        module = _names_at_the_top(content(file))
        defined = [name for name in module.classes if self._is_plugin(self.home, file, (name,))]
        if module.hooks or any(not name.startswith("_") for name in defined):
            return True
        named = module.named
        if self._is_from_a_package(file, named):
            return True
        if named and not defined and (module.has_all or self._any(file, [(name,) for name in module.imports])):
            raise PluginError(no_plugin(named[0]))
        return False

    def _is_from_a_package(self, file: Path, names: list[str]) -> bool:
        self.abroad = True
        try:
            return self._any(file, [(name,) for name in names])
        finally:
            self.abroad = False

    def _any(self, file: Path, chains: Iterable[Dotted]) -> bool:
        return any(self._is_plugin(self.home, file, chain) for chain in chains)

    def _is_plugin(self, home: Home, file: Path, chain: Dotted) -> bool:
        """True if the dotted name stands for a plugin class, or for what is made of one, in the module of ``file``."""
        key = file, chain, self.abroad
        if key not in self.known:
            self.known[key] = False  # in a circle
            self.known[key] = any(self._meanings(home, file, chain[0], chain[1:]))
        return self.known[key]

    def _meanings(self, home: Home, file: Path, name: str, rest: Dotted) -> Iterator[bool]:
        try:
            module = _names_at_the_top(content(file))
        except UNREADABLE:
            return
        if not rest:
            yield from (self._is_plugin(home, file, chain) for chain in module.meanings(name))
        for meant in module.imports.get(name, ()):
            yield self._leads(home, file, meant, rest)
        for star in module.stars if name not in module.classes else ():
            yield self._leads(home, file, star._replace(path=(name,)), rest)

    def _leads(self, home: Home, file: Path, meant: _Imported, rest: Dotted) -> bool:
        """True if an imported name leads to a plugin class."""
        path = (*meant.path, *rest)
        if meant.level == 0 and meant.module.partition(".")[0] == "harness":
            # A name that the harness has not: importing the file says so.
            return bool(path) and (path[-1] in _PLUGINS or (self.abroad and not hasattr(harness, path[0])))
        located = home.locate(file, meant.level, meant.module)
        if located is None and self.abroad and not meant.level:
            package = home_of_name(meant.module.partition(".")[0])
            located = package.locate(file, 0, meant.module) if package else None
            if package and located:
                home = package
        if located is not None and not located.missing:
            return self._within(home, located.leaf, path)
        if self.abroad and home == self.home and meant.module.partition(".")[0] not in sys.stdlib_module_names:
            raise PluginError(not_found(self.home, file, "." * meant.level + meant.module))
        return False

    def _within(self, home: Home, spot: Spot, path: Dotted) -> bool:
        inner = spot_in(spot.folder, path[0]) if spot.folder and path else None
        if inner is not None and self._within(home, inner, path[1:]):
            return True
        if spot.file is None or spot.file.suffix != ".py" or not path:
            return False
        return self._is_plugin(home, spot.file, path)


def _has_name(node: ast.ClassDef) -> bool:
    """True for a class that sets ``name`` to text, as plugins do."""
    for each in node.body:
        match each:
            case ast.Assign(targets=[ast.Name(id="name")], value=ast.Constant(value=str())):
                return True
            case ast.AnnAssign(target=ast.Name(id="name"), value=ast.Constant(value=str())):
                return True
    return False


def not_found(home: Home, file: Path, name: str) -> str:
    """The message about a module that a file of a plugin folder imports, and that is nowhere."""
    folder = home.roots[0]
    return (
        f"No module named {name!r}: {file.relative_to(folder)} imports it, and it is neither installed nor in {folder}"
    )


def no_plugin(name: object) -> str:
    """The message about a class that is not a plugin."""
    bases = ", ".join(base.__name__ for base in KINDS.values())
    return f"{name!r} is not a plugin: derive it from one of harness's {bases}"
