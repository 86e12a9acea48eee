"""The arguments of :func:`harness.run` and :func:`harness.plan`: a matrix, the plugins that it names, and its plan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.contracts import Plugin
from harness.errors import UsageError
from harness.files import user_path
from harness.planning.narrowing import Narrowing, planned

if TYPE_CHECKING:
    from harness.api import Analyses, Attacks, Datasets, Defenses, Plugins, Seeds, Texts
    from harness.planning.content import Contents
    from harness.planning.graph import Kind, Plan
    from harness.planning.matrix import Chain, Matrix
    from harness.planning.registry import Registry


@dataclass(frozen=True)
class Asked:
    """A matrix as asked for, the registry that has its plugins, and its plan."""

    registry: Registry
    matrix: Matrix
    plan: Plan


def asked(
    matrix: str | Path | None,
    datasets: Datasets,
    defenses: Defenses,
    attacks: Attacks,
    analyses: Analyses,
    seeds: Seeds | None,
    nulls: int | None,
    innocents: bool,
    scale: str,
    plugins: Plugins,
    contents: Contents,
) -> Asked:
    """Plan the matrix that the arguments of a run ask for. Raises :class:`harness.UsageError`."""
    from harness.planning.graph import source_digest
    from harness.planning.live import register
    from harness.planning.registry import load_registry

    source_digest.cache_clear()  # in a long session files are edited between two calls
    classes = [each for each in each_of(plugins) if isinstance(each, type)]
    axes = {
        "datasets": _axis("dataset", datasets, classes),
        "defenses": _axis("defense", defenses, classes),
        "attacks": _axis("attack", attacks, classes),
        "analyses": _axis("analysis", analyses, classes),
    }
    registry = load_registry(folders(plugins))
    for warning in (*(f"plugin not loaded: {problem}" for problem in registry.problems), *registry.warnings):
        contents.warn(warning)
    register(registry, classes)
    registry.contents = contents
    narrowing = Narrowing(scale=scale, **axes, seeds=_seeds(seeds), nulls=_nulls(nulls), innocents=innocents)
    made = narrowing.of(None if matrix is None else str(matrix))
    return Asked(registry, made, planned(registry, made))


def _axis(kind: Kind, given: Any, classes: list[type[Plugin]]) -> tuple[str | Chain, ...]:
    """The chains of one axis; classes of entries that are not text are added to ``classes``."""
    chains: list[str | Chain] = []
    for each in each_of(given):
        if isinstance(each, str):
            chains.append(each)
        elif isinstance(each, tuple | list):
            if kind != "attack" or not each:
                raise UsageError(f"{kind}: {each!r} is a chain: only attacks chain, and of at least one")
            chains.append(tuple(link for part in each for link in _links(kind, part, classes)))
        else:
            chains.append(_links(kind, each, classes))
    return tuple(chains)


def _links(kind: Kind, given: object, classes: list[type[Plugin]]) -> Chain:
    from harness.planning.live import entry_of
    from harness.planning.matrix import parse_chain
    from harness.planning.registry import kind_of

    if isinstance(given, str):
        return parse_chain(given)
    entry, cls = entry_of(given)
    if (found := kind_of(cls)) != kind:
        raise UsageError(f"{cls.__qualname__} is a plugin of kind {found}, where {kind} is expected")
    classes.append(cls)
    return (entry,)


def each_of(given: Any) -> list[Any]:
    """Things given as one alone, or as an iterable."""
    if isinstance(given, str | Path | Plugin | type):
        return [given]
    if isinstance(given, Iterable):
        return list(given)
    raise UsageError(f"expected a name, a plugin class or object, or a list of these, not {given!r}")


def texts(given: Texts) -> tuple[str, ...]:
    return tuple(map(str, each_of(given)))


def folders(plugins: Plugins) -> tuple[Path, ...]:
    return tuple(user_path(each) for each in each_of(plugins) if not isinstance(each, type))


def _seeds(seeds: Seeds | None) -> str | None:
    """Seeds as the command line writes them, which checks them."""
    if seeds is None or isinstance(seeds, str):
        return seeds
    return ",".join(map(str, [seeds] if not isinstance(seeds, Iterable) else seeds))


def _nulls(nulls: int | None) -> int | None:
    from harness.planning.matrix import MAX_NULLS

    if nulls is not None and (isinstance(nulls, bool) or not isinstance(nulls, int) or not 0 <= nulls <= MAX_NULLS):
        raise UsageError(f"nulls: expected a whole number from 0 to {MAX_NULLS}, not {nulls!r}")
    return nulls
