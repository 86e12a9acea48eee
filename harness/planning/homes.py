"""The modules that are a plugin's own: those of its plugin folder, or of the package that it was installed with.

One set of rules finds them for running them (:mod:`harness.planning.loading`) and for the digest of what a plugin does
(:mod:`harness.planning.sources`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from harness.planning.syntax import Import, Reads, exported, may_read, reads

INIT = "__init__.py"
_SHARED = ("site-packages", "dist-packages")
_FOREIGN = frozenset(("build", "dist", "node_modules", "__pycache__", *_SHARED))


class Spot(NamedTuple):
    """A place where Python finds a module: its file, and the folder of its submodules; one of both may be missing."""

    file: Path | None
    folder: Path | None


class Located(NamedTuple):
    """The modules that an import runs: packages that the importer itself lies in, then those of the dotted name."""

    around: tuple[Spot, ...]
    spots: tuple[Spot, ...]
    missing: str = ""
    """The first part of the name that is not there."""

    @property
    def leaf(self) -> Spot:
        """The module that is named, or the package that a relative import without a name means."""
        return self.spots[-1] if self.spots else self.around[-1]

    @property
    def files(self) -> Iterator[Path]:
        """Files of code, in the order in which they run."""
        yield from (spot.file for spot in (*self.around, *self.spots) if spot.file)


@dataclass(frozen=True)
class Home:
    """Folders whose modules are a plugin's own."""

    roots: tuple[Path, ...]
    """The plugin folder; or the folders that hold an installed package, of which a namespace package has several."""
    names: frozenset[str] | None = None
    """Names of its own at the top of these folders; ``None`` for all that are there."""
    nested: bool = False
    """True if an import also looks beside the file, and in each folder above it: a plugin folder is on no path."""

    def locate(self, file: Path, level: int, name: str) -> Located | None:
        """The modules that an import in ``file`` means; ``None`` if they are not its own."""
        parts = tuple(name.split(".")) if name else ()
        if level:
            return self._relative(file, level, parts)
        if not self._may_own(parts[0]):
            return None
        found = [(folder, spot) for folder in self.searched(file) if (spot := spot_in(folder, parts[0]))]
        # A folder without code is a package for Python where nothing else has its name.
        regular = [each for each in found if each[1].file] or (found if found and not _installed(parts[0]) else [])
        return _walked((), regular[0][0], parts) if regular else None

    def _may_own(self, name: str) -> bool:
        taken = name == "harness" or name in sys.stdlib_module_names
        return not taken and (self.names is None or name in self.names)

    def searched(self, file: Path) -> Iterable[Path]:
        """The folders of an absolute import, nearest first; those that are packages last, as they are on no path."""
        if not self.nested:
            return self.roots
        above = [folder for folder in file.parents if self.root_of(folder)]
        return sorted(above, key=lambda folder: INIT in names_in(folder))

    def _relative(self, file: Path, level: int, parts: tuple[str, ...]) -> Located | None:
        base = file.parents[level - 1] if level <= len(file.parents) else None
        root = base and self.root_of(base)
        if base is None or root is None:
            return None
        bases = [base, *(each / base.relative_to(root) for each in self.roots if each != root)]
        holding = [each for each in bases if parts and spot_in(each, parts[0])]
        base = holding[0] if holding else base
        return _walked(self.around(base), base, parts)

    def around(self, folder: Path) -> tuple[Spot, ...]:
        """The packages that ``folder`` is or lies in, outermost first; at least the folder itself."""
        packages = [Spot(folder / INIT if INIT in names_in(folder) else None, folder)]
        while packages[0].file and packages[0].folder and self.root_of(packages[0].folder.parent):
            above = packages[0].folder.parent
            if INIT not in names_in(above):
                break
            packages.insert(0, Spot(above / INIT, above))
        return tuple(packages)

    def root_of(self, folder: Path) -> Path | None:
        """The root that ``folder`` is or lies in."""
        return next((root for root in self.roots if folder == root or root in folder.parents), None)


def _walked(around: tuple[Spot, ...], base: Path, parts: tuple[str, ...]) -> Located:
    spots: list[Spot] = []
    folder: Path | None = base
    for part in parts:
        spot = spot_in(folder, part) if folder else None
        if spot is None:
            return Located(around, tuple(spots), part)
        spots.append(spot)
        folder = spot.folder
    return Located(around, tuple(spots))


