"""The pictures of single cells: seeds, pruning curves, query budgets, accuracy against success."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import pandas as pd

from harness.ranking.frames import attack_means, attacked, chances, swept
from harness.ranking.glossary import TESTS, fraction
from harness.ranking.values import count, decimal, points, spread, text
from harness.ranking.views import VERIFYING, tables, terms
from harness.report.drawing import COLOURS, Axis, Dot, Series, chart, strips
from harness.report.page import PLOTS, Grid, Plot, Row, Section, shortened, together
from harness.report.ranking import queries

if TYPE_CHECKING:
    from harness.report.sources import Known
    from harness.statistics.intervals import Summary
    from harness.verdicts.board import Board
    from harness.verdicts.rules import Rules

STRIPS = 24
"""Schemes in a picture of single seeds."""
BUDGETS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 1000)
LOWEST = (90.0, 80.0, 75.0, 50.0, 0.0)
"""Starts of an axis of accuracies: its ticks are round numbers then."""
SUCCESS = "success: trigger queries answered as the key says (%)"


def _evident(scored: pd.DataFrame) -> pd.DataFrame:
    """The cells that have trigger evidence of what an attack leaves, those of useless models too."""
    return attacked(scored).dropna(subset="surrogate_trigger")


def _groups(rows: pd.DataFrame, by: str | list[str], limit: int) -> Iterator[tuple[Any, pd.DataFrame]]:
    """The first groups, in the order of the rows; of thousands the others are not even made."""
    return islice(iter(rows.groupby(by, sort=False)), limit)


def _count(rows: pd.DataFrame, by: list[str]) -> int:
    """Number of groups."""
    return int(rows.groupby(by, sort=False).ngroups)


def _told(row: Any) -> str:
    """Text of a dot for a pointer over it."""
    success, accuracy = 100 * row.surrogate_trigger, 100 * row.surrogate_accuracy
    return f"seed {row.seed}: success {success:.1f}%, accuracy {accuracy:.1f}%{'' if row.counts else ', not useful'}"


def _some(told: Sequence[str]) -> str:
    more = f"; and {len(told) - 6} more" if len(told) > 6 else ""
    return "; ".join(told[:6]) + more


def _from_to(series: Series) -> str:
    (first, start), (last, end) = series.line[0], series.line[-1]
    return f"{series.name} {start:.0f} at {first:.0f} to {end:.0f} at {last:.0f}"


# --- single seeds -----------------------------------------------------------------------------------------------------


def distributions(scored: pd.DataFrame, known: Known) -> Section | None:
    """Every seed's success, a picture an attack."""
    evident = _evident(scored)
    if evident.empty:
        return None
    evident, by = evident.sort_values("kind", key=lambda kind: kind == "none", kind="stable"), ["dataset", "attack"]
    return Section(
        "seeds",
        "Distributions over seeds",
        "Every seed is a dot, hollow where the attack left no useful model; the bar is the mean of the others. Marks "
        "often survive in some seeds and not in others: a mean between two clusters is a number that no seed has.",
        plots=[_strip(dataset, attack, rows, known) for (dataset, attack), rows in _groups(evident, by, PLOTS)],
        left_out=together(
            shortened(_count(evident, by), PLOTS, "pictures"),
            shortened(evident["defense"].nunique(), STRIPS, "schemes of a picture"),
        ),
    )


def _strip(dataset: str, attack: str, rows: pd.DataFrame, known: Known) -> Plot:
    lines, values, told = [], [], []
    for scheme, each in _groups(rows, "defense", STRIPS):
        each = each.sort_values("surrogate_trigger")
        mean = 100 * each.loc[each["counts"], "surrogate_trigger"].mean()
        dots = [Dot(100 * row.surrogate_trigger, 0, _told(row), bool(row.counts)) for row in each.itertuples()]
        lines.append((str(scheme), dots, mean))
        seeds = ", ".join(f"#{row.seed}: {100 * row.surrogate_trigger:.1f}" for row in each.itertuples())
        values.append(Row([text(scheme), text(seeds), count(len(each)), points(mean / 100)]))
        middle = f"{mean:.0f}" if math.isfinite(mean) else "none useful"
        told.append(f"{scheme} {middle} ({dots[0].x:.0f} to {dots[-1].x:.0f}, n = {len(dots)})")
    title = f"{attack} on {dataset}"
    heard = f"Success in % by seed under {title}. Mean and range: {_some(told)}."
    grid = Grid(title, ("scheme", "each seed", "n", "mean (%)"), values)
    return Plot(title, [strips(lines, Axis(SUCCESS), heard)], grid, known.tags(dataset, attack))


