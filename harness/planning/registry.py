"""Finds plugins, checks them, and turns an entry such as ``ewe[weight=64]`` into a plugin object.

Built-ins, folders that the user names, and installed packages (entry points of group ``harness``) take one path. A
plugin of these that is broken stops no other: it becomes a :class:`Problem`, and is named when somebody asks for it.
"""

from __future__ import annotations

import inspect
import os
import re
import types
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, get_args, get_origin

import pluggy

from harness import hookspecs
from harness.contracts import Dataset, Family, InputSet, Knowledge, Plugin, Protected
from harness.errors import PluginError, UnknownName, UsageError
from harness.fields import required_options
from harness.files import user_path
from harness.isolation import Guard, Interrupted, describe_error
from harness.planning.content import Contents, refuse_twice
from harness.planning.finding import no_plugin, plugin_files
from harness.planning.graph import KINDS, Component, Kind, describe, source_digest
from harness.planning.homes import Home
from harness.planning.lazy import absent_allowed, lazy_module
from harness.planning.loading import builtin_folder, load_file
from harness.planning.matrix import MAX_CELLS, Chain, Entry, Matrix, expand, parse_entry
from harness.planning.options import check_fields, construct, resolved_types
from harness.planning.sources import came_with, digest_of, digest_of_files, forget, unread_data
from harness.text import command_line

ENTRY_POINTS = "harness"


@dataclass(frozen=True)
class PluginInfo:
    """A plugin class, where it came from, and the digest of its source."""

    kind: Kind
    cls: type[Plugin]
    origin: str
    digest: str

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.cls) or "").partition("\n")[0]


@dataclass(frozen=True)
class Problem:
    """A plugin that could not be used, and the reason."""

    origin: str
    reason: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.reason}"


