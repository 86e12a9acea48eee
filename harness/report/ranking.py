"""The tables of a board: what may be concluded, margins after each attack, what a mark costs, innocents, detectors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from harness.ranking import views
from harness.ranking.columns import Column, Columns, Table
from harness.ranking.glossary import MARGINS
from harness.ranking.overview import compared, is_control
from harness.ranking.values import decimal, percent
from harness.ranking.views import View, terms
from harness.report.drawing import Axis, Bar, bars
from harness.report.page import PLOTS, ROWS, Grid, Map, Ranking, Row, Section, Tags, shortened, together
from harness.verdicts.board import Attacked, Board, Scheme, Setting, Threat

if TYPE_CHECKING:
    from markupsafe import Markup

    from harness.report.sources import Known

HEAT = 60
"""Schemes or attacks in a map."""
DRAWN = 24
"""Schemes in a picture of worst cases."""
SIGNS = {"survived": "✓", "removed": "✗", "undecided": "?"}
"""Signs of the verdicts in a map."""


def row(columns: Columns[Any], record: Any, tags: Tags) -> Row:
    """Cells of a record."""
    return Row([column.show(record) for column in columns], tags)


def shown_columns(view: View[Any], board: Board) -> Columns[Any]:
    """Columns of a view but for the sketches: the page has pictures of its own."""
    return tuple(column for column in view.shown(board.rules) if not column.sketch)


def headers(columns: Iterable[Column[Any]]) -> dict[str, Any]:
    """Headers of a grid, and which of them are above words."""
    columns = list(columns)
    named = tuple(column.header for column in columns)
    return {"columns": named, "words": frozenset(column.header for column in columns if column.words)}


def _grid(view: View[Any], board: Board, dataset: str, known: Known) -> Grid | None:
    """A view's table of one data set; none where it would be empty."""
    table = view.table(board, dataset)
    if not table.records:
        return None
    columns = shown_columns(view, board)
    rows = [row(columns, record, _tags(record, known)) for record in table.records[:ROWS]]
    note = shortened(len(table.records), ROWS, "rows")
    return Grid(table.title, rows=rows, note=note, tags=known.tags(dataset), **headers(columns))


def _tags(record: Any, known: Known) -> Tags:
    attack = getattr(record, "attack", None)
    return known.tags(record.dataset, attack if attack in known.of else None)


def _section(
    name: str, title: str, told: str, own: tuple[View[Any], ...], board: Board, known: Known, **more: Any
) -> Section | None:
    """A section of views; none where all of their tables would be empty."""
    grids = [grid for dataset in known.datasets for view in own if (grid := _grid(view, board, dataset, known))]
    if not grids:
        return None
    made = [table for table in views.tables(board, own) if table.records]
    return Section(name, title, told, grids=grids, terms=terms(made, board.rules), **more)


# --- schemes ----------------------------------------------------------------------------------------------------------


def leaderboard(board: Board, known: Known) -> Section:
    """Conclusion on each data set, its schemes' worst cases as a picture, and the overview."""
    made = [
        (setting, each.schemes, each.table(board.rules).told())
        for setting in board.settings
        for each in compared(board, setting)
    ]
    rankings = [_ranking(setting, schemes, table, known) for setting, schemes, table in made]
    told = terms([table for _, _, table in made], board.rules)
    return Section("leaderboard", "Leaderboard", rankings=rankings, terms=told)


def _ranking(setting: Setting, schemes: Sequence[Scheme], table: Table, known: Known) -> Ranking:
    tags = known.tags(setting.dataset)
    rows, foot = ([row(table.columns, each, tags) for each in part[:ROWS]] for part in (table.records, table.foot))
    grid = Grid(setting.dataset, rows=rows, foot=foot, lines=table.lines[:ROWS], tags=tags, **headers(table.columns))
    notes = [*table.notes, shortened(len(table.records), ROWS, "schemes")]
    return Ranking(table.lead, _picture(schemes, setting), grid, [note for note in notes if note], tags)


def _picture(schemes: Sequence[Scheme], setting: Setting) -> Markup | None:
    """Worst cases of the schemes in each threat model that was tried, with their intervals."""
    here = sorted(schemes, key=is_control)[:DRAWN]
    series: list[Threat] = [
        threat
        for threat in ("black box", "white box")
        if any(standing.worst for each in here if (standing := each.standings.get(threat)))
    ]
    rows = [(_label(each), _bars(each, series)) for each in here]
    rows = [(label, own) for label, own in rows if own]
    if not rows:
        return None
    least = min(min(bar.value, bar.value if math.isnan(bar.low) else bar.low) for _, own in rows for bar in own)
    low = 25.0 * min(0, math.floor(least / 25))
    axis = Axis("margin: part of the mark that the worst attack leaves (%)", low, 100.0, steps=round((100 - low) / 25))
    heard = "; ".join(f"{label}: {', '.join(bar.told for bar in own)}" for label, own in rows)
    return bars(rows, series, axis, f"Worst-case margins on {setting.dataset}. {heard}.")


