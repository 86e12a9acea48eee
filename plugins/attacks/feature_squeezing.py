"""Evasion by few bits for every value of a query."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from harness import Preprocessing, option


class FeatureSqueezing(Preprocessing):
    """Rounds each value of a query to few bits.

    The thief needs nothing but the stolen model. It differs from quantization in that the ends of the range stay: black
    is black, white is white.

    Not measured yet.
    """

    name = "feature-squeezing"
    reference = "Xu, Evans and Qi, Feature Squeezing, NDSS 2018"
    arms = ("", "bits=4", "bits=1")

    bits: int = option(3, doc="Bits of a value.", at_least=1, at_most=8)

    def transform(self, x: torch.Tensor, guard: Mapping[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        steps = float(2**self.bits - 1)
        return (x * steps).round() / steps
