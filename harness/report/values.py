"""Numbers as a table shows and sorts them. Shares are shown in %."""

from __future__ import annotations

import math
from typing import Any

from harness.report.page import Value
from harness.statistics.intervals import Summary
from harness.storage.text import printable

UNKNOWN: Value = ("-", "")


def text(value: object) -> Value:
    """Words: a name from the tables may be a stranger's."""
    return printable(value), ""


def count(number: float) -> Value:
    """A whole number."""
    return decimal(number, 0)


def decimal(number: float, digits: int) -> Value:
    """A number with so many digits after the point."""
    # Rounded first, so that -0.0 reads as 0.
    return (f"{round(number, digits) + 0.0:,.{digits}f}", float(number)) if math.isfinite(number) else UNKNOWN


def points(share: float) -> Value:
    """A share in %."""
    return decimal(100 * share, 1)


def spread(summary: Summary | None, scale: float = 100, digits: int = 1) -> Value:
    """Mean ± standard deviation, in % or in another unit."""
    if summary is None:
        return UNKNOWN
    shown, _ = decimal(scale * summary.mean, digits)
    sd, _ = decimal(scale * summary.sd, digits)
    return (shown if math.isnan(summary.sd) else f"{shown} ± {sd}"), summary.mean


def interval(summary: Summary | None) -> Value:
    """From where to where the mean of all seeds lies, in %; sorted by the lower end."""
    if summary is None or math.isnan(summary.low):
        return UNKNOWN
    (low, key), (high, _) = points(summary.low), points(summary.high)
    return f"{low} to {high}", key


def size(summary: Summary | None) -> Value:
    """Of how many seeds a summary is."""
    return count(summary.n if summary else 0)


def queries(number: float, digits: int = 0) -> Value:
    """A number of queries; infinite where no number is enough."""
    return ("never", number) if math.isinf(number) else decimal(number, digits)


def not_counted(row: Any) -> Value:
    """How many cells are in no number of a record of the board, and why."""
    counts = [(name, getattr(row, name)) for name in ("void", "failed", "skipped")]
    return ", ".join(f"{count} {name}" for name, count in counts if count) or "-", sum(count for _, count in counts)


def shortened(there: int, limit: int, what: str) -> str:
    """That only some are shown, where that is so."""
    if there <= limit:
        return ""
    return f"The first {limit:,} of {there:,} {what} are shown; harness leaderboard --format csv has all."


def together(*told: str) -> str:
    """Sentences, without those that are empty."""
    return " ".join(filter(None, told))
