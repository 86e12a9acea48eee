"""The LSTM of the EWE paper, for spectrograms; it reads any image row by row."""

from __future__ import annotations

from harness import Architecture, Dataset, needs_images, nets, option


class Lstm(Architecture):
    """One LSTM over the rows of the input, and a dense layer."""

    name = "lstm"
    reference = "Jia et al., Entangled Watermarks, USENIX Security 2021"

    width: int = option(128, doc="Units of the LSTM, and of the dense layer.", at_least=1)

    def skip(self, dataset: Dataset) -> str | None:
        return needs_images(dataset)

    def build(self, input_shape: tuple[int, ...], classes: int) -> nets.Net:
        channels, time, cells = input_shape
        return nets.Lstm((channels, time, cells), classes, self.width)