def spot_in(folder: Path, name: str) -> Spot | None:
    """The module ``name`` in a folder, as Python prefers: a package, a compiled module, a file, a bare folder."""
    names = names_in(folder)
    if name in names and INIT in names_in(folder / name):
        return Spot(folder / name / INIT, folder / name)
    for suffix in (*EXTENSION_SUFFIXES, ".py"):
        if name + suffix in names:
            return Spot(folder / (name + suffix), None)
    if name in names and name.isidentifier() and (folder / name).is_dir():
        return Spot(None, folder / name)
    return None


@cache
def names_in(folder: Path) -> frozenset[str]:
    """The names in a folder; none where it is not a folder, or cannot be read."""
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208 - names, without a Path for each
    except OSError:
        return frozenset()


@cache
def _installed(name: str) -> bool:
    """True if ``import name`` finds more than a bare folder anyway."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


# --- walking ----------------------------------------------------------------------------------------------------------


def is_foreign(folder: Path, name: str) -> bool:
    """True for a folder in ``folder`` that holds other people's or generated files, such as a virtual environment."""
    if name.startswith(".") or name in _FOREIGN or name.endswith(".egg-info"):
        return True
    inside = folder / name
    return (inside / "pyvenv.cfg").exists() or (inside / "conda-meta").exists()


