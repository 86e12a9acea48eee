"""Stratified splits: the owner's training set, the held-out set and a thief's own, with every class in each."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError

if TYPE_CHECKING:
    from harness.contracts import Dataset

Numbers: TypeAlias = "NDArray[np.int64]"
LEAST = 0.5
"""Part of its share of a set that each class keeps where sets are balanced: else classes have their shares."""


def split(y: Numbers, dataset: Dataset, seed: int) -> list[Numbers]:
    """Indices into the labels ``y`` of the owner's training set, the held-out set and a thief's disjoint set.

    The first two are of the recipe's sizes, and the third is as large as the first, or smaller where the set ends.
    They are drawn at random and balanced over the classes. Where that would leave a class less than :data:`LEAST` of
    its share of one of them, each class has its share of each instead. Every class has a sample in each, but for a
    disjoint set that is smaller than the first. Raises :class:`DataError` where that cannot be.
    """
    sizes, counts = _asked(y, dataset)
    order = np.random.default_rng(seed).permutation(len(y))
    rank = _rank_in_class(y[order], len(counts))
    # Sorted by rank within the class, the first n samples are balanced for every n; ties keep the random order.
    balanced = order[np.argsort(rank, kind="stable")]
    parts = np.split(balanced, np.cumsum([dataset.train, dataset.holdout, dataset.train]))[:3]
    found = np.array([np.bincount(y[part], minlength=len(counts)) for part in parts[: len(sizes)]])
    if (found >= np.maximum(1, LEAST * np.outer(sizes, counts) / len(y))).all():
        return parts
    # The number of the part that a sample of each rank in each class belongs to.
    ends = np.cumsum(_quotas(counts, sizes), axis=0)
    part = (rank[:, None] >= ends[:, y[order]].T).sum(axis=1)
    own = [order[part == number] for number in range(len(sizes))]
    return own if len(own) == 3 else [*own, order[part == 2][: dataset.train]]


def check(y: Numbers, dataset: Dataset) -> None:
    """Raise :class:`DataError` unless each class can have a sample in the training set, the held-out and the disjoint
    set that the recipe asks for."""
    _asked(y, dataset)


def _asked(y: Numbers, dataset: Dataset) -> tuple[list[int], Numbers]:
    """Sizes of the sets in which each class has a sample, and the number of samples of each class."""
    sizes, counts = [dataset.train, dataset.holdout], np.bincount(y, minlength=len(dataset.classes))
    if 2 * dataset.train + dataset.holdout <= len(y):
        sizes.append(dataset.train)
    rarest, classes = int(counts.argmin()), len(counts)
    if counts[rarest] < len(sizes):
        raise DataError(
            f"{dataset.name}: class {dataset.classes[rarest]!r} has {counts[rarest]} training samples, expected at "
            f"least {len(sizes)}, one for each of the splits: give it more, or leave the class out"
        )
    for name in ("train", "holdout"):
        if (size := getattr(dataset, name)) < classes:
            raise DataError(
                f"{dataset.name}: {name}={size} is too few for {classes} classes, of which each has a sample in every "
                f"split: type {dataset.name}[{name}={classes}], or more"
            )
    return sizes, counts


def _quotas(available: Numbers, sizes: list[int]) -> Numbers:
    """Samples of each class in sets of these sizes, ``[sets, classes]``: in proportion, and at least one."""
    left, made = available.copy(), []
    for later, size in zip(reversed(range(len(sizes))), sizes, strict=True):
        shares, most = size * left / left.sum(), left - later  # one is left for each later set
        quota = np.clip(shares.astype(np.int64), 1, most)
        while missing := size - int(quota.sum()):
            step = 1 if missing > 0 else -1
            may = quota < most if missing > 0 else quota > 1
            quota[np.argmax(np.where(may, step * (shares - quota), -np.inf))] += step
        made.append(quota)
        left -= quota
    return np.array(made)


def _rank_in_class(y: Numbers, classes: int) -> Numbers:
    """Number of earlier samples of the same class, for each."""
    rank = np.empty(len(y), dtype=np.int64)
    for label in range(classes):
        members = np.flatnonzero(y == label)
        rank[members] = np.arange(len(members))
    return rank
