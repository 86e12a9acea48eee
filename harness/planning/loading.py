"""Modules of plugin folders: how they are executed, and how they import modules of their own.

A plugin folder is never on Python's path, and two of them may have modules of one name. So each module is executed with
an ``__import__`` of its own, which looks into its folder first, and is kept under a name made of its path and of the
content of all that it imports there: an edited module is another module, and a process has one class of each plugin.

The name has no dot, since pickle imports the package of a dotted one. A process that unpickles a class of such a
module executes the module where it has not.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib
import re
import sys
from collections.abc import Sequence
from functools import cache
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import harness
from harness.errors import PluginError
from harness.planning import homes
from harness.planning.finding import not_found
from harness.planning.graph import make_id
from harness.planning.homes import Home, Located, Spot, content, covered, data_state, spot_in, walked

PREFIX = "harness_plugin_"


def builtin_folder() -> Path:
    """Folder of the built-in plugins: beside the package in a checkout, inside it in a wheel."""
    package = Path(harness.__file__).parent
    inside = package / "_builtin"
    return inside if inside.is_dir() else package.parent / "plugins"


def load_file(home: Home, file: Path) -> ModuleType:
    """The module of a plugin file, executed unless it was. Raises whatever its code raises."""
    beside = covered(home, file).imported
    for package in home.around(file.parent):  # as Python does; nobody needs those of a file that imports nothing of it
        if package.file in beside:
            _execute(home, package.file)
    return _execute(home, file)


def home_of_loaded(module: ModuleType) -> Home | None:
    """The home of a module that was loaded from a plugin folder; ``None`` of any other."""
    loader = getattr(module.__spec__, "loader", None)
    return loader.home if isinstance(loader, _Loader) else None


def forget() -> None:
    """Look at all files again: from now on an edited one is another module."""
    homes.forget()
    _name.cache_clear()


def _execute(home: Home, file: Path) -> ModuleType:
    """Execute a module once. All code of plugin folders that runs when it is imported runs in here."""
    if file.suffix != ".py":
        raise ImportError(
            f"{file} is compiled: a plugin folder holds .py files; install it as a package", name=file.stem
        )
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    try:
        return importlib.import_module(_name(home, file))
    except NameError as error:
        if error.name in evaluated_names(content(file)):
            raise PluginError(
                f"NameError: {error}, which an annotation names: import it outside `if TYPE_CHECKING:`, "
                "or begin the file with `from __future__ import annotations`"
            ) from error
        raise


@cache
def _name(home: Home, file: Path) -> str:
    """The name of a module in ``sys.modules``."""
    beside = covered(home, file)
    code = [(str(each), _digest(each)) for each in (file, *beside.imported)]
    where = make_id(home.roots if beside.imported else (), code)[:12]
    name = f"{PREFIX}{where}_{_plain(file)}"
    _KNOWN[name] = home, file
    # Not part of the name: a plugin may write beside itself, scripts beside it may be edited while it runs, and a
    # worker that starts later needs the same name.
    others = [*((each, _digest(each)) for each in beside.perhaps), *data_state(beside)]
    if _OTHERS.setdefault(name, others) != others:
        _OTHERS[name] = others
        sys.modules.pop(name, None)  # it may have read them when it was executed
    return name


def _digest(file: Path) -> str:
    return hashlib.sha256(content(file)).hexdigest()


def _plain(file: Path) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", file.stem)


_KNOWN: dict[str, tuple[Home, Path]] = {}
"""Modules by name. A process that only unpickles a class may not have asked for its module by file yet."""


_OTHERS: dict[str, list[tuple[Path, str]]] = {}
"""Files that each module may read, as they were when its name was asked for last."""


class _Finder:
    """Finds the modules of plugin folders by their names."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        if not name.startswith(PREFIX):
            return None
        home, file = _KNOWN.get(name) or _searched(name)
        spec = ModuleSpec(name, _Loader(name, home, file), origin=str(file), is_package=file.name == homes.INIT)
        spec.has_location = True
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(str(file.parent))
        return spec


_FINDER: Any = _Finder()


def _searched(name: str) -> tuple[Home, Path]:
    """The file of a module that another process has executed: one of the folders that are known here has it."""
    for home in {home: None for home, _ in [*_KNOWN.values()]}:
        for here, _, files in walked(home.roots[0]):
            for file in (here / each for each in files if each.endswith(".py")):
                if name.endswith("_" + _plain(file)) and _name(home, file) == name:
                    return home, file
    module = name.removeprefix(PREFIX).partition("_")[2]
    raise ModuleNotFoundError(
        f"the module {module!r} of a plugin folder is not here, or has another source than where the run was started: "
        "--plugins must name folders with the same files",
        name=name,
    )


