"""LeNet-5, for images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness import Architecture, Dataset, hookimpl, nets


@dataclass(frozen=True)
class LeNet(Architecture):
    """LeNet-5 with ReLU and max-pooling: two convolutions and two dense layers."""

    name: ClassVar[str] = "lenet"
    reference: ClassVar[str] = "LeCun et al., Gradient-based learning applied to document recognition, 1998"

    def skip(self, dataset: Dataset) -> str | None:
        shape = dataset.input_shape
        if len(shape) != 3 or min(shape[1:]) < 4:
            return f"needs images of at least 4 x 4, inputs are {shape}"
        return None

    def build(self, input_shape: tuple[int, ...], classes: int) -> nets.Net:
        channels, height, width = input_shape
        return nets.LeNet((channels, height, width), classes)


@hookimpl
def harness_architectures() -> list[type[Architecture]]:
    return [LeNet]
