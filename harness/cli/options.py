"""Options that several commands share by name, and what they make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import click

if TYPE_CHECKING:
    from harness.inspect.status import Survey
    from harness.planning.graph import Plan
    from harness.planning.matrix import Matrix
    from harness.planning.registry import Registry
    from harness.ranking.scoring import Rules
    from harness.storage.store import Store
    from harness.storage.tables import Tables

F = TypeVar("F", bound=Callable[..., Any])

results_option = click.option(
    "--results",
    metavar="DIR|URL",
    default="results",
    show_default=True,
    help="Folder of artifacts and tables: here, or where fsspec reaches, such as s3://bucket/folder.",
)
plugins_option = click.option(
    "--plugins",
    "plugin_folders",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Folder of further plugin files; may be repeated. Also: HARNESS_PLUGINS.",
)
data_option = click.option(
    "--data",
    "data_named",
    type=click.Path(path_type=Path),
    help="Folder of data sets. Else HARNESS_DATA, else a per-user cache that downloads what is missing.",
)
format_option = click.option(
    "--format",
    "style",
    type=click.Choice(["terminal", "markdown", "csv", "json"]),
    default="terminal",
    show_default=True,
    help="How to print.",
)


def matrix_options(command: F) -> F:
    """What names a matrix and narrows it."""
    named = click.option("--matrix", "matrix_name", default="quick", show_default=True, help="A preset, or PATH.toml.")
    return named(narrowing_options(command))


@dataclass(frozen=True)
class Narrowing:
    """What the command line makes of a matrix."""

    scale: str
    datasets: tuple[str, ...]
    defenses: tuple[str, ...]
    attacks: tuple[str, ...]
    analyses: tuple[str, ...]
    seeds: str | None
    nulls: int | None

    def __bool__(self) -> bool:
        """Whether anything of the matrix is replaced."""
        axes = (self.datasets, self.defenses, self.attacks, self.analyses)
        return any(axes) or self.seeds is not None or self.nulls is not None

    def of(self, matrix_name: str) -> Matrix:
        """The matrix of that name, as the command line asks for it."""
        from harness.planning.matrix import choose, load_matrix, parse_seeds

        matrix = load_matrix(matrix_name, self.scale)
        if self.datasets:
            matrix = replace(matrix, datasets=_single(choose(self.datasets, [(e,) for e in matrix.datasets])))
        if self.defenses:
            matrix = replace(matrix, defenses=_single(choose(self.defenses, [(e,) for e in matrix.defenses])))
        if self.attacks:
            matrix = replace(matrix, attacks=choose(self.attacks, matrix.attacks))
        if self.analyses:
            matrix = replace(matrix, analyses=_single(choose(self.analyses, [(e,) for e in matrix.analyses])))
        if self.seeds is not None:
            matrix = replace(matrix, seeds=parse_seeds(self.seeds))
        return matrix if self.nulls is None else replace(matrix, nulls=self.nulls)


class Surveyed(NamedTuple):
    """A matrix, its plan, and how it stands with it at an address."""

    matrix: Matrix
    plan: Plan
    survey: Survey
    address: str


def gathered(name: str, make: Callable[..., Any], options: Iterable[str]) -> Callable[[F], F]:
    """For a command that takes as one ``name`` what ``make`` makes of those of these options that it has."""
    wanted = tuple(options)

    def decorate(command: F) -> F:
        @wraps(command)
        def called(*args: Any, **given: Any) -> Any:
            return command(
                *args, **{name: make(**{each: given.pop(each) for each in wanted if each in given})}, **given
            )

        return cast(F, called)

    return decorate


_RULES = {
    "test": click.option(
        "--test",
        type=click.Choice(["binomial", "fisher", "boschloo", "welch", "t"]),
        default="binomial",
        show_default=True,
        help="Of the surrogate's answers against the null models'.",
    ),
    "confidence": click.option(
        "--confidence", type=float, default=0.95, show_default=True, help="Of verifications, ranks and differences."
    ),
    "max_drop": click.option(
        "--max-drop", type=float, default=0.10, show_default=True, help="Accuracy below the nulls' that voids."
    ),
    "fpr": click.option(
        "--fpr", type=float, metavar="RATE", help="Assume this false rate of unmarked models, not the nulls' own."
    ),
    "budget": click.option(
        "--budget",
        type=int,
        metavar="N",
        help="Show the chance of an accusation within N trigger queries, at the rates that were measured.",
    ),
}


def rules_options(*names: str) -> Callable[[F], F]:
    """Options by which evidence becomes a verdict, all or some: given to the command as one ``rules``."""
    wanted = names or tuple(_RULES)

    def decorate(command: F) -> F:
        command = gathered("rules", _rules, wanted)(command)
        for name in reversed(wanted):
            command = _RULES[name](command)
        return command

    return decorate


def _rules(**named: Any) -> Rules:
    from harness.ranking.scoring import Rules

    return Rules(**named)


def narrowing_options(command: F) -> F:
    """What narrows a matrix: given to the command as one ``narrowing``."""
    command = gathered("narrowing", Narrowing, [each.name for each in fields(Narrowing)])(command)
    for option in reversed(
        [
            click.option(
                "--scale", default="full", show_default=True, help="Of the matrix: a table [scales.NAME] in it."
            ),
            click.option(
                "--dataset",
                "datasets",
                multiple=True,
                help="Instead of the matrix's: NAME[option=value], or a glob.",
            ),
            click.option(
                "--defense",
                "defenses",
                multiple=True,
                help="Instead of the matrix's. A glob picks from them.",
            ),
            click.option("--attack", "attacks", multiple=True, help="Instead of the matrix's. Chains: 'a | b'."),
            click.option("--analysis", "analyses", multiple=True, help="Instead of the matrix's: NAME[option=value]."),
            click.option("--seeds", help="Instead of the matrix's: 0-4 or 0,2,5-7."),
            click.option(
                "--nulls",
                type=click.IntRange(0, 1000),
                help="Null models a dataset, instead of the matrix's.",
            ),
        ]
    ):
        command = option(command)
    return command


def open_results(named: str) -> tuple[Store, Tables]:
    """The artifacts and tables that ``--results`` names, of a format that this harness reads."""
    from harness.storage import remote
    from harness.storage.text import printable

    store, tables = remote.open_results(named, lambda message: click.echo(f"warning: {printable(message)}", err=True))
    store.check_format()
    return store, tables


def load_plugins(folders: tuple[Path, ...]) -> Registry:
    """The registry; plugins that could not be used are named on stderr."""
    from harness.planning.registry import load_registry
    from harness.storage.text import printable

    registry = load_registry(folders)
    for problem in registry.problems:
        click.echo(f"warning: plugin not loaded: {printable(problem)}", err=True)
    return registry


def _single(chains: tuple[tuple[Any, ...], ...]) -> tuple[Any, ...]:
    from harness.errors import UsageError
    from harness.planning.matrix import format_chain

    for chain in chains:
        if len(chain) > 1:
            raise UsageError(f"only attacks chain: {format_chain(chain)!r}")
    return tuple(chain[0] for chain in chains)


def planned(registry: Registry, matrix: Matrix) -> Plan:
    """The plan of a matrix, every name and option checked."""
    from harness.planning.builder import make_plan
    from harness.planning.registry import resolve

    axes = resolve(registry, matrix)
    return make_plan(
        axes.datasets,
        axes.defenses,
        axes.chains,
        matrix.seeds,
        matrix.nulls,
        registry.component,
        analyses=axes.analyses,
    )


def surveyed(matrix_name: str, narrowing: Narrowing, plugin_folders: tuple[Path, ...], results: str) -> Surveyed:
    """How it stands with a matrix in a results folder, also while other processes run."""
    from harness.inspect.status import Survey
    from harness.storage.locks import Claims

    matrix = narrowing.of(matrix_name)
    plan = planned(load_plugins(plugin_folders), matrix)
    store, tables = open_results(results)
    return Surveyed(matrix, plan, Survey(plan, store, tables, Claims(store.results)), store.address)


def chosen(cells: Any, column: str, wanted: tuple[str, ...]) -> Any:
    """The rows whose ``column`` is or fits one of ``wanted``. Raises :class:`UnknownName` for one that fits none."""
    from fnmatch import fnmatchcase

    from harness.errors import UnknownName
    from harness.storage.text import printable

    if not wanted:
        return cells
    known = list(dict.fromkeys(cells[column]))
    fitting: set[str] = set()
    for pattern in wanted:
        found = {name for name in known if fnmatchcase(name, pattern.replace("[", "[[]"))}
        if not found:
            raise UnknownName(column, pattern, map(printable, known))
        fitting |= found
    return cells[cells[column].isin(fitting)]
