"""The tables of a board: schemes by rank, what each attack leaves, what a mark and its verification cost, detectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from harness.ranking.columns import SCHEMES, Table, board_terms
from harness.ranking.leaderboard import Attacked, Board, Detected, Ranked, make_board
from harness.report.page import PLOTS, ROWS, Grid, Map, Row, Section, Tags, Value
from harness.report.values import (
    UNKNOWN,
    count,
    decimal,
    interval,
    not_counted,
    points,
    queries,
    shortened,
    size,
    spread,
    text,
    together,
)

if TYPE_CHECKING:
    from harness.report.sources import Known, Results
    from harness.statistics.intervals import Summary

HEAT = 60
"""Schemes or attacks in a map."""
EXACT = 50
"""Schemes up to which the leaderboard is made anew for every choice of access and family."""

T = TypeVar("T", Ranked, Attacked, Detected)
Columns: TypeAlias = Mapping[str, Callable[[T], Value]]
"""The columns of a table of one kind of record, and what each shows of it."""


def _grids(title: str, columns: Iterable[str], rows: Iterable[Row], *, exact: bool = False) -> list[Grid]:
    """A table a dataset, which is each row's first tag."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(row.tags[0][1], []).append(row)
    return [
        Grid(f"{dataset}: {title}", tuple(columns), part, exact=exact, tags=(("dataset", dataset),))
        for dataset, part in parts.items()
    ]


def row(columns: Columns[T], record: T, tags: Tags, hidden: bool = False) -> Row:
    """What the columns show of a record."""
    return Row([show(record) for show in columns.values()], tags, hidden)


# --- schemes ----------------------------------------------------------------------------------------------------------


def leaderboard(results: Results, board: Board, known: Known) -> Section:
    """The ranking of each dataset; of few schemes, that by each family of attacks and access too."""
    columns = scheme_columns(board)
    exact = len(board.schemes) <= EXACT
    if exact:
        rows = [row(columns, s, _choice("", "", s)) for s in board.schemes]
        rows += _choices(results, known, columns)
        filtered = "A choice of access or family ranks by those attacks alone."
    else:
        rows = _rows(columns, board.schemes, known)
        filtered = "Filters of access and family leave it as it is: there are too many schemes to rank for each."
    return Section(
        "leaderboard",
        "Leaderboard",
        together("In %, mean ± standard deviation over n seeds.", filtered, _without_nulls(board)),
        grids=_grids("schemes, ranked by margin", columns, rows, exact=exact),
        terms=_terms(board),
        left_out=shortened(len(board.schemes), ROWS, "schemes"),
    )


def scheme_columns(board: Board) -> Columns[Ranked]:
    """What a ranking shows."""
    budget = board.rules.budget
    within: Columns[Ranked] = {f"within {budget}": lambda s: spread(s.at_budget)} if budget else {}
    evasion: Columns[Ranked] = {"evasion": lambda s: spread(s.evasion)} if any(s.evasion for s in board.schemes) else {}
    return {
        "rank": lambda s: count(s.rank or math.nan),
        "scheme": lambda s: text(s.defense),
        "n": lambda s: size(s.margin),
        "margin": lambda s: spread(s.margin),
        "95% interval": lambda s: interval(s.margin),
        "worst attack": _worst,
        "verified": lambda s: points(s.verified),
        **within,
        "hypervolume": lambda s: spread(s.hypervolume),
        **evasion,
        "not counted": not_counted,
    }


def _worst(scheme: Ranked) -> Value:
    return text(f"{spread(scheme.worst)[0]} {scheme.worst_attack}") if scheme.worst else UNKNOWN


def _choices(results: Results, known: Known, columns: Columns[Ranked]) -> Iterator[Row]:
    """The rankings by a part of the attacks: hidden until a filter asks for them."""
    _, (_, _, accesses), (_, _, families) = known.filters()
    for access in ("", *accesses):
        for family in ("", *families):
            chosen = {attack for attack, own in known.of.items() if access in ("", own[0]) and family in ("", own[1])}
            part = results.cells[results.cells["attack"].isin(chosen)]
            if (access or family) and len(part):
                board = make_board(part, results.detections, results.stages, results.rules, intervals=False)
                yield from (row(columns, s, _choice(access, family, s), hidden=True) for s in board.schemes)


def _choice(access: str, family: str, scheme: Ranked) -> Tags:
    """For which choice a row of the leaderboard stands; empty is all."""
    return (("dataset", scheme.dataset), ("access", access), ("family", family))


def _terms(board: Board) -> list[tuple[str, str]]:
    """What the words of the leaderboard mean."""
    shown = scheme_columns(board)
    ranked = Table("", SCHEMES.shown(board.rules), board.schemes)
    return [(term, words) for term, words in board_terms(board, [ranked]) if term in shown]


def _without_nulls(board: Board) -> str:
    if board.rules.fpr is not None or all(scheme.false_rate or not scheme.margin for scheme in board.schemes):
        return ""
    return "Where there are no null models the margin is the success itself, and nothing is verified."


def price(board: Board, known: Known) -> Section:
    """What a mark costs its owner."""
    columns: Columns[Ranked] = {
        "scheme": lambda s: text(s.defense),
        "n": lambda s: size(s.victim_success),
        "victim success (%)": lambda s: spread(s.victim_success),
        "false rate (%)": lambda s: spread(s.false_rate),
        "accuracy cost (points)": lambda s: spread(s.accuracy_cost),
        "embedding (s)": lambda s: spread(s.embed_seconds, 1),
        "null model (s)": lambda s: spread(s.null_seconds, 1),
        "samples, embedding": lambda s: _mean(s.embed_samples),
        "samples, null model": lambda s: _mean(s.null_samples),
    }
    return Section(
        "price",
        "What the mark costs",
        "Mean ± standard deviation over n seeds. Accuracy cost: the null models' accuracy less the victim's. Seconds "
        "and training samples of embedding stand beside those of a null model: the same task without a mark.",
        grids=_grids("what the mark costs", columns, _rows(columns, board.schemes, known)),
        left_out=shortened(len(board.schemes), ROWS, "schemes"),
    )


