"""Columns of a reproduction: a paper's number, ours, and the verdict."""

from __future__ import annotations

import math

from harness.papers.reproduce import Compared
from harness.ranking import values
from harness.ranking.columns import Column, Columns, Table
from harness.ranking.values import UNKNOWN, Value


def _paper(row: Compared) -> Value:
    if row.row.band is None:
        return UNKNOWN
    return values.text(f"unverified: {row.row.band.text}" if row.verdict == "unverified" else row.row.band.text)


def _ours(row: Compared) -> Value:
    if row.spread is None:
        return UNKNOWN
    if math.isinf(row.spread.mean):
        never = sum(math.isinf(value) for value in row.values.values())
        return f"never in {never} of {row.spread.n}" if row.values else "never", row.spread.mean
    shown, key = _number(row, row.spread.mean)
    return shown if row.spread.sd is None else f"{shown} ± {_number(row, row.spread.sd)[0]}", key


def _interval(row: Compared) -> Value:
    ours = row.spread
    if ours is None or ours.low is None or ours.high is None:
        return UNKNOWN
    return f"{_number(row, ours.low)[0]} to {_number(row, ours.high)[0]}", ours.low


def _number(row: Compared, value: float) -> Value:
    return values.queries(value, 0 if row.unit == "queries" else 2)


REPRODUCED: Columns[Compared] = (
    Column("what", lambda row: values.text(row.row.label), unit="", words=True),
    Column("quantity", lambda row: values.text(row.label), unit="", words=True),
    Column("n", lambda row: values.count(len(row.values) or math.nan), unit=""),
    Column("paper", _paper, unit=""),
    Column("ours", _ours, unit=""),
    Column("95% interval", _interval, unit=""),
    Column("verdict", lambda row: (row.verdict, ""), unit="", words=True, rigid=True),
)
COLOURS = {"reproduced": "green", "reproduced at another setting": "green", "differs": "red"}


def reproduction_table(rows: list[Compared]) -> Table:
    """Table of an experiment's rows, coloured by verdict in a terminal."""
    return Table("", REPRODUCED, rows, style=lambda row: COLOURS.get(row.verdict))
