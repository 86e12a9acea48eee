"""Tables of a leaderboard: all that its overview sums up, a view for each kind of record.

The words of the columns are in :mod:`harness.ranking.glossary`, the overview in :mod:`harness.ranking.overview`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from harness.ranking import values
from harness.ranking.columns import ATTACK, NOT_COUNTED, SCHEME, Column, Columns, Sheet, Table
from harness.ranking.families import InFamily, families
from harness.ranking.glossary import MARGINS, board_meaning
from harness.ranking.values import UNKNOWN, Value
from harness.text import printable
from harness.verdicts.board import (
    INNOCENTS,
    THREATS,
    Attacked,
    Board,
    Detected,
    Evaded,
    Forged,
    Innocent,
    Scheme,
    Share,
    Standing,
    Suspects,
    Threat,
)
from harness.verdicts.rules import Rules

T = TypeVar("T")


@dataclass(frozen=True)
class View(Generic[T]):
    """One kind of table of a leaderboard."""

    name: str
    title: str
    records: Callable[[Board], Sequence[T]]
    columns: Columns[T]
    of: type[Any]
    """Class of the records, whose fields are the columns for programs."""
    group: Callable[[T], object] | None = None
    """Value by which records stand together, in the order in which the values come first."""

    def shown(self, rules: Rules) -> Columns[T]:
        """Columns by these rules: those on a budget only where there is one."""
        kept = [each for each in self.columns if rules.budget or "{budget}" not in each.name]
        return tuple(
            replace(each, name=each.name.format(budget=rules.budget), term=each.term or each.name) for each in kept
        )

    def table(self, board: Board, dataset: str) -> Table:
        """Records of one data set."""
        here = [record for record in self.records(board) if getattr(record, "dataset", None) == dataset]
        if (group := self.group) is not None:
            place = {value: i for i, value in enumerate(dict.fromkeys(map(group, here)))}
            here.sort(key=lambda record: place[group(record)])
        return Table(f"{printable(dataset)}: {self.title}", self.shown(board.rules), here)


# --- parts of columns -------------------------------------------------------------------------------------------------


def _number(name: str, of: str, show: Callable[[Any], Value], unit: str = "%") -> Column[Any]:
    return Column(name, lambda record: show(getattr(record, of)), unit)


def _name(name: str, of: str) -> Column[Any]:
    return Column(name, lambda record: values.text(getattr(record, of) or UNKNOWN[0]), unit="", words=True)


def _part(of: str) -> Callable[..., Column[Any]]:
    """Columns of a part of a record, whose cells are made of that part."""
    return lambda name, cell, unit="%", **more: Column(name, lambda record: cell(getattr(record, of)), unit, **more)


_in, _under = _part("standing"), _part("attacked")


def _queries(number: float) -> Value:
    return values.queries(number, 0)


N_SUCCESS: Column[Any] = _number("n", "success", values.size, "")
INTERVAL: Column[Any] = _number("95% interval", "margin", values.ends)
MARKED: tuple[Column[Any], ...] = (
    _number("marked", "marked", values.proportion, ""),
    _number("95% limits", "marked", values.bounds),
)

# --- schemes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InThreat:
    """A scheme's standing in one threat model."""

    dataset: str
    defense: str
    standing: Standing
    no_rank: str
    """Reason why it has no rank here; empty if it has one."""


def _standings(board: Board) -> list[InThreat]:
    """Standings in the threat models that were tried on some scheme of the data set."""
    tried = {(s.dataset, standing.threat) for s in board.schemes for standing in s.standings.values() if standing.worst}
    return [
        InThreat(each.dataset, each.defense, standing, "" if standing.rank else standing.incomplete or each.no_rank)
        for threat in THREATS
        for each in board.schemes
        if (standing := each.standings.get(threat)) and (each.dataset, threat) in tried
    ]


def survived(standing: Standing | None) -> Value:
    """Number of attacks survived, of those judged."""
    return _of_judged(standing, standing.survives) if standing else UNKNOWN


def marked_after(standing: Standing | None) -> Value:
    """Number of attacks after which all models are marked, of those judged."""
    return _of_judged(standing, standing.marked) if standing else UNKNOWN


def _of_judged(standing: Standing, count: int) -> Value:
    return (f"{count} of {standing.attacks}", count / standing.attacks) if standing.attacks else UNKNOWN


