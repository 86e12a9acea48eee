"""Removal by reordering the units of every layer, which changes no answer."""

from __future__ import annotations

from functools import partial

import torch

from harness import Context, Pool, Skip, WhiteBoxAttack, nets, option, units

SAMPLES = 64
"""Inputs of the pool on which answers are compared."""


class FeaturePermutation(WhiteBoxAttack):
    """Puts the units of each hidden layer in a random order, and what reads them along with it.

    The model stays the same function, trained on nothing; a mark that is read from weights or activations by their
    place is not found at that place. The thief needs a few inputs, on which answers are compared: units whose order
    they depend on stay. In residual nets all layers that add to one stream take the same order. Lukas et al. permute at
    verification; here the weights are permuted, as they lie before the judge.

    Measured: 3 seeds of digits (100 to 102), n = 3 victims each, and 5 unmarked models through the same attack. Bits
    read right, before 100%: Uchida 53.6% (95%: 40.0 to 67.3; unmarked 47.4%), DeepMarks 55.9% (46.7 to 65.2; 48.4%),
    DeepSigns 49.0% (43.0 to 54.9; 50.5%). EWE's triggers stay at 99.5%. No test input gets another class on a CNN,
    ResNet-9 or LSTM; logits of up to 20 move by 1.2e-5 at most. It takes 0.1 s.
    """

    name = "feature-permutation"
    family = "removal"
    reference = "Lukas et al., SoK: How Robust is Image Classification Deep Neural Network Watermarking?, S&P 2022"

    def run(self, victim: nets.Net, pool: Pool, ctx: Context) -> nets.Net:
        asked = pool.x[:SAMPLES]
        groups = units.groups(victim, pool.recipe.input_shape)
        orders = [torch.randperm(group.size, generator=ctx.generator) for group in groups]
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

    Measured: 3 seeds of digits (100 to 102), n = 3 victims each, and 5 unmarked models through the same attack. Bits
    read right, before 100%: Uchida 54.7% (95%: 50.8 to 58.6; unmarked 47.4%), DeepMarks 51.6% (43.6 to 59.6; 49.7%),
    DeepSigns 46.9% (43.0 to 50.8; 49.6%). EWE's triggers stay at 99.5%. No test input gets another class on a CNN,
    ResNet-9 or LSTM; logits of up to 20 move by 1.2e-5 at most. It takes 0.1 s.
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
