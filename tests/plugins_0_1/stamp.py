"""A faint noise stamp on task images as the mark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from harness import Context, Dataset, Defense, Key, Marked, Probe, Split, Stream, Task, hookimpl, require


@dataclass(frozen=True)
class Stamp(Defense):
    """Source-class images under one secret noise pattern, labelled as the target class."""

    name: ClassVar[str] = "stamp"
    reference: ClassVar[str] = (
        "after Zhang et al., Protecting Intellectual Property of Deep Neural Networks, AsiaCCS 2018"
    )

    strength: float = 0.4
    """How much of a trigger is the pattern, 0..1."""
    per_batch: int = 16
    """Triggers trained after each task batch."""

    def __post_init__(self) -> None:
        require(0 < self.strength <= 1, f"strength must be in (0, 1], not {self.strength}")

    def skip(self, dataset: Dataset) -> str | None:
        return None if len(dataset.input_shape) == 3 else "a stamp needs images"

    def embed(self, task: Task, ctx: Context) -> Marked:
        recipe = task.dataset
        pattern = torch.rand(recipe.input_shape, generator=ctx.generator).to(ctx.device)

        def probe(x: torch.Tensor) -> Probe:
            return Probe(x, torch.full((len(x),), recipe.target, device=ctx.device))

        def stamped(x: torch.Tensor) -> torch.Tensor:
            return ((1 - self.strength) * x + self.strength * 255 * pattern).round().byte()

        trained = probe(stamped(task.train.of(recipe.source).x))
        held_out = task.holdout.of(recipe.source).x
        streams = [ctx.stream(task.train), Stream((Split(trained.x, trained.y),), self.per_batch)]
        net = ctx.train(ctx.build(), streams, recipe.epochs)
        return Marked(net, Key({"trigger": trained, "held_out": probe(stamped(held_out)), "control": probe(held_out)}))


@hookimpl
def harness_defenses() -> list[type[Defense]]:
    return [Stamp]
