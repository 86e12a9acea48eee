"""The nets, and what every net offers: inputs of either type, named hidden layers, a description to rebuild it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def as_float(x: Tensor) -> Tensor:
    """``uint8`` inputs as float32 in 0..1; float inputs as they are."""
    return x.float().div_(255) if x.dtype == torch.uint8 else x


class Net(nn.Module):
    """A classifier. Calling it with inputs ``[n, ...]`` (``uint8`` or float) gives logits ``[n, classes]``.

    ``hidden`` names its hidden layers in order; each is a submodule of that name whose output is followed by a ReLU.
    The names are what SNNL, pruning and CKA speak of.
    """

    hidden: ClassVar[tuple[str, ...]] = ()
    last: ClassVar[str] = "logits"
    """The name of the last layer, which gives the logits."""
    description: Mapping[str, object]
    """How to build it again: the architecture's text, the input shape, the number of classes. Set by the harness."""

    def forward(self, x: Tensor) -> Tensor:
        return self.activations(x)[0]

    def activations(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and the *pre-activation* output ``[n, ...]`` of each hidden layer by its name."""
        raise NotImplementedError


class Cnn(Net):
    """The EWE paper's CNN: conv 32@5x5, pool, conv 64@3x3, pool, dense 128, dense. Convolutions keep the size."""

    hidden = ("conv1", "conv2", "dense")

    def __init__(self, input_shape: tuple[int, int, int], classes: int, width: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        channels, height, width_in = input_shape
        self.conv1 = nn.Conv2d(channels, width, 5, padding=2)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.dense = nn.Linear(2 * width * (height // 4) * (width_in // 4), 4 * width)
        self.logits = nn.Linear(4 * width, classes)
        self.dropout = dropout

    def activations(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = as_float(x).contiguous(memory_format=torch.channels_last)
        conv1 = self.conv1(x)
        conv2 = self.conv2(self._drop(self._pool(conv1)))
        dense = self.dense(self._drop(self._pool(conv2)).flatten(1))
        return self.logits(self._drop(dense.relu())), {"conv1": conv1, "conv2": conv2, "dense": dense}

    @staticmethod
    def _pool(x: Tensor) -> Tensor:
        # Pooling before the ReLU gives the same numbers, and a quarter of the ReLUs.
        return F.max_pool2d(x, 2).relu_()

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Mlp(Net):
    """Two dense hidden layers."""

    hidden = ("dense1", "dense2")

    def __init__(self, input_shape: tuple[int, ...], classes: int, width: int = 256) -> None:
        super().__init__()
        self.dense1 = nn.Linear(prod(input_shape), width)
        self.dense2 = nn.Linear(width, width)
        self.logits = nn.Linear(width, classes)

    def activations(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        dense1 = self.dense1(as_float(x).flatten(1))
        dense2 = self.dense2(dense1.relu())
        return self.logits(dense2.relu()), {"dense1": dense1, "dense2": dense2}


@contextmanager
def seeded(generator: torch.Generator, device: torch.device | None = None) -> Iterator[None]:
    """Lend torch's global generators, which layers and dropout draw from, a seed drawn from ``generator``.

    They are given back as they were: nothing outside can tell.
    """
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for each in cuda:
            torch.cuda.default_generators[each.index or 0].manual_seed(seed)
        yield


def silence(net: Net, layer: str, units: Tensor) -> None:
    """Prune ``units`` (a boolean mask ``[units]``) of a hidden layer for good, in place.

    Their incoming weights and biases become zero, which is masking the unit's output: it is 0, and since the ReLU's
    gradient at 0 is 0, no training by gradients revives it. The mask so lives in the weights, and survives storing,
    further attacks and fine-tuning.
    """
    module = net.get_submodule(layer)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter[units.to(parameter.device)] = 0


def fresh_like(net: Net, layer: str, generator: torch.Generator) -> nn.Module:
    """A copy of one layer of ``net`` with its weights drawn anew, as the layer's own class draws them."""
    layer_now = net.get_submodule(layer)
    # Drawn on the CPU, whose generator is the seeded one: the same weights on every device.
    module = copy.deepcopy(layer_now).cpu()
    with seeded(generator):
        for part in module.modules():
            if isinstance(part, (nn.Linear, nn.Conv2d, nn.LSTM, nn.BatchNorm2d)):
                part.reset_parameters()
    return module.to(next(layer_now.parameters()).device)
