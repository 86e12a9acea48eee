"""Removal by a last layer that is drawn again and kept away from the old one (FST)."""

from __future__ import annotations

import torch

from harness import Context, Loss, Pool, TuningAttack, nets, option


class Fst(TuningAttack):
    """Draws the last layer again, and trains it away from the old one, so that the features must shift.

    The loss is the cross-entropy and ``alpha`` times the inner product of the last layer's weights with the old ones;
    they keep the old norm in every step, in which they are asked scaled to it.

    Measured: digits, seeds 100 to 102, shares of matches with 95% intervals, of victims that match 100, 99.5 and 100%
    (uchida, ewe, adi) at 98.2, 96.7 and 97.7% accuracy. After it 100, 49.2 (0 to 100) and 18.7% (6.9 to 30.4), at 93.4,
    94.0 and 97.4%; with alpha=0.9 the accuracy is 25.0, 75.3 and 93.3%.
    """

    name = "fst"
    reference = "Min et al., Towards Stable Backdoor Purification through Feature Shift Tuning, NeurIPS 2023"
    arms = ("", "alpha=0.9", "labels=model", "pool_share=0.2")

    alpha: float = option(0.1, doc="Weight of the inner product with the old last layer.", at_least=0)
    epochs: int = option(10, doc="Epochs of the training.", at_least=1)
    learning_rate: float = option(0.01, doc="Learning rate, of SGD.", above=0)

    def run(self, victim: nets.Net, pool: Pool, ctx: Context) -> nets.Net:
        data, name = self.data(victim, pool, ctx), nets.last_weight(victim)
        weight = victim.get_parameter(name)
        old = weight.detach().clone()
        nets.redraw_last(victim, ctx.generator)
        stream = ctx.stream(data, self.loss(name, old, pool.recipe.label_smoothing))
        ctx.train(victim, [stream], self.epochs, optimizer="sgd", learning_rate=self.learning_rate)
        weight.data.copy_(as_long(weight.data, old))
        return victim

    def loss(self, name: str, old: torch.Tensor, label_smoothing: float) -> Loss:
        """The loss for the weight ``name``, which is asked as long as ``old``."""

        def loss(net: nets.Net, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
            weight = as_long(net.get_parameter(name), old)
            answers = torch.func.functional_call(net, {name: weight}, (x,))
            shift = (weight * old).sum()
            answered = torch.nn.functional.cross_entropy(answers, y, label_smoothing=label_smoothing)
            return {"loss": answered + self.alpha * shift, "shift": shift}

        return loss


def as_long(weight: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """``weight`` scaled to the norm of ``old``."""
    factor: torch.Tensor = old.norm() / weight.norm().clamp_min(1e-12)
    return weight * factor