@dataclass
class Registry:
    """The plugins of one process, by kind and name."""

    found: dict[tuple[Kind, str], PluginInfo] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    contents: Contents | None = None
    """The content of data sets, for plans; ``None`` leaves it out of what addresses a component."""
    warnings: list[str] = field(default_factory=list)
    """Sentences on what plugins changed in the process while they were loaded."""
    named: dict[str, Entry] = field(default_factory=dict)
    """Names that a matrix file gives to data sets: see :meth:`name`."""
    _components: dict[tuple[Kind, str], Component] = field(default_factory=dict)

    def names(self, kind: Kind) -> list[str]:
        """The names of one kind, sorted."""
        return sorted(name for known, name in self.found if known == kind)

    def name(self, names: Iterable[tuple[str, Entry]]) -> None:
        """Have these names stand for data sets, and no others. Raises :class:`UsageError` for one that is taken."""
        self.named = dict(names)
        self._components = {key: use for key, use in self._components.items() if not use.stands_for}
        for name, entry in self.named.items():
            if taken := self.found.get(("dataset", name)):
                raise UsageError(
                    f"[datasets.{name}] is the name of a data set already ({taken.origin}): give {entry} another name"
                )

    def component(self, kind: Kind, entry: Entry | str) -> Component:
        """The plugin that ``entry`` asks for, its options checked. Raises :class:`harness.UsageError`."""
        entry = parse_entry(entry) if isinstance(entry, str) else entry
        key = (kind, repr(entry))  # not the entry itself, to which `true` and 1 would be the same
        if key not in self._components:
            named = self.named.get(entry.name) if kind == "dataset" else None
            use = self._named(entry, named) if named else self._constructed(kind, entry)
            of_data = self.contents and isinstance(use.plugin, InputSet)
            content = self.contents.of(use.text, use.plugin) if self.contents and of_data else ""
            self._components[key] = replace(use, digest=f"{use.digest}:{content}") if content else use
        return self._components[key]

    def _constructed(self, kind: Kind, entry: Entry) -> Component:
        """The component, without the content of a data set."""
        found = self.found.get((kind, entry.name))
        if found is None:
            error = UnknownName(kind, entry.name, [*self.names(kind), *(self.named if kind == "dataset" else ())])
            broken = "".join(f"; not loaded: {problem}" for problem in self.problems)
            raise UsageError(f"{error}{broken}") if broken else error
        plugin = construct(found.cls, entry)
        options = describe(plugin)
        text = f"{entry.name}[{options}]" if options else entry.name
        if isinstance(plugin, Dataset):
            self.component("architecture", plugin.architecture)
        digest = found.digest + digest_of_files(plugin.named_files(), must_exist=self.contents is not None)
        return Component(kind, text, digest, plugin)

    def _named(self, entry: Entry, named: Entry) -> Component:
        """The data set that a name stands for, with the options of ``entry`` instead of its own."""
        use = self._constructed("dataset", named.changed(entry.options))
        options = describe(use.plugin, construct(type(use.plugin), named))
        return replace(use, text=f"{entry.name}[{options}]" if options else entry.name, stands_for=use.text)

    def components(self, kind: Kind, entries: Iterable[Entry]) -> list[Component]:
        """The plugins of entries and globs with their options, each once, in order."""
        made: dict[Component, None] = {}
        for entry in entries:
            expanded = expand(entry, self.names(kind))
            if not expanded:
                raise UnknownName(kind, entry.name, self.names(kind))
            bare_glob = entry.is_glob and not entry.options
            for each in expanded:
                arms = self.arms(kind, each.name) if bare_glob else [each]
                made.update(dict.fromkeys(self.component(kind, arm) for arm in arms))
        return list(made)

    def arms(self, kind: Kind, name: str) -> list[Entry]:
        """The option sets that a bare glob expands to where it finds the plugin ``name``."""
        return [parse_entry(f"{name}[{options}]" if options else name) for options in self.found[kind, name].cls.arms]

    def chains(self, chains: Iterable[Chain]) -> list[tuple[Component, ...]]:
        """The links of attack chains, each chain once, in order; a glob may stand alone, not inside a chain."""
        made: dict[tuple[Component, ...], None] = {}
        for chain in chains:
            if len(chain) == 1:
                made.update(dict.fromkeys((use,) for use in self.components("attack", chain)))
            else:
                made[tuple(self.component("attack", link) for link in chain)] = None
        return list(made)


@dataclass(frozen=True)
class Resolved:
    """A matrix's axes, every name and option checked."""

    datasets: list[Component]
    defenses: list[Component]
    chains: list[tuple[Component, ...]]
    analyses: list[Component]


def resolve(registry: Registry, matrix: Matrix) -> Resolved:
    """Resolve a matrix's datasets, defenses, attack chains and analyses.

    Raises :class:`UsageError`, also for more cells than can be planned.
    """
    registry.name(matrix.names)
    datasets = registry.components("dataset", matrix.datasets)
    refuse_twice(datasets)
    for use in datasets:
        if not isinstance(use.plugin, Dataset):
            raise UsageError(
                f"{use} is a set of inputs to draw from, not a task to train on: name it as ood={use} of a dataset, "
                "or as pool= of an attack"
            )
    innocents = registry.components("defense", matrix.innocents)
    for use in innocents:
        if not use.plugin.innocent:
            raise UsageError(f"innocents: {use} marks its models: name it among the defenses")
    resolved = Resolved(
        datasets,
        list(dict.fromkeys([*registry.components("defense", matrix.defenses), *innocents])),
        registry.chains(matrix.attacks),
        registry.components("analysis", matrix.analyses),
    )
    cells = len(datasets) * len(resolved.defenses) * len(resolved.chains) * len(matrix.seeds)
    if cells * max(1, matrix.nulls) > MAX_CELLS:
        raise UsageError(
            f"the matrix has {cells:,} cells of {matrix.nulls:,} null models: of both together at most {MAX_CELLS:,}"
        )
    return resolved


# --- finding ----------------------------------------------------------------------------------------------------------


