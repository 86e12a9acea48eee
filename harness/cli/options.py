"""Options that several commands share by name, and the values that are made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import click
from click.core import ParameterSource

from harness.cli.text import warn
from harness.errors import UsageError
from harness.files import user_path
from harness.planning.narrowing import Narrowing, planned
from harness.text import command_line, option_words

if TYPE_CHECKING:
    from harness.inspect.status import Survey
    from harness.planning.graph import Plan
    from harness.planning.matrix import Matrix
    from harness.planning.registry import Registry
    from harness.storage.store import Store
    from harness.storage.tables import Tables
    from harness.verdicts.rules import Rules

F = TypeVar("F", bound=Callable[..., Any])


class UserPath(click.Path):
    """A path, of which ``~`` and ``~user`` are home folders."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return user_path(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class Results(UserPath):
    """The folder of results as text, or a URL as it is."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if "://" in value else str(super().convert(value, param, ctx))


results_option = click.option(
    "--results",
    metavar="DIR|URL",
    type=Results(),
    default="results",
    show_default=True,
    help="Folder of artifacts and tables: here, or where fsspec reaches, such as s3://bucket/folder.",
)
plugins_option = click.option(
    "--plugins",
    "plugin_folders",
    type=UserPath(),
    multiple=True,
    help="Folder of more plugin files; may be repeated. Also: HARNESS_PLUGINS.",
)


def _check_folders(context: click.Context, option: click.Parameter, folders: tuple[Path, ...]) -> None:
    from harness.planning.registry import plugin_folders

    if folders:
        plugin_folders(folders)


plugins_unread = click.option(
    "--plugins",
    type=UserPath(),
    multiple=True,
    expose_value=False,
    callback=_check_folders,
    help="Folder of more plugin files, as of other commands: here the results say all that is needed.",
)
"""The option of commands that need no plugin, so that a command line is edited to another one in one word."""
data_option = click.option(
    "--data",
    "data_named",
    type=UserPath(),
    help="Folder of data sets. Default: HARNESS_DATA, or else a per-user cache that downloads missing sets.",
)
format_option = click.option(
    "--format",
    "style",
    type=click.Choice(["terminal", "markdown", "latex", "csv", "json"]),
    default="terminal",
    show_default=True,
    help="Output format.",
)


def matrix_options(command: F) -> F:
    """Options that name a matrix and narrow it."""
    named = click.option(
        "--matrix", "matrix_name", default="quick", show_default=True, help="Matrix to use: a preset, or PATH.toml."
    )
    return named(narrowing_options(command))


class Surveyed(NamedTuple):
    """A matrix, its plan, and how far it is in a results folder."""

    matrix: Matrix
    plan: Plan
    survey: Survey
    address: str


def gathered(name: str, make: Callable[..., Any], options: Iterable[str]) -> Callable[[F], F]:
    """Decorate a command so that its parameter ``name`` is ``make(...)`` of these options, as far as it has them."""
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
        type=click.Choice(["rank", "beta-binomial", "binomial", "fisher", "boschloo", "welch", "t"]),
        default="rank",
        show_default=True,
        help="Test of a suspect: its rank among unmarked models; a beta law, for 3 to 18 of them; or one that pools "
        "their answers, for comparison with papers.",
    ),
    "confidence": click.option(
        "--confidence",
        type=float,
        default=0.95,
        show_default=True,
        help="Confidence of verdicts, intervals and ranks.",
    ),
    "min_margin": click.option(
        "--min-margin",
        type=float,
        default=0.10,
        show_default=True,
        help="Least margin of a model that is called marked, 0..1.",
    ),
    "max_drop": click.option(
        "--max-drop",
        type=float,
        default=0.05,
        show_default=True,
        help="Accuracy that a useful model may lack of its victim's and the unmarked models', the lower.",
    ),
    "max_cost": click.option(
        "--max-cost",
        type=float,
        default=0.02,
        show_default=True,
        help="Accuracy that a mark may cost: a scheme that costs more has no rank.",
    ),
    "gamma": click.option(
        "--gamma",
        type=float,
        default=0.01,
        show_default=True,
        help="Chance that a sequential verification accuses an unmarked model, beyond the test's.",
    ),
    "fpr": click.option(
        "--fpr",
        type=float,
        metavar="RATE",
        help="Assume this false rate of unmarked models instead of their own; needs --test binomial.",
    ),
    "budget": click.option(
        "--budget",
        type=int,
        metavar="N",
        help="Show the chance of an accusation within N trigger queries at the measured rates.",
    ),
}


def rules_options(*names: str) -> Callable[[F], F]:
    """Options of the verdict, all or the named: given to the command as one ``rules``."""
    wanted = names or tuple(_RULES)

    def decorate(command: F) -> F:
        command = gathered("rules", _rules, wanted)(command)
        for name in reversed(wanted):
            command = _RULES[name](command)
        return command

    return decorate


def _rules(**named: Any) -> Rules:
    from harness.verdicts.rules import Rules

    return Rules(**named)


def narrowing_options(command: F) -> F:
    """Options that narrow a matrix: given to the command as one ``narrowing``."""
    command = gathered("narrowing", Narrowing, [each.name for each in fields(Narrowing)])(command)
    for option in reversed(
        [
            click.option(
                "--scale", default="full", show_default=True, help="Scale of the matrix: a table [scales.NAME] in it."
            ),
            click.option(
                "--dataset",
                "datasets",
                multiple=True,
                help="Data set instead of the matrix's: NAME[option=value], or a glob; may be repeated.",
            ),
            click.option(
                "--defense",
                "defenses",
                multiple=True,
                help="Defense instead of the matrix's; a glob picks from these. May be repeated.",
            ),
            click.option(
                "--attack",
                "attacks",
                multiple=True,
                help="Attack instead of the matrix's; a chain is 'a | b'. May be repeated.",
            ),
            click.option(
                "--analysis",
                "analyses",
                multiple=True,
                help="Analysis instead of the matrix's: NAME[option=value]; may be repeated.",
            ),
            click.option("--seeds", help="Seeds instead of the matrix's: 0-4 or 0,2,5-7."),
            click.option(
                "--nulls",
                type=click.IntRange(0, 1000),
                help="Unmarked models to compare with per data set, instead of the matrix's.",
            ),
            click.option(
                "--innocents/--no-innocents",
                default=True,
                help="Ask every key also of the matrix's innocent models, or leave these out.",
            ),
        ]
    ):
        command = option(command)
    return command


def open_results(named: str) -> tuple[Store, Tables]:
    """The artifacts and tables that ``--results`` names, of a format that this harness reads."""
    from harness.storage import remote

    store, tables = remote.open_results(named, warn)
    store.check_format()
    return store, tables


def planning_registry(
    folders: tuple[Path, ...], data_named: Path | None, tables: Tables, *, fetch: bool = False
) -> Registry:
    """The registry for plans: what addresses a stage covers the content of data sets that may change.

    ``fetch`` downloads missing ones into the per-user cache.
    """
    from harness.planning.content import Contents
    from harness.storage.contents import StoredContents

    registry = load_plugins(folders)
    registry.contents = Contents(data_named, StoredContents(tables).latest, warn, fetch)
    return registry


def run_command() -> str:
    """The ``harness run`` that takes the options of the command that was typed, as far as it has them."""
    from harness.cli.run import run

    context = click.get_current_context()
    words = ["run"]
    for option in run.params:
        if context.get_parameter_source(option.name or "") is not ParameterSource.COMMANDLINE:
            continue
        value = context.params[option.name or ""]
        if isinstance(value, bool):
            words += (option.opts if value else option.secondary_opts)[:1]
            continue
        for each in value if isinstance(value, tuple) else (value,):
            words += option_words(option.opts[-1], str(each))
    return command_line(*words)


def enough_options(command: F) -> F:
    """Options on what a record must have."""
    seeds = click.option(
        "--min-seeds", type=click.IntRange(1), default=3, show_default=True, help="Seeds required of every scheme."
    )
    nulls = click.option(
        "--min-nulls",
        type=click.IntRange(0),
        default=19,
        show_default=True,
        help="Unmarked models required of every cell: with fewer than 19 there is no verdict.",
    )
    return seeds(nulls(command))


def load_plugins(folders: tuple[Path, ...]) -> Registry:
    """The registry; plugins that could not be used are named on stderr."""
    from harness.planning.registry import load_registry

    registry = load_registry(folders)
    for problem in registry.problems:
        warn(f"plugin not loaded: {problem}")
    for warning in registry.warnings:
        warn(warning)
    return registry


def surveyed(
    matrix_name: str, narrowing: Narrowing, plugin_folders: tuple[Path, ...], results: str, data_named: Path | None
) -> Surveyed:
    """Survey a matrix in a results folder, also while other processes run. Data sets that changed are named."""
    from harness.inspect.status import Survey
    from harness.running.start import changed_data
    from harness.storage.locks import Claims

    matrix = narrowing.of(matrix_name)
    store, tables = open_results(results)
    registry = planning_registry(plugin_folders, data_named, tables)
    plan = planned(registry, matrix)
    for line in changed_data(plan, registry, tables, run_command()):
        warn(line)
    return Surveyed(matrix, plan, Survey(plan, store, tables, Claims(store.results)), store.address)
