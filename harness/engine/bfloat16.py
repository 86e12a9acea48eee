"""The worth of bfloat16 on this CPU: with AMX it is about twice as fast as float32, elsewhere as slow or slower."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F

BATCH, CHANNELS, SIDE = 64, 32, 14
"""A step that is measured: images of a convolution such as the built-in CNN's second."""
ROUNDS = 3


def bfloat16_gain() -> float:
    """The speed of a training step under autocast to bfloat16, as a multiple of its speed in float32.

    Measured on this CPU with this process's threads, in turn, the fastest of :data:`ROUNDS`: half a second, or two
    where the processor emulates it. Draws no random numbers.
    """
    x = torch.linspace(-1, 1, BATCH * CHANNELS * SIDE * SIDE).view(BATCH, CHANNELS, SIDE, SIDE)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.linspace(-1, 1, 2 * CHANNELS * CHANNELS * 9).view(2 * CHANNELS, CHANNELS, 3, 3).requires_grad_()
    seconds = {True: float("inf"), False: float("inf")}
    for _ in range(ROUNDS + 1):
        for reduced in seconds:  # the first round, which prepares kernels, is never the fastest
            seconds[reduced] = min(seconds[reduced], _step(x, weight, reduced))
    return seconds[False] / seconds[True]


def _step(x: torch.Tensor, weight: torch.Tensor, reduced: bool) -> float:
    """Processor seconds of a forward and a backward pass."""
    begin = time.process_time()  # of the processor: other work beside it does not count
    with torch.enable_grad():
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
                y = F.conv2d(x, weight, padding=1)
            torch.autograd.grad(y.float().sum(), weight)
    return time.process_time() - begin
