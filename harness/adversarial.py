"""Adversarial inputs: signed gradient steps that stay within the range of a data set's inputs.

Floats go in and come out: ``uint8`` inputs are taken in 0..1, and :func:`harness.nets.as_stored` rounds the result to
what an image can hold. Sizes of steps are shares of the range, so that one number means the same on every data set.
Imported without torch, as :mod:`harness.triggers` is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

import torch

from harness import nets

Span: TypeAlias = tuple[float, float]
"""Smallest and largest value of an input, as of ``dataset.value_range``."""


def signed_step(x: torch.Tensor, score: torch.Tensor, step: float, span: Span) -> torch.Tensor:
    """One signed gradient step of ``x`` ``[n, ...]`` up ``score``, a scalar computed from it; kept within ``span``.

    ``x`` is float and requires a gradient; ``step`` is a share of the range. The score's graph is freed.
    """
    (gradient,) = torch.autograd.grad(score, x)
    low, high = span
    return (x.detach() + step * (high - low) * gradient.sign()).clamp_(low, high)


def fgsm(
    net: nets.Net, x: torch.Tensor, y: torch.Tensor, epsilon: float, span: Span, targeted: bool = False
) -> torch.Tensor:
    """Inputs ``[n, ...]`` float, one step of the fast gradient sign method from ``x``, of either type, away from ``y``.

    Goodfellow, Shlens and Szegedy, ICLR 2015: ``x + epsilon * sign(gradient of the cross-entropy against y)``; with
    ``targeted`` towards the classes ``y`` ``[n]``, ``x - epsilon * ...``. ``epsilon`` is a share of the range ``span``.
    The net is asked in evaluation mode, so that an input's step depends on no other input; its mode is then put back.
    """
    with evaluating(net):
        parts = zip(nets.parts(x), nets.parts(y), strict=True)
        steps = [_step(net, *part, -epsilon if targeted else epsilon, span) for part in parts]
    return torch.cat(steps)


def _step(net: nets.Net, x: torch.Tensor, y: torch.Tensor, epsilon: float, span: Span) -> torch.Tensor:
    with torch.enable_grad():
        x = nets.as_float(x).detach().requires_grad_(True)
        # The sum, not the mean: 1/n takes gradients of inputs that the net is sure of below what a float holds.
        return signed_step(x, torch.nn.functional.cross_entropy(net(x), y, reduction="sum"), epsilon, span)


def pgd(
    net: nets.Net, x: torch.Tensor, y: torch.Tensor, epsilon: float, step: float, steps: int, span: Span
) -> torch.Tensor:
    """Inputs ``[n, ...]`` float within ``epsilon`` of ``x``, of either type: ``steps`` signed steps away from ``y``.

    Projected gradient descent (Madry et al., ICLR 2018) that starts at ``x``, so that nothing is drawn. ``y`` are
    labels ``[n]`` or probabilities ``[n, classes]``; ``epsilon`` and ``step`` are shares of the range ``span``. The net
    is asked in evaluation mode, as by :func:`fgsm`; in a loss, as it is at that step.
    """
    with evaluating(net):
        both = zip(nets.parts(x), nets.parts(y), strict=True)
        return torch.cat([_descended(net, *part, epsilon, step, steps, span) for part in both])


def _descended(
    net: nets.Net, x: torch.Tensor, y: torch.Tensor, epsilon: float, step: float, steps: int, span: Span
) -> torch.Tensor:
    bound = epsilon * (span[1] - span[0])
    start = now = nets.as_float(x).detach()
    for _ in range(steps):
        now = torch.clamp(_step(net, now, y, step, span), start - bound, start + bound)
    return now


@contextmanager
def evaluating(net: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode while the block runs: no running statistics of a batch norm move, no dropout draws."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
