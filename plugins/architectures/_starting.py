"""Nets that may start from a file of weights."""

from __future__ import annotations

from harness import Architecture, modelfiles, nets, option


class Starting(Architecture):
    """Base of architectures whose nets all start from the same weights, where a file of them is named."""

    weights: str = option(
        "", doc="Weights file that all its nets start from; with other classes the last layer is left out."
    )

    def named_files(self) -> tuple[str, ...]:
        return (self.weights,) if self.weights else ()

    def fill(self, net: nets.Net) -> None:
        if self.weights:
            modelfiles.fill(net, self.weights, start=True)
