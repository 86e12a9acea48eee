"""Catalogue of the tables of a ranking and of a comparison: each column's name, unit, cells and meaning.

Every format is made from it: see :mod:`harness.ranking.render`. The words are in :mod:`harness.ranking.glossary`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from harness.ranking import values
from harness.ranking.compare import ALL, Compared, Comparison
from harness.ranking.glossary import NO_NULLS, SHARES, meaning
from harness.ranking.leaderboard import MAX_COMPARED, Attacked, Board, Detected, InFamily, Ranked
from harness.ranking.values import UNKNOWN, Value
from harness.text import printable

if TYPE_CHECKING:
    from harness.ranking.scoring import Rules

T = TypeVar("T")
Columns: TypeAlias = "tuple[Column[T], ...]"


@dataclass(frozen=True)
class Column(Generic[T]):
    """One column of a table of records."""

    name: str
    show: Callable[[T], Value]
    """Text and sort key of a record's cell."""
    unit: str = "%"
    """Unit of its numbers; empty for words and plain numbers."""
    words: bool = False
    """Holds words, which stand on the left and may fold; numbers stand on the right and never do."""
    term: str = ""
    """Entry of the glossary, if it is not ``name``."""
    sketch: bool = False
    """Draws with characters, for formats without pictures of their own."""
    rigid: bool = False
    """Holds words that must not fold."""
    over: str = ""
    """Heading that stands once over neighbours with the same."""
    short: str = ""
    """Name below such a heading, and where room is scarce."""
    brief: bool = False
    """Holds names of which parts may be left out where room is scarce, so that each stays on one line."""

    @property
    def header(self) -> str:
        """Name below its heading, with the unit where it is not %, in which all shares are."""
        named = f"{self.over}: {self.name}" if self.over else self.name
        return f"{named} ({self.unit})" if self.unit not in ("", "%") else named

    @property
    def narrow(self) -> str:
        """Header for a terminal, where the heading has a line of its own."""
        return self.short or replace(self, over="").header


@dataclass(frozen=True)
class Table:
    """Records of one kind under a title."""

    title: str
    columns: Columns[Any]
    records: Sequence[Any]
    term: str = ""
    """Entry of the glossary on the whole table."""
    style: Callable[[Any], str | None] = lambda record: None
    """Colour of a record's row in a terminal."""
    lead: Sequence[str] = ()
    """Sentences above the table: the first is what may be concluded from it."""
    lines: Sequence[tuple[str, str]] = ()
    """Names that have no numbers, and the reason: rows below those of the records."""
    foot: Sequence[Any] = ()
    """Records whose rows come last, below a line."""
    notes: Sequence[str] = ()
    """Sentences below the table."""

    def rows(self) -> list[list[str]]:
        """Texts of the records' cells."""
        return [self.row(record) for record in self.records]

    def row(self, record: Any) -> list[str]:
        """Texts of one record's cells."""
        return [column.show(record)[0] for column in self.columns]

    def told(self) -> Table:
        """The table without the columns that say nothing of any record."""
        rows = [*self.rows(), *map(self.row, self.foot)]
        silent = [all(cell == UNKNOWN[0] for cell in cells) for cells in zip(*rows, strict=True)]
        kept = [column for column, is_silent in zip(self.columns, silent, strict=False) if not is_silent]
        return replace(self, columns=tuple(kept)) if rows else self


@dataclass(frozen=True)
class Sheet:
    """Tables, the meanings of their terms, and remarks on all of them."""

    tables: Sequence[Table]
    terms: Sequence[tuple[str, str]] = ()
    remarks: Sequence[str] = ()
    title: str = ""
    lead: Sequence[str] = field(default_factory=tuple)
    """Sentences above the tables."""


@dataclass(frozen=True)
class View(Generic[T]):
    """One kind of table of a ranking."""

    records: str
    """Field of :class:`Board` that holds the records."""
    of: type[T]
    title: str
    columns: Columns[T]
    term: str = ""
    group: str = ""
    """Field whose equal values stand side by side."""

    def shown(self, rules: Rules) -> Columns[T]:
        """Columns by these rules: those on a budget only where there is one."""
        kept = [each for each in self.columns if rules.budget or "{budget}" not in each.name]
        return tuple(
            replace(each, name=each.name.format(budget=rules.budget), term=each.term or each.name) for each in kept
        )

    def title_by(self, rules: Rules) -> str:
        """Title by these rules."""
        return self.title.format(confidence=f"{rules.confidence:.0%}")

    def table(self, board: Board, dataset: str) -> Table:
        """Records of one dataset."""
        here = [record for record in getattr(board, self.records) if record.dataset == dataset]
        if self.group:
            place = {value: i for i, value in enumerate(dict.fromkeys(getattr(each, self.group) for each in here))}
            here.sort(key=lambda record: place[getattr(record, self.group)])
        return Table(f"{printable(dataset)}: {self.title_by(board.rules)}", self.shown(board.rules), here, self.term)


