"""Inputs of nets: bytes or floats, taken as floats; moved; and normalised inside a net where its recipe says so."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

MEAN, SD = "input_mean", "input_sd"
"""Buffers of a net that normalises its inputs: stored with its weights, since it answers by them."""
AT_A_TIME = 256
"""Inputs that are summed at a time: the squares of so many bytes are below 2^24, up to which float32 is exact."""

T = TypeVar("T")


def as_float(x: Tensor) -> Tensor:
    """``uint8`` inputs as float32 in 0..1; float inputs as they are."""
    return x.float().div_(255) if x.dtype == torch.uint8 else x


def as_stored(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Float inputs in the type ``dtype`` of a data set: ``uint8`` has 0..1 rounded to 0..255, floats are as they are.

    Queries are inputs of the data's type: a trigger that an image cannot hold is one that nobody can send.
    """
    return (x * 255).round_().clamp_(0, 255).byte() if dtype == torch.uint8 else x


def noisy(x: Tensor, deviation: float, span: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Inputs ``x`` ``[n, ...]`` as floats within ``span``, the range, with Gaussian noise: ``deviation`` is its SD as a
    share of the range. Drawn on the CPU."""
    low, high = span
    noise = torch.randn(x.shape, generator=generator).to(x.device)
    return (as_float(x) + deviation * (high - low) * noise).clamp(low, high)


def random_moves(shape: tuple[int, ...], rows: int, columns: int, mirrored: bool, generator: torch.Generator) -> Tensor:
    """Random moves ``[*shape, 3]`` for :func:`moved`: by up to so many ``rows`` and ``columns``; half are mirror images
    where ``mirrored``. Drawn on the CPU, so that they are the same on every device."""
    reach = torch.tensor([rows, columns, 0])
    choices = 2 * reach + torch.tensor([1, 1, 1 + mirrored])
    return (torch.rand(*shape, 3, generator=generator) * choices).long().minimum(choices - 1) - reach


def moved(x: Tensor, moves: Tensor) -> Tensor:
    """Each of the images ``[n, c, h, w]`` moved as ``moves`` ``[n, 3]`` says: down, right (zeros come in), mirrored.

    Gathered on the images' own device, with no loop over them.
    """
    count, _, height, width = x.shape
    columns = torch.arange(width, device=x.device)
    rows = moves[:, :1] + torch.arange(height, device=x.device)
    columns = moves[:, 1:2] + torch.where(moves[:, 2:] > 0, columns.flip(0), columns)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    where = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    gathered = x.flatten(2).gather(2, where.view(count, 1, -1).expand(-1, x.shape[1], -1))
    return gathered.masked_fill(~inside.view(count, 1, -1), 0).view_as(x)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, float32 ``[channels, 1, ...]``, of each channel of inputs ``[n, channels, ...]``.

    They are of the inputs as floats, ``uint8`` ones in 0..1, whose sums are whole numbers: the same bits on every
    device. A channel of one value has the deviation 1.
    """
    scale, wide = (255, torch.float32) if x.dtype == torch.uint8 else (1, torch.float64)
    parts = (part.to(wide).unsqueeze(-1).flatten(2) for part in x.split(AT_A_TIME))
    sums = torch.stack(
        [torch.stack([part.sum(0), part.square().sum(0)]).sum(-1, dtype=torch.float64) for part in parts]
    )
    mean, square = (sums.sum(0) / max(1, x.numel() // x.shape[1])).view(2, -1, *(1 for _ in x.shape[2:]))
    sd = (square - mean.square()).clamp_min(0).sqrt()
    return (mean / scale).float(), (sd / scale).float().masked_fill(sd == 0, 1)


def normalize(net: nn.Module, mean: Tensor, sd: Tensor) -> None:
    """Let ``net`` take inputs as they are, and its layers see ``(x - mean) / sd``, both as of :func:`moments`."""
    net.register_buffer(MEAN, mean.clone())
    net.register_buffer(SD, sd.clone())


def normalizing(answer: Callable[..., T]) -> Callable[..., T]:
    """``answer(net, x)``, of a class of nets, whose net sees ``x`` normalised where it has the moments: once, whichever
    of its methods calls the others."""

    @wraps(answer)
    def of_inputs(net: Any, x: Tensor, *args: Any, **kwargs: Any) -> T:
        if MEAN not in net._buffers or "_normalizing" in vars(net):
            return answer(net, x, *args, **kwargs)
        vars(net)["_normalizing"] = True
        try:
            return answer(net, (as_float(x) - net._buffers[MEAN]).div_(net._buffers[SD]), *args, **kwargs)
        finally:
            del vars(net)["_normalizing"]

    return of_inputs
