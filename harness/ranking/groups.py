"""Groups of rows, all at once: a large matrix has tens of thousands of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from harness.ranking.scoring import distinct
from harness.statistics.intervals import Summary, summaries

if TYPE_CHECKING:
    from harness.ranking.scoring import Places

    Over: TypeAlias = list[Summary | None]


# --- all groups at once, since a large matrix has tens of thousands of them -----------------------------------------


@dataclass(frozen=True)
class Groups:
    """Membership of each row in one of ``count`` groups."""

    places: Places
    count: int

    def of(self, keep: pd.Series[bool]) -> Groups:
        """Membership of some of the rows."""
        return replace(self, places=self.places[keep.to_numpy(dtype=bool)])

    def summaries(self, values: pd.Series[float], intervals: bool = True) -> list[Summary | None]:
        """Summary of each group's finite values; ``None`` where there are none."""
        numbers = values.to_numpy(dtype=float)
        known = np.isfinite(numbers)
        order = np.argsort(self.places[known], kind="stable")
        sizes = np.bincount(self.places[known], minlength=self.count)
        made = iter(summaries(numbers[known][order], sizes[sizes > 0], intervals=intervals) if known.any() else ())
        return [next(made) if size else None for size in sizes]

    def over_seeds(self, rows: pd.DataFrame, column: str, keep: pd.Series[bool], intervals: bool = True) -> Over:
        """Summary of each group's means a seed, over the rows to keep."""
        kept = rows.loc[keep, [column]].astype(float).assign(group=self.of(keep).places, seed=rows.loc[keep, "seed"])
        means = kept.groupby(["group", "seed"])[column].mean()
        places = means.index.get_level_values(0).to_numpy(dtype=np.intp)
        return Groups(places, self.count).summaries(means, intervals)

    def distributions(self, rates: pd.Series[float]) -> list[tuple[int, ...]]:
        """Numbers of each group's rates in each tenth of 0..1."""
        tenths = np.minimum((10 * rates.to_numpy(dtype=float)).astype(np.intp), 9)
        counts = np.bincount(10 * self.places + tenths, minlength=10 * self.count).reshape(self.count, 10)
        return [tuple(row) for row in counts.tolist()]

    def unique(self, values: pd.Series[Any], keep: pd.Series[bool] | None = None) -> list[int]:
        """Number of distinct values of each group."""
        kept = values if keep is None else values[keep]
        places = self.places if keep is None else self.of(keep).places
        return [int(n) for n in kept.groupby(places).nunique().reindex(range(self.count), fill_value=0)]

    def means(self, values: pd.Series[Any]) -> list[float]:
        """Mean of each group's values, of flags the share that is set; NaN where there are none."""
        sizes = np.bincount(self.places, minlength=self.count)
        sums = np.bincount(self.places, values.to_numpy(dtype=float), self.count)
        return [float(total / size) if size else math.nan for total, size in zip(sums, sizes, strict=True)]

    def totals(self, flags: pd.Series[bool]) -> list[int]:
        """Number of each group's rows that are flagged."""
        return [int(n) for n in np.bincount(self.places[flags.to_numpy(dtype=bool)], minlength=self.count)]

    def medians(self, values: pd.Series[float]) -> list[float]:
        """Median of each group's values; NaN where there are none."""
        return [float(value) for value in values.groupby(self.places).median().reindex(range(self.count))]

    def ends(self, rows: pd.DataFrame) -> dict[str, list[int]]:
        """Numbers of each group's rows that do not count, by reason."""
        statuses = {status: self.totals(rows["status"] == status) for status in ("failed", "skipped")}
        return {"void": self.totals(rows["void"]), **statuses}


def grouped(columns: list[str], rows: pd.DataFrame) -> tuple[dict[str, list[Any]], Groups]:
    """The rows' groups, and what names each."""
    keys, places = distinct(rows, columns)
    return {column: keys[column].tolist() for column in columns}, Groups(places, len(keys))


def rows_of(columns: Mapping[str, Iterable[Any]]) -> Iterator[dict[str, Any]]:
    """Columns of values, one a group, as a row a group."""
    return (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))


def placed(rows: pd.DataFrame, places: list[int]) -> tuple[pd.DataFrame, Places]:
    """The rows that have a place, and it."""
    known = np.array(places, dtype=np.intp)
    return rows[known >= 0], known[known >= 0]
