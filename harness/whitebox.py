"""White-box marks: the layer that carries one, its mean weight or its activations, and the bits that they say.

A layer is a hidden layer of the net, which may be a block: of a convolution and its batch norm, the convolution's
weight is meant. Everything is recomputed from the weights as they are at each call, so that a loss which reads them
follows the training.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.adversarial import evaluating
from harness.contracts import Count, classes_of
from harness.errors import Skip, Unreadable, UsageError
from harness.nets import Net, last_convolution, parts
from harness.tracing import LAYERS


def carrier(net: Net, layer: str = "") -> str:
    """The hidden layer that carries a mark: ``layer``, or by default the last that convolves, else the last dense one.

    Raises :class:`UsageError` where ``net`` has no such hidden layer, or one without a weight to write to.
    """
    dense = [name for name in net.hidden if _weight(net, name) is not None]
    if layer and layer not in dense:
        raise UsageError(f"layer={layer} is not a layer to write a mark to: this net has {', '.join(dense) or 'none'}")
    if not dense:
        raise UsageError("this net has no hidden layer that convolves or is dense: there is nothing to write a mark to")
    return layer or last_convolution(net) or dense[-1]


def _weight(net: Net, layer: str) -> Tensor | None:
    """The weight ``[units, ...]`` of the last convolution or dense layer within a hidden layer, if it has one."""
    parts = [part for part in net.get_submodule(layer).modules() if isinstance(part, LAYERS)]
    return parts[-1].weight if parts else None


def mean_weight(net: Net, layer: str) -> Tensor:
    """The weight of a hidden layer, averaged over its units: ``[m]``, with a gradient.

    Of a convolution m is its input channels x the kernel's size (Uchida et al. 2017, Section 3.2), of a dense layer its
    inputs. Raises :class:`Unreadable` where ``net`` has no such layer.
    """
    weight = _weight(net, layer) if layer in net.hidden else None
    if weight is None:
        raise Unreadable(f"it has no hidden layer {layer!r} that convolves or is dense")
    return weight.mean(0).flatten()


def projection(net: Net, layer: str, count: int, generator: torch.Generator) -> Tensor:
    """A secret projection ``[count, m]`` of the mean weight of ``layer``, N(0, 1), drawn and left on the CPU.

    Raises :class:`Skip` where m is below 2 ``count``: fewer weights need not be able to say every message.
    """
    size = len(mean_weight(net, layer))
    if size < 2 * count:
        raise Skip(f"{count} bits need a mean weight of {2 * count} numbers, layer {layer!r} has {size}")
    return torch.randn(count, size, generator=generator)


def projected(net: Net, layer: str, secret: Tensor) -> Tensor:
    """The products ``[count]`` of a secret projection ``[count, m]`` and the mean weight of ``layer``.

    In float32 also where autocast is on. Raises :class:`Unreadable` where ``net`` has no such layer of m weights.
    """
    mean = mean_weight(net, layer)
    if len(mean) != secret.shape[1]:
        raise Unreadable(f"its layer {layer!r} has a mean weight of {len(mean)} numbers, not {secret.shape[1]}")
    return (secret * mean).sum(1)


def tap(net: Net, layer: str = "") -> str:
    """The layer whose activations carry a mark: ``layer``, or by default the last hidden layer.

    Raises :class:`UsageError` where ``net`` has no such layer.
    """
    known = dict.fromkeys((*net.hidden, *net.taps))
    if not known or (layer and layer not in known):
        raise UsageError(f"layer={layer} has no activations to mark: this net has {', '.join(known) or 'none'}")
    return layer or (net.hidden or net.taps)[-1]


def activations(net: Net, layer: str, x: Tensor) -> Tensor:
    """The activations ``[n, d]`` of a layer on ``x``, before its ReLU, in evaluation mode and without gradients.

    Raises :class:`Unreadable` where ``net`` has no such layer.
    """
    if layer not in (*net.hidden, *net.taps):
        raise Unreadable(f"it has no layer {layer!r} with activations")
    with evaluating(net), torch.no_grad():
        return torch.cat([net.activations(part)[1][layer].flatten(1) for part in parts(x)])


def labels(net: Net, x: Tensor) -> Tensor:
    """The class ``[n]`` int64 that ``net`` answers to each of ``x``, in evaluation mode."""
    with evaluating(net), torch.no_grad():
        return torch.cat([classes_of(net(part)) for part in parts(x)])


def bits(values: Tensor, message: Tensor) -> Count:
    """Bits of ``message``, any shape, 0 or 1, that ``values`` of that shape say: 1 where they are at least 0."""
    return Count(int(((values >= 0) == message.bool()).sum()), message.numel())


def name_tensor(name: str) -> Tensor:
    """A layer's name as a tensor of a key: its UTF-8 bytes."""
    return torch.tensor(list(name.encode()), dtype=torch.uint8)


def tensor_name(tensor: Tensor) -> str:
    """The name that :func:`name_tensor` made a tensor of."""
    return bytes(tensor.tolist()).decode()
