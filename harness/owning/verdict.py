"""Counts of one suspect to a verdict, by the tests of the board. No torch.

A suspect's history is unknown: it may have gone through any of the attack chains that unmarked models went through, so
the largest p-value over the chains counts, and the largest false rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from harness.statistics.exchangeable import MAX_FALSE, is_marked, margins, mean_rates, rank_p_values
from harness.statistics.tests import MAX_FISHER, fisher_exact

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.owning.folder import About, Counts
    from harness.verdicts.rules import Rules

Verdict: TypeAlias = Literal["marked", "marked, but not by whom", "answers everything so", "undecided", "not marked"]
PROBE, CONTROL, NONE = "trigger", "control", "none"


@dataclass(frozen=True)
class Compared:
    """The suspect beside the unmarked models after one attack chain."""

    chain: str
    models: int
    mean: float
    """Mean rate of the unmarked models."""
    most: float
    """Largest rate of one of them."""
    p_value: float


@dataclass(frozen=True)
class Judged:
    """The verdict on matches and trials."""

    matches: int
    trials: int
    p_value: float
    margin: float
    marked: bool
    compared: tuple[Compared, ...]


def judge(matches: int, trials: int, unmarked: Mapping[str, Counts], rules: Rules, probe: str = PROBE) -> Judged:
    """The verdict on one suspect. A mark that could not be read, with no trials, is not there."""
    compared = tuple(
        _compared(chain, matches, trials, counts[probe]) for chain, counts in unmarked.items() if counts.get(probe)
    )
    false = max(each.mean for each in compared)
    margin = float(margins(matches, trials, false))
    p_value = max(each.p_value for each in compared)
    marked = bool(is_marked(p_value, margin, rules.alpha, rules.min_margin))
    return Judged(matches, trials, p_value, margin, marked, compared)


def _compared(chain: str, matches: int, trials: int, counts: list[tuple[int, int]]) -> Compared:
    ref, tried = _arrays(counts)
    p_value = float(rank_p_values([matches], [trials], ref, tried)[0])
    return Compared(chain, len(counts), float(mean_rates(ref, tried)[0]), float((ref / tried).max()), p_value)


def _arrays(counts: list[tuple[int, int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Matches and trials of one row of unmarked models. One from which a mark cannot be read has 0 of 1."""
    pairs = np.array(counts, dtype=np.int64)
    return pairs[np.newaxis, :, 0], np.maximum(pairs[np.newaxis, :, 1], 1)


def most_unmarked(trials: int, unmarked: Mapping[str, Counts], rules: Rules) -> int:
    """The most matches of so many trials that are not marked: all where the key proves nothing."""
    low, high = 0, trials  # not marked at low, and what is above high is marked: a verdict is monotone in matches
    while low < high:
        middle = (low + high + 1) // 2
        if judge(middle, trials, unmarked, rules).marked:
            high = middle - 1
        else:
            low = middle
    return low


def others_accused(about: About, rules: Rules) -> tuple[int, int]:
    """Number of other owners' models that the key accuses, and of those that were asked."""
    counts = about.others.get(PROBE, [])
    return sum(judge(*pair, about.unmarked, rules).marked for pair in counts), len(counts)


def is_anonymous(about: About, rules: Rules) -> bool:
    """True where the key accuses half of other owners' models or more.

    The board says so only where chance is excluded. Here one suspect is accused, and the doubt is in its favour.
    """
    accused, asked = others_accused(about, rules)
    return accused > 0 and accused >= asked / 2


def proves_nothing(judged: Judged) -> bool:
    """True for a key that unmarked models answer as if they had the mark."""
    return max(each.mean for each in judged.compared) > MAX_FALSE


def exceeds(judged: Judged, control: Judged, rules: Rules) -> bool:
    """True where the triggers match more often than the control does: by Fisher's exact test, since both are answers of
    one model; of scores, which have no number of queries, by the least margin."""
    if max(judged.trials, control.trials) > MAX_FISHER:
        return judged.margin - control.margin >= rules.min_margin
    if not control.trials:
        return True
    return float(fisher_exact(judged.matches, judged.trials, control.matches, control.trials)) <= rules.alpha + 1e-9


def verdict_of(judged: Judged, control: Judged | None, about: About, rules: Rules) -> Verdict:
    """The verdict in words. A suspect that answers the placebo about as often as the triggers is not accused: of one
    whose accuracy nobody measured, random classes or always the same one could pass for a mark."""
    if not judged.marked:
        return "not marked"
    if control and not exceeds(judged, control, rules):
        return "answers everything so"
    return "marked, but not by whom" if is_anonymous(about, rules) else "marked"
