"""Wide residual nets, for images of 32 x 32."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch

from harness import Architecture, Dataset, needs_images, nets, option, require


class WideResNet(Architecture):
    """Three groups of residual blocks whose norms come before their convolutions, with few layers and many channels."""

    name = "wrn"
    reference = "Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016"

    depth: int = option(
        16, doc="Number of layers: 6 n + 4 for n blocks in each group (10, 16, 22, 28, ...).", at_least=10
    )
    width: int = option(4, doc="Channels of the groups, in times 16, 32 and 64: the paper's k.", at_least=1)

    def __post_init__(self) -> None:
        require(self.depth % 6 == 4, f"depth={self.depth} is not 6 n + 4: {self.depth - (self.depth - 4) % 6} is")

    def skip(self, dataset: Dataset) -> str | None:
        return needs_images(dataset, 8)

    def build(self, input_shape: tuple[int, ...], classes: int) -> nets.Net:
        net: nets.Net = _net()()
        blocks = (self.depth - 4) // 2
        net.hidden = ("stem", *(f"block{k}_inner" for k in range(1, blocks + 1)))
        net.taps = ("stem", *(f"block{k}" for k in range(1, blocks + 1)), "pool")
        net.add_module("stem", _normed(input_shape[0], 16, 1))
        channels = 16
        for k in range(1, blocks + 1):
            group, place = divmod(k - 1, blocks // 3)
            units, stride = 16 * self.width * 2**group, 2 if group and not place else 1
            net.add_module(f"block{k}_inner", _normed(channels, units, stride))
            net.add_module(f"block{k}_outer", torch.nn.Conv2d(units, units, 3, padding=1, bias=False))
            net.add_module(f"block{k}_norm", torch.nn.BatchNorm2d(units))
            if units != channels:
                net.add_module(f"block{k}_shortcut", torch.nn.Conv2d(channels, units, 1, stride, bias=False))
            channels = units
        net.add_module("logits", torch.nn.Linear(channels, classes))
        return net


def _normed(channels: int, units: int, stride: int) -> torch.nn.Sequential:
    """A 3x3 convolution that keeps the size, or halves it, and the batch norm before the next ReLU."""
    convolution = torch.nn.Conv2d(channels, units, 3, stride, padding=1, bias=False)
    return torch.nn.Sequential(convolution, torch.nn.BatchNorm2d(units))


@cache
def _net() -> Any:
    """The class of the net, within a function since defining it runs torch."""

    class Wide(nets.Net):
        """Block k adds to its input what ``block{k}_inner``, a ReLU and ``block{k}_outer`` make of its activation.

        Where the shape changes, a 1x1 convolution of the activation takes the input's place; in the first block of a
        net of width 1 it is the activation itself. The taps ``block{k}`` are the sums after the norm that follows each,
        ``pool`` is the mean over positions of the last of their ReLUs.
        """

        def activations(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            taps = dict(self._steps(x))
            return self.get_submodule("logits")(taps["pool"]), taps

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _, tap in self._steps(x):  # not `activations`, which keeps every tap
                pool = tap
            return self.get_submodule("logits")(pool)  # type: ignore[no-any-return]

        def _steps(self, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
            """The taps and hidden layers, one after the other."""
            normed = self.get_submodule("stem")(nets.as_float(x).contiguous(memory_format=torch.channels_last))
            yield "stem", normed
            total = active = normed.relu()
            for k in range(1, len(self.hidden)):
                inner = self.get_submodule(f"block{k}_inner")(active)
                yield f"block{k}_inner", inner
                if f"block{k}_shortcut" in self._modules:
                    total = self.get_submodule(f"block{k}_shortcut")(active)
                total = total + self.get_submodule(f"block{k}_outer")(inner.relu())
                normed = self.get_submodule(f"block{k}_norm")(total)
                yield f"block{k}", normed
                active = normed.relu()
            yield "pool", active.mean((2, 3))

    return Wide
