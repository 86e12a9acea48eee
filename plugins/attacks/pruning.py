"""Removal by pruning the units that clean inputs use least, alone or with fine-tuning after it."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

from harness import Context, Family, Pool, TuningAttack, WhiteBoxAttack, nets, option


class Pruning(WhiteBoxAttack):
    """Masks, in each hidden layer, the share of units that clean inputs activate least often."""

    name = "pruning"
    family: ClassVar[Family] = "removal"
    reference = "Liu et al., Fine-Pruning, RAID 2018"

    fraction: float = option(
        0.2, doc="Share of each layer's units that is pruned; one unit a layer always stays.", at_least=0, at_most=1
    )
    layers: Literal["all", "last-conv"] = option(
        "all", doc="Prune every hidden layer, or the last convolution alone (the paper's)."
    )

    def run(self, victim: nets.Net, pool: Pool, ctx: Context) -> nets.Net:
        prune(victim, pool.x, self.fraction, self.layers, ctx)
        return victim


class FinePruning(Pruning, TuningAttack):
    """Prunes, then trains what is left, by default on the stolen model's own answers; pruned units stay pruned."""

    name = "fine-pruning"

    fraction: float = 0.5
    labels: Literal["true", "model", "victim"] = "model"
    epochs: int = option(3, doc="Epochs of the fine-tuning.", at_least=1)

    def run(self, victim: nets.Net, pool: Pool, ctx: Context) -> nets.Net:
        data = self.data(victim, pool, ctx)
        pruned = prune(victim, pool.x, self.fraction, self.layers, ctx)
        tuned = ctx.train(victim, [ctx.stream(data)], self.epochs)
        for layer, units in pruned.items():  # without a ReLU after it, training revives a unit
            tuned.silence(layer, units)
        return tuned


def prune(net: nets.Net, x: torch.Tensor, fraction: float, layers: str, ctx: Context) -> dict[str, torch.Tensor]:
    """Silence, in place, the units of each chosen layer that are active on the smallest shares of ``x``.

    Returns the masks ``[units]`` by layer.
    """
    pruned = {}
    for layer, frequency in ctx.activation_frequencies(net, x).items():
        if layer in _chosen(net, layers):
            count = min(int(fraction * len(frequency)), len(frequency) - 1)
            least = frequency.argsort()[:count]
            pruned[layer] = torch.zeros_like(frequency, dtype=torch.bool).index_fill(0, least, True)
            net.silence(layer, pruned[layer])
    return pruned


def _chosen(net: nets.Net, layers: str) -> tuple[str, ...]:
    """The names of the layers to prune; of a net without a convolution, its last hidden layer."""
    if layers == "all":
        return net.hidden
    last = nets.last_convolution(net)
    return net.hidden[-1:] if last is None else (last,)