# --- pruning curves ---------------------------------------------------------------------------------------------------


def sweeps(scored: pd.DataFrame, known: Known) -> Section | None:
    """Success and accuracy against the share that is pruned, where there are at least two shares."""
    shares = [rows for _, option, rows in swept(_evident(scored), "attack", known.options) if option == "fraction"]
    groups = [(key, part) for rows in shares for key, part in rows.groupby(["dataset", "attack"], sort=False)]
    if not groups:
        return None
    return Section(
        "pruning",
        "Pruning curves",
        "Lines go through the means over seeds; dots are seeds, hollow where the model is not useful. Above: success; "
        "below: accuracy.",
        plots=[_sweep(str(dataset), str(chain), part, known) for (dataset, chain), part in groups[:PLOTS]],
        left_out=together(
            shortened(len(groups), PLOTS, "pictures"),
            shortened(max(part["defense"].nunique() for _, part in groups), COLOURS, "schemes of a picture"),
        ),
    )


def _sweep(dataset: str, chain: str, rows: pd.DataFrame, known: Known) -> Plot:
    title = f"{chain} on {dataset}"
    pictures, values = [], []
    for column, label in (("surrogate_trigger", "success (%)"), ("surrogate_accuracy", "accuracy (%)")):
        series = []
        for scheme, each in _groups(rows, "defense", COLOURS):
            means = 100 * each.assign(x=100 * each["x"]).groupby("x")[column].mean()
            dots = [
                Dot(100 * row.x, 100 * getattr(row, column), _told(row), bool(row.counts)) for row in each.itertuples()
            ]
            series.append(Series(str(scheme), list(means.items()), dots))
            values += [Row([text(scheme), text(label), count(x), points(y / 100)]) for x, y in means.items()]
        heard = f"{label} against the share pruned, {title}: {_some([_from_to(each) for each in series])}."
        pictures.append(chart(series, Axis("units pruned (%)"), Axis(label), heard))
    grid = Grid(title, ("scheme", "quantity", "pruned (%)", "mean"), values)
    return Plot(title, pictures, grid, known.tags(dataset, rows["whole"].iloc[0]))


# --- query budgets ----------------------------------------------------------------------------------------------------


def budgets(scored: pd.DataFrame, board: Board, known: Known) -> Section | None:
    """Queries that an accusation takes, and the share of a scheme's attacked models that so many accuse."""
    rules = board.rules
    found = chances(scored, BUDGETS, rules)
    if found.empty:
        return None
    return Section(
        "queries",
        "Query budgets",
        "The pictures: share of the models left by extractions and removals that are called marked with so many "
        "trigger queries, were each answered at the rate that was measured: the mean chance over the attacks and seeds "
        f"that count. Marked: p <= {fraction(rules.alpha)}. {TESTS[rules.test]}",
        grids=queries(board, known),
        plots=[_budget(dataset, rows, known) for dataset, rows in _groups(found, "dataset", PLOTS)],
        terms=terms(tables(board, (VERIFYING,)), rules),
        left_out=together(
            shortened(found["dataset"].nunique(), PLOTS, "pictures"),
            shortened(found["defense"].nunique(), COLOURS, "schemes of a picture"),
        ),
    )


def _budget(dataset: str, rows: pd.DataFrame, known: Known) -> Plot:
    means = {
        str(scheme): each.groupby("x")["value"].mean().to_numpy() for scheme, each in _groups(rows, "defense", COLOURS)
    }
    series = [Series(name, list(zip(map(float, BUDGETS), 100 * line, strict=True))) for name, line in means.items()]
    values = [
        Row([count(asked), *(points(float(line[place])) for line in means.values())])
        for place, asked in enumerate(BUDGETS)
    ]
    heard = f"Share marked in % against queries on {dataset}: {_some([_from_to(each) for each in series])} queries."
    x, y = Axis("trigger queries (log scale)", 1, BUDGETS[-1], log=True), Axis("models marked (%)")
    title = f"Share marked on {dataset}"
    grid = Grid(f"{title} (%)", ("queries", *means), values)
    return Plot(title, [chart(series, x, y, heard)], grid, known.tags(dataset))


