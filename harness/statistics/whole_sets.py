"""Sequential test of a set of queries that is asked in random order, none twice: an exact one, since the set ends.

A key has so many triggers, and a test that asked all of them would call a suspect marked from some number of matches
on. Asked in random order, the matches among the first n of N triggers are hypergeometric, whatever the suspect is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.special import gammaln

from harness.statistics import validate

if TYPE_CHECKING:
    from harness.statistics.validate import FloatArray


def decide(matches: int, asked: int, whole: int, most: int, gamma: float = 0.01) -> Literal["above", "below", ""]:
    """Decision after some of the queries: would all of them match more than ``most`` times?

    Two e-processes are looked at after every answer: the likelihood of the answers so far, averaged over all totals on
    one side of ``most``, over the largest on the other side. Under each total of that other side the ratio to its own
    likelihood is a martingale that begins at 1, so that by Ville's inequality it ever reaches 1 / gamma with
    probability at most gamma (Ramdas et al., Statistical Science 38, 2023). Once all are asked the answer is certain.

    Args:
        matches: Matching answers so far.
        asked: Queries so far, none of them twice.
        whole: Queries of the whole set.
        most: Largest number of matches of the whole set that is not marked, at most `whole`.
        gamma: Chance of either error, strictly between 0 and 1.

    Returns:
        ``above`` or ``below`` once it is decided, else an empty text.

    Raises:
        ValueError: If the counts do not fit each other, or `gamma` lies outside (0, 1).
    """
    if not 0 <= matches <= asked <= whole or not 0 <= most <= whole:
        raise ValueError(f"{matches} of {asked} of {whole} queries, marked above {most}, cannot be")
    limit = -np.log(validate.inside("gamma", gamma)) - 1e-12
    logs = _likelihoods(matches, asked, whole)
    under, over = logs[: most + 1], logs[most + 1 :]
    if not over.size or _mean(under) - over.max() >= limit:
        return "below"
    return "above" if _mean(over) - under.max() >= limit else ""


def _likelihoods(matches: int, asked: int, whole: int) -> FloatArray:
    """The logarithm of the likelihood of the answers so far, in their order, under each total of 0 to ``whole``."""
    totals = np.arange(whole + 1.0)
    left, others = totals - matches, (whole - totals) - (asked - matches)
    possible = (left >= 0) & (others >= 0)
    made = np.full(whole + 1, -np.inf)
    made[possible] = _choose(whole - asked, left[possible]) - _choose(whole, totals[possible])
    return made


def _choose(n: int, k: FloatArray) -> FloatArray:
    return np.asarray(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))


def _mean(logs: FloatArray) -> float:
    """The logarithm of the mean of what these are logarithms of."""
    peak = logs.max()
    return float(peak + np.log(np.exp(logs - peak).mean())) if np.isfinite(peak) else -np.inf
