"""Batch norm while training: norms whose statistics move, and batches that are normalised by those of other batches.

A batch of triggers alone, normalised by itself, is not learned as it is asked (among the task's inputs, by the running
statistics), and moves these away from the task's. Normalised by the running statistics, it teaches the net to shift all
its answers, which no task batch, normalised by itself, would notice. So it is normalised as the task's inputs are: by
the mean and variance of a task batch at the present weights, with their gradient (Gan et al., Towards Robust Model
Watermark via Reducing Parametric Vulnerability, ICCV 2023: clean-sample-based normalization).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import cycle

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harness.contracts import Stream

Moments = tuple[Tensor, Tensor]
"""Mean and variance ``[channels]``."""


def moving_norms(net: nn.Module, trained: Collection[int]) -> tuple[list[_BatchNorm], list[_BatchNorm]]:
    """The batch norms of ``net`` that keep running statistics: those that a training moves, and those of frozen layers.

    ``trained`` are the ids of the parameters that it trains. A norm without parameters goes with the layer before it.
    """
    moving: list[_BatchNorm] = []
    frozen: list[_BatchNorm] = []
    is_trained = True
    for module in net.modules():
        if own := list(module.parameters(recurse=False)):
            is_trained = any(id(parameter) in trained for parameter in own)
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            (moving if is_trained else frozen).append(module)
    return moving, frozen


def borrows(stream: Stream, number: int) -> bool:
    """True if the batches of ``stream``, that of this ``number`` in its training, borrow the first stream's moments."""
    return number > 0 and stream.statistics != "own"


@contextmanager
def normalised_as(x: Tensor, net: nn.Module, norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Let ``norms`` of ``net`` normalise by the moments that ``x`` has there now; running statistics stay."""
    seen: list[list[Moments]] = [[] for _ in norms]
    with _replaced(norms, [partial(_watching, norm, kept) for norm, kept in zip(norms, seen, strict=True)]):
        net(x)
    # A norm that runs more than once in a pass has moments for each time.
    with _replaced(norms, [partial(_borrowing, norm, cycle(kept)) for norm, kept in zip(norms, seen, strict=True)]):
        yield


@contextmanager
def _replaced(norms: Sequence[nn.Module], forwards: Sequence[Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Let each norm run another function within."""
    with ExitStack() as stack:
        for norm, forward in zip(norms, forwards, strict=True):
            vars(norm)["forward"] = forward
            stack.callback(vars(norm).pop, "forward")
        yield


def _watching(norm: _BatchNorm, seen: list[Moments], x: Tensor) -> Tensor:
    """``x`` ``[n, channels, ...]`` normalised by itself; its moments are appended to ``seen``."""
    variance, mean = torch.var_mean(x.float(), [0, *range(2, x.ndim)], correction=0)
    seen.append((mean, variance))
    return nn.functional.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)


def _borrowing(norm: _BatchNorm, moments: Iterator[Moments], x: Tensor) -> Tensor:
    """``x`` ``[n, channels, ...]`` normalised by the next of ``moments``."""
    mean, variance = next(moments)
    scale = torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -mean * scale if norm.bias is None else norm.bias - mean * scale
    channels = (1, -1, *(1 for _ in range(2, x.ndim)))
    return (x * scale.view(channels) + shift.view(channels)).to(x.dtype)