def _label(scheme: Scheme) -> str:
    has_rank = any(each.rank for each in scheme.standings.values())
    if is_control(scheme):
        return f"{scheme.defense} (control)"
    return f"{scheme.defense} (no rank)" if scheme.no_rank and not has_rank else scheme.defense


def _bars(scheme: Scheme, series: list[Threat]) -> list[Bar]:
    made = []
    for place, threat in enumerate(series):
        standing = scheme.standings.get(threat)
        worst = standing.worst if standing else None
        if worst is None or not math.isfinite(worst.mean):
            continue
        ends = "" if math.isnan(worst.low) else f", {percent(worst.low)} to {percent(worst.high)}"
        told = f"{threat} {percent(worst.mean)}{ends}"
        made.append(Bar(place, 100 * worst.mean, 100 * worst.low, 100 * worst.high, told))
    return made


def standings(board: Board, known: Known) -> Section | None:
    """Worst case of every scheme in each threat model, and the attacks of which it is."""
    worst = (views.STANDINGS, views.WORST)
    return _section("threats", "Worst case in each threat model", MARGINS, worst, board, known)


def price(board: Board, known: Known) -> Section | None:
    """Cost of a mark to its owner."""
    return _section("price", "Cost of the mark", MARGINS, (views.COSTS,), board, known)


def innocents(board: Board, known: Known) -> Section | None:
    """Models without an owner's mark that the owner's keys call marked."""
    told = (
        "Models without this owner's mark, asked all keys. Only fresh models must stay at the level of the test; the "
        "others are findings."
    )
    return _section("innocents", "Innocents", told, (views.INNOCENT,), board, known)


# --- attacks ----------------------------------------------------------------------------------------------------------


def left(board: Board, known: Known) -> Section | None:
    """Margin that each attack leaves, with the verdict: a map a data set, and the tables."""
    counting = [each for each in board.attacks if not each.no_attack]
    parts = {name: [a for a in counting if a.dataset == name] for name in known.datasets[:PLOTS]}
    maps = [_map(name, attacked, known) for name, attacked in parts.items() if attacked]
    most = max(len({a.defense for a in counting}), len({a.attack for a in counting}))
    told = (
        "Mean margin after each attack, in %: 100 is a whole mark, 0 is chance. ✓: with 95% confidence more than half "
        "of the models are marked, ✗: less than half, ?: undecided, no sign: no verdict. Dark blue is 0, yellow is 100."
    )
    left_out = together(
        shortened(len(known.datasets), PLOTS, "data sets of the maps"),
        shortened(most, HEAT, "schemes or attacks of the maps"),
    )
    own = (views.ATTACKS, views.NO_ATTACKS)
    return _section("left", "Margin after each attack", told, own, board, known, maps=maps, left_out=left_out)


def _map(dataset: str, attacked: list[Attacked], known: Known) -> Map:
    found = {(a.defense, a.attack): a for a in attacked}
    schemes, attacks = (list(dict.fromkeys(key[i] for key in found))[:HEAT] for i in (0, 1))
    tags = {attack: known.tags(None, attack) for attack in attacks}
    rows = [(s, [(*_heat(found.get((s, attack))), tags[attack]) for attack in attacks]) for s in schemes]
    title = f"Margin on {dataset} (%)"
    return Map(title, [(attack, tags[attack]) for attack in attacks], rows, known.tags(dataset))


def _heat(attacked: Attacked | None) -> tuple[str, str]:
    """Text of a cell of the map, and its colour's class."""
    if attacked is None:
        return "-", "none"
    if attacked.margin is None or not math.isfinite(attacked.margin.mean):
        return next((name for name in ("failed", "skipped") if getattr(attacked, name)), "-"), "none"
    sign = SIGNS.get(attacked.survival, "")
    level = min(9, max(0, int(10 * attacked.margin.mean)))
    return f"{decimal(100 * attacked.margin.mean, 0)[0]} {sign}".rstrip(), f"h{level}"


def queries(board: Board, known: Known) -> list[Grid]:
    """Tables of the queries that a verification takes."""
    return [grid for dataset in known.datasets if (grid := _grid(views.VERIFYING, board, dataset, known))]


def hidden(board: Board, known: Known) -> Section | None:
    """Filters before a stolen model, which hide the mark and leave it."""
    return _section("evasions", "Filters before a stolen model", MARGINS, (views.EVASIONS,), board, known)


def forgeries(board: Board, known: Known) -> Section | None:
    """Forged keys, and the models that a judge would give to the forger."""
    told = "Keys that a thief made, asked of unmarked models: the number of them that a judge would give to the thief."
    return _section("forgeries", "Forged keys", told, (views.FORGERIES,), board, known)


def detections(board: Board, known: Known) -> Section | None:
    """Scores of detectors for marked models, beside those for unmarked ones."""
    return _section("detections", "Detections", MARGINS, (views.DETECTIONS,), board, known)
