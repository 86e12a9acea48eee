"""The tables of a board: schemes by rank, what each attack leaves, what a mark and its verification cost, detectors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Any

from harness.ranking.columns import (
    ATTACKS,
    COSTS,
    DETECTIONS,
    SCHEMES,
    VERIFYING,
    Columns,
    Table,
    View,
    board_terms,
)
from harness.ranking.glossary import NO_NULLS, SHARES
from harness.ranking.leaderboard import Attacked, Board, Ranked, ranked_schemes
from harness.report.page import PLOTS, ROWS, Grid, Map, Row, Section, Tags, shortened, together

if TYPE_CHECKING:
    import pandas as pd

    from harness.report.sources import Known, Results

HEAT = 60
"""Schemes or attacks in a map."""
EXACT = 50
"""Schemes up to which the leaderboard is made again for every choice of access and family."""


def _grids(
    view: View[Any], board: Board, columns: Columns[Any], rows: Iterable[Row], *, exact: bool = False
) -> list[Grid]:
    """A table a dataset, which is each row's first tag."""
    parts: dict[str, list[Row]] = {}
    for each in rows:
        parts.setdefault(each.tags[0][1], []).append(each)
    headers, title = tuple(column.header for column in columns), view.title_by(board.rules)
    return [
        Grid(f"{dataset}: {title}", headers, part, exact=exact, tags=(("dataset", dataset),))
        for dataset, part in parts.items()
    ]


def row(columns: Columns[Any], record: Any, tags: Tags, hidden: bool = False) -> Row:
    """Cells of a record."""
    return Row([column.show(record) for column in columns], tags, hidden)


def _columns(view: View[Any], board: Board) -> Columns[Any]:
    """Columns of a view but for the sketches: the page has pictures of its own."""
    return tuple(column for column in view.shown(board.rules) if not column.sketch)


def _terms(view: View[Any], columns: Columns[Any], board: Board) -> list[tuple[str, str]]:
    """Meanings of the words of one view."""
    return board_terms(board, [Table("", columns, (), view.term)])


# --- schemes ----------------------------------------------------------------------------------------------------------


def leaderboard(results: Results, scored: pd.DataFrame, board: Board, known: Known) -> Section:
    """The ranking of each dataset; of few schemes, that by each family of attacks and access too."""
    columns = scheme_columns(board)
    exact = len(board.schemes) <= EXACT
    if exact:
        rows = [row(columns, s, _choice("", "", s)) for s in board.schemes]
        rows += _choices(results, scored, known, columns)
        filtered = "A choice of access or family ranks by those attacks alone."
    else:
        rows = _rows(columns, board.schemes, known)
        filtered = "Filters of access and family leave it as it is: there are too many schemes to rank for each."
    return Section(
        "leaderboard",
        "Leaderboard",
        together(SHARES, filtered, _without_nulls(board)),
        grids=_grids(SCHEMES, board, columns, rows, exact=exact),
        terms=_terms(SCHEMES, columns, board),
        left_out=shortened(len(board.schemes), ROWS, "schemes"),
    )


def scheme_columns(board: Board) -> Columns[Ranked]:
    """Columns of a ranking: that of evasions only where there are some."""
    has_evasion = any(scheme.evasion for scheme in board.schemes)
    return tuple(each for each in _columns(SCHEMES, board) if has_evasion or each.name != "evasion")


def _choices(results: Results, scored: pd.DataFrame, known: Known, columns: Columns[Ranked]) -> Iterator[Row]:
    """The rankings by a part of the attacks: hidden until a filter asks for them."""
    _, (_, _, accesses), (_, _, families) = known.filters()

    @cache  # many choices are of the same attacks
    def ranked(attacks: frozenset[str]) -> list[Ranked]:
        part = scored[scored["attack"].isin(attacks)]
        return ranked_schemes(part, results.stages, results.rules) if len(part) else []

    for access, family in product(("", *accesses), ("", *families)):
        chosen = {attack for attack, own in known.of.items() if access in ("", own[0]) and family in ("", own[1])}
        if access or family:
            schemes = ranked(frozenset(chosen))
            yield from (row(columns, s, _choice(access, family, s), hidden=True) for s in schemes)


