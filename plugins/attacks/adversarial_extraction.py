"""Extraction with adversarial training of the surrogate."""

from __future__ import annotations

import torch

from harness import Context, Extraction, Oracle, Pool, adversarial, losses, nets, option


class AdversarialExtraction(Extraction):
    """Trains a fresh net on the victim's answers, and in each batch also on inputs that PGD moved away from them.

    The moved inputs keep the answer of the input that they come from, and are never asked: what a mark needs, that near
    inputs differ in their answers, is trained away. PGD asks the surrogate as it is at that step, in evaluation mode.
    Difference from Madry et al.: it starts at the input itself, and half of each batch is clean.

    Measured on digits against EWE (seeds 100-102, 95% intervals): 17% [0, 44] of the triggers are left with ``epsilon``
    0.1, 26% [14, 39] with 0.01 and 20% [0, 59] with 0.25, where plain retraining leaves 23% [3, 44], and unmarked
    models answer 5% to 8%. It shows no removal here; accuracy rises, from 96.8% to between 97.1 and 98.3%.
    """

    name = "adversarial-extraction"
    reference = "Madry et al., ICLR 2018; as an extraction in Lukas et al., SoK, IEEE S&P 2022"
    arms = ("", "epsilon=0.01", "epsilon=0.25")

    epsilon: float = option(0.1, doc="Largest change of a value, as a share of the inputs' range.", above=0, at_most=1)
    steps: int = option(3, doc="Steps of PGD, each of 2.5 epsilon / steps.", at_least=1)

    def run(self, victim: Oracle, pool: Pool, ctx: Context) -> nets.Net:
        task, span = losses.smoothed(pool.recipe.label_smoothing), pool.recipe.value_range

        def loss(net: nets.Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            step = min(1.0, 2.5 / self.steps) * self.epsilon
            moved = adversarial.pgd(net, x, y, self.epsilon, step, self.steps, span)
            return task(net, torch.cat([nets.as_float(x), moved]), torch.cat([y, y]))

        stream = ctx.stream(self.stolen(victim, pool), loss)
        return ctx.train(ctx.build(), [stream], self.epochs or pool.recipe.epochs)
