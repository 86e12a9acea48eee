"""Evasion by noise on every query."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from harness import Preprocessing, option


class Noising(Preprocessing):
    """Adds Gaussian noise to each value of a query, and keeps it in the range of the inputs.

    The thief needs nothing but the stolen model. Every query of a call gets noise of its own; the seeds of a matrix are
    what to average over.

    Not measured yet.
    """

    name = "noising"
    reference = "Zantedeschi et al., Efficient Defenses Against Adversarial Attacks, AISec 2017"
    arms = ("", "sigma=0.03", "sigma=0.2", "sigma=0.3")

    sigma: float = option(0.1, doc="Standard deviation of the noise, as a share of the range.", above=0)

    def transform(self, x: torch.Tensor, guard: Mapping[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        return x + self.sigma * torch.randn(x.shape, generator=generator).to(x.device)