def plugin_folders(named: Sequence[Path] = ()) -> list[Path]:
    """The folders that the user named: the given ones, then those of ``HARNESS_PLUGINS``, each once. All must exist."""
    folders = [
        *map(user_path, named),
        *(user_path(p) for p in os.environ.get("HARNESS_PLUGINS", "").split(os.pathsep) if p),
    ]
    for folder in folders:
        if folder.is_file():
            raise UsageError(f"{str(folder)!r} is a file: name its folder, {_named(folder.parent)}")
        if not folder.is_dir():
            raise UsageError(
                f"no plugin folder {str(folder)!r}: --plugins and HARNESS_PLUGINS name folders of .py files"
            )
    return list({folder.resolve(): folder for folder in folders}.values())


def _named(folder: Path) -> str:
    """The option that names a plugin folder, for a shell."""
    return command_line(plugins=[folder]).removeprefix("harness ")


OF_DATA = ("torchvision", "torchaudio")
"""Modules that built-in data sets alone use: a machine whose data are there already need not have them."""


def load_registry(named: Sequence[Path] = ()) -> Registry:
    """All plugins: built-in, of the named folders and ``HARNESS_PLUGINS``, and of installed packages.

    Raises :class:`PluginError` when a built-in is broken; what is wrong with any other is in ``problems``.
    """
    forget()
    source_digest.cache_clear()
    lazy_module("torch")
    for heavy in OF_DATA:
        with suppress(ModuleNotFoundError):
            lazy_module(heavy)
    registry = Registry()
    loader = _Loader(registry)
    with absent_allowed(*OF_DATA):
        loader.folder(builtin_folder(), "built-in")
    if registry.problems:
        raise PluginError(f"a built-in plugin is broken: {registry.problems[0]}")
    for folder in plugin_folders(named):
        loader.folder(folder, str(folder))
    for point in entry_points(group=ENTRY_POINTS):
        loader.entry_point(point)
    return registry


