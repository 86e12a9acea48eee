"""From the tables to what the page shows, section by section; where a limit is reached the page says so."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from harness.errors import UsageError
from harness.leaderboard import Attacked, Board, Ranked, Rules, make_board, score
from harness.matrix import Entry, format_chain, parse_chain
from harness.named import words
from harness.report.drawing import COLOURS, Axis, Dot, Series, chart, strips
from harness.statistics import Summary
from harness.tables import printable

if TYPE_CHECKING:
    from markupsafe import Markup
    from numpy.typing import NDArray

    from harness.registry import Registry

ROWS = 1000
"""Rows of a table, and of the rows of all sections of plugins together."""
PLOTS = 12
"""Plots of a kind."""
STRIPS = 24
"""Schemes in a plot of single seeds."""
HEAT = 60
"""Schemes or attacks in a map."""
EXACT = 50
"""Schemes up to which the leaderboard is made anew for every choice of access and family."""
BUDGETS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 1000)
PERCENT = "success: trigger queries answered as the key says (%)"

Tags: TypeAlias = tuple[tuple[str, str], ...]
Value: TypeAlias = tuple[str, float | str]
"""What is shown, and what it is sorted by: empty where it is not known."""


@dataclass(frozen=True)
class Results:
    """The tables that the page is made from, and by which rules."""

    cells: pd.DataFrame
    detections: pd.DataFrame
    stages: pd.DataFrame
    rules: Rules


@dataclass(frozen=True)
class About:
    """Where the page comes from."""

    source: str
    command: str
    date: str
    harness: str
    commit: str = ""


class Row(NamedTuple):
    """A row of a table, and what a filter knows of it."""

    values: list[Value]
    tags: Tags = ()
    hidden: bool = False


@dataclass(frozen=True)
class Grid:
    """A table whose first ``names`` columns are text, the others numbers."""

    title: str
    columns: tuple[str, ...]
    names: int
    rows: list[Row]
    note: str = ""
    exact: bool = False
    tags: Tags = ()


@dataclass(frozen=True)
class Map:
    """Numbers in coloured cells: schemes by attacks."""

    title: str
    columns: list[tuple[str, Tags]]
    rows: list[tuple[str, list[tuple[str, str, Tags]]]]
    tags: Tags


@dataclass(frozen=True)
class Plot:
    """One or more pictures, and the table behind them."""

    title: str
    pictures: list[Markup]
    grid: Grid
    tags: Tags


@dataclass(frozen=True)
class Described:
    """What is known of a plugin, and what was found with it."""

    name: str
    summary: str
    reference: str
    text: str
    grid: Grid


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    id: str
    title: str
    text: str = ""
    grids: Sequence[Grid] = ()
    maps: Sequence[Map] = ()
    plots: Sequence[Plot] = ()
    plugins: Sequence[Described] = ()
    facts: Sequence[tuple[str, Sequence[str]]] = ()
    left_out: str = ""


@dataclass(frozen=True)
class Page:
    """All that the template shows."""

    lead: str
    filters: list[tuple[str, str, list[str]]]
    sections: list[Section]
    data: Mapping[str, Any] = field(default_factory=dict)


def make_sections(results: Results, about: About, registry: Registry) -> Page:
    """The page's contents. Raises :class:`UsageError` when there are no cells."""
    if results.cells.empty:
        raise UsageError("no results yet: type harness run --matrix smoke")
    cells = _named(results.cells)
    results = replace(results, cells=cells, detections=_named(results.detections))
    board = _board(results, cells)
    scored = score(cells, results.rules)
    known = _Known(cells, registry)
    made = [
        _leaderboard(results, board, known),
        _left(board, known),
        _distributions(scored, known),
        _sweeps(scored, known),
        _budgets(scored, results.rules, known),
        _frontiers(scored, known),
        _detections(board, known),
        Section("schemes", "Schemes", plugins=_schemes(board, known), left_out=known.said("defense")),
        Section("attacks", "Attacks", plugins=_attacks(board, known), left_out=known.said("attack")),
        _costs(results.stages),
        _ends(results),
        _provenance(results, board, about),
    ]
    small = len(board.schemes) + len(board.attacks) <= 2 * ROWS
    return Page(_lead(cells), known.filters(), [each for each in made if each], board.as_dict() if small else {})


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with names as they can be shown: no character in them that turns the text around, say."""
    shown = {column: frame[column].map(printable) for column in ("dataset", "defense", "attack")}
    return frame.assign(**shown).reset_index(drop=True)


def _board(results: Results, cells: pd.DataFrame) -> Board:
    # Of thousands of attacks the intervals take longer than all else.
    return make_board(cells, results.detections, results.stages, results.rules, intervals=len(cells) <= 5 * ROWS)


class _Known:
    """What the cells and the registry say of datasets, schemes and attacks."""

    def __init__(self, cells: pd.DataFrame, registry: Registry) -> None:
        self.registry = registry
        self.datasets = list(dict.fromkeys(cells["dataset"]))
        about = cells.drop_duplicates("attack")[["attack", "access", "family"]].fillna("")
        self.of = {attack: (printable(access), printable(family)) for attack, access, family in about.to_numpy()}
        self.names = {kind: _plugin_names(cells[kind]) for kind in ("defense", "attack")}

    def filters(self) -> list[tuple[str, str, list[str]]]:
        """What a reader can choose by."""
        accesses, families = (sorted({pair[i] for pair in self.of.values()} - {""}) for i in (0, 1))
        named = (("dataset", "dataset", self.datasets), ("access", "access", accesses), ("family", "family", families))
        return [(key, label, values) for key, label, values in named]

    def tags(self, dataset: str, attack: str | None = None) -> Tags:
        """What a filter is to know of something of a dataset, and of an attack."""
        own: Tags = (("dataset", dataset),) if dataset else ()
        return own if attack is None else (*own, *zip(("access", "family"), self.of[attack], strict=True))

    def said(self, kind: str) -> str:
        return _said(len(self.names[kind]), PLOTS * 5, f"names of {kind}s")


def _plugin_names(entries: pd.Series[str]) -> dict[str, dict[str, None]]:
    """The plugins' names in entries or chains, each with what it was part of."""
    names: dict[str, dict[str, None]] = {}
    for text in dict.fromkeys(entries):
        for name in dict.fromkeys(entry.name for entry in _chain(text)):
            names.setdefault(name, {})[text] = None
    return names


