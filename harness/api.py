"""The Python API: run a matrix, rank its schemes, compare two. Each function does what the command of its name does.

Imports little: planning, ranking and torch are imported by the functions that need them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from harness.asked import Asked, folders, texts
from harness.asked import asked as asked_for
from harness.contracts import Analysis, Attack, Dataset, Defense, Plugin
from harness.errors import UsageError
from harness.files import user_path
from harness.running.machine import Machine, Where, check_choice, parse_jobs

if TYPE_CHECKING:
    import pandas as pd

    from harness.engine.train import Precision
    from harness.owning.asking import Verification
    from harness.owning.embedding import Planning
    from harness.planning.content import Contents
    from harness.planning.graph import Plan, Stage
    from harness.planning.matrix import Matrix
    from harness.planning.registry import Registry
    from harness.ranking.compare import Comparison
    from harness.ranking.render import Shown
    from harness.running.session import Outcome, Rerun
    from harness.storage.store import Store
    from harness.storage.tables import Tables
    from harness.verdicts.board import Board
    from harness.verdicts.rules import TestName

    Texts: TypeAlias = str | Iterable[str]
    Datasets: TypeAlias = str | Dataset | type[Dataset] | Iterable[str | Dataset | type[Dataset]]
    Defenses: TypeAlias = str | Defense | type[Defense] | Iterable[str | Defense | type[Defense]]
    Analyses: TypeAlias = str | Analysis | type[Analysis] | Iterable[str | Analysis | type[Analysis]]
    Link: TypeAlias = str | Attack | type[Attack]
    Attacks: TypeAlias = Link | Iterable[Link | Sequence[Link]]
    """A tuple or list inside of the iterable is a chain."""
    Plugins: TypeAlias = str | Path | type[Plugin] | Iterable[str | Path | type[Plugin]]
    Seeds: TypeAlias = int | str | Iterable[int]

SHOWN = 10
"""Failed cells that the text of a run names."""


def run(
    matrix: str | Path | None = "quick",
    *,
    datasets: Datasets = (),
    defenses: Defenses = (),
    attacks: Attacks = (),
    analyses: Analyses = (),
    seeds: Seeds | None = None,
    nulls: int | None = None,
    innocents: bool = True,
    scale: str = "full",
    results: str | Path = "results",
    data: str | Path | None = None,
    device: str = "auto",
    jobs: int | Literal["auto"] | None = None,
    threads: int = 1,
    precision: Precision = "tf32",
    deterministic: bool = False,
    rerun: Rerun = "failed",
    fail_fast: bool = False,
    stage_timeout: float | None = None,
    profile: bool = False,
    plugins: Plugins = (),
    executor: Where = "local",
    address: str | None = None,
    progress: bool | None = None,
) -> Run:
    """Run a matrix, as ``harness run`` does: every dataset x defense x attack x seed. Finished stages stay.

    ``matrix`` is a preset, a path of a TOML file, or ``None``; then give ``datasets``, ``defenses`` and ``attacks``. An
    entry is text (``"ewe[weight=64]"``, a glob), a plugin class, or an object of one; a chain of attacks ``"a | b"`` or
    a tuple. ``plugins`` are folders of plugin files, and classes that entries name by text. ``progress=None`` shows
    progress in a terminal and in a notebook. Other arguments are the command line's options.

    A failed cell does not raise: see :attr:`Run.failures`. An interrupt ends the run after the stages that run now, a
    second one at once by ``KeyboardInterrupt``; finished stages are kept. Raises :class:`harness.UsageError` for a
    mistake in the arguments, :class:`harness.DataError` for missing data.
    """
    where: dict[str, Any] = {"device": device, "threads": threads, "precision": precision}
    where |= {"stage_timeout": stage_timeout, "deterministic": deterministic, "profile": profile, "executor": executor}
    folder = None if data is None else user_path(data)
    machine = Machine(data=folder, jobs=parse_jobs(jobs), plugins=folders(plugins), address=address, **where)
    stored = _open(results)
    named = (datasets, defenses, attacks, analyses, seeds, nulls, innocents, scale, plugins)
    asked = asked_for(matrix, *named, _contents(folder, stored[1], fetch=True))
    return _run(asked, asked.registry, *stored, machine, rerun, fail_fast, progress)


def _run(
    asked: Asked | Planning,
    registry: Registry,
    store: Store,
    tables: Tables,
    machine: Machine,
    rerun: Rerun,
    fail_fast: bool,
    progress: bool | None,
) -> Run:
    from harness.running.progress import python_watcher
    from harness.running.session import Options
    from harness.running.start import run_plan, stop_on_interrupt

    options = Options(rerun, fail_fast)
    watch = partial(python_watcher, wanted=progress)
    with stop_on_interrupt(_say) as stopping:
        outcome = run_plan(
            asked.plan,
            registry,
            store,
            tables,
            machine,
            options,
            warn=_warn,
            watch=watch,
            stopping=stopping,
        )
    store.flush()
    return Run(asked.plan, outcome, store.address)


def plan(
    matrix: str | Path | None = "quick",
    *,
    datasets: Datasets = (),
    defenses: Defenses = (),
    attacks: Attacks = (),
    analyses: Analyses = (),
    seeds: Seeds | None = None,
    nulls: int | None = None,
    innocents: bool = True,
    scale: str = "full",
    results: str | Path = "results",
    data: str | Path | None = None,
    plugins: Plugins = (),
) -> Planned:
    """Plan a matrix without running it, as ``harness plan`` does. Arguments are those of :func:`run`."""
    from harness.running.eta import EtaEstimator

    folder = None if data is None else user_path(data)
    store, tables = _open(results)
    named = (datasets, defenses, attacks, analyses, seeds, nulls, innocents, scale, plugins)
    asked = asked_for(matrix, *named, _contents(folder, tables))
    stored = frozenset(store.ids())
    takes = EtaEstimator(tables, asked.plan.without(stored), jobs=1).split()
    return Planned(asked.matrix, asked.plan, stored, *takes)


def leaderboard(
    results: str | Path = "results",
    *,
    datasets: Texts = (),
    defenses: Texts = (),
    attacks: Texts = (),
    test: TestName = "rank",
    confidence: float = 0.95,
    min_margin: float = 0.10,
    max_drop: float = 0.05,
    max_cost: float = 0.02,
    gamma: float = 0.01,
    fpr: float | None = None,
    budget: int | None = None,
) -> Leaderboard:
    """Rank the schemes of a results folder, as ``harness leaderboard`` does; the names given may be globs.

    Raises :class:`harness.UsageError` where there are no results, and for a name that fits nothing.
    """
    from harness.verdicts.reading import read_board
    from harness.verdicts.rules import Rules

    board = read_board(
        _open(results)[1],
        Rules(test, confidence, min_margin, max_drop, max_cost, gamma, fpr, budget),
        datasets=texts(datasets),
        defenses=texts(defenses),
        attacks=texts(attacks),
    )
    return Leaderboard(board)


def compare(
    first: str,
    second: str,
    *,
    results: str | Path = "results",
    datasets: Texts = (),
    attacks: Texts = (),
    test: TestName = "rank",
    confidence: float = 0.95,
    max_drop: float = 0.05,
    fpr: float | None = None,
) -> PairedComparison:
    """Compare two schemes of a results folder, paired over seeds, as ``harness compare`` does."""
    from harness.ranking.reading import read_comparison
    from harness.verdicts.rules import Rules

    rules = Rules(test=test, confidence=confidence, max_drop=max_drop, fpr=fpr)
    tables = _open(results)[1]
    made = read_comparison(tables, first, second, rules, datasets=texts(datasets), attacks=texts(attacks))
    return PairedComparison(made)


# --- an owner's two acts ----------------------------------------------------------------------------------------------


def embed(
    defense: str,
    dataset: str,
    output: str | Path,
    *,
    attacks: Texts = (),
    nulls: int = 39,
    others: int = 3,
    seed: int | None = None,
    results: str | Path = "results",
    data: str | Path | None = None,
    device: str = "auto",
    jobs: int | Literal["auto"] | None = None,
    plugins: Texts = (),
    progress: bool | None = None,
) -> Path:
    """Mark a model and write what its owner needs to claim it, as ``harness embed`` does; the new folder.

    Raises :class:`harness.UsageError` for a mistake in the arguments, and where the run made no key.
    """
    from harness.owning.embedding import Wanted, check_folder, plan_owners, write
    from harness.planning.registry import load_registry
    from harness.verdicts.rules import Rules

    folder, rules = user_path(output), Rules()
    check_folder(folder)
    store, tables = _open(results)
    registry = load_registry(folders(plugins))
    registry.contents = _contents(None if data is None else user_path(data), tables, fetch=True)
    machine = Machine(
        None if data is None else user_path(data), device, jobs=parse_jobs(jobs), plugins=folders(plugins)
    )
    wanted = Wanted(dataset, defense, texts(attacks), nulls, others, seed)
    for planning in plan_owners(wanted, registry, tables, rules):
        run = _run(planning, registry, store, tables, machine, "failed", False, progress)
        if run.interrupted or run.failures:
            raise UsageError(f"no key was made: {repr(run).replace(chr(10), '; ')}")
    write(planning, store, tables, folder, rules)
    return folder


def verify(
    owner: str | Path,
    suspect: str | Path | Callable[..., Any],
    *,
    architecture: str = "",
    mapping: str | Path | None = None,
    budget: int | None = None,
    log: str | Path | None = None,
    sequential: bool = False,
    commitment: str | Path | None = None,
    plugins: Texts = (),
) -> Verification:
    """Ask a suspect an owner's key, as ``harness verify`` does. The suspect may be a function or a module, too.

    Raises :class:`harness.UsageError`.
    """
    from harness.owning.asking import Asking
    from harness.owning.asking import verify as ask

    files = [None if each is None else user_path(each) for each in (commitment, mapping, log)]
    named = suspect if callable(suspect) else str(suspect)
    asking = Asking(architecture, folders(plugins), sequential, files[0], files[1], budget, files[2], _say)
    return ask(user_path(owner), named, asking)


# --- what is returned -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Run:
    """A run that ended: its plan, its cells and stages, and where the tables are."""

    plan: Plan
    outcome: Outcome
    results: str
    """Folder or URL of the results."""

    @property
    def counts(self) -> dict[str, int]:
        """Number of cells by status, those of earlier runs included."""
        return dict(self.outcome.counts)

    @property
    def failures(self) -> list[tuple[str, str]]:
        """The cells that failed, each with the reason."""
        return self.outcome.failures

    @property
    def interrupted(self) -> bool:
        """True where an interrupt ended the run; the same call goes on where it stopped."""
        return self.outcome.interrupted

    def cells(self) -> pd.DataFrame:
        """The rows of the table ``cells`` of this run's cells."""
        frame = _open(self.results)[1].read("cells")
        return frame[frame["cell"].isin([cell.id for cell in self.plan.cells])].reset_index(drop=True)

    def leaderboard(
        self,
        *,
        test: TestName = "rank",
        confidence: float = 0.95,
        min_margin: float = 0.10,
        max_drop: float = 0.05,
        max_cost: float = 0.02,
        gamma: float = 0.01,
        fpr: float | None = None,
        budget: int | None = None,
    ) -> Leaderboard:
        """Rank the schemes by this run's cells alone; arguments as of :func:`harness.leaderboard`."""
        from harness.verdicts.reading import read_board
        from harness.verdicts.rules import Rules

        rules = Rules(test, confidence, min_margin, max_drop, max_cost, gamma, fpr, budget)
        ids = [cell.id for cell in self.plan.cells]
        return Leaderboard(read_board(_open(self.results)[1], rules, cells=ids))

    def _next(self) -> str:
        if self.interrupted:
            return "interrupted: the same call goes on where this one stopped"
        return "next: .leaderboard()" if self.counts.get("ok") else "next: mend what failed, and call again"

    def __repr__(self) -> str:
        from harness.running.progress import first_line
        from harness.text import printable

        lines = [f"{self.outcome.summary(len(self.plan.cells))}, tables in {printable(self.results)}/tables"]
        lines += [f"failed: {printable(cell)}: {first_line(reason)}" for cell, reason in self.failures[:SHOWN]]
        if len(self.failures) > SHOWN:
            lines.append(f"... and {len(self.failures) - SHOWN} more: see .failures")
        return "\n".join([*lines, self._next()])

    def _repr_html_(self) -> str:
        return _lines_html(repr(self))


