"""Removal by reordering the units of every layer, which changes no answer."""

from __future__ import annotations

from functools import partial

import torch

from harness import Context, Pool, Skip, WhiteBoxAttack, nets, option, units

SAMPLES = 64
"""Inputs of the pool on which answers are compared."""


class FeaturePermutation(WhiteBoxAttack):
    """Puts each unit of a hidden layer at another place, drawn at random, and what reads it along with it.

    The model stays the same function, trained on nothing; a mark that is read from weights or activations by their
    place is not found at that place. The thief needs a few inputs, on which answers are compared: units whose order
    they depend on stay. In residual nets all layers that add to one stream take the same order. Lukas et al. permute at
    verification; here the weights are permuted, as they lie before the judge.

    Measured: digits, seeds from 100 on. Uchida's bits, 100% before, are read to 52.5% after it (95%: 49.1 to 55.9, 10
    victims; of 5 unmarked models through the same attack 50.4%); also on LeNet, LSTM, MLP and ResNet-9 (45 to 51%,
    means of 3). DeepMarks' are read to 58.1% (30.3 to 85.8, 3 victims; 50.8%), DeepSigns' to 50.0% (39.7 to 60.3;
    50.9%). EWE's triggers stay at 99.5%. No test input gets another class on a CNN, ResNet-9 or LSTM (3 seeds); logits
    of up to 20 move by 1.5e-5 at most, by rounding. It takes 0.1 s.
    """

    name = "feature-permutation"
    family = "removal"
    reference = "Lukas et al., SoK: How Robust is Image Classification Deep Neural Network Watermarking?, S&P 2022"

    def run(self, victim: nets.Net, pool: Pool, ctx: Context) -> nets.Net:
        asked = pool.x[:SAMPLES]
        groups = units.groups(victim, pool.recipe.input_shape)
        orders = [_elsewhere(group.size, ctx.generator) for group in groups]
        changes = [partial(group.permute, victim, order) for group, order in zip(groups, orders, strict=True)]
        kept = [units.kept(victim, asked, change) for change in changes]
        if not any(kept):
            raise Skip("the model has no units whose order is free")
        return victim


class PermuteScale(FeaturePermutation):
    """Puts units in a random order, and multiplies each by a random factor, by which what reads it is divided.

    A factor above 0 passes ReLUs, pools and sums, and batch norm takes one up in its statistics: the model stays the
    same function to rounding. Marks in signs or sizes of weights, or of activations, are changed beside those in their
    order. Behind a tanh, as in an LSTM, units are reordered alone.

    Measured: digits, seeds from 100 on. Uchida's bits, 100% before, are read to 52.0% after it (95%: 48.0 to 56.1, 10
    victims; of 5 unmarked models through the same attack 49.8%); also on LeNet, LSTM, MLP and ResNet-9 (44 to 50%,
    means of 3). DeepMarks' are read to 47.3% (42.7 to 51.9, 3 victims; 52.0%), DeepSigns' to 50.5% (31.4 to 69.7;
    51.9%). EWE's triggers stay at 99.5%. No test input gets another class on a CNN, ResNet-9 or LSTM (3 seeds); logits
    of up to 20 move by 1.0e-5 at most, by rounding. It takes 0.1 s.
    """

    name = "permute-scale"
    reference = (
        "Li and Wang, LFEA: Linear Functionality Equivalence Attack, TIFS 2023; Yan et al., USENIX Security 2023"
    )

    spread: float = option(4.0, doc="Largest factor; the smallest is its inverse, between them log-uniform.", above=1)

    def run(self, victim: nets.Net, pool: Pool, ctx: Context) -> nets.Net:
        permuted = super().run(victim, pool, ctx)
        for scale in units.scales(permuted, pool.recipe.input_shape):
            factors = self.spread ** (2 * torch.rand(scale.size, generator=ctx.generator) - 1)
            units.kept(permuted, pool.x[:SAMPLES], partial(scale.apply, permuted, factors))
        return permuted


def _elsewhere(size: int, generator: torch.Generator) -> torch.Tensor:
    """A random order ``[size]`` that leaves no unit where it was: of six, one would stay on average, with its bits."""
    cycle = torch.randperm(size, generator=generator)
    return torch.empty_like(cycle).scatter_(0, cycle, cycle.roll(1))