def _chain(text: str) -> tuple[Entry, ...]:
    """The entries of a chain; a text that no harness would have written is a name as a whole."""
    try:
        return parse_chain(text)
    except UsageError:
        return (Entry(text),)


# --- values -----------------------------------------------------------------------------------------------------------


def _text(text: object) -> Value:
    return printable(text), ""


def _count(number: float) -> Value:
    return (f"{number:,.0f}", float(number)) if math.isfinite(number) else ("-", "")


def _points(share: float) -> Value:
    # Rounded first, so that a rate of -0.0 reads as 0.
    return (f"{round(100 * share, 1) + 0.0:.1f}", share) if math.isfinite(share) else ("-", "")


def _spread(summary: Summary | None, scale: float = 100, digits: int = 1) -> Value:
    if summary is None:
        return "-", ""
    mean, sd = (round(scale * value, digits) + 0.0 for value in (summary.mean, summary.sd))
    return f"{mean:.{digits}f}" if math.isnan(sd) else f"{mean:.{digits}f} ± {sd:.{digits}f}", summary.mean


def _queries(number: float) -> Value:
    return ("never", number) if math.isinf(number) else _count(number)


def _not_counted(row: Any) -> Value:
    counts = [(name, getattr(row, name)) for name in ("void", "failed", "skipped")]
    return ", ".join(f"{count} {name}" for name, count in counts if count) or "-", sum(count for _, count in counts)


def _said(there: int, limit: int, what: str) -> str:
    """That only some are shown, where that is so."""
    return f"The first {limit:,} of {there:,} {what} are shown; harness leaderboard --format csv has all." * (
        there > limit
    )


# --- sections ---------------------------------------------------------------------------------------------------------

SCHEME_COLUMNS = (
    *("dataset", "scheme", "worst attack", "rank", "n", "margin", "worst success", "verified", "queries"),
    *("false rate", "victim success", "accuracy cost", "not counted"),
)
ATTACK_COLUMNS = ("dataset", "scheme", "attack", "n", "success", "held out", "accuracy", "verified", "not counted")


