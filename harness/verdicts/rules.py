"""The rules by which evidence becomes a verdict: the same for every scheme."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from harness.errors import UnknownName, UsageError

TestName: TypeAlias = Literal["rank", "beta-binomial", "binomial", "fisher", "boschloo", "welch", "t"]
POOLED: tuple[TestName, ...] = ("binomial", "fisher", "boschloo", "welch", "t")
"""Tests that pool the answers of all unmarked models: for comparison with papers. They assume that all unmarked models
answer alike."""
MAX_BUDGET = 1_000_000


@dataclass(frozen=True)
class Rules:
    """Rules by which evidence becomes a verdict. Raises :class:`UsageError` for values that cannot be."""

    test: TestName = "rank"
    """``rank``: the suspect's place among unmarked models, unattacked and attacked alike; ``beta-binomial``: for 3 to
    18 unmarked models; the others pool the answers of all unmarked models."""
    confidence: float = 0.95
    """Confidence of verdicts (alpha is what it lacks of 1), intervals and ranks."""
    min_margin: float = 0.10
    """The least margin of a marked model, 0..1."""
    max_drop: float = 0.05
    """A surrogate is useful down to this much accuracy below the less accurate of its victim and unmarked models."""
    max_cost: float = 0.02
    """A scheme whose victims lose more accuracy than this has no rank."""
    gamma: float = 0.01
    """Chance, beyond the rank test's, that a sequential verification accuses an unmarked model."""
    fpr: float | None = None
    """The false rate that margins and pooled tests assume of unmarked models, instead of their own."""
    budget: int | None = None
    """Trigger queries within which a model is to be accused, each answered at the rate that was measured."""

    def __post_init__(self) -> None:
        if self.test not in get_args(TestName):
            raise UnknownName("test", str(self.test), get_args(TestName))
        if self.fpr is not None and not 0 <= self.fpr < 1:
            raise UsageError(f"fpr must be at least 0 and below 1, not {self.fpr}")
        if self.fpr is not None and self.test != "binomial":
            raise UsageError(
                f"--test {self.test} compares with unmarked models, and --fpr is a rate: type --test binomial"
            )
        if self.budget is not None and not 1 <= self.budget <= MAX_BUDGET:
            raise UsageError(f"budget must be in 1..{MAX_BUDGET:,} queries, not {self.budget:,}")
        for name in ("confidence", "gamma"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"{name} must be between 0 and 1, not {getattr(self, name)}")
        for name in ("min_margin", "max_drop", "max_cost"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name.replace('_', '-')} must be in 0..1, not {getattr(self, name)}")

    @property
    def alpha(self) -> float:
        """The level of a verdict."""
        return 1 - self.confidence
