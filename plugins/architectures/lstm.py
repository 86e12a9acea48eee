"""The LSTM of the EWE paper, for spectrograms; it reads any image row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from harness import Architecture, Dataset, hookimpl, nets, require


@dataclass(frozen=True)
class Lstm(Architecture):
    """One LSTM over the rows of the input, and a dense layer."""

    name: ClassVar[str] = "lstm"
    reference: ClassVar[str] = "Jia et al., Entangled Watermarks, USENIX Security 2021"

    width: int = 128
    """Units of the LSTM, and of the dense layer."""

    def __post_init__(self) -> None:
        require(self.width >= 1, f"width must be at least 1, not {self.width}")

    def skip(self, dataset: Dataset) -> str | None:
        shape = dataset.input_shape
        return None if len(shape) == 3 else f"needs inputs (channels, time, cells), they are {shape}"

    def build(self, input_shape: tuple[int, ...], classes: int) -> nets.Net:
        channels, time, cells = input_shape
        return nets.Lstm((channels, time, cells), classes, self.width)


@hookimpl
def harness_architectures() -> list[type[Architecture]]:
    return [Lstm]
