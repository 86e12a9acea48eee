"""Two schemes side by side: what the seeds that both have say of the difference, and how many more would settle it.

Seeds are paired: one seed gives both the same data, first weights and order. A row is about one attack, where both
count; the row of all attacks takes of each seed the mean over the attacks that both have, so that what is void of one
scheme is left out of the other too. Evasions have rows of their own and are in no mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd

from harness.errors import UsageError
from harness.ranking.scoring import Rules, score
from harness.statistics.paired import fewest_seeds, paired_difference, seeds_to_settle
from harness.statistics.tests import holm
from harness.storage.store import plain

ALL = "all"
"""Stands for every attack, or every dataset, that both schemes have."""


@dataclass(frozen=True)
class Compared:
    """One quantity of two schemes under one attack, over their common seeds; rates in 0..1."""

    dataset: str
    attack: str
    """:data:`ALL` together, or none: the victims."""
    quantity: str
    """``margin``: success less the false rate; ``accuracy cost``: the null models' accuracy less the victim's."""
    n: int
    """Common seeds on which both count."""
    ours: float = math.nan
    """The first scheme's mean over these."""
    theirs: float = math.nan
    difference: float = math.nan
    """The first's less the second's."""
    sd: float = math.nan
    low: float = math.nan
    """Lower end of Student's interval of the mean difference: of few seeds a bootstrap's is too narrow."""
    high: float = math.nan
    p_value: float = math.nan
    """Two-sided, of the sign-flip test; exact up to 20 seeds."""
    p_adjusted: float = math.nan
    """After Holm, over all rows."""
    more_seeds: float = math.nan
    """Number of further seeds until that interval leaves out zero with a power of 80%, if mean and SD stay, and the
    test can reach the confidence; may be infinite."""
    left_out: int = 0
    """Cells of either scheme that are void, failed or skipped, or that the other has no partner of."""


@dataclass(frozen=True)
class Comparison:
    """Two schemes, by which rules, and their rows."""

    ours: str
    theirs: str
    rules: Rules
    rows: list[Compared]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is not a finite number is null."""
        values: dict[str, Any] = plain(asdict(self))
        return values


def make_comparison(cells: pd.DataFrame, ours: str, theirs: str, rules: Rules) -> Comparison:
    """Compare two schemes of ``cells``. Raises :class:`UsageError` where they have no dataset in common."""
    if ours == theirs:
        raise UsageError(f"{ours!r} and {theirs!r} are one scheme: name two")
    cells = cells[cells["defense"].isin([ours, theirs])]
    scored = score(cells, rules)
    scored["accuracy_cost"] = scored["null_accuracy"] - scored["victim_accuracy"]
    scored = scored[scored["kind"] != "detection"].assign(ours=scored["defense"] == ours)
    both = [name for name, rows in scored.groupby("dataset", sort=False) if rows["ours"].nunique() == 2]
    if not both:
        raise UsageError(f"{ours!r} and {theirs!r} have no dataset in common: run both on one, or name others")
    rows = list(_rows(scored[scored["dataset"].isin(both)], both, rules))
    known = [place for place, row in enumerate(rows) if math.isfinite(row.p_value)]
    for place, p_value in zip(known, holm([rows[place].p_value for place in known]), strict=True):
        rows[place] = replace(rows[place], p_adjusted=float(p_value))
    return Comparison(ours, theirs, rules, rows)


def _rows(scored: pd.DataFrame, datasets: list[Any], rules: Rules) -> Iterator[Compared]:
    """Rows of each dataset: the cost, all attacks together, each alone; of several datasets, all of them first."""
    survived = scored[scored["kind"] == "survival"]
    if len(datasets) > 1:
        yield _compared(ALL, ALL, survived, rules)
    for dataset in datasets:
        here, attacked = (frame[frame["dataset"] == dataset] for frame in (scored, survived))
        # One victim is in a row for every attack on it.
        ok = here[here["status"] == "ok"].drop_duplicates(["ours", "seed"])
        victims = ok.assign(attack="", counts=ok["accuracy_cost"].notna())
        yield _compared(str(dataset), "", victims, rules, "accuracy_cost")
        if attacked["attack"].nunique() > 1:
            yield _compared(str(dataset), ALL, attacked, rules)
        for attack, rows in here.groupby("attack", sort=False):
            yield _compared(str(dataset), str(attack), rows, rules)


def _compared(dataset: str, attack: str, rows: pd.DataFrame, rules: Rules, column: str = "margin") -> Compared:
    """One row: of each seed, the mean over the cells in which both count."""
    counting = rows.loc[rows["counts"], ["dataset", "attack", "seed", "ours", column]]
    sides = (counting[counting["ours"]], counting[~counting["ours"]])
    pairs = sides[0].merge(sides[1], on=["dataset", "attack", "seed"], suffixes=("", "_theirs"))
    by_seed = pairs.groupby("seed")[[column, f"{column}_theirs"]].mean().astype(float)
    left_out = len(rows) - 2 * len(pairs)
    row = Compared(dataset, attack, column.replace("_", " "), len(by_seed), left_out=left_out)
    return row if by_seed.empty else _tested(row, by_seed, rules.confidence)


def _tested(row: Compared, by_seed: pd.DataFrame, confidence: float) -> Compared:
    """Difference of the two columns of ``by_seed``. One seed allows no test, and tells no number that would."""
    ours, theirs = (dict(zip(by_seed.index, by_seed[name], strict=True)) for name in by_seed)
    made = paired_difference(ours, theirs, confidence)
    first, second = by_seed.mean()
    row = replace(row, ours=float(first), theirs=float(second), difference=made.mean)
    if made.n < 2:
        return row
    more = max(seeds_to_settle(made.mean, made.sd, made.n, confidence), fewest_seeds(confidence) - made.n)
    return replace(row, sd=made.sd, low=made.t_low, high=made.t_high, p_value=made.p_value, more_seeds=more)
