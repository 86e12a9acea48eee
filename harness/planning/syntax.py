"""Source files as syntax trees: what they import, and whether they read it in a way that only running them tells."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
"""Exceptions of :func:`parsed` for source that is not Python."""


@lru_cache(maxsize=2)  # trees are large, and many objects
def parsed(source: bytes) -> ast.Module:
    """The syntax tree of a source file. Raises one of :data:`UNREADABLE`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of invalid escapes: importing the file says so
        return ast.parse(source)


class Import(NamedTuple):
    """One import of a source file: ``from ..name import names`` has level 2."""

    level: int
    name: str
    names: tuple[str, ...] = ()
    """Names that are taken from it, which may be modules of a package; ``*`` for all."""


@dataclass(frozen=True)
class Reads:
    """The modules and files that a source file reads."""

    imports: tuple[Import, ...] = ()
    dynamic: bool = False
    """True if it also imports or executes what no reader of its text can know."""
    data: bool = False
    """True if it asks where it lies, as one does that reads files beside it."""


def imported_words(source: bytes) -> frozenset[str]:
    """Words that may be the name of a module that a source file imports, and more; ``*`` where it may be any.

    A dot is among them where it imports relatively. Read from its lines: a syntax tree takes a hundred times as long.
    """
    words: set[str] = set()
    for line in set(_IMPORTING.findall(source.replace(b"\\\r\n", b" ").replace(b"\\\n", b" "))):
        found = [word.decode("utf-8", "replace") for word in _WORD.findall(line)]
        words.update(found if found[:1] == ["."] else (word for word in found if word != "."))
        if {*found} <= {".", "import"} or not line.isascii():  # names on the next lines, or spelled in another way
            words.add("*")
    return frozenset(words)


_IMPORTING = re.compile(rb"\b(?:import|from)\b([^\n]*)")
_TELLING = re.compile(rb"\bimportlib|\bsys *\. *path\b|\b(?:exec|runpy|pkgutil|imp|__(?:import|file|path|spec)__)\b")
_WORD = re.compile(rb"[^\W\d]\w*|\.")


def may_read(source: bytes, names: frozenset[str]) -> bool:
    """False where a source file surely reads no module of one of ``names`` and nothing that :class:`Reads` tells."""
    if _TELLING.search(source):
        return True
    words = imported_words(source)
    return "*" in words or "." in words or not words.isdisjoint(names)


@cache
def reads(source: bytes) -> Reads:
    """All that a source file reads, also within functions. One that is not Python reads nothing that can be told."""
    try:
        tree = parsed(source)
    except UNREADABLE:
        return Reads()
    found = list(_found(tree))
    imports = dict.fromkeys(each for each in found if isinstance(each, Import))
    return Reads(tuple(imports), "dynamic" in found, "data" in found)


_DYNAMIC = frozenset(
    (
        *("spec_from_file_location", "spec_from_loader", "SourceFileLoader", "SourcelessFileLoader", "exec_module"),
        *("load_module", "load_source", "run_path", "run_module", "iter_modules", "walk_packages", "find_loader"),
    )
)
"""Names under which the standard library executes modules."""


_TELLING_NODES = (ast.Import, ast.ImportFrom, ast.Call, ast.Name, ast.Attribute)


def _found(tree: ast.Module) -> Iterator[Import | str]:
    """Imports, ``dynamic`` and ``data``, in the order of the tree."""
    nodes = [each for each in ast.walk(tree) if isinstance(each, _TELLING_NODES)]
    itself = {id(name) for node in nodes for name in _read_by_itself(node)}
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    for node in nodes:
        match node:
            case ast.Import():
                for alias in node.names:
                    yield from _imported(Import(0, alias.name))
            case ast.ImportFrom():
                yield from _imported(Import(node.level, node.module or "", tuple(each.name for each in node.names)))
                if any(each.name == "import_module" and each.asname for each in node.names):
                    yield "dynamic"
            case ast.Call(func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module")):
                yield _called(node)
            case ast.Name(id="__file__" | "__path__" | "__spec__"):
                if id(node) not in itself:
                    yield "data"
            case ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"):
                if id(node) not in called:
                    yield "dynamic"
            case ast.Name(id="exec") | ast.Attribute(value=ast.Name(id="sys"), attr="path"):
                yield "dynamic"
            case ast.Name(id=word) | ast.Attribute(attr=word):
                if word in _DYNAMIC:
                    yield "dynamic"
                elif word == "get_data":
                    yield "data"


def _imported(given: Import) -> Iterator[Import | str]:
    yield given
    if given.level:
        return
    names = {f"{given.name}.{each}" for each in given.names} | {given.name}
    if given.name in ("runpy", "imp") or names & {"sys.path", *(f"importlib.util.{each}" for each in _DYNAMIC)}:
        yield "dynamic"
    if any(each.partition(".")[2].startswith("resources") for each in names if each.startswith("importlib.")):
        yield "data"
    if given.name == "importlib_resources" or "pkgutil.get_data" in names:
        yield "data"
    if names & {f"pkgutil.{each}" for each in _DYNAMIC} or names & {f"importlib.machinery.{each}" for each in _DYNAMIC}:
        yield "dynamic"


def _called(call: ast.Call) -> Import | str:
    """The import that a call of ``import_module`` or ``__import__`` makes."""
    match call.args[:1]:
        case [ast.Constant(value=str(name))]:
            bare = name.lstrip(".")
            if any(each.arg == "level" for each in call.keywords) or len(call.args) > 4:
                return "dynamic"
            literals = [each.value for each in ast.walk(call) if isinstance(each, ast.Constant)]
            return Import(len(name) - len(bare), bare, tuple(each for each in literals if isinstance(each, str)))
    return "dynamic"


def _read_by_itself(node: ast.AST) -> Iterator[ast.AST]:
    """The ``__file__`` of a source file that reads its own text."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Call(args=[ast.Name(id="__file__") as name]), attr=attribute)):
            if attribute in ("read_bytes", "read_text"):
                yield name
        case ast.Call(func=ast.Name(id="open"), args=[ast.Name(id="__file__") as name, *_]):
            yield name


def exported(source: bytes) -> tuple[str, ...]:
    """The names in a source file's ``__all__``, as far as they are written there."""
    try:
        tree = parsed(source)
    except UNREADABLE:
        return ()
    given = [
        node
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign)
        and any(isinstance(each, ast.Name) and each.id == "__all__" for each in ast.walk(node))
    ]
    constants = [each for node in given for each in ast.walk(node) if isinstance(each, ast.Constant)]
    return tuple(each.value for each in constants if isinstance(each.value, str))


def dotted_names(tree: ast.AST) -> Iterator[tuple[str, ...]]:
    """Names in a syntax tree, each with the attributes that are read of it: ``("harness", "Defense")``."""
    left: list[ast.AST] = [tree]
    while left:
        node = left.pop()
        chain: list[str] = []
        while isinstance(node, ast.Attribute):
            chain.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            yield (node.id, *chain)
        else:
            left += ast.iter_child_nodes(node)
