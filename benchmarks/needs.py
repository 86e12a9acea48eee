"""The least that a training step must do, counted from its net's layers: arithmetic, and bytes to and from memory."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Needs:
    """The least that one step needs. Convolutions are counted as they read: fast algorithms may need fewer."""

    flops: int
    bytes: int

    def seconds(self, gflops: float, gbs: float) -> float:
        """The floor of its time on a machine that computes and copies so fast."""
        return max(self.flops / gflops, self.bytes / gbs) / 1e9

    def __str__(self) -> str:
        return f"{self.flops / 1e9:.3g} GFLOP and {self.bytes / 1e6:.3g} MB a step"


def needs(net: nn.Module, x: Tensor, width: int = 4) -> Needs:
    """The needs of a step of ``net`` on the batch ``x`` with Adam; ``width`` is the number of bytes of an activation.

    Backward is twice forward, but the first layer's inputs need no gradient. Weights, gradients and Adam's two moments
    are read and written; the output of each layer with weights and its gradient are written and read; what lies
    between such layers (norms, ReLUs, pools) could be done on the way.
    """
    flops = outputs = layers = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor | tuple[Tensor, object]) -> None:
        nonlocal flops, outputs, layers
        out = out if isinstance(out, Tensor) else out[0]
        forward, through = _flops(layer, out)
        flops += 3 * forward - (0 if layers else through)
        outputs += out.numel()
        layers += 1

    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear, nn.LSTM))]
    training = net.training
    net.eval()
    with torch.inference_mode():
        net(x)
    net.train(training)
    for hook in hooks:
        hook.remove()
    weights = sum(p.numel() for p in net.parameters())
    return Needs(flops, 4 * 4 * 2 * weights + 4 * width * outputs + x.numel() * x.element_size())


def _flops(layer: nn.Module, out: Tensor) -> tuple[int, int]:
    """Operations of a layer's forward pass, and those of them that its inputs' gradient takes again."""
    if isinstance(layer, nn.Conv2d):
        forward = 2 * out.numel() * prod(layer.weight.shape[1:])
        return forward, forward
    if isinstance(layer, nn.Linear):
        forward = 2 * out.numel() * layer.in_features
        return forward, forward
    assert isinstance(layer, nn.LSTM)
    gates = 4 * out.numel()  # four gates for each unit and step: of the inputs, and of the state before
    return 2 * gates * (layer.input_size + layer.hidden_size), 2 * gates * layer.input_size