STANDINGS = View(
    "standings",
    "worst case in each threat model",
    _standings,
    (
        _in("threat", lambda standing: (standing.threat, ""), "", words=True),
        SCHEME,
        _in("n", lambda standing: values.size(standing.worst), ""),
        _in("rank", lambda standing: values.count(standing.rank or math.nan), ""),
        _in("margin", lambda standing: values.spread(standing.worst)),
        _in("95% interval", lambda standing: values.ends(standing.worst)),
        _in("failures at 0", lambda standing: values.points(standing.worst_at_zero)),
        _in("claim", lambda standing: values.points(standing.claim)),
        _in("survives", survived, ""),
        _in("removed by", lambda standing: values.count(standing.removed), ""),
        _in("worst attack", lambda s: values.text("; ".join(s.worst_attacks) or UNKNOWN[0]), "", words=True),
        _name("no rank", "no_rank"),
    ),
    Standing,
)


@dataclass(frozen=True)
class Worst:
    """An attack that is a scheme's worst within a threat model."""

    dataset: str
    defense: str
    threat: Threat
    attacked: Attacked


def _worst_attacks(board: Board) -> list[Worst]:
    """The worst attacks of each threat model, but not of both together, which are among them."""
    by_attack = {(each.dataset, each.defense, each.attack): each for each in board.attacks}
    return [
        Worst(each.dataset, each.defense, each.standing.threat, found)
        for each in _standings(board)
        if each.standing.threat != "both"
        for attack in each.standing.worst_attacks
        if (found := by_attack.get((each.dataset, each.defense, attack)))
    ]


WORST = View(
    "worst attacks",
    "worst attacks, and their price for the thief",
    _worst_attacks,
    (
        Column("threat", lambda record: (record.threat, ""), "", words=True),
        SCHEME,
        _under("worst attack", lambda attacked: values.text(attacked.attack), "", words=True),
        _under("n", lambda attacked: values.count(attacked.n), ""),
        _under("useful", lambda attacked: values.count(attacked.useful), ""),
        _under("margin", lambda attacked: values.spread(attacked.margin)),
        _under("95% interval", lambda attacked: values.ends(attacked.margin)),
        _under("accuracy lost", lambda attacked: values.spread(attacked.drop), "points"),
        _under("queries asked", lambda attacked: values.mean(attacked.attack_queries), ""),
        _under("seconds", lambda attacked: values.spread(attacked.attack_seconds, 1, 1), ""),
    ),
    Worst,
)


def costs(scheme: Scheme) -> Value:
    """Accuracy that the mark costs, in points; with ``?`` where the interval holds the limit."""
    if scheme.cost is None or not math.isfinite(scheme.cost.mean):
        return UNKNOWN
    shown, key = values.points(scheme.cost.mean)
    return f"{shown} ?" if scheme.gate == "unsure" else shown, key


def remarks(scheme: Scheme) -> list[str]:
    """Remarks on what a scheme's key proves."""
    told = ["marked, but not by whom"] if scheme.anonymous else []
    return [*told, "the key proves nothing"] if scheme.useless_key else told


COSTS = View(
    "costs",
    "cost of the mark",
    lambda board: board.schemes,
    (
        SCHEME,
        Column("n", lambda scheme: values.count(scheme.seeds), unit=""),
        _number("victims marked", "victims", values.proportion, ""),
        Column("remark", lambda scheme: values.text("; ".join(remarks(scheme)) or UNKNOWN[0]), unit="", words=True),
        _number("victim margin", "victim_margin", values.spread),
        _number("false rate", "false_rate", values.spread),
        Column("cost", costs),
        Column("cost interval", lambda scheme: values.ends(scheme.cost)),
        _number("raw cost", "raw_cost", values.spread),
        _number("hypervolume", "hypervolume", values.spread),
        _number("within {budget}", "at_budget", values.spread),
        _number("embedding", "embed_seconds", lambda summary: values.spread(summary, 1, 1), "s"),
        _number("unmarked model", "null_seconds", lambda summary: values.spread(summary, 1, 1), "s"),
        _number("embedding samples", "embed_samples", values.mean, ""),
        _number("unmarked samples", "null_samples", values.mean, ""),
    ),
    Scheme,
)

# --- attacks ----------------------------------------------------------------------------------------------------------


def _verdict(attacked: Attacked) -> Value:
    return values.text(attacked.survival or attacked.verdict or UNKNOWN[0])


def _compared_with(attacked: Attacked) -> Value:
    return f"{attacked.models} + {attacked.attacked_models}", attacked.attacked_models


