"""A multilayer perceptron, for inputs of any shape."""

from __future__ import annotations

from harness import Architecture, nets, option


class Mlp(Architecture):
    """Dense hidden layers, two by default."""

    name = "mlp"

    width: int = option(256, doc="Units of each hidden layer.", at_least=1)
    layers: int = option(2, doc="Number of hidden layers.", at_least=1)

    def build(self, input_shape: tuple[int, ...], classes: int) -> nets.Net:
        return nets.Mlp(input_shape, classes, self.width, self.layers)
