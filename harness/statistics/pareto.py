"""Fronts of accuracy against success, and the area under them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.statistics import validate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from harness.statistics.validate import FloatArray


def pareto_front(points: ArrayLike) -> NDArray[np.bool_]:
    """Mask of the points that no other one dominates: at least as high in both coordinates, and higher in one.

    Args:
        points: Pairs such as (accuracy, success), higher being better, of shape [n, 2]; n may be 0.

    Returns:
        A mask of length n; equal points are on the front together.

    Raises:
        ValueError: If `points` has another shape or a coordinate is not finite.
    """
    pairs = validate.pairs("points", points)
    x, y = pairs.T
    order = np.lexsort((-y, -x))  # by falling x, then by falling y
    highest = np.maximum.accumulate(y[order])  # so far, this x included
    first = np.searchsorted(-x[order], -x[order], side="left")  # where the points of this x begin
    before = np.concatenate([[-np.inf], highest])[first]  # the highest y of all larger x
    front = np.empty(len(pairs), dtype=np.bool_)
    front[order] = (y[order] > before) & (y[order] == highest)
    return front


def hypervolume(points: ArrayLike, reference: tuple[float, float]) -> float:
    """Area that points dominate above a reference point (Zitzler and Thiele 1998): one number for a whole front.

    Args:
        points: As of `pareto_front`. One that is not above the reference in both coordinates adds nothing.
        reference: The worst acceptable pair, say chance accuracy and the false rate; areas of different references
            cannot be compared.

    Returns:
        An area of at least 0, in the product of the two units.

    Raises:
        ValueError: If `points` has another shape or a coordinate is not finite.
    """
    pairs, corner = validate.pairs("points", points), validate.pairs("reference", [reference])[0]
    return float(hypervolumes(pairs - corner, np.zeros(len(pairs), dtype=np.intp), 1)[0])


def hypervolumes(points: ArrayLike, groups: NDArray[np.intp], count: int) -> FloatArray:
    """`hypervolume` above (0, 0) of each group of points, all at once.

    Args:
        points: As of `pareto_front`.
        groups: Of each point its group, from 0 to `count` - 1.
        count: Number of groups.

    Returns:
        An area a group, 0 where it has no points.

    Raises:
        ValueError: As of `hypervolume`.
    """
    pairs = validate.pairs("points", points)
    above = (pairs > 0).all(axis=1)
    x, y = pairs[above].T
    order = np.lexsort((-x, groups[above]))  # by group, then by falling x
    x, y, group = x[order], y[order], groups[above][order]
    # The highest y so far in its group: each group lies a step above all that came before.
    step = group * (y.max(initial=0.0) + 1.0)
    highest = np.maximum.accumulate(y + step) - step
    last = np.append(group[1:] != group[:-1], True)[: len(x)]
    width = x - np.where(last, 0.0, np.append(x[1:], 0.0)[: len(x)])
    return np.bincount(group, weights=width * highest, minlength=count).astype(np.float64)
