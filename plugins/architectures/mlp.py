"""A multilayer perceptron, for inputs of any shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness import Architecture, hookimpl, nets, require


@dataclass(frozen=True)
class Mlp(Architecture):
    """Two dense hidden layers."""

    name: ClassVar[str] = "mlp"

    width: int = 256
    """Units of each hidden layer."""

    def __post_init__(self) -> None:
        require(self.width >= 1, f"width must be at least 1, not {self.width}")

    def build(self, input_shape: tuple[int, ...], classes: int) -> nets.Net:
        return nets.Mlp(input_shape, classes, self.width)


@hookimpl
def harness_architectures() -> list[type[Architecture]]:
    return [Mlp]