# --- the columns of a ranking -----------------------------------------------------------------------------------------


def _name(name: str, of: str) -> Column[Any]:
    return Column(name, lambda record: values.text(getattr(record, of)), unit="", words=True)


def _spread(name: str, of: str, unit: str = "%", scale: float = 100, digits: int = 1) -> Column[Any]:
    return Column(name, lambda record: values.spread(getattr(record, of), scale, digits), unit)


def _share(name: str, of: str) -> Column[Any]:
    return Column(name, lambda record: values.points(getattr(record, of)))


def _n(of: str) -> Column[Any]:
    return Column("n", lambda record: values.size(getattr(record, of)), unit="")


def _queries(name: str, of: str, digits: int = 0) -> Column[Any]:
    return Column(name, lambda record: values.queries(getattr(record, of), digits), unit="")


def _samples(name: str, of: str) -> Column[Any]:
    return Column(name, lambda record: values.mean(getattr(record, of)), unit="")


DATASET = _name("dataset", "dataset")
SCHEME = _name("scheme", "defense")
ATTACK = _name("attack", "attack")
NOT_COUNTED: Column[Any] = Column("not counted", values.not_counted, unit="", words=True)


def _interval(scheme: Ranked) -> Value:
    return values.interval(scheme.margin.low, scheme.margin.high) if scheme.margin else UNKNOWN


def _worst(scheme: Ranked) -> Value:
    return values.text(f"{values.spread(scheme.worst)[0]} {scheme.worst_attack}") if scheme.worst else UNKNOWN


SCHEMES = View(
    "schemes",
    Ranked,
    "schemes, ranked by margin",
    (
        Column("rank", lambda scheme: values.count(scheme.rank or math.nan), unit=""),
        SCHEME,
        _n("margin"),
        _spread("margin", "margin"),
        Column("95% interval", _interval),
        Column("worst attack", _worst, words=True),
        _share("verified", "verified"),
        _spread("within {budget}", "at_budget"),
        _spread("hypervolume", "hypervolume"),
        _spread("evasion", "evasion"),
        NOT_COUNTED,
    ),
)
VERIFYING = View(
    "schemes",
    Ranked,
    "queries to verify at {confidence}",
    (
        SCHEME,
        _queries("t-test", "queries"),
        _queries("80% power", "queries_80"),
        _queries("95% power", "queries_95"),
        _queries("sequential", "queries_sequential", 1),
    ),
    term="queries to verify",
)
COSTS = View(
    "schemes",
    Ranked,
    "cost of the mark",
    (
        SCHEME,
        _n("victim_success"),
        _spread("victim success", "victim_success"),
        _spread("false rate", "false_rate"),
        _spread("accuracy cost", "accuracy_cost"),
        _spread("embedding", "embed_seconds", "s", 1),
        _spread("null model", "null_seconds", "s", 1),
        _samples("embedding samples", "embed_samples"),
        _samples("null samples", "null_samples"),
    ),
)
FAMILIES = View(
    "families",
    InFamily,
    "success after each family of attacks",
    (
        _name("family", "family"),
        SCHEME,
        _n("margin"),
        Column("attacks", lambda family: values.count(family.attacks), unit=""),
        _spread("margin", "margin"),
        _share("verified", "verified"),
        _spread("within {budget}", "at_budget"),
        NOT_COUNTED,
    ),
    group="family",
)
ATTACKS = View(
    "attacks",
    Attacked,
    "success after each attack",
    (
        ATTACK,
        SCHEME,
        _n("success"),
        _spread("success", "success"),
        Column("distribution", lambda attacked: (values.bars(attacked.distribution), ""), unit="", sketch=True),
        _spread("held out", "held_out"),
        _spread("accuracy", "accuracy"),
        _share("verified", "verified"),
        _share("within {budget}", "at_budget"),
        NOT_COUNTED,
    ),
    group="attack",
)
DETECTIONS = View(
    "detections",
    Detected,
    "detections",
    (
        ATTACK,
        SCHEME,
        _n("score"),
        _spread("score", "score", "", 1, 2),
        _spread("null score", "null_score", "", 1, 2),
        _share("flagged", "flagged"),
        _share("nulls flagged", "null_flagged"),
        Column("rank p", lambda detected: values.decimal(detected.rank_p, 2), unit=""),
        _share("target named", "target_hit"),
        _share("window rank", "window_rank"),
        NOT_COUNTED,
    ),
)
VIEWS: dict[str | None, tuple[View[Any], ...]] = {
    None: (SCHEMES, VERIFYING, COSTS, ATTACKS, DETECTIONS),
    "dataset": (SCHEMES, VERIFYING, COSTS, DETECTIONS),
    "attack": (ATTACKS, DETECTIONS),
    "family": (FAMILIES,),
}
"""Tables of a ranking, by what ``harness leaderboard --by`` asks for."""