def _lead(cells: pd.DataFrame) -> str:
    counts = [
        (cells["dataset"].nunique(), "dataset"),
        (cells["defense"].nunique(), "scheme"),
        (cells["attack"].nunique(), "attack"),
        (cells["seed"].nunique(), "seed"),
        (len(cells), "cell"),
    ]
    told = ", ".join(f"{count:,} {what}{'s' * (count != 1)}" for count, what in counts)
    ends = cells["status"].value_counts()
    return f"{told}: {', '.join(f'{count:,} {status}' for status, count in ends.items())}."


def _scheme_rows(board: Board, tags: Callable[[Ranked], Tags], hidden: bool = False) -> list[Row]:
    success = {(a.dataset, a.defense, a.attack): a.success for a in board.attacks}
    return [
        Row(_scheme_values(s, success.get((s.dataset, s.defense, s.worst_attack))), tags(s), hidden)
        for s in board.schemes
    ]


def _scheme_values(scheme: Ranked, worst: Summary | None) -> list[Value]:
    return [
        *map(_text, (scheme.dataset, scheme.defense, scheme.worst_attack or "-")),
        _count(scheme.rank or math.nan),
        _count(scheme.seeds),
        _spread(scheme.margin),
        _spread(worst),
        _points(scheme.verified),
        _queries(scheme.queries),
        _spread(scheme.false_rate),
        _spread(scheme.victim_success),
        _spread(scheme.accuracy_cost),
        _not_counted(scheme),
    ]


def _attack_values(attacked: Attacked) -> list[Value]:
    return [
        *map(_text, (attacked.dataset, attacked.defense, attacked.attack)),
        _count(attacked.success.n if attacked.success else 0),
        _spread(attacked.success),
        _spread(attacked.held_out),
        _spread(attacked.accuracy),
        _points(attacked.verified),
        _not_counted(attacked),
    ]


def _leaderboard(results: Results, board: Board, known: _Known) -> Section:
    rules = results.rules
    exact = len(board.schemes) <= EXACT
    rows = _scheme_rows(board, partial(_choice, "", "") if exact else lambda s: known.tags(s.dataset))[:ROWS]
    if exact:
        rows += _choices(results, known)
    text = (
        "All in %, mean ± standard deviation over n seeds. Margin: success less the null models' (the false rate), a "
        "mean over the attacks that count; schemes that cannot be told apart may share a rank. Accuracy cost: the null "
        "models' accuracy less the victim's. Verified: share of attacked models that "
        f"{_TESTS.get(rules.test, f'a {rules.test} test')} accuses at {rules.confidence:.0%}. "
        "Queries: median for that confidence by the paper's t-test. "
        f"Void: accuracy more than {100 * rules.max_drop:g} points below the null models', where no answer counts. "
        + ("A choice of access or family ranks by those attacks alone." if exact else
           "Filters of access and family leave this table as it is: there are too many schemes to rank for each.")
    )  # fmt: skip
    grids = _by_dataset("schemes, ranked by margin", SCHEME_COLUMNS, rows, exact)
    left_out = _said(len(board.schemes), ROWS, "schemes")
    return Section("leaderboard", "Leaderboard", text, grids, left_out=left_out)