class _Loader:
    """Loads modules one by one into a registry."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.guard: Guard | None = None
        """The guard of the call before."""
        self.manager = pluggy.PluginManager("harness")
        self.manager.add_hookspecs(hookspecs)

    def folder(self, folder: Path, origin: str) -> None:
        """Load the files of a folder that define plugins. All are executed before the first is registered, so that a
        class which others only derive from is known to be no plugin.
        """
        home = Home((folder.resolve(),), nested=True)
        files = list(plugin_files(home))
        names = [f"{origin}: {file.relative_to(home.roots[0])}" for file, _ in files]
        loaded = [
            wrong or self._executed(name, partial(load_file, home, file))
            for name, (file, wrong) in zip(names, files, strict=True)
        ]
        derived = {base for each in loaded for cls in _plugins_in(each) for base in cls.__mro__[1:]}
        for name, each in zip(names, loaded, strict=True):
            self._register(name, each, derived)

    def entry_point(self, point: Any) -> None:
        """Load the module that an installed package names."""
        package = point.dist.name if point.dist else "?"
        if point.dist:
            came_with(point.dist, point.module)
        origin = f"package {package}: {point.value}"
        self._register(origin, self._executed(origin, point.load), may_be_empty=False)

    def _executed(self, origin: str, load: Callable[[], Any]) -> Any:
        """A loaded module; or the error that loading it raised. All top-level code of plugins runs in here: it may
        raise anything, and leave in any way.
        """
        try:
            with self._guarded(origin):
                return load()
        except Interrupted:
            raise
        except BaseException as error:
            return error

    @contextmanager
    def _guarded(self, origin: str) -> Iterator[None]:
        """Put back what a plugin changes in the process, and note it."""
        self.guard = Guard(after=self.guard)
        try:
            with self.guard:
                yield
        finally:
            self.registry.warnings += self.guard.warnings(f"loading {origin}")

    def _register(self, origin: str, loaded: Any, derived: Set[type] = frozenset(), may_be_empty: bool = True) -> None:
        """Register one module; whatever goes wrong is written down, and nothing of it stays registered.

        ``derived`` are classes that plugins of other modules derive from.
        """
        try:
            if isinstance(loaded, BaseException):
                raise loaded
            with self._guarded(origin):
                self.manager.register(loaded, name=origin)
                found = self._found(loaded, origin, derived)
            if not (found or may_be_empty):
                raise PluginError(
                    "registers nothing: define a plugin class in it, or harness_plugins() under @hookimpl"
                )
        except Interrupted:
            raise
        except BaseException as error:  # an untrusted module's hook may raise anything, and leave in any way
            if not isinstance(loaded, BaseException) and self.manager.is_registered(loaded):
                self.manager.unregister(loaded)
            reason = str(error) if isinstance(error, PluginError) else describe_error(error, at_import=True)
            self.registry.problems.append(Problem(origin, " ".join(reason.split())))
        else:
            self.registry.found.update(found)

    def _found(self, module: Any, origin: str, derived: Set[type]) -> dict[tuple[Kind, str], PluginInfo]:
        """The plugins of a module, checked, by kind and name."""
        found: dict[tuple[Kind, str], PluginInfo] = {}
        for cls, kind in self._classes(module, derived):
            info = plugin_info(cls, origin, kind)
            key = (info.kind, info.cls.name)
            if taken := self.registry.found.get(key) or found.get(key):
                raise PluginError(f"{info.kind} {info.cls.name!r} exists already ({taken.origin})")
            found[key] = info
            if (warning := unread_data(cls)) and warning not in self.registry.warnings:
                self.registry.warnings.append(warning)
        return found

    def _classes(self, module: Any, derived: Set[type]) -> Iterator[tuple[Any, Kind | None]]:
        """The classes that a module's hooks name, with the kind that a hook is for; without hooks, those it defines."""
        hooks = self._hooks(module)
        if not hooks:
            yield from ((cls, None) for cls in defined_plugins(module, derived))
        for hook in hooks:
            classes = getattr(module, hook)()
            if not isinstance(classes, Iterable):
                raise PluginError(f"{hook}() must return a list of classes, not {classes!r}")
            yield from ((cls, _HOOKS[hook]) for cls in classes)

    def _hooks(self, module: Any) -> list[str]:
        """The hooks of a module, sorted. Raises :class:`PluginError` for one that is misspelt or not marked."""
        marked = {caller.name for caller in self.manager.get_hookcallers(module) or ()}
        # What pluggy's check_pending() finds, with the name that was meant; and what it cannot know of.
        alike = {name for name, value in vars(module).items() if name.startswith("harness_") and callable(value)}
        misspelt = sorted((marked or alike) - set(_HOOKS))
        if misspelt:
            raise PluginError(str(UnknownName("hook", misspelt[0], _HOOKS)))
        unmarked = sorted((alike & set(_HOOKS)) - marked)
        if unmarked:
            raise PluginError(f"{unmarked[0]}() is not marked: put @hookimpl above it")
        return sorted(marked)


_HOOKS: dict[str, Kind | None] = {
    "harness_plugins": None,
    "harness_datasets": "dataset",
    "harness_defenses": "defense",
    "harness_attacks": "attack",
    "harness_architectures": "architecture",
    "harness_analyses": "analysis",
}


def _plugins_in(module: Any) -> list[type[Plugin]]:
    """The plugin classes that a module defines."""
    values = vars(module).values() if isinstance(module, types.ModuleType) else ()
    defined = (each for each in values if isinstance(each, type) and each.__module__ == module.__name__)
    return [cls for cls in defined if issubclass(cls, Plugin)]