ATTACKS = View(
    "attacks",
    "margin after each attack",
    lambda board: [each for each in board.attacks if not each.no_attack],
    (
        ATTACK,
        SCHEME,
        Column("n", lambda attacked: values.count(attacked.n), unit=""),
        Column("useful", lambda attacked: values.count(attacked.useful), unit=""),
        _number("success", "success", values.spread),
        Column("distribution", lambda attacked: (values.bars(attacked.distribution), ""), unit="", sketch=True),
        _number("false rate", "false_rate", values.points),
        _number("margin", "margin", values.spread),
        INTERVAL,
        *MARKED,
        Column("most", lambda a: values.count(a.most) if a.marked else UNKNOWN, unit=""),
        _number("by chance", "by_chance", values.probability, ""),
        Column("verdict", _verdict, unit="", words=True),
        _number("accuracy", "accuracy", values.spread),
        _number("held out", "held_out", values.spread),
        NOT_COUNTED,
    ),
    Attacked,
    group=lambda attacked: attacked.attack,
)
NO_ATTACKS = View(
    "no attacks",
    "attacks in no rank",
    lambda board: [each for each in board.attacks if each.no_attack],
    (
        ATTACK,
        SCHEME,
        Column("n", lambda attacked: values.count(attacked.n), unit=""),
        Column("useful", lambda attacked: values.count(attacked.useful), unit=""),
        _number("success", "success", values.spread),
        _number("margin", "margin", values.spread),
        INTERVAL,
        MARKED[0],
        _number("accuracy", "accuracy", values.spread),
        _name("in no rank because", "no_attack"),
    ),
    Attacked,
    group=lambda attacked: attacked.attack,
)
VERIFYING = View(
    "queries",
    "queries to verify",
    lambda board: board.attacks,
    (
        ATTACK,
        SCHEME,
        Column("n", lambda attacked: values.count(attacked.n), unit=""),
        _number("queries", "queries", _queries, ""),
        _number("within {budget}", "at_budget", values.points),
        Column("compared with", _compared_with, unit=""),
    ),
    Attacked,
    group=lambda attacked: attacked.attack,
)
FAMILIES = View(
    "families",
    "worst case in each family of attacks",
    families,
    (
        _name("family", "family"),
        SCHEME,
        Column("n", lambda family: values.size(family.worst), unit=""),
        Column("attacks", lambda family: values.count(family.attacks), unit=""),
        Column("least margin", lambda family: values.spread(family.worst)),
        Column("95% interval", lambda family: values.ends(family.worst)),
        _name("worst attack", "worst_attack"),
        Column("survived", lambda family: values.count(family.survived), unit=""),
        Column("removed", lambda family: values.count(family.removed), unit=""),
        Column("undecided", lambda family: values.count(family.undecided), unit=""),
    ),
    InFamily,
    group=lambda family: family.family,
)

# --- innocents, filters and detectors ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Accused:
    """Models of one kind without an owner's mark, unattacked and after the attack under which most are accused."""

    dataset: str
    defense: str
    suspects: Suspects
    unattacked: Share | None
    attack: str
    accused: Share | None
    keys: int


def _innocents(board: Board) -> list[Accused]:
    """Rows for each scheme, one for each kind of models."""
    plain = {each.attack for each in board.attacks if each.threat is None} | {"none"}
    parts: dict[tuple[str, str, Suspects], list[Innocent]] = {}
    for each in board.innocents:
        parts.setdefault((each.dataset, each.defense, each.suspects), []).append(each)
    order = {scheme: place for place, scheme in enumerate(dict.fromkeys(key[:2] for key in parts))}
    return [
        _accused(key, parts[key], plain)
        for key in sorted(parts, key=lambda key: (order[key[:2]], INNOCENTS.index(key[2])))
    ]


def _accused(key: tuple[str, str, Suspects], records: list[Innocent], plain: set[str]) -> Accused:
    unattacked = next((each.accused for each in records if each.attack in plain), None)
    attacked = [each for each in records if each.attack not in plain and each.accused and each.accused.of]
    most = max(attacked, key=lambda each: each.accused.count / each.accused.of if each.accused else 0.0, default=None)
    found = (most.attack, most.accused) if most else ("", None)
    return Accused(*key, unattacked, *found, max(each.keys for each in records))