def _by_dataset(title: str, columns: tuple[str, ...], rows: Iterable[Row], exact: bool = False) -> list[Grid]:
    """Rows that begin with a dataset and two more names, as a table a dataset."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(row.values[0][0], []).append(row._replace(values=row.values[1:]))
    return [
        Grid(f"{dataset}: {title}", columns[1:], 2, part, exact=exact, tags=(("dataset", dataset),))
        for dataset, part in parts.items()
    ]


_TESTS = {
    "binomial": "an exact binomial test against the upper confidence limit of the null models' rate",
    "fisher": "Fisher's exact test against the null models",
    "t": "the paper's one-sided t-test against the null models",
}


def _choices(results: Results, known: _Known) -> Iterator[Row]:
    """The rankings by a part of the attacks: hidden until a filter asks for them."""
    _, (_, _, accesses), (_, _, families) = known.filters()
    for access in ("", *accesses):
        for family in ("", *families):
            chosen = {attack for attack, own in known.of.items() if access in ("", own[0]) and family in ("", own[1])}
            part = results.cells[results.cells["attack"].isin(chosen)]
            if (access or family) and len(part):
                board = make_board(part, results.detections, results.stages, results.rules, intervals=False)
                yield from _scheme_rows(board, partial(_choice, access, family), True)


def _choice(access: str, family: str, scheme: Ranked) -> Tags:
    """For which choice a row of the leaderboard stands; empty is all."""
    return (("dataset", scheme.dataset), ("access", access), ("family", family))


def _left(board: Board, known: _Known) -> Section | None:
    """What each attack leaves: a map a dataset, and the table."""
    if not board.attacks:
        return None
    shown = [a for a in board.attacks if a.dataset in known.datasets[:PLOTS]]
    maps = [
        _map(name, [a for a in shown if a.dataset == name], known) for name in dict.fromkeys(a.dataset for a in shown)
    ]
    rows = [Row(_attack_values(a), known.tags(a.dataset, a.attack)) for a in board.attacks[:ROWS]]
    grids = _by_dataset("what each attack leaves of each scheme", ATTACK_COLUMNS, rows)
    most = max(len({a.defense for a in board.attacks}), len({a.attack for a in board.attacks}))
    told = [_said(most, HEAT, "schemes or attacks of the maps"), _said(len(board.attacks), ROWS, "rows")]
    text = (
        "Mean share of trigger queries that the attacked model answers as the key says, in %: high is a mark that "
        "survives. Dark blue is 0, yellow is 100. Void: no seed kept its accuracy."
    )
    return Section("left", "What each attack leaves", text, grids, maps, left_out=" ".join(filter(None, told)))


def _map(dataset: str, attacked: list[Attacked], known: _Known) -> Map:
    found = {(a.defense, a.attack): a for a in attacked}
    schemes, attacks = (list(dict.fromkeys(key[i] for key in found))[:HEAT] for i in (0, 1))
    tags = {attack: known.tags("", attack) for attack in attacks}
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


def _evident(scored: pd.DataFrame) -> pd.DataFrame:
    """The cells that have trigger evidence, void ones too."""
    return scored[(scored["status"] == "ok") & scored["surrogate_trigger"].notna()]


def _distributions(scored: pd.DataFrame, known: _Known) -> Section | None:
    evident = _evident(scored)
    groups = list(evident.groupby(["dataset", "attack"], sort=False))
    if not groups:
        return None
    groups.sort(key=lambda pair: pair[0][1] == "none")
    plots = [_strip(str(dataset), str(attack), rows, known) for (dataset, attack), rows in groups[:PLOTS]]
    most = evident["defense"].nunique()
    told = [_said(len(groups), PLOTS, "plots"), _said(most, STRIPS, "schemes of a plot")]
    text = (
        "Every seed is a dot, hollow where it is void; the bar is the mean of those that count. Marks often survive "
        "in some seeds and not in others: a mean between two clusters is a number that no seed has."
    )
    return Section("seeds", "Distributions over seeds", text, plots=plots, left_out=" ".join(filter(None, told)))


def _strip(dataset: str, attack: str, rows: pd.DataFrame, known: _Known) -> Plot:
    lines, values, told = [], [], []
    for scheme, each in list(rows.groupby("defense", sort=False))[:STRIPS]:
        each = each.sort_values("surrogate_trigger")
        mean = 100 * each.loc[each["counts"], "surrogate_trigger"].mean()
        dots = [Dot(100 * row.surrogate_trigger, 0, _told(row), bool(row.counts)) for row in each.itertuples()]
        lines.append((str(scheme), dots, mean))
        seeds = ", ".join(f"#{row.seed}: {100 * row.surrogate_trigger:.1f}" for row in each.itertuples())
        values.append(Row([_text(scheme), _text(seeds), _count(len(each)), _points(mean / 100)]))
        told.append(f"{scheme} {mean:.0f} ({dots[0].x:.0f} to {dots[-1].x:.0f}, n = {len(dots)})")
    title = f"{attack} on {dataset}"
    text = f"Success in % by seed under {title}. Mean and range: {_some(told)}."
    grid = Grid(title, ("scheme", "seeds", "n", "mean"), 2, values)
    return Plot(title, [strips(lines, Axis(PERCENT), text)], grid, known.tags(dataset, attack))


def _told(row: Any) -> str:
    """What a dot says to a pointer."""
    success, accuracy = 100 * row.surrogate_trigger, 100 * row.surrogate_accuracy
    return f"seed {row.seed}: success {success:.1f}%, accuracy {accuracy:.1f}%{'' if row.counts else ', void'}"


def _some(told: Sequence[str]) -> str:
    more = f"; and {len(told) - 6} more" if len(told) > 6 else ""
    return "; ".join(told[:6]) + more


def _sweeps(scored: pd.DataFrame, known: _Known) -> Section | None:
    """Success and accuracy against the share that is pruned, where there are at least two shares."""
    pruned = {attack: found for attack in known.of if (found := _fraction(attack, known.registry))}
    rows = _evident(scored[scored["attack"].isin(pruned)])
    rows = rows.assign(
        family=[pruned[attack][0] for attack in rows["attack"]],
        fraction=[100 * pruned[attack][1] for attack in rows["attack"]],
    )
    groups = [
        (key, part) for key, part in rows.groupby(["dataset", "family"], sort=False) if part["fraction"].nunique() > 1
    ]
    if not groups:
        return None
    plots = [_sweep(str(dataset), str(family), part, known) for (dataset, family), part in groups[:PLOTS]]
    told = [_said(len(groups), PLOTS, "plots"), _said(rows["defense"].nunique(), COLOURS, "schemes of a plot")]
    text = "Lines go through the means over seeds, dots are seeds, hollow where void. Above: success; below: accuracy."
    return Section("pruning", "Pruning curves", text, plots=plots, left_out=" ".join(filter(None, told)))


def _fraction(attack: str, registry: Registry) -> tuple[str, float] | None:
    """The chain without the share that its last pruning prunes, and the share: as it says, or the plugin's default."""
    chain = list(_chain(attack))
    for place, entry in reversed(list(enumerate(chain))):
        found = registry.found.get(("attack", entry.name))
        default = {each.name: each.default for each in fields(found.cls)} if found else {}
        value = dict(entry.options).get("fraction", default.get("fraction"))
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            chain[place] = Entry(entry.name, tuple(o for o in entry.options if o[0] != "fraction"))
            try:
                return format_chain(chain), float(value)
            except ValueError:
                return None
    return None