@dataclass(frozen=True, repr=False)
class Planned:
    """A plan: the cells and stages of a matrix, and which stages are stored."""

    matrix: Matrix
    plan: Plan
    stored: frozenset[str]
    """Ids of what the results folder has."""
    seconds: float
    """Seconds that the stages still to come take on one CPU, as stages of their kinds did, without the untimed ones."""
    untimed: int
    """Number of stages still to come of whose kind none was ever timed."""

    @property
    def todo(self) -> list[Stage]:
        """The stages whose results are not stored, parents first."""
        return self.plan.without(self.stored)

    def cells(self) -> pd.DataFrame:
        """The cells as a table, with the reason of each that is skipped."""
        import pandas as pd

        columns = ("dataset", "defense", "attack", "seed", "family", "access", "skip")
        rows = [{"cell": cell.id} | {name: getattr(cell, name) for name in columns} for cell in self.plan.cells]
        return pd.DataFrame(rows, columns=["cell", *columns])

    def __repr__(self) -> str:
        from harness.inspect.outline import outline

        return "\n".join(outline(self.matrix, self.plan, self.stored, self.seconds, self.untimed))

    def _repr_html_(self) -> str:
        return _lines_html(repr(self))


@dataclass(frozen=True, repr=False)
class Leaderboard:
    """A ranking of schemes. Its text and its HTML in a notebook are the overview of ``harness leaderboard``."""

    board: Board

    def to_frame(self, by: Literal["attack", "family"] | None = None) -> pd.DataFrame:
        """A row for each scheme, or for each scheme under each attack or family of attacks; shares in 0..1."""
        from harness.ranking.render import frame_of
        from harness.ranking.views import rows_by

        check_choice("by", by, ("attack", "family")) if by is not None else None
        return frame_of(*rows_by(self.board, by))

    @property
    def frame(self) -> pd.DataFrame:
        """A row for each scheme."""
        return self.to_frame()

    def details(self, by: Literal["dataset", "attack", "family"] | None = None, *, explain: bool = False) -> Shown:
        """All tables, or those ``by`` one thing, as ``harness leaderboard --details`` prints them.

        ``explain`` adds the meanings of their words.
        """
        from harness.ranking.render import Shown
        from harness.ranking.views import details_sheet

        check_choice("by", by, ("dataset", "attack", "family")) if by is not None else None
        return Shown(details_sheet(self.board, by, explain=explain))

    def _shown(self) -> Shown:
        from harness.ranking.overview import overview_sheet
        from harness.ranking.render import Shown

        return Shown(overview_sheet(self.board))

    def __repr__(self) -> str:
        return repr(self._shown())

    def _repr_html_(self) -> str:
        return self._shown()._repr_html_()


