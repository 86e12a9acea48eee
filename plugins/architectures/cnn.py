"""The CNN of the EWE paper, for images."""

from __future__ import annotations

from harness import Architecture, Dataset, needs_images, nets, option


class Cnn(Architecture):
    """Two convolutions, each pooled, and a dense layer."""

    name = "cnn"
    reference = "Jia et al., Entangled Watermarks, USENIX Security 2021"

    width: int = option(
        32,
        doc="Channels of the first convolution; the second has twice, the dense layer four times as many.",
        at_least=1,
    )
    dropout: float = option(
        0.0, doc="Share of units dropped after each hidden layer while training.", at_least=0, below=1
    )

    def skip(self, dataset: Dataset) -> str | None:
        return needs_images(dataset, 4)

    def build(self, input_shape: tuple[int, ...], classes: int) -> nets.Net:
        channels, height, width = input_shape
        return nets.Cnn((channels, height, width), classes, self.width, self.dropout)
