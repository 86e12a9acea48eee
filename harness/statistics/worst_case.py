"""Worst case of a scheme over attacks, and ranks of schemes by it."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from harness.statistics import validate
from harness.statistics.paired import sign_flip_test
from harness.statistics.tests import SLACK, holm

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from harness.statistics.validate import FloatArray


@dataclass(frozen=True)
class WorstCase:
    """Margins that the worst attack leaves, where the worst is chosen on the other half of the seeds.

    Attributes:
        values: A margin a seed, shape [seeds]; NaN for a seed on which not all settings have one.
        on_even: Index of the setting that counts on the even seeds, the first, third, ... of the common ones; None if
            there is no common seed.
        on_odd: Index of that on the others.
    """

    values: FloatArray
    on_even: int | None
    on_odd: int | None

    @property
    def mean(self) -> float:
        """Mean of the values that are there; NaN if there are none."""
        there = self.values[~np.isnan(self.values)]
        return float(there.mean()) if there.size else math.nan


def worst_case(margins: ArrayLike) -> WorstCase:
    """Worst case by cross-fitting: no seed is judged by an attack that was chosen for what it did to this seed.

    The setting that counts on the even seeds is the one with the least mean margin over the odd seeds, and the other
    way round. A minimum of means over the same seeds lies below the true worst case, by 0.1 to 0.2 with few seeds and
    many settings, and further for a scheme whose margins scatter more.

    Even and odd are places among the common seeds, on which every setting has a margin: a seed that only some attacks
    have reached would compare attacks on different seeds. A setting without any margin does not exist. Of settings with
    one mean over the other half, the one with the least mean over all common seeds counts, then the one whose margins
    come first in order, so that neither the order nor the repetition of settings changes the values; a setting that is
    more than another on every seed never counts.

    Args:
        margins: Of shape [settings, seeds], the seeds ascending, NaN where there is none. Equal rows are named by the
            first of them: list settings in an order of your own, such as that of their names.

    Returns:
        The worst case. With a single common seed there is no other half: its least margin is taken, which is too low.

    Raises:
        ValueError: If `margins` is not two-dimensional.
    """
    numbers = validate.numbers("margins", margins)
    if numbers.ndim != 2:
        raise ValueError(f"margins must be of settings and seeds, got shape {numbers.shape}")
    settings = np.flatnonzero(~np.isnan(numbers).all(axis=1))
    there = numbers[settings]
    seeds = np.flatnonzero(~np.isnan(there).any(axis=0)) if settings.size else settings
    values = np.full(numbers.shape[1], np.nan)
    if not seeds.size:
        return WorstCase(values, None, None)
    common = there[:, seeds]
    odd, even = (common[:, 1::2], common[:, 0::2]) if seeds.size > 1 else (common, common)
    on_even, on_odd = _least(odd, common), _least(even, common)
    values[seeds[0::2]], values[seeds[1::2]] = common[on_even, 0::2], common[on_odd, 1::2]
    return WorstCase(values, int(settings[on_even]), int(settings[on_odd]))


def _least(half: FloatArray, common: FloatArray) -> int:
    """The row with the least mean over half of the seeds, then over all, then in the order of its numbers.

    Means are rounded, so that two that are equal but for the order of summation are equal.
    """
    means = (np.round(each.mean(axis=1), 12) for each in (half, common))
    return min(range(len(common)), key=list(zip(*means, common.tolist(), strict=True)).__getitem__)


def fewest_seeds_for(schemes: int, confidence: float = 0.95) -> int:
    """Seeds that tell schemes apart if their differences have one sign: 6 for two schemes, 11 for ten.

    The smallest n with 2 / 2^n <= alpha / pairs: the least p-value of `paired.sign_flip_test`, after Holm's correction
    for all pairs.
    """
    pairs = max(math.comb(schemes, 2), 1)
    return math.ceil(1 + math.log2(pairs / (1 - validate.inside("confidence", confidence))) - 1e-9)


def told_apart(worst: ArrayLike, confidence: float = 0.95) -> NDArray[np.bool_]:
    """Pairs of schemes with different worst cases, by two tests that both must agree.

    One is the sign-flip test of the differences over common seeds, all pairs corrected together after Holm; the other
    is Student's interval of their mean at `confidence`, which must exclude 0.

    Args:
        worst: Margins of the schemes' worst cases, shape [schemes, seeds], NaN where there is none.
        confidence: 1 - the chance of telling any equal schemes apart, strictly between 0 and 1.

    Returns:
        Booleans of shape [schemes, schemes], True where the scheme of the row is better than that of the column.

    Raises:
        ValueError: If `worst` is not two-dimensional, or `confidence` lies outside (0, 1).
    """
    numbers = _schemes(worst)
    alpha = 1 - validate.inside("confidence", confidence)
    pairs = list(itertools.combinations(range(len(numbers)), 2))
    differences = [each[~np.isnan(each)] for each in (numbers[one] - numbers[other] for one, other in pairs)]
    p_values = holm([sign_flip_test(each) if each.size > 1 else 1.0 for each in differences])
    better = np.zeros((len(numbers), len(numbers)), dtype=np.bool_)
    for (one, other), each, p_value in zip(pairs, differences, p_values, strict=True):
        if p_value <= alpha * (1 + SLACK) and _excludes_zero(each, confidence):
            better[(one, other) if each.mean() > 0 else (other, one)] = True
    return better


def ranks(worst: ArrayLike, confidence: float = 0.95) -> list[int] | None:
    """Ranks of schemes by their worst case; several share one where the seeds cannot tell them apart.

    Args:
        worst: As of `told_apart`.
        confidence: As of `told_apart`.

    Returns:
        Of each scheme, 1 + the number of schemes that are told apart from it and better. None, no ranks, where a pair
        has fewer seeds in common than `fewest_seeds_for` so many schemes.

    Raises:
        ValueError: As `told_apart`.
    """
    there = (~np.isnan(_schemes(worst))).astype(np.intp)
    shared = there @ there.T
    if len(there) > 1 and shared.min() < fewest_seeds_for(len(there), confidence):
        return None
    return [1 + int(count) for count in told_apart(worst, confidence).sum(axis=0)]


def _schemes(worst: ArrayLike) -> FloatArray:
    numbers = validate.numbers("worst", worst)
    if numbers.ndim != 2:
        raise ValueError(f"worst must be of schemes and seeds, got shape {numbers.shape}")
    return numbers


def _excludes_zero(differences: FloatArray, confidence: float) -> bool:
    """Student's interval of the mean lies on one side of 0."""
    critical = float(special.stdtrit(differences.size - 1, (1 + confidence) / 2))
    error = float(differences.std(ddof=1)) / math.sqrt(differences.size)
    return abs(float(differences.mean())) > critical * error
