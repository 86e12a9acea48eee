"""Evidence as dense arrays: what unmarked models, attacked and not, answered to each cell's key, and innocents."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from harness.errors import ResultsError
from harness.planning.matrix import MAX_NULLS
from harness.statistics.counts import rates_of
from harness.statistics.exchangeable import mean_rates_without_each

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.statistics.validate import FloatArray
    from harness.verdicts.groups import Places
    from harness.verdicts.rules import Rules

    Flags: TypeAlias = NDArray[np.bool_]
    Counts: TypeAlias = NDArray[np.int64]
    Columns: TypeAlias = dict[str, NDArray[Any]]

EVIDENCE_COLUMNS = (
    *("cell", "suspect", "arm", "index", "probe"),
    *("matches", "trials", "accuracy", "pool_accuracy", "base_accuracy"),
)
"""Columns of the table ``evidence`` behind verdicts; of its rows, those of the probe :data:`PROBE`."""
PROBE = "trigger"
"""The probe that verdicts are about."""
INNOCENT = ("fresh", "other-recipe", "same-data", "other-owner")
SUSPECTS = ("null", "attacked", *INNOCENT)
"""Suspects whose answers are read here; those of victims and surrogates are in the table ``cells``."""
COUNTED = ("index", "matches", "trials")
ACCURACIES = ("accuracy", "pool_accuracy", "base_accuracy")
_SLACK = 1e-9
"""Accuracy: 0.95 - 0.05 is a hair below 0.9 in floating point."""


@dataclass(frozen=True)
class Models:
    """Answers of k unmarked models to the keys of n cells, in arrays of shape [n, k]."""

    matches: Counts
    trials: Counts
    """At least 1: a mark that cannot be read from a model counts as 0 of 1."""
    known: Flags
    """The models that were asked."""
    counted: Flags
    """Those that also kept their accuracy, and so count."""

    def of(self, places: Places) -> Models:
        """Those of some of the cells."""
        return Models(self.matches[places], self.trials[places], self.known[places], self.counted[places])

    @property
    def rates(self) -> FloatArray:
        """Shares of matches; NaN for a model that does not count."""
        return np.where(self.counted, rates_of(self.matches, self.trials), np.nan)


@dataclass(frozen=True)
class References:
    """Everything that cells are compared with, in their order."""

    unattacked: Models
    attacked: Models
    innocents: pd.DataFrame
    """A row a cell and innocent model: ``place`` of the cell, ``suspect``, ``arm``, ``index``, ``matches``,
    ``trials``, ``useful``."""

    def false_rates_without_each(self) -> tuple[FloatArray, FloatArray]:
        """The false rate f, and that of unattacked models alone, without each unmarked model in turn: [n, k] each.

        NaN for a model that was not asked.
        """
        alone, attacked = (
            mean_rates_without_each(each.matches, each.trials, each.counted)
            for each in (self.unattacked, self.attacked)
        )
        alone = np.where(self.unattacked.known, alone, np.nan)
        return np.fmax(alone, np.where(self.unattacked.known, attacked, np.nan)), alone


def useful(
    accuracy: FloatArray, pool_accuracy: FloatArray, base: FloatArray, null_accuracy: FloatArray, max_drop: float
) -> Flags:
    """Models that kept their accuracy: the lower of that on test images and on the attacker's own pool is at most
    ``max_drop`` below the lower of the attacked model's and the unmarked models' mean. What is unknown is no loss."""
    kept = np.fmin(accuracy, pool_accuracy)
    return np.asarray(~(kept < np.fmin(base, null_accuracy) - max_drop - _SLACK))


def references_of(cells: pd.DataFrame, evidence: pd.DataFrame, rules: Rules) -> References:
    """The references of each of ``cells``, and the innocents, by the table ``evidence``.

    Raises :class:`ResultsError` for more unmarked models than a matrix may have.
    """
    evidence = evidence.reindex(columns=list(EVIDENCE_COLUMNS))
    places, suspects = _places(cells["cell"], evidence["cell"]), _numbers(evidence["suspect"], SUSPECTS)
    asked = (places >= 0) & (_numbers(evidence["probe"], (PROBE,)) == 0)
    for name in COUNTED:
        asked &= evidence[name].notna().to_numpy()
    suspects[~asked] = -1
    columns = {name: evidence[name].to_numpy() for name in (*COUNTED, *ACCURACIES)}
    columns |= {"place": places, "arm": _coded(evidence["arm"])[0]}
    null_accuracy = cells["null_accuracy"].to_numpy(dtype=float)
    null, attacked, *innocent = (
        _rows(columns, np.flatnonzero(suspects == number), null_accuracy, rules) for number in range(len(SUSPECTS))
    )
    numbers = np.unique(np.concatenate([null["index"], attacked["index"]]))
    if len(numbers) > MAX_NULLS:
        raise ResultsError(f"the table evidence has {len(numbers):,} unmarked models, and {MAX_NULLS} is the most")
    unattacked = _models(null, numbers, len(cells))
    innocents = pd.DataFrame({name: np.concatenate([each[name] for each in innocent]) for name in innocent[0]})
    innocents["suspect"] = np.repeat(np.array(INNOCENT, dtype=object), [len(each["place"]) for each in innocent])
    innocents["arm"] = _texts(evidence["arm"], innocents["arm"].to_numpy())
    return References(replace(unattacked, counted=unattacked.known), _models(attacked, numbers, len(cells)), innocents)


def _rows(columns: Columns, some: Places, null_accuracy: FloatArray, rules: Rules) -> Columns:
    """Some of the rows: their place, arm and counts, with one trial at least, and whether the model is useful."""
    own, pool, base = (columns[name][some].astype(float, copy=False) for name in ACCURACIES)
    rows = {name: columns[name][some].astype(np.int64, copy=False) for name in ("place", "arm", *COUNTED)}
    kept = useful(own, pool, base, null_accuracy[rows["place"]], rules.max_drop)
    return {**rows, "trials": np.maximum(rows["trials"], 1), "useful": kept}


def _models(rows: Columns, numbers: Counts, count: int) -> Models:
    """The rows as arrays, of a column for each model of these numbers."""
    shape = (count, len(numbers))
    matches, trials = np.zeros(shape, dtype=np.int64), np.ones(shape, dtype=np.int64)
    known, counted = np.zeros(shape, dtype=np.bool_), np.zeros(shape, dtype=np.bool_)
    where = rows["place"], np.searchsorted(numbers, rows["index"])
    matches[where], trials[where], known[where], counted[where] = rows["matches"], rows["trials"], True, rows["useful"]
    return Models(matches, trials, known, counted)


def _places(ids: pd.Series[str], wanted: pd.Series[Any]) -> NDArray[np.intp]:
    """The place of each wanted cell among ``ids``; -1 where it is not there. Of cells with one id the first."""
    codes, texts = _coded(wanted)
    known = pd.Index(ids.astype(object))
    first = np.append(np.flatnonzero(~known.duplicated()), -1)
    return np.asarray(np.append(first[known[first[:-1]].get_indexer(pd.Index(texts))], -1)[codes], dtype=np.intp)


def _numbers(column: pd.Series[Any], names: tuple[str, ...]) -> NDArray[np.intp]:
    """The number of each text among ``names``; -1 for another."""
    codes, texts = _coded(column)
    known = {name: number for number, name in enumerate(names)}
    return np.asarray(np.array([*(known.get(text, -1) for text in texts), -1], dtype=np.intp)[codes])


def _texts(column: pd.Series[Any], codes: NDArray[Any]) -> NDArray[Any]:
    """The texts of codes of a column; empty where there is none."""
    return np.asarray(np.append(_coded(column)[1], "")[codes])


def _coded(column: pd.Series[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Numbers of each text, -1 for none, and the texts."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.codes.to_numpy(), np.asarray(column.cat.categories, dtype=object)
    codes, texts = pd.factorize(column)
    return codes, np.asarray(texts, dtype=object)
