"""Numbers as tables show and sort them, in one place for every format. Shares are shown in %."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from harness.text import printable

if TYPE_CHECKING:
    from harness.statistics.intervals import Summary
    from harness.verdicts.board import Estimate, Share

    Spread: TypeAlias = Summary | Estimate | None

Value: TypeAlias = tuple[str, float | str]
"""Text of a cell, and the key by which its column is sorted: empty where the number is not known."""

UNKNOWN: Value = ("-", "")


def text(value: object) -> Value:
    """Words, such as an untrusted name from the tables."""
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


def spread(summary: Spread, scale: float = 100, digits: int = 1) -> Value:
    """Mean ± standard deviation, in % or in another unit."""
    if summary is None:
        return UNKNOWN
    shown, _ = decimal(scale * summary.mean, digits)
    sd, _ = decimal(scale * summary.sd, digits)
    return (shown if math.isnan(summary.sd) else f"{shown} ± {sd}"), summary.mean


def interval(low: float, high: float) -> Value:
    """Ends of an interval of shares, in %; sorted by the lower one."""
    if math.isnan(low):
        return UNKNOWN
    return f"{points(low)[0]} to {points(high)[0]}", low


def percent(share: float) -> str:
    """A share in %, as a whole number."""
    return decimal(100 * share, 0)[0]


def bracketed(estimate: Estimate | None) -> Value:
    """A mean with its interval, in whole %: ``38 [12, 61]``; ``38 [..]`` of too few seeds for one."""
    if estimate is None or not math.isfinite(estimate.mean):
        return UNKNOWN
    ends = ".." if math.isnan(estimate.low) else f"{percent(estimate.low)}, {percent(estimate.high)}"
    return f"{percent(estimate.mean)} [{ends}]", estimate.mean


def ends(estimate: Spread) -> Value:
    """Ends of an estimate's interval, in %."""
    return interval(estimate.low, estimate.high) if estimate else UNKNOWN


def proportion(share: Share | None) -> Value:
    """Number of models, of all that were asked: ``4 of 5``; sorted by the share."""
    if share is None or not share.of:
        return UNKNOWN
    whole = float(share.count).is_integer()
    return f"{decimal(share.count, 0 if whole else 1)[0]} of {share.of}", share.count / share.of


def bounds(share: Share | None) -> Value:
    """One-sided limits of a proportion, in %."""
    return interval(share.low, share.high) if share and share.of else UNKNOWN


def upper(share: Share | None) -> Value:
    """Upper limit of a proportion, in %."""
    return points(share.high) if share and share.of else UNKNOWN


def queries(number: float, digits: int = 0, endless: str = "never") -> Value:
    """Number of queries or seeds; ``endless`` where no number is enough."""
    return (endless, number) if math.isinf(number) else decimal(number, digits)


def probability(p_value: float) -> Value:
    """A p-value, with three digits."""
    if math.isnan(p_value):
        return UNKNOWN
    return (f"{p_value:.3f}" if p_value >= 0.001 else "<0.001"), p_value


def size(summary: Spread) -> Value:
    """Number of seeds behind a summary."""
    return count(summary.n if summary else 0)


def mean(summary: Spread) -> Value:
    """Mean of a summary, as a whole number."""
    return count(summary.mean) if summary else UNKNOWN


def bars(counts: Sequence[int]) -> str:
    """A bar a number, as high as its share of all."""
    total = sum(counts)
    return "".join(" ▁▂▃▄▅▆▇█"[-(-8 * count // total)] if count else "·" for count in counts) if total else "-"


def not_counted(record: Any) -> Value:
    """Numbers of the cells that are in no mean of a record, by reason; sorted by their sum."""
    counts = [(name, getattr(record, name, 0)) for name in ("void", "failed", "skipped")]
    return ", ".join(f"{count} {name}" for name, count in counts if count) or "-", sum(count for _, count in counts)
