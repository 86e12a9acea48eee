"""LeNet-5, for images."""

from __future__ import annotations

from harness import Architecture, Dataset, needs_images, nets


class LeNet(Architecture):
    """LeNet-5 with ReLU and max-pooling: two convolutions and two dense layers."""

    name = "lenet"
    reference = "LeCun et al., Gradient-based learning applied to document recognition, 1998"

    def skip(self, dataset: Dataset) -> str | None:
        return needs_images(dataset, 4)

    def build(self, input_shape: tuple[int, ...], classes: int) -> nets.Net:
        channels, height, width = input_shape
        return nets.LeNet((channels, height, width), classes)
