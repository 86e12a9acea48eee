"""Tests, plans, intervals and outliers of verification evidence, on plain counts.

Every function of :mod:`harness.statistics.tests`, :mod:`~harness.statistics.power`,
:mod:`~harness.statistics.intervals` and :mod:`~harness.statistics.outliers` is a name of this package too.
"""

from harness.statistics.intervals import (
    Summary,
    bootstrap_interval,
    clopper_pearson_lower,
    clopper_pearson_upper,
    summaries,
    summary,
)
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

__all__ = [
    "MAX_BOSCHLOO",
    "MAX_FISHER",
    "MAX_QUERIES",
    "Summary",
    "anomaly_index",
    "binomial_test",
    "binomial_test_against_control",
    "bootstrap_interval",
    "boschloo",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "fisher_exact",
    "holm",
    "queries_for_confidence",
    "queries_for_power",
    "rank_p_value",
    "summaries",
    "summary",
    "t_test",
    "welch_t_test",
]
