"""VGG with batch norm, for images of 32 x 32."""

from __future__ import annotations

from typing import Any, Literal

import torch

from harness import Architecture, Dataset, needs_images, nets, option

UNITS = (1, 2, 4, 8, 8)
"""Channels of the five stages, in widths."""
CONVOLUTIONS = {"11": (1, 1, 2, 2, 2), "13": (2, 2, 2, 2, 2), "16": (2, 2, 3, 3, 3), "19": (2, 2, 4, 4, 4)}
"""Convolutions of each stage, by depth (Table 1 of the paper: A, B, D, E)."""


class Vgg(Architecture):
    """Five stages of 3x3 convolutions with batch norm, a pool after each stage, and one dense layer.

    The form for small images: the paper's three dense layers, of which two held nine tenths of its weights, are one.
    A side that is odd, or 1, is pooled with the rest of it: 28 x 28 and 8 x 8 end at 1 x 1 as 32 x 32 does.
    """

    name = "vgg"
    reference = (
        "Simonyan and Zisserman, Very Deep Convolutional Networks, ICLR 2015; batch norm: Ioffe and Szegedy 2015"
    )

    depth: Literal["11", "13", "16", "19"] = option(
        "11", doc="Number of layers by the paper's count, in which three are dense."
    )
    width: int = option(
        64, doc="Channels of the first stage; the last two stages have eight times as many.", at_least=1
    )

    def skip(self, dataset: Dataset) -> str | None:
        return needs_images(dataset, 8)

    def build(self, input_shape: tuple[int, ...], classes: int) -> nets.Net:
        nn, channels = torch.nn, input_shape[0]
        pool: list[torch.nn.Module] = []
        blocks: dict[str, Any] = {}
        for stage, (times, count) in enumerate(zip(UNITS, CONVOLUTIONS[self.depth], strict=True), start=1):
            for number in range(1, count + 1):
                units = times * self.width
                convolution = nn.Conv2d(channels, units, 3, padding=1, bias=False)
                blocks[f"conv{stage}_{number}"] = [*pool, convolution, nn.BatchNorm2d(units)]
                channels, pool = units, []
            pool = [nn.MaxPool2d(2, ceil_mode=True)]
        head = [*pool, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
        return nets.Layers(**blocks, logits=head)
