"""The CNN of the EWE paper, for images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness import Architecture, Dataset, hookimpl, nets, require


@dataclass(frozen=True)
class Cnn(Architecture):
    """Two convolutions, each pooled, and a dense layer."""

    name: ClassVar[str] = "cnn"
    reference: ClassVar[str] = "Jia et al., Entangled Watermarks, USENIX Security 2021"

    width: int = 32
    """Channels of the first convolution; the second has twice, the dense layer four times as many."""
    dropout: float = 0.0
    """Share of units dropped after each hidden layer while training."""

    def __post_init__(self) -> None:
        require(self.width >= 1, f"width must be at least 1, not {self.width}")
        require(0 <= self.dropout < 1, f"dropout must be in [0, 1), not {self.dropout}")

    def skip(self, dataset: Dataset) -> str | None:
        shape = dataset.input_shape
        if len(shape) != 3 or min(shape[1:]) < 4:
            return f"needs images of at least 4 x 4, inputs are {shape}"
        return None

    def build(self, input_shape: tuple[int, ...], classes: int) -> nets.Net:
        channels, height, width = input_shape
        return nets.Cnn((channels, height, width), classes, self.width, self.dropout)


@hookimpl
def harness_architectures() -> list[type[Architecture]]:
    return [Cnn]
