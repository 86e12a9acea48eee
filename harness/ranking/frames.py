"""Frames behind pictures, from scored cells: the report draws them as SVG, ``harness figures`` for print.

``scored`` is what :func:`harness.verdicts.scoring.score` makes; rates are 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from harness.errors import UsageError
from harness.planning.matrix import Chain, format_chain, option_of, parse_chain
from harness.statistics.pareto import pareto_front
from harness.verdicts.families import NO_SURVIVAL
from harness.verdicts.scoring import chances_within

if TYPE_CHECKING:
    from harness.planning.graph import Kind
    from harness.storage.options import RecordedOptions
    from harness.verdicts.rules import Rules

AXES = ("dataset", "defense", "attack")
"""Axes of a matrix whose options may be swept."""


def attacked(scored: pd.DataFrame) -> pd.DataFrame:
    """Cells that are ok and say what an attack leaves: also those of useless models, but no detector's."""
    return scored[(scored["status"] == "ok") & ~scored["kind"].isin(NO_SURVIVAL)]


def attack_means(counting: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy and success of each attack, in %, by its name and in the order of the cells, which all count.

    ``front``: no other extraction or removal leaves both more accuracy and less of the mark.
    """
    found = counting.groupby("attack", sort=False)
    means = 100 * found[["surrogate_accuracy", "surrogate_trigger"]].mean().set_axis(["accuracy", "success"], axis=1)
    # Old tables may lack an accuracy: such an attack is on no front.
    survival = (found["kind"].first() == "survival").to_numpy(dtype=bool) & means.notna().all(axis=1).to_numpy()
    front = np.zeros(len(means), dtype=bool)
    front[survival] = pareto_front(means[survival].to_numpy() * (1, -1))
    return means.assign(front=front)


def chances(scored: pd.DataFrame, budgets: Sequence[int], rules: Rules) -> pd.DataFrame:
    """Chance that a model is called marked within so many queries: a row a budget ``x`` and model that an extraction or
    a removal left, with its ``dataset``, ``defense`` and ``seed``; ``value`` is 0..1."""
    tested = scored[scored["tested"] & (scored["kind"] == "survival")]
    keys = ["dataset", "defense", "seed"]
    wide = pd.DataFrame(chances_within(tested, budgets, rules), columns=list(budgets))
    return wide.assign(**{key: tested[key].array for key in keys}).melt(keys, var_name="x").astype({"x": float})


def swept(cells: pd.DataFrame, kind: Kind, options: RecordedOptions) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Each plugin's numeric option that takes two values or more while all else is equal, and the cells.

    These have the option's value as ``x``, and what they share instead of their ``dataset``, ``defense`` or
    ``attack``, which is in ``whole``.
    """
    texts = {text: chain_of(text) for text in cells[kind].unique()}
    named = dict.fromkeys(
        (entry.name, option) for chain in texts.values() for entry in chain for option, _ in entry.options
    )
    rest = [axis for axis in AXES if axis != kind]
    for name, option in named:
        found = {text: _value(partial(options.of, kind), chain, name, option) for text, chain in texts.items()}
        rows = cells.assign(x=[found[text][0] for text in cells[kind]], whole=cells[kind])
        rows[kind] = [found[text][1] for text in cells[kind]]
        rows = rows.dropna(subset="x")
        rows = rows[rows.groupby([kind, *rest])["x"].transform("nunique") > 1]
        if len(rows):
            yield name, option, rows


def chain_of(text: str) -> Chain:
    """Links of a text; none of one that no run would have written."""
    try:
        return parse_chain(text)
    except UsageError:
        return ()


def _value(options_of: Any, chain: Chain, name: str, option: str) -> tuple[float, str]:
    """The number that an option of the chain's last link of that name has, and the chain without it; else NaN."""
    value, bare = option_of(chain, option, options_of, name)
    if isinstance(value, bool):
        return math.nan, ""
    try:
        return float(value), format_chain(bare)  # of a plugin that is not here options are text
    except (TypeError, ValueError):
        return math.nan, ""
