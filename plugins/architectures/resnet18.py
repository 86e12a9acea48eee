"""ResNet-18 for images of 32 x 32."""

from __future__ import annotations

from harness import Architecture, Dataset, needs_images, nets, option


class ResNet18(Architecture):
    """Eight residual blocks with batch norm, on a 3x3 stem without pooling."""

    name = "resnet18"
    reference = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016"

    width: int = option(
        64, doc="Channels of the stem and the first two blocks; they double every two blocks.", at_least=1
    )

    def skip(self, dataset: Dataset) -> str | None:
        return needs_images(dataset, 8)

    def build(self, input_shape: tuple[int, ...], classes: int) -> nets.Net:
        channels, height, width = input_shape
        return nets.ResNet18((channels, height, width), classes, self.width)