def _mean(summary: Summary | None) -> Value:
    return count(summary.mean) if summary else UNKNOWN


def verifying(board: Board, known: Known) -> list[Grid]:
    """How many queries it takes to accuse a scheme's attacked models."""
    columns: Columns[Ranked] = {
        "scheme": lambda s: text(s.defense),
        "t-test": lambda s: queries(s.queries),
        "80% power": lambda s: queries(s.queries_80),
        "95% power": lambda s: queries(s.queries_95),
        "sequential": lambda s: queries(s.queries_sequential, 1),
    }
    tested = [scheme for scheme in board.schemes if not math.isnan(scheme.queries)]
    title = f"queries to verify at {board.rules.confidence:.0%}"
    return _grids(title, columns, _rows(columns, tested, known))


def _rows(columns: Columns[Ranked], schemes: list[Ranked], known: Known) -> list[Row]:
    return [row(columns, s, known.tags(s.dataset)) for s in schemes[:ROWS]]


# --- attacks ----------------------------------------------------------------------------------------------------------


def left(board: Board, known: Known) -> Section | None:
    """What each attack leaves: a map a dataset, and the table."""
    if not board.attacks:
        return None
    parts = {name: [a for a in board.attacks if a.dataset == name] for name in known.datasets[:PLOTS]}
    maps = [_map(name, attacked, known) for name, attacked in parts.items() if attacked]
    order = {attack: place for place, attack in enumerate(known.of)}
    attacks = sorted(board.attacks, key=lambda a: order[a.attack])
    columns = attack_columns(board)
    rows = [row(columns, a, known.tags(a.dataset, a.attack)) for a in attacks[:ROWS]]
    most = max(len({a.defense for a in board.attacks}), len({a.attack for a in board.attacks}))
    return Section(
        "left",
        "What each attack leaves",
        "Mean share of trigger queries that the attacked model answers as the key says, in %: high is a mark that "
        "survives. Dark blue is 0, yellow is 100. Void: no seed kept its accuracy. Held out: the same of triggers that "
        "the scheme did not train on.",
        maps,
        _grids("what each attack leaves", columns, rows),
        left_out=together(
            shortened(len(known.datasets), PLOTS, "datasets of the maps"),
            shortened(most, HEAT, "schemes or attacks of the maps"),
            shortened(len(board.attacks), ROWS, "rows"),
        ),
    )


def attack_columns(board: Board) -> Columns[Attacked]:
    """What is shown of an attack on a scheme."""
    budget = board.rules.budget
    within: Columns[Attacked] = {f"within {budget}": lambda a: points(a.at_budget)} if budget else {}
    return {
        "scheme": lambda a: text(a.defense),
        "attack": lambda a: text(a.attack),
        "n": lambda a: size(a.success),
        "success": lambda a: spread(a.success),
        "held out": lambda a: spread(a.held_out),
        "accuracy": lambda a: spread(a.accuracy),
        "verified": lambda a: points(a.verified),
        **within,
        "not counted": not_counted,
    }


def _map(dataset: str, attacked: list[Attacked], known: Known) -> Map:
    found = {(a.defense, a.attack): a for a in attacked}
    schemes, attacks = (list(dict.fromkeys(key[i] for key in found))[:HEAT] for i in (0, 1))
    tags = {attack: known.tags(None, attack) for attack in attacks}
    rows = [(s, [(*_heat(found.get((s, attack))), tags[attack]) for attack in attacks]) for s in schemes]
    title = f"Success on {dataset} (%)"
    return Map(title, [(attack, tags[attack]) for attack in attacks], rows, known.tags(dataset))


def _heat(attacked: Attacked | None) -> tuple[str, str]:
    """What a cell of the map says, and its colour's class."""
    if attacked is None:
        return "-", "none"
    if attacked.success is None:
        return next((name for name in ("void", "failed", "skipped") if getattr(attacked, name)), "-"), "none"
    return f"{100 * attacked.success.mean:.0f}", f"h{min(9, int(10 * attacked.success.mean))}"


def detections(board: Board, known: Known) -> Section | None:
    """What detectors say of marked models, beside null models."""
    if not board.detections:
        return None
    columns: Columns[Detected] = {
        "scheme": lambda d: text(d.defense),
        "attack": lambda d: text(d.attack),
        "n": lambda d: size(d.score),
        "score": lambda d: spread(d.score, 1, 2),
        "null score": lambda d: spread(d.null_score, 1, 2),
        "flagged (%)": lambda d: points(d.flagged),
        "nulls flagged (%)": lambda d: points(d.null_flagged),
        "rank p": lambda d: decimal(d.rank_p, 2),
        "target named (%)": lambda d: points(d.target_hit),
        "window rank (%)": lambda d: points(d.window_rank),
        "not counted": not_counted,
    }
    rows = [row(columns, d, known.tags(d.dataset, d.attack)) for d in board.detections[:ROWS]]
    return Section(
        "detections",
        "Detections",
        "Score: the detector's statistic, flagged above its own threshold, beside what it says of models without a "
        "mark. Rank p: median over the seeds of (r + 1) / (k + 1), where r of the k null models score as high. Target "
        "named: the suspected class is the key's. Window rank: share of the windows that lie as high on the recovered "
        "map as the trigger's own; 50 by chance.",
        grids=_grids("what detectors see", columns, rows),
        left_out=shortened(len(board.detections), ROWS, "rows"),
    )
