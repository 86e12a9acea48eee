"""Two schemes side by side: what the seeds that both have say of the difference, and how many more would settle it.

Seeds are paired: one seed gives both the same data, first weights and order. A row is about one attack, on the seeds on
which both have a margin: where the attack left no useful model, the victim's own. The rows of the worst case and of all
attacks are over the extractions and removals that both have and that count in ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from harness.errors import UsageError
from harness.statistics.paired import fewest_seeds, paired_difference, seeds_to_settle
from harness.statistics.tests import SLACK, holm
from harness.statistics.worst_case import worst_case
from harness.storage.contents import mixed
from harness.storage.store import plain
from harness.verdicts.board import THREATS, Threat
from harness.verdicts.families import NO_SURVIVAL, is_unmarked, of_each, plugins_of
from harness.verdicts.groups import grouped
from harness.verdicts.no_attacks import reasons
from harness.verdicts.references import references_of
from harness.verdicts.scoring import judged

if TYPE_CHECKING:
    from harness.verdicts.rules import Rules

ALL = "all"
"""Stands for every attack, or every data set, that both schemes have."""
WORST: dict[str, Threat] = {f"worst case, {threat}": threat for threat in THREATS}
"""Names of the rows of the worst case, and the threat model of each."""


@dataclass(frozen=True)
class Compared:
    """One quantity of two schemes under one attack, over their common seeds; shares in 0..1, margins in -1..1."""

    dataset: str
    attack: str
    """An attack, :data:`ALL` together, the worst case in a threat model (:data:`WORST`), or none: the victims."""
    quantity: str
    """``margin``, or ``accuracy cost``: the unmarked models' accuracy less the victim's as its API serves it."""
    n: int
    """Common seeds on which both have a number."""
    ours: float = math.nan
    """The first scheme's mean over these."""
    theirs: float = math.nan
    difference: float = math.nan
    """The first's less the second's."""
    sd: float = math.nan
    low: float = math.nan
    """Lower end of Student's interval of the mean difference."""
    high: float = math.nan
    p_value: float = math.nan
    """Two-sided, of the sign-flip test; exact up to 20 seeds."""
    p_adjusted: float = math.nan
    """After Holm, over all rows."""
    told_apart: bool = False
    """True where that is at most alpha, and the interval leaves out 0 too."""
    more_seeds: float = math.nan
    """Number of further seeds until that interval leaves out zero with a power of 80%, if mean and SD stay, and the
    test can reach the confidence; may be infinite."""
    left_out: int = 0
    """Cells of either scheme that failed or were skipped, that the other has no partner of, or whose attack is in no
    rank."""


@dataclass(frozen=True)
class Comparison:
    """Two schemes, by which rules, and their rows."""

    ours: str
    theirs: str
    rules: Rules
    rows: list[Compared]
    notes: list[str] = field(default_factory=list)
    """Notes that a reader needs of the cells as a whole."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is not a finite number is null."""
        values: dict[str, Any] = plain(asdict(self))
        return values


def make_comparison(cells: pd.DataFrame, evidence: pd.DataFrame, ours: str, theirs: str, rules: Rules) -> Comparison:
    """Compare two schemes of the tables of these names.

    Raises :class:`UsageError` where they have no data set in common, or one embeds nothing. Other schemes' cells say
    which attacks are no better than training on the thief's own labels.
    """
    if ours == theirs:
        raise UsageError(f"{ours!r} and {theirs!r} are one scheme: name two")
    if nobody := [name for name in (ours, theirs) if is_unmarked(name)]:
        raise UsageError(f"{nobody[0]!r} embeds nothing, so it has no margin: name two schemes")
    first, second = (set(cells.loc[cells["defense"] == name, "dataset"]) for name in (ours, theirs))
    both = [name for name in cells["dataset"].unique() if name in first & second]
    if not both:
        raise UsageError(f"{ours!r} and {theirs!r} have no dataset in common: run both on one, or name others")
    scored = _scored(cells[cells["dataset"].isin(both)], evidence, rules)
    scored = scored[scored["defense"].isin([ours, theirs])].assign(ours=lambda rows: rows["defense"] == ours)
    rows = list(_rows(scored, both, rules))
    known = [place for place, row in enumerate(rows) if math.isfinite(row.p_value)]
    for place, p_value in zip(known, holm([rows[place].p_value for place in known]), strict=True):
        rows[place] = _with_p_value(rows[place], float(p_value), rules)
    of_both = cells[cells["dataset"].isin(both) & cells["defense"].isin([ours, theirs])]
    return Comparison(ours, theirs, rules, rows, mixed(of_both))


def _scored(cells: pd.DataFrame, evidence: pd.DataFrame, rules: Rules) -> pd.DataFrame:
    """Judged cells of all schemes but detectors', ``known`` where they have a margin, and ``ranked`` where their attack
    is in ranks."""
    cells = cells[~of_each(cells, "defense", is_unmarked).astype(bool)].reset_index(drop=True)
    references = references_of(cells, evidence, rules)
    made = judged(cells, references, rules)
    _, groups = grouped(["dataset", "defense", "attack"], made)
    said = np.array(reasons(made, references.attacked, groups, rules), dtype=object)[groups.places]
    known = made["status"].eq("ok") & made["margin_counted"].notna()
    made = made.assign(known=known, ranked=(said == "") & made["kind"].eq("survival"))
    return made[~made["kind"].isin(NO_SURVIVAL)]


