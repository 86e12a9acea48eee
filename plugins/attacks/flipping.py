"""Evasion by mirror images."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from harness import Dataset, Preprocessing, needs_images


class Flipping(Preprocessing):
    """Answers the mirror image of each query.

    The thief needs nothing but the stolen model. It is skipped where the recipe trains no mirror images (``augment`` is
    not ``crop-flip``): there they may be of another class, as digits are. A patch of the owner's moves to the other
    side.

    Not measured yet.
    """

    name = "flipping"
    reference = "Lukas et al., SoK: How Robust is Image Classification Deep Neural Network Watermarking?, S&P 2022"

    def skip(self, dataset: Dataset) -> str | None:
        if dataset.augment != "crop-flip":
            return f"mirror images may be of another class: augment={dataset.augment} trains none"
        return needs_images(dataset)

    def transform(self, x: torch.Tensor, guard: Mapping[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        return x.flip(3)
