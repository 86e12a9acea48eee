"""Model extraction by retraining on the victim's answers."""

from __future__ import annotations

from typing import Literal

import torch

from harness import Answers, BlackBoxAttack, Context, Oracle, Pool, Split, nets, option


class Retraining(BlackBoxAttack):
    """Asks the victim for the labels of a pool of inputs, and trains a fresh net on them."""

    name = "retraining"
    family = "extraction"
    reference = "Tramer et al., Stealing Machine Learning Models via Prediction APIs, USENIX Security 2016"

    labels: Literal["hard", "top-1", "soft"] = option(
        "hard",
        doc="Training targets: the class; the class with its probability, the rest spread evenly; all probabilities.",
    )
    architecture: str = option("", doc="Architecture of the surrogate; empty is the victim's own.")
    queries: int | None = option(
        None, doc="The attacker's budget: the number of the pool's inputs that are asked; by default all.", at_least=1
    )
    epochs: int | None = option(None, doc="Number of epochs; by default the recipe's.", at_least=1)

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

    def run(self, victim: Oracle, pool: Pool, ctx: Context) -> nets.Net:
        x = pool.x if self.queries is None else pool.x[: self.queries]
        stolen = Split(x, self._ask(victim, x, len(pool.recipe.classes))).answered()
        return ctx.train(ctx.build(), [ctx.stream(stolen)], self.epochs or pool.recipe.epochs)

    def _ask(self, victim: Oracle, x: torch.Tensor, classes: int) -> torch.Tensor:
        """The targets to train on: labels ``[n]``, or probabilities ``[n, classes]``."""
        if self.labels == "hard":
            return victim.labels(x)
        if self.labels == "soft":
            return victim.probabilities(x)
        label, probability = victim.top1(x)
        rest = (1 - probability) / (classes - 1)
        # A refused query has the class -1, and NaN for its whole row.
        return rest[:, None].expand(-1, classes).scatter(1, label.clamp_min(0)[:, None], probability[:, None])