def _rows(scored: pd.DataFrame, datasets: list[Any], rules: Rules) -> Iterator[Compared]:
    """Rows of each data set: the cost, the worst cases, all attacks together, each alone; of several data sets, all of
    them first."""
    survived = scored[scored["kind"] == "survival"]
    if len(datasets) > 1:
        yield _compared(ALL, ALL, survived, rules)
    for dataset in datasets:
        here, attacked = (frame[frame["dataset"] == dataset] for frame in (scored, survived))
        yield _cost(str(dataset), here, rules)
        if attacked["attack"].nunique() > 1:
            yield from _worst_cases(str(dataset), attacked, rules)
            yield _compared(str(dataset), ALL, attacked, rules)
        for attack, rows in here.groupby("attack", sort=False):
            yield _compared(str(dataset), str(attack), rows, rules)


def _cost(dataset: str, rows: pd.DataFrame, rules: Rules) -> Compared:
    """The row of the victims: one is in a row for every attack on it."""
    victims = rows[rows["status"] == "ok"].drop_duplicates(["ours", "seed"])
    cost = (victims["null_accuracy"] - victims["victim_accuracy"]).astype(float)
    first, second = (cost[own].set_axis(victims["seed"][own]).dropna() for own in (victims["ours"], ~victims["ours"]))
    common = first.index.intersection(second.index)
    row = Compared(dataset, "", "accuracy cost", len(common), left_out=len(victims) - 2 * len(common))
    return _tested(row, first[common], second[common], rules.confidence)


def _compared(dataset: str, attack: str, rows: pd.DataFrame, rules: Rules) -> Compared:
    """The row of an attack, or of :data:`ALL`: of each seed, the mean over the chains of plugins that both have, and
    within each over its settings."""
    pairs = _pairs(rows, ranked=attack == ALL)
    chains = pairs.groupby(["seed", "dataset", "plugins"])[["first", "second"]].mean()
    by_seed = chains.groupby(level="seed").mean()
    row = Compared(dataset, attack, "margin", len(by_seed), left_out=len(rows) - 2 * len(pairs))
    return _tested(row, by_seed["first"], by_seed["second"], rules.confidence)


def _worst_cases(dataset: str, rows: pd.DataFrame, rules: Rules) -> Iterator[Compared]:
    """Rows of the worst case in each threat model that both schemes have attacks of: that of each scheme is chosen on
    the other half of the seeds, for the scheme on its own."""
    found = {}
    for name, threat in WORST.items():
        here = rows if threat == "both" else rows[rows["threat"] == threat]
        pairs = _pairs(here, ranked=True).sort_values(["attack", "seed"])
        found[threat] = pairs
        if pairs.empty or (threat == "both" and any(found[each].empty for each in THREATS[:2])):
            continue  # "both" says the same as the one that there is
        tables = (pairs.pivot(index="attack", columns="seed", values=side) for side in ("first", "second"))
        ours, theirs = (pd.Series(worst_case(table).values, table.columns).dropna() for table in tables)
        row = Compared(dataset, name, "margin", len(ours), left_out=len(here) - 2 * len(pairs))
        yield _tested(row, ours, theirs, rules.confidence)


def _pairs(rows: pd.DataFrame, *, ranked: bool) -> pd.DataFrame:
    """Margins of both schemes, ``first`` and ``second``, by data set, attack and seed; ``ranked`` where both are."""
    keys = ["dataset", "attack", "seed"]
    some = rows.loc[rows["known"] & (rows["ranked"] | (not ranked)), [*keys, "ours", "margin_counted"]]
    sides = (some[own].drop(columns="ours") for own in (some["ours"], ~some["ours"]))
    first, second = (
        side.rename(columns={"margin_counted": name}) for side, name in zip(sides, ("first", "second"), strict=True)
    )
    pairs = first.merge(second, on=keys).astype({"first": float, "second": float})
    return pairs.assign(plugins=of_each(pairs, "attack", plugins_of))


def _tested(row: Compared, first: pd.Series[float], second: pd.Series[float], confidence: float) -> Compared:
    """Difference of two columns by seed. One seed allows no test, and tells no number that would."""
    if first.empty:
        return row
    ours, theirs = (dict(zip(side.index, side, strict=True)) for side in (first, second))
    made = paired_difference(ours, theirs, confidence)
    row = replace(row, ours=float(first.mean()), theirs=float(second.mean()), difference=made.mean)
    if made.n < 2:
        return row
    more = max(seeds_to_settle(made.mean, made.sd, made.n, confidence), fewest_seeds(confidence) - made.n)
    return replace(row, sd=made.sd, low=made.t_low, high=made.t_high, p_value=made.p_value, more_seeds=more)


def _with_p_value(row: Compared, p_adjusted: float, rules: Rules) -> Compared:
    """The row with its corrected p-value, and whether the two are told apart."""
    apart = p_adjusted <= rules.alpha * (1 + SLACK) and (row.low > 0 or row.high < 0)
    return replace(row, p_adjusted=p_adjusted, told_apart=apart)
