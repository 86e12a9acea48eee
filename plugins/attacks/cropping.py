"""Evasion by cutting the border of images off."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from harness import Dataset, Preprocessing, needs_images, option


class Cropping(Preprocessing):
    """Cuts the border of each query off, and enlarges the rest to the old size.

    The thief needs nothing but the stolen model. A trigger in a corner goes, one on the object stays. The border is
    rounded to pixels.

    Measured: on digits, 8 x 8 pixels, it costs 25 to 30 points of accuracy (seeds 100-104, three schemes) and leaves
    77.3% (95%: 51.0 to 100) of the baseline's triggers and 99.8% of EWE's, whose patch is not in the corner. On 2,000
    Fashion-MNIST images (seeds 100-102) it costs 13 to 16 points and leaves 3.7% (0 to 8.0) of the baseline's and
    96.6% (87.0 to 100) of EWE's.
    """

    name = "cropping"
    reference = "after Jia et al., Entangled Watermarks, USENIX Security 2021 (knowledge of the trigger)"
    arms = ("", "border=0.2")

    border: float = option(0.1, doc="Width of the border, as a share of the side.", above=0, below=0.5)

    def skip(self, dataset: Dataset) -> str | None:
        if reason := needs_images(dataset):
            return reason
        sides = dataset.input_shape[1:]
        if min(self._widths(sides)) < 1:
            return f"a border of {self.border} of {sides[0]} x {sides[1]} pixels is none, rounded"
        return None

    def _widths(self, sides: tuple[int, ...]) -> tuple[int, ...]:
        """The border's width in pixels, vertically and horizontally; at least two pixels are left between them."""
        return tuple(min(round(self.border * side), (side - 2) // 2) for side in sides)

    def transform(self, x: torch.Tensor, guard: Mapping[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        sides = tuple(x.shape[2:])
        down, right = self._widths(sides)
        rest = x[:, :, down : sides[0] - down, right : sides[1] - right]
        return torch.nn.functional.interpolate(rest, sides, mode="bilinear")
