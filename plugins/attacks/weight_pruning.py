"""Removal by zeroing the smallest weights, alone or with fine-tuning after it."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import torch

from harness import Context, Pool, TuningAttack, nets, option


class WeightPruning(TuningAttack):
    """Zeroes, in each tensor of weights by itself, the share of the smallest magnitudes; then may fine-tune the rest.

    Weights are those of convolutions, dense and recurrent layers: biases, and the parameters and statistics of norms,
    stay. Zeroed weights stay zero, since their gradient is masked in every step of the fine-tuning. Without epochs the
    thief needs no data. (The Watermark Robustness Toolbox prunes every tensor whose name lacks "bn", and does not
    fine-tune.)

    Measured: digits, seeds 100 to 102, shares of matches with 95% intervals, of victims that match 100, 99.5 and 100%
    (uchida, ewe, adi) at 98.2, 96.7 and 97.7% accuracy. A half pruned: 100, 98.7 (95.9 to 100) and 92.3% (82.0 to 100),
    at 91.9, 93.1 and 94.9%. At 80% the accuracy breaks down first, to 35.2, 40.3 and 56.9%, with 99.5, 48.8 (6.9 to
    90.8) and 32.7% (23.9 to 41.4) left; at 90% with three epochs of fine-tuning 74.3, 65.6 and 83.4%, with 97.4, 76.4
    (37.7 to 100) and 26.0% (11.1 to 40.9). So no mark is removed from a model that stays useful.
    """

    name = "weight-pruning"
    reference = "Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015"
    arms = ("", "fraction=0.8", "fraction=0.9,epochs=3", "fraction=0.95,epochs=3")

    fraction: float = option(0.5, doc="Share of each tensor's weights that becomes zero.", at_least=0, at_most=1)
    epochs: int = option(0, doc="Epochs of fine-tuning after it; 0 is none.", at_least=0)
    learning_rate: float | None = option(None, doc="Learning rate; by default the recipe's.", above=0)

    @property
    def trains(self) -> bool:
        return self.epochs > 0

    def run(self, victim: nets.Net, pool: Pool, ctx: Context) -> nets.Net:
        stream = ctx.stream(self.data(victim, pool, ctx)) if self.epochs else None
        with ExitStack() as stack:
            for weight in nets.weights(victim).values():
                kept = largest(weight, self.fraction)
                weight.data.mul_(kept)
                stack.callback(weight.register_hook(partial(torch.mul, kept)).remove)
            if stream is not None:
                ctx.train(victim, [stream], self.epochs, learning_rate=self.learning_rate)
        return victim


def largest(weight: torch.Tensor, fraction: float) -> torch.Tensor:
    """A mask like ``weight``, False at the ``fraction`` of its elements of smallest magnitude, rounded down."""
    kept = torch.ones(weight.numel(), dtype=torch.bool, device=weight.device)
    kept[weight.detach().abs().flatten().argsort()[: int(fraction * weight.numel())]] = False
    return kept.view(weight.shape)
