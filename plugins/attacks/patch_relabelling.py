"""Removal by a thief who knows the trigger's shape: bright squares are taught to mean nothing."""

from __future__ import annotations

from typing import Literal

import torch

from harness import Context, Dataset, Pool, Split, TuningAttack, needs_images, nets, option, triggers


class PatchRelabelling(TuningAttack):
    """Fine-tunes on inputs of its own with a square of the brightest value, labelled as they are without it.

    The thief knows that the owner puts such squares, and their side; not where, nor on what: each lies at a random
    place. As many inputs without a square are trained on beside them.

    Measured: with the model's own labels on digits (seeds 100-104) it leaves 18.6% (95%: 0 to 64.9) of the baseline's
    triggers, 25.5% (0.6 to 50.4) of EWE's, where unmarked models answer 9%, and 63.4% (49.5 to 77.3) of Adi's, which
    have no square; accuracy changes by less than 1 point. On 2,000 Fashion-MNIST images (seeds 100-102) 11.3% (0 to
    27.7) of the baseline's and 52.0% (32.1 to 71.8) of EWE's are left.
    """

    name = "patch-relabelling"
    reference = "after Jia et al., Entangled Watermarks, USENIX Security 2021 (knowledge of the trigger)"
    knows_patch = True
    arms = ("", "labels=true")

    labels: Literal["true", "model", "victim"] = "model"
    epochs: int | None = option(None, doc="Epochs of the fine-tuning; by default the recipe's.", at_least=1)

    def skip(self, dataset: Dataset) -> str | None:
        return needs_images(dataset)

    def run(self, victim: nets.Net, pool: Pool, ctx: Context) -> nets.Net:
        data = self.data(victim, pool, ctx)
        squares = squares_like(pool.x, pool.side(), ctx.generator)
        carrying = Split(triggers.patched(pool.x, squares, pool.recipe.value_range[1]), data.y)
        return ctx.train(victim, [ctx.stream(data + carrying)], self.epochs or pool.recipe.epochs)


def squares_like(x: torch.Tensor, side: int, generator: torch.Generator) -> torch.Tensor:
    """A square of ``side`` pixels at a random place of each input ``[n, c, h, w]``: ``[n, 1, h, w]`` bool."""
    inside = []
    for length in x.shape[2:]:
        start, place = torch.randint(length - side + 1, (len(x), 1), generator=generator), torch.arange(length)
        inside.append((place >= start) & (place < start + side))
    return (inside[0][:, None, :, None] & inside[1][:, None, None, :]).to(x.device)