def _sweep(dataset: str, family: str, rows: pd.DataFrame, known: _Known) -> Plot:
    title = f"{family} on {dataset}"
    columns = (("surrogate_trigger", "success (%)"), ("surrogate_accuracy", "accuracy (%)"))
    pictures, values = [], []
    for column, label in columns:
        series = []
        for scheme, each in list(rows.groupby("defense", sort=False))[:COLOURS]:
            means = 100 * each.groupby("fraction")[column].mean()
            dots = [
                Dot(row.fraction, 100 * getattr(row, column), _told(row), bool(row.counts)) for row in each.itertuples()
            ]
            series.append(Series(str(scheme), list(means.items()), dots))
            values += [Row([_text(scheme), _text(label), _count(x), _points(y / 100)]) for x, y in means.items()]
        text = f"{label} against the share pruned, {title}: {_some([_ends_of(each) for each in series])}."
        pictures.append(chart(series, Axis("share pruned (%)"), Axis(label), text))
    grid = Grid(title, ("scheme", "quantity", "pruned (%)", "mean"), 2, values)
    return Plot(title, pictures, grid, known.tags(dataset, rows["attack"].iloc[0]))


def _ends_of(series: Series) -> str:
    (first, start), (last, end) = series.line[0], series.line[-1]
    return f"{series.name} {start:.0f} at {first:.0f} to {end:.0f} at {last:.0f}"