class _Loader(SourceFileLoader):
    """Executes a module with an import of its own."""

    def __init__(self, name: str, home: Home, file: Path) -> None:
        super().__init__(name, str(file))
        self.home, self.file = home, file

    def get_code(self, fullname: str) -> CodeType | None:
        if b"\0" in content(self.file):
            raise PluginError("is not text in UTF-8: save it as UTF-8")
        if self.home.roots == (builtin_folder(),):
            return super().get_code(fullname)
        # Not Python's compiled file, which is taken for new when an edit leaves size and second of the source.
        return compile(content(self.file), str(self.file), "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        package = self.home.around(self.file.parent)[-1].file
        if package and package != self.file:
            module.__package__ = _name(self.home, package)
        vars(module)["__builtins__"] = vars(builtins) | {"__import__": _Importing(self.home, self.file)}
        code = self.get_code(module.__name__)
        assert code is not None
        exec(code, vars(module))


# --- imports of their own ---------------------------------------------------------------------------------------------


class _Importing:
    """The ``__import__`` of one module."""

    def __init__(self, home: Home, file: Path) -> None:
        self.home, self.file = home, file
        self.located: dict[tuple[int, str], Located | None] = {}
        self.spaces: dict[Path, ModuleType] = {}
        self.importlib = _Importlib(self.import_module)

    def __call__(
        self, name: str, globals: Any = None, locals: Any = None, fromlist: Sequence[str] | None = (), level: int = 0
    ) -> ModuleType:
        located = self._locate(level, name)
        if located is not None:
            top, leaf = self._modules(located, name)
            self._take(leaf, located.leaf, fromlist or ())
            return leaf if fromlist else top
        if level:
            raise ImportError(f"{self.file.name} imports {'.' * level}{name}, which is outside its plugin folder")
        module = self._installed(name, globals, locals, fromlist)
        return self.importlib if module is importlib else module

    def import_module(self, name: str, package: str | None = None) -> ModuleType:
        """Import a module by a computed name, from this module's own folder first."""
        bare = name.lstrip(".")
        located = self._locate(len(name) - len(bare), bare)
        return importlib.import_module(name, package) if located is None else self._modules(located, bare)[1]

    def _locate(self, level: int, name: str) -> Located | None:
        key = level, name
        if key not in self.located:
            self.located[key] = self.home.locate(self.file, level, name)
        return self.located[key]

    def _installed(self, name: str, globals: Any, locals: Any, fromlist: Sequence[str] | None) -> ModuleType:
        try:
            return builtins.__import__(name, globals, locals, fromlist or (), 0)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            raise self._missing(error.name) from None

    def _missing(self, name: str) -> ModuleNotFoundError:
        return ModuleNotFoundError(not_found(self.home, self.file, name), name=name)

    def _modules(self, located: Located, name: str) -> tuple[ModuleType, ModuleType]:
        """The first and the last module of a dotted name; all on the way are executed."""
        if located.missing:
            raise self._missing(name)
        module: ModuleType | None = None
        made = []
        for spot in (*located.around, *located.spots):
            parent, module = module, self._module(spot)
            if parent is not None:
                setattr(parent, _last(spot), module)
            made.append(module)
        return made[-max(1, len(located.spots))], made[-1]

    def _module(self, spot: Spot) -> ModuleType:
        if spot.file:
            return _execute(self.home, spot.file)
        assert spot.folder is not None
        if spot.folder not in self.spaces:
            self.spaces[spot.folder] = space = ModuleType(spot.folder.name)
            space.__path__ = [str(spot.folder)]
        return self.spaces[spot.folder]

    def _take(self, module: ModuleType, at: Spot, names: Sequence[str]) -> None:
        """Execute those of ``names`` that are modules of a package, and not something else that it defines."""
        if at.folder is None:
            return
        for name in [*names, *(getattr(module, "__all__", ()) if "*" in names else ())]:
            spot = spot_in(at.folder, name)
            if spot is not None and _is_module(vars(module).get(name), spot):
                setattr(module, name, self._module(spot))


def _last(spot: Spot) -> str:
    return spot.folder.name if spot.folder else spot.file.stem if spot.file else ""


def _is_module(held: object, spot: Spot) -> bool:
    """True unless a package's attribute is something else than the module in ``spot``, which may have been edited."""
    return held is None or (
        isinstance(held, ModuleType) and getattr(held, "__file__", None) == (spot.file and str(spot.file))
    )


class _Importlib(ModuleType):
    """Stands for ``importlib`` in a module of a plugin folder."""

    def __init__(self, import_module: Any) -> None:
        super().__init__("importlib")
        self.import_module = import_module

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib, name)


def evaluated_names(source: bytes) -> set[str]:
    """Names in the annotations of a source file, where Python evaluates them: not under the postponing import."""
    tree = ast.parse(source)
    if any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body):
        return set()
    annotated = [*(node for node in ast.walk(tree) if isinstance(node, ast.arg | ast.AnnAssign))]
    annotations = [node.annotation for node in annotated if node.annotation]
    annotations += [node.returns for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.returns]
    return {name.id for each in annotations for name in ast.walk(each) if isinstance(name, ast.Name)}