@dataclass(frozen=True, repr=False)
class PairedComparison:
    """Two schemes compared over the seeds that both have. Its text is that of ``harness compare``."""

    comparison: Comparison

    @property
    def frame(self) -> pd.DataFrame:
        """A row for each attack, for the worst cases, and for what the mark costs; shares in 0..1."""
        from harness.ranking.compare import Compared
        from harness.ranking.render import frame_of

        return frame_of(Compared, self.comparison.rows)

    def _shown(self) -> Shown:
        from harness.ranking.paired import comparison_sheet
        from harness.ranking.render import Shown

        return Shown(comparison_sheet(self.comparison))

    def __repr__(self) -> str:
        return repr(self._shown())

    def _repr_html_(self) -> str:
        return self._shown()._repr_html_()


def _lines_html(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def _open(results: str | Path) -> tuple[Store, Tables]:
    from harness.storage.remote import open_results

    store, tables = open_results(str(results), _warn)
    store.check_format()
    return store, tables


def _contents(folder: Path | None, tables: Tables, *, fetch: bool = False) -> Contents:
    from harness.planning.content import Contents
    from harness.storage.contents import StoredContents

    return Contents(folder, StoredContents(tables).latest, _warn, fetch)


def _warn(message: str) -> None:
    from harness.text import printable

    _say(f"warning: {printable(message)}")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
