"""Table of a comparison of two schemes, with what its words mean."""

from __future__ import annotations

import math

from harness.ranking import values
from harness.ranking.columns import Column, Columns, Sheet, Table
from harness.ranking.compare import ALL, WORST, Compared, Comparison
from harness.ranking.glossary import MARGINS, comparison_meaning
from harness.ranking.values import Value
from harness.text import printable


def term_of(row: Compared) -> str:
    """Name of a row that is not about one attack, as in the glossary; empty for one that is."""
    if row.attack in WORST:
        return f"({row.attack})"
    return f"({row.quantity})" if not row.attack else "(all attacks)" if row.attack == ALL else ""


def _difference(row: Compared) -> Value:
    shown, key = values.points(row.difference)
    return (shown if math.isnan(row.sd) else f"{shown} ± {values.points(row.sd)[0]}"), key


def _apart(row: Compared) -> Value:
    better = "first" if row.difference > 0 else "second"
    if row.quantity == "accuracy cost":
        better = "second" if row.difference > 0 else "first"
    return values.text(better) if row.told_apart else values.UNKNOWN


COMPARED: Columns[Compared] = (
    Column("attack", lambda row: values.text(term_of(row) or row.attack), unit="", words=True),
    Column("n", lambda row: values.count(row.n), unit=""),
    Column("first", lambda row: values.points(row.ours)),
    Column("second", lambda row: values.points(row.theirs)),
    Column("difference", _difference),
    Column("interval", lambda row: values.interval(row.low, row.high)),
    Column("p", lambda row: values.probability(row.p_value), unit=""),
    Column("Holm p", lambda row: values.probability(row.p_adjusted), unit=""),
    Column("better", _apart, unit="", words=True, rigid=True),
    Column("more seeds", lambda row: values.queries(row.more_seeds, endless="no end"), unit=""),
    Column("left out", lambda row: values.count(row.left_out or math.nan), unit=""),
)


def comparison_sheet(comparison: Comparison) -> Sheet:
    """A table of differences for each data set, with what its words mean."""
    from harness.statistics.paired import fewest_seeds

    names = {"ours": printable(comparison.ours), "theirs": printable(comparison.theirs)}
    tables = [
        Table(
            f"{'all datasets' if dataset == ALL else printable(dataset)}: {names['ours']} less {names['theirs']}",
            COMPARED,
            [row for row in comparison.rows if row.dataset == dataset],
        )
        for dataset in dict.fromkeys(row.dataset for row in comparison.rows)
    ]
    more = {**names, "fewest": fewest_seeds(comparison.rules.confidence)}
    words = [*dict.fromkeys(filter(None, map(term_of, comparison.rows))), *(each.name for each in COMPARED[1:])]
    terms = [(word, comparison_meaning(word, comparison.rules, **more)) for word in words]
    return Sheet(tables, terms, [MARGINS, *map(printable, comparison.notes)])
