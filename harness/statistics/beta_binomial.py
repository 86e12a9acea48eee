"""The beta-binomial law: counts of trials whose common rate is itself drawn, from a beta law."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from harness.statistics import validate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from harness.statistics.validate import FloatArray

_AT_ONCE = 1_000_000
"""Probabilities of counts that are computed together."""


def beta_binomial_tail(matches: ArrayLike, trials: ArrayLike, a: ArrayLike, b: ArrayLike) -> FloatArray:
    """P(X >= matches) for X ~ BetaBinomial(trials; a, b): the sum of the probabilities, none of which is a difference.

    Args:
        matches: Whole numbers; the probability is 1 of those below 1, and 0 of those above `trials`.
        trials: Whole numbers of at least 0.
        a: First parameter of the beta law, above 0.
        b: Second parameter, above 0.

    Returns:
        Probabilities in [0, 1], in the broadcast shape of the arguments.

    Raises:
        ValueError: If a number is missing or outside its range.
    """
    m, t = np.broadcast_arrays(validate.numbers("matches", matches), validate.counts("trials", trials))
    first, second = validate.numbers("a", a), validate.numbers("b", b)
    for name, values in (("a", first), ("b", second)):
        validate.refuse(name, values, ~(values > 0), "above 0")
    m, t, first, second = np.broadcast_arrays(m, t, first, second)
    tails, flat = np.empty(m.size), [each.ravel() for each in (m, t, first, second)]
    for some in np.unique(flat[1]):
        places = np.flatnonzero(flat[1] == some)
        for here in np.array_split(places, math.ceil(places.size * (some + 1) / _AT_ONCE)):
            tails[here] = _beta_binomial_tails(some, *(each[here, np.newaxis] for each in (flat[0], *flat[2:])))
    return np.asarray(tails.reshape(m.shape), dtype=np.float64)


def _beta_binomial_tails(trials: float, matches: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    """The tails of columns of numbers at one number of trials."""
    x = np.arange(trials + 1)
    ways = -special.betaln(x + 1, trials - x + 1) - math.log(trials + 1)
    logs = ways + special.betaln(x + a, trials - x + b) - special.betaln(a, b)
    return np.asarray(np.clip(np.where(x >= matches, np.exp(logs), 0).sum(axis=-1), 0, 1))