def _budgets(scored: pd.DataFrame, rules: Rules, known: _Known) -> Section | None:
    """How many of a scheme's attacked models the test would accuse with so many queries."""
    apart = scored["family"].fillna("").str.endswith(("detection", "evasion")) | (scored["attack"] == "none")
    tested = scored[scored["counts"] & scored["p_value"].notna() & ~apart]
    groups = list(tested.groupby("dataset", sort=False))
    if not groups:
        return None
    plots = [_budget(str(dataset), rows, rules, known) for dataset, rows in groups[:PLOTS]]
    text = (
        "Share of attacked models (evasions apart) that the test accuses, were it asked so many queries: the chance "
        "that so many answers, each a match at the model's own rate, are significant, a mean over the attacks and "
        "seeds that count. Beyond the number of triggers asked it assumes that further ones are answered alike."
    )
    told = [_said(len(groups), PLOTS, "plots"), _said(tested["defense"].nunique(), COLOURS, "schemes of a plot")]
    return Section("queries", "Query budgets", text, plots=plots, left_out=" ".join(filter(None, told)))


def _budget(dataset: str, rows: pd.DataFrame, rules: Rules, known: _Known) -> Plot:
    series, values = [], []
    for scheme, each in list(rows.groupby("defense", sort=False))[:COLOURS]:
        line = [(float(q), 100 * chance) for q, chance in zip(BUDGETS, _chances(each, rules), strict=True)]
        series.append(Series(str(scheme), line))
        values += [Row([_text(scheme), _count(q), _points(share / 100)]) for q, share in line]
    text = f"Share verified in % against queries on {dataset}: {_some([_ends_of(each) for each in series])} queries."
    picture = chart(series, Axis("queries", 1, BUDGETS[-1], log=True), Axis("verified (%)"), text)
    grid = Grid(f"Share verified on {dataset}", ("scheme", "queries", "verified"), 1, values)
    return Plot(dataset, [picture], grid, known.tags(dataset))


def _chances(rows: pd.DataFrame, rules: Rules) -> list[float]:
    """At each budget the mean chance that the rows' tests are significant."""
    from scipy.special import bdtrc

    keys = ["null_trigger_matches", "null_trigger_trials"]
    sums, budgets = np.zeros(len(BUDGETS)), np.array(BUDGETS)
    for _, each in rows.groupby(keys, dropna=False):
        rates = each["surrogate_trigger"].to_numpy(dtype=float)[:, np.newaxis]
        sums += bdtrc(_fewest(each.head(1), rules) - 1, budgets, rates).sum(axis=0)
    return [float(share) for share in sums / len(rows)]