# --- accuracy against success -----------------------------------------------------------------------------------------


def frontiers(scored: pd.DataFrame, board: Board, known: Known) -> Section | None:
    """Accuracy that an attacker pays for the part of the mark that it removes, a picture a scheme."""
    evident = _evident(scored).dropna(subset="surrogate_accuracy")
    if evident.empty:
        return None
    by = ["dataset", "defense"]
    areas = {(scheme.dataset, scheme.defense): scheme.hypervolume for scheme in board.schemes}
    return Section(
        "frontier",
        "Accuracy against success",
        "A dot a cell, hollow where the model is not useful, and at the edge where it lies beyond. A numbered diamond "
        "is the mean of an attack over the cells that count: the table says which. The line bounds what the "
        "extractions and removals reach: none of them leaves both more accuracy and less of the mark. Hypervolume: the "
        "area that they reach on a seed, mean ± standard deviation; 0 leaves all of the mark, 100 none of it and all "
        f"of the accuracy, down to {100 * board.rules.max_drop:g} points below the victim or unmarked models, the "
        "lower. Low is good for the owner.",
        plots=[_frontier(rows, areas.get(key), board.rules, known) for key, rows in _groups(evident, by, PLOTS)],
        left_out=shortened(_count(evident, by), PLOTS, "pictures"),
    )


def _frontier(rows: pd.DataFrame, area: Summary | None, rules: Rules, known: Known) -> Plot:
    dataset, scheme = str(rows["dataset"].iloc[0]), str(rows["defense"].iloc[0])
    title, means = f"{scheme} on {dataset}", attack_means(rows[rows["counts"]])
    places = list(enumerate(means.itertuples(), start=1))
    dots = [
        Dot(100 * row.surrogate_accuracy, 100 * row.surrogate_trigger, f"{row.attack}, {_told(row)}", bool(row.counts))
        for row in rows.itertuples()
    ]
    # The least accuracy of a useful model: as far down as an attacker can go.
    floor = 100 * float((rows.loc[rows["counts"], "null_accuracy"].fillna(0.0) - rules.max_drop).mean())
    line = _stairs(means.loc[means["front"], ["accuracy", "success"]].to_numpy().tolist(), floor)
    marks = [(row.accuracy, row.success, str(place)) for place, row in places]
    shown = [floor, *(dot.x for dot in dots if dot.counts)] if places else [dot.x for dot in dots]
    x = Axis("accuracy of the attacked model (%)", next(low for low in LOWEST if low <= max(0.0, min(shown))))
    heard = _some([f"{row.Index} leaves {row.success:.0f} at accuracy {row.accuracy:.0f}" for _, row in places])
    series = [Series(scheme, line, dots, marks)]
    picture = chart(series, x, Axis("success (%)"), f"{title}: {heard or 'none useful'}.", legend=False)
    values = [
        Row(
            [
                text(row.Index),
                text("yes" if row.front else "-"),
                count(place),
                decimal(row.accuracy, 1),
                decimal(row.success, 1),
            ]
        )
        for place, row in places
    ]
    grid = Grid(title, ("attack", "on the line", "number", "accuracy (%)", "success (%)"), values)
    return Plot(f"{title}: hypervolume {spread(area)[0]}" if area else title, [picture], grid, known.tags(dataset))


def _stairs(points: Sequence[tuple[float, float]], floor: float) -> list[tuple[float, float]]:
    """The edge of what the points reach: from the most accuracy and all of the mark, down and to the left."""
    line: list[tuple[float, float]] = []
    level = 100.0
    for x, y in sorted(points, reverse=True):
        line += [(x, level), (x, y)]
        level = y
    return [*line, (min(floor, line[-1][0]), level)] if line else []