def _choice(access: str, family: str, scheme: Ranked) -> Tags:
    """Tags of the choice that a row of the leaderboard stands for; empty is all."""
    return (("dataset", scheme.dataset), ("access", access), ("family", family))


def _without_nulls(board: Board) -> str:
    if board.rules.fpr is not None or all(scheme.false_rate or not scheme.margin for scheme in board.schemes):
        return ""
    return NO_NULLS


def price(board: Board, known: Known) -> Section:
    """Cost of a mark to its owner."""
    columns = _columns(COSTS, board)
    return Section(
        "price",
        "Cost of the mark",
        SHARES,
        grids=_grids(COSTS, board, columns, _rows(columns, board.schemes, known)),
        terms=_terms(COSTS, columns, board),
        left_out=shortened(len(board.schemes), ROWS, "schemes"),
    )


def verifying(board: Board, known: Known) -> list[Grid]:
    """Tables of the queries that accuse a scheme's attacked models."""
    columns = _columns(VERIFYING, board)
    tested = [scheme for scheme in board.schemes if not math.isnan(scheme.queries)]
    return _grids(VERIFYING, board, columns, _rows(columns, tested, known))


def verifying_terms(board: Board) -> list[tuple[str, str]]:
    """Meanings of the words of these tables."""
    return _terms(VERIFYING, _columns(VERIFYING, board), board)


def _rows(columns: Columns[Ranked], schemes: list[Ranked], known: Known) -> list[Row]:
    return [row(columns, s, known.tags(s.dataset)) for s in schemes[:ROWS]]


# --- attacks ----------------------------------------------------------------------------------------------------------


def left(board: Board, known: Known) -> Section | None:
    """Success that each attack leaves: a map a dataset, and the table."""
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
        "Success after each attack",
        "Mean share of trigger queries that the attacked model answers as the key says, in %: high is a mark that "
        "survives. Dark blue is 0, yellow is 100. Void: no seed kept its accuracy.",
        maps,
        _grids(ATTACKS, board, columns, rows),
        terms=_terms(ATTACKS, columns, board),
        left_out=together(
            shortened(len(known.datasets), PLOTS, "datasets of the maps"),
            shortened(most, HEAT, "schemes or attacks of the maps"),
            shortened(len(board.attacks), ROWS, "rows"),
        ),
    )


def attack_columns(board: Board) -> Columns[Attacked]:
    """Columns on an attack on a scheme."""
    return _columns(ATTACKS, board)


def _map(dataset: str, attacked: list[Attacked], known: Known) -> Map:
    found = {(a.defense, a.attack): a for a in attacked}
    schemes, attacks = (list(dict.fromkeys(key[i] for key in found))[:HEAT] for i in (0, 1))
    tags = {attack: known.tags(None, attack) for attack in attacks}
    rows = [(s, [(*_heat(found.get((s, attack))), tags[attack]) for attack in attacks]) for s in schemes]
    title = f"Success on {dataset} (%)"
    return Map(title, [(attack, tags[attack]) for attack in attacks], rows, known.tags(dataset))


def _heat(attacked: Attacked | None) -> tuple[str, str]:
    """Text of a cell of the map, and its colour's class."""
    if attacked is None:
        return "-", "none"
    if attacked.success is None:
        return next((name for name in ("void", "failed", "skipped") if getattr(attacked, name)), "-"), "none"
    return f"{100 * attacked.success.mean:.0f}", f"h{min(9, int(10 * attacked.success.mean))}"


def detections(board: Board, known: Known) -> Section | None:
    """Scores of detectors for marked models, beside those for null models."""
    if not board.detections:
        return None
    columns = _columns(DETECTIONS, board)
    rows = [row(columns, d, known.tags(d.dataset, d.attack)) for d in board.detections[:ROWS]]
    return Section(
        "detections",
        "Detections",
        SHARES,
        grids=_grids(DETECTIONS, board, columns, rows),
        terms=_terms(DETECTIONS, columns, board),
        left_out=shortened(len(board.detections), ROWS, "rows"),
    )