def defined_plugins(module: types.ModuleType, derived: Set[type] = frozenset()) -> list[type[Plugin]]:
    """The plugins that a module without hooks defines: its public plugin classes, but those that only serve as a base.

    ``derived`` are classes that plugins of other modules derive from.

    Raises :class:`PluginError` where a class looks like a plugin and derives from none.
    """
    defined = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__
    }
    plugins = _plugins_in(module)
    bases = {*derived, *(base for cls in plugins for base in cls.__mro__[1:])}
    unfinished = {cls for cls in plugins if cls in bases and (cls.__abstractmethods__ or not hasattr(cls, "name"))}
    public = dict.fromkeys(cls for name, cls in defined.items() if not name.startswith("_"))
    if not plugins and any(isinstance(value, type) and issubclass(value, Plugin) for value in vars(module).values()):
        for cls in public:
            if isinstance(getattr(cls, "name", None), str):
                raise PluginError(no_plugin(getattr(cls, "__name__", cls)))
    meant = [cls for cls in public if cls in plugins and cls not in unfinished]
    for cls in meant:
        if cls.__abstractmethods__:
            raise PluginError(
                f"{cls.__name__} does not implement {_missing(cls)}: "
                "implement it, or begin the name of a base class with an underscore"
            )
    return meant


def _missing(cls: type[Plugin]) -> str:
    return ", ".join(sorted(cls.__abstractmethods__))


# --- checking ---------------------------------------------------------------------------------------------------------


def kind_of(cls: type[Plugin]) -> Kind:
    """The kind of a plugin class, which follows from the class that it derives from. Raises :class:`PluginError`."""
    for kind, base in KINDS.items():
        if isinstance(cls, type) and issubclass(cls, base):
            return kind
    raise PluginError(no_plugin(getattr(cls, "__name__", cls)))


def plugin_info(cls: type[Plugin], origin: str, kind: Kind | None = None) -> PluginInfo:
    """A plugin class as the registry holds it, checked. Raises :class:`PluginError`."""
    kind = kind or kind_of(cls)
    check_class(cls, kind)
    return PluginInfo(kind, cls, origin, digest_of(cls))


_WORDS: dict[tuple[Kind, str], tuple[str, ...]] = {
    ("attack", "family"): get_args(Family),
    ("attack", "knows"): get_args(Knowledge),
    ("defense", "protects"): get_args(Protected),
}
"""Words that a class may declare: one of them, and in ``protects`` some of them."""


def _check_words(cls: type[Plugin], kind: Kind) -> None:
    """Raise :class:`PluginError` where a class declares a word that the contract does not have."""
    for (of, name), known in _WORDS.items():
        if of != kind or not hasattr(cls, name):  # an attack without a pool knows nothing
            continue
        value = getattr(cls, name)
        several = name == "protects"
        if several and (not isinstance(value, tuple) or not value):
            raise PluginError(
                f"{cls.__name__}.{name} must be a tuple of {' and '.join(map(repr, known))}, not {value!r}"
            )
        for word in value if several else (value,):
            if word not in known:
                raise PluginError(f"{cls.__name__}.{name}: {UnknownName('word', str(word), known)}")


def check_class(cls: Any, kind: Kind) -> None:
    """Raise :class:`PluginError` unless ``cls`` is a plugin class of ``kind`` that can be constructed from text."""
    base = KINDS[kind]
    if not isinstance(cls, type) or not issubclass(cls, base):
        article = "an" if kind.startswith("a") else "a"
        name = getattr(cls, "__name__", cls)
        raise PluginError(f"{name!r} is not {article} {kind}: derive it from harness.{base.__name__}")
    where = cls.__name__
    if cls.__abstractmethods__:
        raise PluginError(f"{where} does not implement {_missing(cls)}")
    hints = resolved_types(cls)
    unset = [n for n, hint in hints.items() if get_origin(hint) is ClassVar and not hasattr(cls, n)]
    if unset:
        raise PluginError(f"{where} does not set {', '.join(unset)}")
    name = cls.name
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise PluginError(f"{where}.name must be lower-case letters, digits, '-', '_' and '.', not {name!r}")
    _check_words(cls, kind)
    check_fields(cls, where, hints)
    if required_options(cls):
        return
    try:
        cls()
    except Exception as error:
        raise PluginError(f"{where}() refuses its own defaults: {error}") from error
