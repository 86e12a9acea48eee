"""Evasion by a smoothing filter over every query."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Literal

import torch

from harness import Dataset, Preprocessing, needs_images, option, require


class Smoothing(Preprocessing):
    """Replaces each pixel of a query by the mean, the median or a Gaussian mean of its neighbours.

    The thief needs nothing but the stolen model. Images are continued by reflection, so that no dark border appears.
    The Gaussian reaches over three standard deviations, whatever the size of the other two filters.

    Measured: 3 seeds of digits (100 to 102), five schemes, whose images of 8 x 8 suffer: the mean of 3 x 3 costs 28.1
    points of accuracy (15 victims, 15.7 to 45.3), the median 28.9 (19.3 to 36.0). A patch of 3 x 3 is still answered in
    100%, EWE's triggers in 97.0% (95%: 89.0 to 100) and by the median in 50.6% (43.6 to 57.7), Adi's in 53.7% (30.1 to
    77.3) and 56.3% (32.0 to 80.7); n = 3 each. Of 3 seeds of 2,000 Fashion-MNIST images, ``baseline``: the mean costs
    7.1 points (6.1 to 9.0), the median 4.9 (4.0 to 6.5), and 99.3% and 98.0% of the triggers stay.
    """

    name = "smoothing"
    reference = "Xu, Evans and Qi, Feature Squeezing, NDSS 2018; Lukas et al., SoK: Watermarking, S&P 2022"
    arms = ("", "filter=median", "filter=gaussian,sigma=0.5", "filter=gaussian,sigma=1")

    filter: Literal["mean", "median", "gaussian"] = option("mean", doc="Average that takes a pixel's place.")
    size: int = option(3, doc="Side of the window of mean and median, in pixels; odd.", at_least=1)
    sigma: float = option(0.7, doc="Standard deviation of the Gaussian, in pixels.", above=0)

    def __post_init__(self) -> None:
        require(self.size % 2 == 1, f"size={self.size} must be odd: a window has a middle")

    @property
    def reach(self) -> int:
        """Pixels to each side of the middle that the filter sees."""
        return ceil(3 * self.sigma) if self.filter == "gaussian" else self.size // 2

    def skip(self, dataset: Dataset) -> str | None:
        return needs_images(dataset, self.reach + 1)

    def transform(self, x: torch.Tensor, guard: Mapping[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        padded = torch.nn.functional.pad(x, [self.reach] * 4, mode="reflect")
        if self.filter == "median":
            windows = padded.unfold(2, self.size, 1).unfold(3, self.size, 1)
            return windows.flatten(-2).median(-1).values
        channels, side = x.shape[1], 2 * self.reach + 1
        kernel = self._weights(x.device)
        for shape in ((side, 1), (1, side)):  # one side after the other
            padded = torch.nn.functional.conv2d(
                padded, kernel.view(1, 1, *shape).expand(channels, -1, -1, -1), groups=channels
            )
        return padded

    def _weights(self, device: torch.device) -> torch.Tensor:
        """The weights of a line through the window: they add up to 1."""
        places = torch.arange(-self.reach, self.reach + 1, device=device).float()
        if self.filter == "mean":
            return torch.full_like(places, 1 / len(places))
        return (-0.5 * (places / self.sigma).square()).softmax(0)
