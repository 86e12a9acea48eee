"""Tests, plans, intervals and outliers of verification evidence, on plain counts.

Every function of :mod:`harness.statistics.tests`, :mod:`~harness.statistics.power`,
:mod:`~harness.statistics.intervals` and :mod:`~harness.statistics.outliers` is a name of this package too, and so are
the main ones of :mod:`~harness.statistics.exchangeable`, :mod:`~harness.statistics.margins` and
:mod:`~harness.statistics.worst_case`; the functions ``margins`` and ``worst_case`` are not, since modules have their
names.
"""

from harness.statistics.exchangeable import (
    MAX_FALSE,
    MIN_MARGIN,
    beta_binomial_p_values,
    expected_queries_above,
    fewest_beyond_chance,
    fewest_models,
    is_marked,
    key_thresholds,
    marked_by_chance,
    mean_rates,
    rank_p_values,
    scaled_margins,
    share_bounds,
    survival,
)
from harness.statistics.intervals import (
    Summary,
    bootstrap_interval,
    clopper_pearson_lower,
    clopper_pearson_upper,
    summaries,
    summary,
)
from harness.statistics.margins import SeedsInterval, cost_interval, gate, lower_limit, seeds_interval, seeds_intervals
from harness.statistics.outliers import anomaly_index
from harness.statistics.power import MAX_QUERIES, queries_for_confidence, queries_for_power
from harness.statistics.tests import (
    MAX_BOSCHLOO,
    MAX_FISHER,
    binomial_test,
    binomial_test_against_control,
    boschloo,
    fisher_exact,
    holm,
    rank_p_value,
    t_test,
    welch_t_test,
)
from harness.statistics.worst_case import WorstCase, fewest_seeds_for, ranks

__all__ = [
    "MAX_BOSCHLOO",
    "MAX_FALSE",
    "MAX_FISHER",
    "MAX_QUERIES",
    "MIN_MARGIN",
    "SeedsInterval",
    "Summary",
    "WorstCase",
    "anomaly_index",
    "beta_binomial_p_values",
    "binomial_test",
    "binomial_test_against_control",
    "bootstrap_interval",
    "boschloo",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "cost_interval",
    "expected_queries_above",
    "fewest_beyond_chance",
    "fewest_models",
    "fewest_seeds_for",
    "fisher_exact",
    "gate",
    "holm",
    "is_marked",
    "key_thresholds",
    "lower_limit",
    "marked_by_chance",
    "mean_rates",
    "queries_for_confidence",
    "queries_for_power",
    "rank_p_value",
    "rank_p_values",
    "ranks",
    "scaled_margins",
    "seeds_interval",
    "seeds_intervals",
    "share_bounds",
    "summaries",
    "summary",
    "survival",
    "t_test",
    "welch_t_test",
]