INNOCENT = View(
    "innocents",
    "innocent models that are called marked",
    _innocents,
    (
        SCHEME,
        _name("models", "suspects"),
        _number("called marked", "unattacked", values.proportion, ""),
        _number("upper limit", "unattacked", values.upper),
        _number("after an attack", "accused", values.proportion, ""),
        Column("upper limit after it", lambda each: values.upper(each.accused), term="upper limit"),
        Column("keys", lambda each: values.count(each.keys), unit=""),
        _name("attack that most are accused after", "attack"),
    ),
    Innocent,
)
EVASIONS = View(
    "evasions",
    "filters before a stolen model",
    lambda board: board.evasions,
    (
        ATTACK,
        SCHEME,
        N_SUCCESS,
        _number("success", "success", values.spread),
        _number("margin", "margin", values.spread),
        INTERVAL,
        *MARKED,
        _number("accuracy", "accuracy", values.spread),
        NOT_COUNTED,
    ),
    Evaded,
    group=lambda evaded: evaded.attack,
)
DETECTIONS = View(
    "detections",
    "detectors of marks",
    lambda board: board.detections,
    (
        ATTACK,
        SCHEME,
        _number("n", "score", values.size, ""),
        _number("score", "score", lambda summary: values.spread(summary, 1, 2), ""),
        _number("unmarked score", "null_score", lambda summary: values.spread(summary, 1, 2), ""),
        _number("rank p", "rank_p", lambda p: values.decimal(p, 2), ""),
        _number("flagged", "flagged", values.points),
        _number("unmarked flagged", "null_flagged", values.points),
        _number("target named", "target_hit", values.points),
        _number("window rank", "window_rank", values.points),
        _number("unmarked window rank", "null_window_rank", values.points),
        NOT_COUNTED,
    ),
    Detected,
    group=lambda detected: detected.attack,
)
FORGERIES = View(
    "forgeries",
    "forged keys",
    lambda board: board.forgeries,
    (
        ATTACK,
        SCHEME,
        _number("innocent convicted", "innocent", values.proportion, ""),
        _number("upper limit", "innocent", values.upper),
        _number("without unmarked models", "innocent_alone", values.proportion, ""),
        _number("and with a commitment", "innocent_committed", values.proportion, ""),
        _number("owner's model", "owner", values.proportion, ""),
        _number("forger's model", "claimed", values.proportion, ""),
        NOT_COUNTED,
    ),
    Forged,
    group=lambda forged: forged.attack,
)
VIEWS: tuple[View[Any], ...] = (
    *(STANDINGS, WORST, ATTACKS, NO_ATTACKS, COSTS, VERIFYING, EVASIONS, DETECTIONS, FORGERIES, INNOCENT),
)
"""Tables of ``harness leaderboard --details``, in their order."""
BY: dict[str, tuple[View[Any], ...]] = {
    "dataset": (STANDINGS, WORST, COSTS),
    "attack": (ATTACKS, NO_ATTACKS, EVASIONS, DETECTIONS, FORGERIES),
    "family": (FAMILIES,),
}
"""Tables by what ``harness leaderboard --by`` asks for."""


def tables(board: Board, views: Iterable[View[Any]]) -> list[Table]:
    """Tables of each data set, without those that would be empty."""
    datasets = dict.fromkeys(setting.dataset for setting in board.settings)
    made = [view.table(board, dataset) for dataset in datasets for view in views]
    return [table for table in made if table.records]


def terms(made: Iterable[Table], rules: Rules) -> list[tuple[str, str]]:
    """Meanings of the tables' terms, in their order and each once."""
    found: dict[str, str] = {}
    for table in made:
        found |= {each.name: each.term or each.name for each in table.columns if each.name not in PLAIN}
    return [(name, board_meaning(term, rules)) for name, term in found.items()]


PLAIN = ("scheme", "attack", "family")
"""Columns of names, which say what they are."""


def details_sheet(board: Board, by: str | None = None, *, explain: bool = False) -> Sheet:
    """All tables of each data set, or those ``by`` one thing; with the meanings of their words where asked."""
    from harness.ranking.overview import above

    made = tables(board, BY[by] if by else VIEWS)
    first = {}
    for setting in board.settings:
        place = next(
            (n for n, each in enumerate(made) if each.title.startswith(f"{printable(setting.dataset)}: ")), None
        )
        if place is not None:
            first[place] = above(board, setting)
    made = [replace(table, lead=first.get(place, ())) for place, table in enumerate(made)]
    measured = [f"Measured on {printable(machine)}." for machine in board.machines]
    return Sheet(made, terms(made, board.rules) if explain else (), [MARGINS, *map(printable, board.notes), *measured])


def rows_by(board: Board, by: str | None = None) -> tuple[type[Any], Sequence[Any]]:
    """Records for programs and their class: the schemes, or what ``by`` names."""
    if by == "attack":
        return Attacked, board.attacks
    return (InFamily, families(board)) if by == "family" else (Scheme, board.schemes)
