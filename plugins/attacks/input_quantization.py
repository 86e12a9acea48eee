"""Evasion by the mid-points of few bins for every value of a query."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from harness import Preprocessing, option


class InputQuantization(Preprocessing):
    """Puts each value of a query into one of equal bins and answers the bins' mid-points.

    The thief needs nothing but the stolen model. No value stays at the ends of the range: with L bins the darkest is
    1 / 2L, the brightest 1 - 1 / 2L.

    Measured: 3 seeds of digits (100 to 102), five schemes. Eight bins move the accuracy through them by -0.4 points (15
    victims, -2.0 to 0.7), two by -16.0 (-39.7 to -3.0). Triggers stay at 99 to 100%; by two bins Adi's fall to 82.7%
    (95%: 62.6 to 100, n = 3), frontier stitching's to 94.7% (89.5 to 99.8), EWE's and patches stay.
    """

    name = "input-quantization"
    reference = "Lin et al., Defensive Quantization, ICLR 2019; as in Lukas et al., SoK: Watermarking, S&P 2022"
    arms = ("", "levels=4", "levels=2")

    levels: int = option(8, doc="Number of bins.", at_least=2, at_most=256)

    def transform(self, x: torch.Tensor, guard: Mapping[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        # The top of the range belongs to the last bin.
        return ((x * self.levels).floor().clamp(max=self.levels - 1) + 0.5) / self.levels