def _fewest(row: pd.DataFrame, rules: Rules) -> NDArray[np.intp]:
    """At each budget the fewest matches that the test accuses beside the row's null models; one more than the budget
    where none are enough."""
    queries = np.array(BUDGETS)
    low, high = np.zeros_like(queries), queries + 1
    asked = row.loc[row.index.repeat(len(BUDGETS))].reset_index(drop=True).assign(surrogate_trigger_trials=queries)
    while (low < high).any():
        middle = np.minimum((low + high) // 2, queries)
        accused = score(asked.assign(surrogate_trigger_matches=middle), rules)["verified"].to_numpy(dtype=bool)
        open_ = low < high
        high, low = np.where(open_ & accused, middle, high), np.where(open_ & ~accused, middle + 1, low)
    return high


def _frontiers(scored: pd.DataFrame, known: _Known) -> Section | None:
    """What an attacker pays in accuracy for what it takes of the mark, a plot a scheme."""
    evident = _evident(scored)
    evident = evident[~evident["family"].fillna("").str.endswith("detection")]
    groups = list(evident.groupby(["dataset", "defense"], sort=False))
    if not groups:
        return None
    plots = [_frontier(str(dataset), str(scheme), rows, known) for (dataset, scheme), rows in groups[:PLOTS]]
    text = (
        "A dot a cell, hollow where void; a numbered diamond is the mean of an attack (the table says which). The line "
        "joins the attacks of which no other leaves both more accuracy and less of the mark."
    )
    return Section(
        "frontier", "Accuracy against success", text, plots=plots, left_out=_said(len(groups), PLOTS, "plots")
    )


def _frontier(dataset: str, scheme: str, rows: pd.DataFrame, known: _Known) -> Plot:
    means = 100 * rows.groupby("attack", sort=False)[["surrogate_accuracy", "surrogate_trigger"]].mean()
    points = [(float(x), float(y)) for x, y in means.to_numpy()]
    best = _undominated(points)
    dots = [
        Dot(100 * row.surrogate_accuracy, 100 * row.surrogate_trigger, f"{row.attack}, {_told(row)}", bool(row.counts))
        for row in rows.itertuples()
    ]
    marks = [(x, y, str(place)) for place, (x, y) in enumerate(points, start=1)]
    title = f"{scheme} on {dataset}"
    low = max(0.0, 10 * math.floor(min(dot.x for dot in dots) / 10) - 0.0)
    axis = Axis("accuracy of the attacked model (%)", min(low, 90.0))
    told = [f"{attack} leaves {y:.0f} at accuracy {x:.0f}" for attack, (x, y) in zip(means.index, points, strict=True)]
    picture = chart(
        [Series(scheme, best, dots, marks)], axis, Axis("success (%)"), f"{title}: {_some(told)}.", legend=False
    )
    values = [
        Row(
            [
                _text(attack),
                _text("yes" if point in best else "-"),
                _count(place),
                _points(point[0] / 100),
                _points(point[1] / 100),
            ]
        )
        for place, (attack, point) in enumerate(zip(means.index, points, strict=True), start=1)
    ]
    grid = Grid(title, ("attack", "on the line", "number", "accuracy", "success"), 2, values)
    return Plot(title, [picture], grid, known.tags(dataset))


def _undominated(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points of which no other is at least as far right and as low; from the right to the left."""
    best: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: (-p[0], p[1])):
        if not best or point[1] < best[-1][1]:
            best.append(point)
    return best


def _detections(board: Board, known: _Known) -> Section | None:
    if not board.detections:
        return None
    columns = (
        *("dataset", "scheme", "attack", "n", "score", "null score", "flagged", "nulls flagged", "rank p"),
        *("target named", "window rank", "not counted"),
    )
    rows = [
        Row(
            [
                *map(_text, (found.dataset, found.defense, found.attack)),
                _count(found.score.n if found.score else 0),
                _spread(found.score, 1, 2),
                _spread(found.null_score, 1, 2),
                _points(found.flagged),
                _points(found.null_flagged),
                (f"{found.rank_p:.2f}", found.rank_p) if math.isfinite(found.rank_p) else ("-", ""),
                _points(found.target_hit),
                _points(found.window_rank),
                _not_counted(found),
            ],
            known.tags(found.dataset, found.attack),
        )
        for found in board.detections[:ROWS]
    ]
    text = (
        "Score: the detector's statistic, flagged above its own threshold, beside what it says of models without a "
        "mark. Rank p: median over the seeds of (r + 1) / (k + 1), where r of the k null models score as high. Target "
        "named: the suspected class is the key's. Window rank: share of the windows that lie as high on the recovered "
        "map as the trigger's own; 50 by chance. Shares in %."
    )
    grid = Grid("What detectors see", columns, 3, rows)
    return Section("detections", "Detections", text, [grid], left_out=_said(len(board.detections), ROWS, "rows"))


def _schemes(board: Board, known: _Known) -> list[Described]:
    made, rows = [], list(zip(board.schemes, _scheme_rows(board, lambda s: known.tags(s.dataset)), strict=True))
    for name, texts in list(known.names["defense"].items())[: PLOTS * 5]:
        own = [row for scheme, row in rows if scheme.defense in texts]
        grid = Grid(
            f"{name} in the leaderboard", SCHEME_COLUMNS, 3, own[: PLOTS * 2], _said(len(own), PLOTS * 2, "rows")
        )
        made.append(_described("defense", name, grid, known.registry))
    return made


def _attacks(board: Board, known: _Known) -> list[Described]:
    made = []
    for name, texts in list(known.names["attack"].items())[: PLOTS * 5]:
        own = [Row(_attack_values(a), known.tags(a.dataset, a.attack)) for a in board.attacks if a.attack in texts]
        grid = Grid(f"What {name} leaves", ATTACK_COLUMNS, 3, own[: PLOTS * 2], _said(len(own), PLOTS * 2, "rows"))
        made.append(_described("attack", name, grid, known.registry))
    return made


def _described(kind: Literal["defense", "attack"], name: str, grid: Grid, registry: Registry) -> Described:
    found = registry.found.get((kind, name))
    if found is None:
        return Described(name, "", "", "", grid)
    return Described(name, found.summary, found.cls.reference, inspect.getdoc(found.cls) or found.summary, grid)


def _costs(stages: pd.DataFrame) -> Section | None:
    if stages.empty:
        return None
    columns = ("stages", "hours", "seconds, median", "samples trained", "samples evaluated")
    grids = []
    for title, keys in (("By action", ["action"]), ("By action and plugin", ["action", "plugin"])):
        rows = []
        for key, each in stages.fillna({"plugin": ""}).groupby(keys, sort=False):
            seconds = each["seconds"].astype(float)
            samples = [_count(each[what].astype(float).sum()) for what in ("trained_samples", "evaluated_samples")]
            hours: Value = (f"{seconds.sum() / 3600:.2f}", float(seconds.sum()))
            rows.append(Row([*map(_text, key), _count(len(each)), hours, _tenths(seconds.median()), *samples]))
        grids.append(Grid(title, (*keys, *columns), len(keys), rows[:ROWS], _said(len(rows), ROWS, "rows")))
    total = stages["seconds"].astype(float).sum() / 3600
    text = f"Wall time of {len(stages):,} stages: {total:.2f} hours. What several cells share was computed once."
    return Section("costs", "Costs", text, grids)


def _tenths(number: float) -> Value:
    return (f"{number:.1f}", number) if math.isfinite(number) else ("-", "")


def _ends(results: Results) -> Section:
    """What failed or was skipped, by reason."""
    cells = results.cells[results.cells["status"] != "ok"]
    rows = []
    for (status, reason), each in cells.fillna({"reason": ""}).groupby(["status", "reason"], sort=False):
        examples = [words(c.dataset, c.defense, c.attack, c.seed) for c in each.head(3).itertuples()]
        more = f"; and {len(each) - 3} more" if len(each) > 3 else ""
        rows.append(
            Row([_text(status), _text(" ".join(reason.split())), _text("; ".join(examples) + more), _count(len(each))])
        )
    if not rows:
        return Section("ends", "Failures and skips", "No cell failed or was skipped.")
    grid = Grid("Cells that failed or were skipped, by reason", ("status", "reason", "cells", "number"), 3, rows[:ROWS])
    return Section("ends", "Failures and skips", "", [grid], left_out=_said(len(rows), ROWS, "reasons"))


def _provenance(results: Results, board: Board, about: About) -> Section:
    cells, started = results.cells, results.stages["started"].dropna()
    nulls = sorted({int(n) for n in cells["nulls"].dropna()})
    seeds = sorted(set(cells["seed"]))
    facts: list[tuple[str, Sequence[str]]] = [
        ("Made by", [about.command]),
        ("Made at", [about.date]),
        ("From", [printable(about.source)]),
        ("Harness that made this page", [about.harness + (f", git commit {about.commit}" if about.commit else "")]),
        ("Measured on", [printable(machine) for machine in board.machines] or ["not recorded"]),
        (
            "Measured between",
            [f"{started.min():%Y-%m-%d %H:%M} and {started.max():%Y-%m-%d %H:%M} UTC"] if len(started) else [],
        ),
        ("Runs", [f"{cells['run'].nunique():,} wrote these cells"]),
        ("Data", _first(cells["dataset"])),
        ("Cells", [f"{len(cells):,}"]),
        ("Seeds", [f"{len(seeds)}, from {seeds[0]} to {seeds[-1]}"]),
        (
            "Null models a dataset",
            [_between(nulls) if nulls and nulls[-1] else "none: there is no false rate to test against"],
        ),
    ]
    text = (
        "The same numbers as JSON are in this file, in the element with the id board, unless they are too many. "
        "The tables do not record the command of a run."
    )
    return Section("provenance", "Provenance", text, facts=[fact for fact in facts if fact[1]])


def _first(values: pd.Series[str]) -> list[str]:
    names = list(dict.fromkeys(values))
    return [*names[:PLOTS], *([f"and {len(names) - PLOTS} more"] if len(names) > PLOTS else [])]


def _between(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if numbers[0] == numbers[-1] else f"{numbers[0]} to {numbers[-1]}"
