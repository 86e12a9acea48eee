"""Black-box access to a model: the oracle that attacks and owners ask, and the meter behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, get_args

from harness.errors import Refused
from harness.values import Answers, classes_of

if TYPE_CHECKING:
    from torch import Tensor


class Oracle:
    """Black-box access to a model, which counts its queries, and serves one answer type within a budget.

    An attack is handed one whose model, counter and budget are out of its reach: see :mod:`harness.engine.service`.
    """

    __slots__ = ("_ask",)

    def __init__(
        self, logits: Callable[[Tensor], Tensor], answers: Answers = "labels", budget: int | None = None
    ) -> None:
        self._ask: Callable[..., Any] = Meter(logits, answers, budget)

    @classmethod
    def before(cls, ask: Callable[..., Any]) -> Oracle:
        """The oracle whose questions ``ask`` answers as a :class:`Meter` does."""
        oracle = cls.__new__(cls)
        oracle._ask = ask
        return oracle

    @property
    def answers(self) -> Answers:
        """The answer type that it serves."""
        return cast("Answers", self._ask("answers"))

    @property
    def budget(self) -> int | None:
        """The number of queries that it answers; ``None`` is without limit."""
        return cast("int | None", self._ask("budget"))

    @property
    def queries(self) -> int:
        """The number of queries that were asked."""
        return cast("int", self._ask("queries"))

    @property
    def unanswered(self) -> int:
        """The number of these queries that the API refused to answer."""
        return cast("int", self._ask("unanswered"))

    def labels(self, x: Tensor) -> Tensor:
        """The class of each of the inputs ``x`` ``[n, ...]``: ``[n]`` int64, -1 where the API refused to answer."""
        return cast("Tensor", self._ask("labels", x))

    def top1(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The class ``[n]`` int64 of each input, and its probability ``[n]`` float32; -1 and NaN where it refused."""
        label, probability = self._ask("top-1", x)
        return label, probability

    def probabilities(self, x: Tensor) -> Tensor:
        """The probabilities ``[n, classes]`` of each input; a row of NaN where the API refused to answer."""
        return cast("Tensor", self._ask("probabilities", x))


@dataclass
class Meter:
    """The API behind an :class:`Oracle`: it counts queries, refuses, and gives out no more than it serves."""

    logits: Callable[[Tensor], Tensor]
    answers: Answers
    budget: int | None
    queries: int = 0
    refused: Tensor | None = None
    """The number of queries that were not answered, on the device: it is read when it is asked for."""

    def __call__(self, what: str, x: Tensor | None = None) -> Any:
        """Answer to ``x``, of the type ``what``; without ``x`` the terms of service: their name is ``what``."""
        if x is None:
            return self._terms(what)
        self._charge(what, len(x))
        logits = self.logits(x).detach()  # a scheme's own graph would lead to what it is made of
        labels = classes_of(logits)
        refused = (labels < 0).sum()
        self.refused = refused if self.refused is None else self.refused + refused
        if what == "labels":
            return labels
        probabilities = logits.softmax(dim=1)
        if what == "probabilities":
            return probabilities
        best = probabilities.max(dim=1)
        return best.indices.masked_fill(labels < 0, -1), best.values

    def _terms(self, what: str) -> Any:
        if what == "unanswered":
            return 0 if self.refused is None else int(self.refused)
        return {"answers": self.answers, "budget": self.budget, "queries": self.queries}[what]

    def _charge(self, what: str, count: int) -> None:
        order: tuple[str, ...] = get_args(Answers)
        if order.index(what) > order.index(self.answers):
            raise Refused(f"this oracle answers {self.answers}, not {what}: declare it in `answers`")
        if self.budget is not None and self.queries + count > self.budget:
            raise Refused(f"{count} more queries after {self.queries} would pass the budget of {self.budget}")
        self.queries += count
