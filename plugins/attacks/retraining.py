"""Model extraction by retraining on the victim's answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from harness import Attack, BlackBoxAttack, Context, Oracle, Pool, Split, hookimpl, require
from harness.contracts import Answers, Family


@dataclass(frozen=True)
class Retraining(BlackBoxAttack):
    """Asks the victim for the labels of a pool of inputs, and trains a fresh net on them."""

    name: ClassVar[str] = "retraining"
    family: ClassVar[Family] = "extraction"
    reference: ClassVar[str] = (
        "Tramer et al., Stealing Machine Learning Models via Prediction APIs, USENIX Security 2016"
    )

    labels: Literal["hard", "top-1", "soft"] = "hard"
    """Train on the class; on the class with its probability, the rest spread evenly; or on all probabilities."""
    architecture: str = ""
    """Of the surrogate; empty is the victim's own."""
    queries: int | None = None
    """The attacker's budget: so many inputs of the pool are asked; by default all."""
    epochs: int | None = None
    """By default the recipe's."""

    def __post_init__(self) -> None:
        for name in ("queries", "epochs"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} must be at least 1, not {value}")

    @property
    def architecture_built(self) -> str:
        return self.architecture

    @property
    def answers(self) -> Answers:
        answers: dict[str, Answers] = {"hard": "labels", "top-1": "top-1", "soft": "probabilities"}
        return answers[self.labels]

    @property
    def budget(self) -> int | None:
        return self.queries

    def run(self, victim: Oracle, pool: Pool, ctx: Context) -> torch.nn.Module:
        x = pool.x if self.queries is None else pool.x[: self.queries]
        stolen = Split(x, self._ask(victim, x, len(pool.recipe.classes)))
        return ctx.train(ctx.build(), [ctx.stream(stolen)], self.epochs or pool.recipe.epochs)

    def _ask(self, victim: Oracle, x: torch.Tensor, classes: int) -> torch.Tensor:
        """The targets to train on: labels ``[n]``, or probabilities ``[n, classes]``."""
        if self.labels == "hard":
            return victim.labels(x)
        if self.labels == "soft":
            return victim.probabilities(x)
        label, probability = victim.top1(x)
        rest = (1 - probability) / (classes - 1)
        return rest[:, None].expand(-1, classes).scatter(1, label[:, None], probability[:, None])


@hookimpl
def harness_attacks() -> list[type[Attack]]:
    return [Retraining]
