"""Evasion by few bits for every value of a query."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from harness import Preprocessing, option


class FeatureSqueezing(Preprocessing):
    """Rounds each value of a query to few bits.

    The thief needs nothing but the stolen model. It differs from quantization in that the ends of the range stay: black
    is black, white is white.

    Measured: 3 seeds of digits (100 to 102), five schemes. Three bits move the accuracy through them by 0.07 points (15
    victims, -1.0 to 1.0), and all triggers stay at 99 to 100% (n = 3 each): it takes no mark.
    """

    name = "feature-squeezing"
    reference = "Xu, Evans and Qi, Feature Squeezing, NDSS 2018"
    arms = ("", "bits=4", "bits=1")

    bits: int = option(3, doc="Bits of a value.", at_least=1, at_most=8)

    def transform(self, x: torch.Tensor, guard: Mapping[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        steps = float(2**self.bits - 1)
        return (x * steps).round() / steps
