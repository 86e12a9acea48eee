"""Groups of rows, all at once: a large matrix has tens of thousands of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from harness.statistics.intervals import Summary, summaries

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.statistics.validate import FloatArray

    Places: TypeAlias = NDArray[np.intp]
    Over: TypeAlias = list[Summary | None]


@dataclass(frozen=True)
class Groups:
    """Membership of each row in one of ``count`` groups."""

    places: Places
    count: int

    def of(self, keep: pd.Series[bool]) -> Groups:
        """Membership of some of the rows."""
        return replace(self, places=self.places[keep.to_numpy(dtype=bool)])

    def summaries(self, values: pd.Series[float], intervals: bool = True) -> Over:
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

    def table(self, values: FloatArray) -> FloatArray:
        """The groups' values, a row a group and NaN where it has no more, in the order of the rows."""
        order = np.argsort(self.places, kind="stable")
        sizes = np.bincount(self.places, minlength=self.count)
        within = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        made = np.full((self.count, max(sizes.max(initial=0), 1)), np.nan)
        made[self.places[order], within] = values[order]
        return made

    def parts(self, values: FloatArray) -> list[FloatArray]:
        """Each group's rows of ``values``, of shape [rows, columns], in their order."""
        order = np.argsort(self.places, kind="stable")
        sizes = np.bincount(self.places, minlength=self.count)
        return np.split(values[order], np.cumsum(sizes)[:-1])[: self.count]  # of no groups it makes one part

    def mean_rows(self, values: FloatArray) -> FloatArray:
        """Means of each group's rows of ``values``, of shape [rows, columns]; NaN where a group has none."""
        order = np.argsort(self.places, kind="stable")
        sizes = np.bincount(self.places, minlength=self.count)
        made = np.full((self.count, values.shape[1]), np.nan)
        if len(order):
            starts = (np.cumsum(sizes) - sizes)[sizes > 0]
            made[sizes > 0] = np.add.reduceat(values[order], starts, axis=0) / sizes[sizes > 0, np.newaxis]
        return made

    def first(self, texts: pd.Series[str]) -> list[str]:
        """The first text of each group that is not empty; empty where all are."""
        some = texts.to_numpy(dtype=object)
        said = np.flatnonzero(some != "")
        known = dict(zip(reversed(self.places[said].tolist()), reversed(some[said].tolist()), strict=True))
        return [str(known.get(group, "")) for group in range(self.count)]

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
        """Numbers of each group's rows that have no numbers, by reason."""
        return {status: self.totals(rows["status"] == status) for status in ("failed", "skipped")}


def distinct(frame: pd.DataFrame, columns: list[str]) -> tuple[pd.DataFrame, Places]:
    """The distinct rows of some columns as they appear, and at which of these each row is."""
    places = np.zeros(len(frame), dtype=np.intp)
    for column in columns:
        codes, known = pd.factorize(frame[column], use_na_sentinel=False)
        places = pd.factorize(places * len(known) + codes)[0]
    return frame[columns].iloc[np.unique(places, return_index=True)[1]], places


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