def board_sheet(board: Board, by: str | None = None) -> Sheet:
    """Tables of each dataset of a ranking, all or those ``by`` one thing, with what their words mean."""
    records: list[Ranked | Detected] = [*board.schemes, *board.detections]
    datasets = dict.fromkeys(record.dataset for record in records)
    tables = [view.table(board, dataset) for dataset in datasets for view in VIEWS[by]]
    tables = [table for table in tables if table.records]
    has_none = any(scheme.false_rate is None and scheme.margin for scheme in board.schemes)
    remarks = [SHARES, *([NO_NULLS] if has_none and board.rules.fpr is None else [])]
    measured = [f"Measured on {printable(machine)}." for machine in board.machines]
    return Sheet(tables, board_terms(board, tables), [*remarks, *measured])


def board_terms(board: Board, tables: Iterable[Table]) -> list[tuple[str, str]]:
    """Meanings of the tables' terms, in their order and each once."""
    return terms(tables, board.rules, {} if board.is_compared else {"rank": "rank by margin"}, compared=MAX_COMPARED)


def terms(
    tables: Iterable[Table], rules: Rules, instead: dict[str, str] | None = None, **more: object
) -> list[tuple[str, str]]:
    """Meanings of the tables' terms; ``instead`` names other entries of the glossary for some."""
    found: dict[str, str] = {}
    for table in tables:
        if table.term:
            found[table.term] = table.term
        found |= {each.name: each.term or each.name for each in table.columns if each.show not in _PLAIN}
    entries = {name: (instead or {}).get(term, term) for name, term in found.items()}
    return [(name, meaning(term, rules, **more)) for name, term in entries.items()]


_PLAIN = (SCHEME.show, ATTACK.show, FAMILIES.columns[0].show)
"""Columns of names, which say what they are."""

# --- the columns of a comparison --------------------------------------------------------------------------------------


def _compared_name(row: Compared) -> Value:
    return values.text(f"({row.quantity})" if not row.attack else "(all attacks)" if row.attack == ALL else row.attack)


def _difference(row: Compared) -> Value:
    shown, key = values.points(row.difference)
    return (shown if math.isnan(row.sd) else f"{shown} ± {values.points(row.sd)[0]}"), key


COMPARED: Columns[Compared] = (
    Column("attack", _compared_name, unit="", words=True),
    Column("n", lambda row: values.count(row.n), unit=""),
    Column("first", lambda row: values.points(row.ours)),
    Column("second", lambda row: values.points(row.theirs)),
    Column("difference", _difference),
    Column("interval", lambda row: values.interval(row.low, row.high)),
    Column("p", lambda row: values.probability(row.p_value), unit=""),
    Column("Holm p", lambda row: values.probability(row.p_adjusted), unit=""),
    Column("more seeds", lambda row: values.queries(row.more_seeds, endless="no end"), unit=""),
    Column("left out", lambda row: values.count(row.left_out or math.nan), unit=""),
)


def comparison_sheet(comparison: Comparison) -> Sheet:
    """A table of differences a dataset, with what its words mean."""
    from harness.statistics.paired import fewest_seeds

    names = {"ours": printable(comparison.ours), "theirs": printable(comparison.theirs)}
    tables = [
        Table(
            f"{'all datasets' if dataset == ALL else printable(dataset)}: {names['ours']} less {names['theirs']}",
            COMPARED,
            [row for row in comparison.rows if row.dataset == dataset],
        )
        for dataset in dict.fromkeys(row.dataset for row in comparison.rows)
    ]
    more = {**names, "fewest": fewest_seeds(comparison.rules.confidence)}
    rows = {_compared_name(row)[0] for row in comparison.rows if row.attack in ("", ALL)}
    above = [(name, meaning(name, comparison.rules, **more)) for name in sorted(rows)]
    below = terms([replace(table, columns=table.columns[1:]) for table in tables], comparison.rules, {}, **more)
    return Sheet(tables, [*above, *below], ["Shares are in %."])