def walked(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Each folder below ``root`` that is not foreign, with its folders, which the caller may prune, and its files.

    Both are sorted. Links to folders are not followed, so there are no loops.
    """
    for place, folders, files in os.walk(root):
        here = Path(place)
        folders[:] = sorted(name for name in folders if not is_foreign(here, name))
        yield here, folders, sorted(files)


# --- what belongs together --------------------------------------------------------------------------------------------

MOST_BYTES = 64 * 1024**2
"""Size up to which data files beside a plugin are read; of more than that names and sizes count."""
_MOST_FILES = 10_000


class Covered(NamedTuple):
    """Files beside a plugin's own that decide what it does."""

    imported: tuple[Path, ...] = ()
    """Modules that it imports, directly or not, as its text tells."""
    perhaps: tuple[Path, ...] = ()
    """Other modules, which it may execute by a name that it computes."""
    data: tuple[Path, ...] = ()

    @property
    def too_large(self) -> bool:
        """True where the data are too large to be read."""
        return len(self.data) >= _MOST_FILES or sum(size_of(file) for file in self.data) > MOST_BYTES


@cache
def covered(home: Home, file: Path) -> Covered:
    """Files that decide, beside itself, what the module in ``file`` does."""
    inits = [] if home.nested else [spot.file for spot in home.around(file.parent) if spot.file]
    imported = _followed(home, [file, *inits])
    computed = [each for reader in imported if _reads(home, reader).dynamic for each in _all_code(home, reader)]
    reached = _followed(home, [*imported, *computed]) if computed else imported
    data = {each for reader in reached if _reads(home, reader).data for each in _all_data(home, reader)}
    return Covered(
        tuple(sorted(imported.keys() - {file})), tuple(sorted(reached.keys() - imported.keys())), tuple(sorted(data))
    )


def _followed(home: Home, files: Iterable[Path]) -> dict[Path, None]:
    """Files, and all that they import, directly or not."""
    seen = dict.fromkeys(files)
    left = list(seen)
    while left:
        new = [each for each in _imported(home, left.pop()) if each not in seen]
        left += new
        seen.update(dict.fromkeys(new))
    return seen


@cache
def content(file: Path) -> bytes:
    """The bytes of a file; none where it cannot be read."""
    try:
        return file.read_bytes()
    except OSError:
        return b""


def data_state(found: Covered) -> list[tuple[Path, str]]:
    """Each data file with the digest of its bytes; with its size, where they are too large to be read."""
    if found.too_large:
        return [(file, str(size_of(file))) for file in found.data]
    return [(file, hashlib.sha256(content(file)).hexdigest()[:16]) for file in found.data]


def size_of(file: Path) -> int:
    """The size of a file in bytes; 0 where it is gone."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def forget() -> None:
    """Read all files again when they are asked for next."""
    for known in (names_in, _installed, _reads, _imported, covered, content, _stems):
        known.cache_clear()


@cache
def _reads(home: Home, file: Path) -> Reads:
    source = content(file) if file.suffix == ".py" else b""
    return reads(source) if may_read(source, _stems(home, file.parent)) else Reads()


@cache
def _stems(home: Home, folder: Path) -> frozenset[str]:
    """The first parts of names that a file in ``folder`` may import from its home."""
    if home.names is not None:
        return home.names
    return frozenset(name.partition(".")[0] for each in home.searched(folder / INIT) for name in names_in(each))


@cache
def _imported(home: Home, file: Path) -> tuple[Path, ...]:
    found: dict[Path, None] = {}
    for each in _reads(home, file).imports:
        located = home.locate(file, each.level, each.name)
        if located is not None:
            found.update(dict.fromkeys((*located.files, *_taken(located.leaf, each))))
    return tuple(found)


def _taken(leaf: Spot, given: Import) -> Iterator[Path]:
    """The modules among the names that an import takes from a package."""
    if leaf.folder:
        names = [*given.names, *(exported(content(leaf.file)) if "*" in given.names and leaf.file else ())]
        spots = (spot_in(leaf.folder, name) for name in names)
        yield from (spot.file for spot in spots if spot and spot.file)


def _all_code(home: Home, file: Path) -> Iterator[Path]:
    """Every Python file that ``file`` may execute by a name that it computes."""
    package = _package(home, file)
    root = home.roots[0] if home.nested else package
    if root:
        yield from (here / name for here, _, files in walked(root) for name in files if name.endswith(".py"))
    elif home.names is None:
        yield from (file.parent / name for name in sorted(names_in(file.parent)) if name.endswith(".py"))


def _all_data(home: Home, file: Path) -> Iterator[Path]:
    """Every data file below the package that ``file`` lies in, or else its folder: so many at most."""
    root = _package(home, file) or (file.parent if home.names is None else None)
    return islice(_data_below(root), _MOST_FILES) if root else iter(())


def _data_below(root: Path) -> Iterator[Path]:
    for here, folders, files in walked(root):
        if "format.json" in files and {"artifacts", "tables"} & {*folders}:  # a results folder
            folders.clear()
            continue
        yield from (here / name for name in files if _is_data(name))


_NO_DATA = frozenset(
    (
        *(".py", ".pyc", ".pyo", ".pyi", ".so", ".pyd", ".ipynb"),
        *(".log", ".out", ".err", ".pid", ".lock", ".tmp", ".part", ".bak", ".orig", ".swp", ".md", ".rst"),
    )
)
"""Endings of code, of what programs leave where they run, and of texts for people."""


def _is_data(name: str) -> bool:
    """True for a file that has the name of data: with an ending, and one that tells of nothing else."""
    ending = os.path.splitext(name)[1].lower()  # noqa: PTH122 - ten times as fast as a Path
    return bool(ending) and ending not in _NO_DATA and not name.startswith(".") and not name.endswith("~")


def _package(home: Home, file: Path) -> Path | None:
    """The outermost package that a file lies in."""
    first = home.around(file.parent)[0]
    if first.file:
        return first.folder
    inside = [folder for folder in file.parents if home.root_of(folder) not in (None, folder)]
    return inside[-1] if inside and not home.nested else None  # a package without __init__.py


# --- of imported modules ----------------------------------------------------------------------------------------------


def home_of(module: ModuleType, more: Iterable[str] = ()) -> Home | None:
    """The home of a module that Python's own import found; ``None`` of one without a file, and of the harness's own.

    ``more`` are top-level names of the distribution that it belongs to.
    """
    file, top = getattr(module, "__file__", None), module.__name__.partition(".")[0]
    if not file or top == "harness":
        return None
    within = "." in module.__name__ or hasattr(module, "__path__")
    return _home(top, (getattr(sys.modules.get(top), "__path__", None) if within else None) or [file], more)


def home_of_name(name: str) -> Home | None:
    """The home of a package or module that an import by its top-level name finds; ``None`` where there is none."""
    try:
        spec = importlib.util.find_spec(name) if name else None
    except (ImportError, ValueError):
        spec = None
    places = spec and (spec.submodule_search_locations or ([str(spec.origin)] if spec.has_location else None))
    return _home(name, places, ()) if places else None


def _home(top: str, places: Iterable[Any], more: Iterable[str]) -> Home:
    roots = tuple(dict.fromkeys(Path(each).parent for each in places))
    return Home(roots, frozenset((top, *more)) if any(map(_is_shared, roots)) else None)


def _is_shared(root: Path) -> bool:
    """True for a folder that holds packages of several distributions."""
    if root.name in _SHARED or root in (Path(os.__file__).parent, Path(sys.prefix), Path(sys.base_prefix)):
        return True
    return sum(name.endswith(".dist-info") for name in names_in(root)) > 1
