"""Adaptive extraction: a thief who knows that marks may be entangled, and trains the classes apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from harness import Attack, BlackBoxAttack, Context, Oracle, Pool, Split, hookimpl, losses, nets, require
from harness.contracts import Family


@dataclass(frozen=True)
class SnnlExtraction(BlackBoxAttack):
    """Trains on the victim's labels while *minimising* the SNNL between all classes in every layer.

    The thief knows the scheme, not the key: which pair of classes is entangled is not known, so all pairs are pulled
    apart at once, the groups of the loss being the labels that the victim answered.
    """

    name: ClassVar[str] = "snnl-extraction"
    family: ClassVar[Family] = "extraction"
    reference: ClassVar[str] = "Jia et al., Entangled Watermarks, USENIX Security 2021, Section 4.4"

    weight: float = 1.0
    """Factor of the SNNL, a mean over the layers, beside the mean cross-entropy."""
    temperature: float = 0.2
    """Of the SNNL at cosine distance."""
    epochs: int | None = None
    """By default the recipe's."""

    def __post_init__(self) -> None:
        require(self.weight >= 0, f"weight must be at least 0, not {self.weight}")
        require(self.temperature > 0, f"temperature must be above 0, not {self.temperature}")
        require(self.epochs is None or self.epochs >= 1, f"epochs must be at least 1, not {self.epochs}")

    def run(self, victim: Oracle, pool: Pool, ctx: Context) -> torch.nn.Module:
        stolen = Split(pool.x, victim.labels(pool.x))
        return ctx.train(ctx.build(), [ctx.stream(stolen, self._loss)], self.epochs or pool.recipe.epochs)

    def _loss(self, net: nets.Net, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        logits, activations = net.activations(x)
        layers = [losses.class_snnl(a.relu(), y, self.temperature) for a in activations.values()]
        snnl = torch.stack(layers).mean()
        return {"loss": torch.nn.functional.cross_entropy(logits, y) + self.weight * snnl, "snnl": snnl}


@hookimpl
def harness_attacks() -> list[type[Attack]]:
    return [SnnlExtraction]
