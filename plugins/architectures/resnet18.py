"""ResNet-18 for images of 32 x 32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness import Architecture, Dataset, hookimpl, nets, require


@dataclass(frozen=True)
class ResNet18(Architecture):
    """Eight residual blocks with batch norm, on a 3x3 stem without pooling."""

    name: ClassVar[str] = "resnet18"
    reference: ClassVar[str] = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016"

    width: int = 64
    """Channels of the stem and the first two blocks; they double every two blocks."""

    def __post_init__(self) -> None:
        require(self.width >= 1, f"width must be at least 1, not {self.width}")

    def skip(self, dataset: Dataset) -> str | None:
        shape = dataset.input_shape
        if len(shape) != 3 or min(shape[1:]) < 8:
            return f"needs images of at least 8 x 8, inputs are {shape}"
        return None

    def build(self, input_shape: tuple[int, ...], classes: int) -> nets.Net:
        channels, height, width = input_shape
        return nets.ResNet18((channels, height, width), classes, self.width)


@hookimpl
def harness_architectures() -> list[type[Architecture]]:
    return [ResNet18]
