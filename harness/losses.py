"""Losses: cross-entropies as the papers use them, and the soft nearest neighbour loss (SNNL)."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.nets import Net

Distance: TypeAlias = Literal["cosine", "euclidean"]
Reduction: TypeAlias = Literal["mean", "sum"]
TaskLoss: TypeAlias = Callable[[Net, Tensor, Tensor], Tensor]
"""A loss that returns one scalar, so that a scheme can add its own terms to it."""


def cross_entropy(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of ``net(x)`` ``[n, classes]`` against labels ``[n]`` or probabilities ``[n, classes]``."""
    return F.cross_entropy(net(x), y)


def smoothed(label_smoothing: float, reduction: Reduction = "mean") -> TaskLoss:
    """The cross-entropy, its mean or its sum over a batch, of hard labels with ``label_smoothing``, 0 to 1.

    Szegedy et al. 2016, section 7. Probabilities are learned as they are: those of an API are spread as its model
    spreads them already, and a second smoothing would hide from a surrogate what it was told.
    """
    if not label_smoothing:
        return cross_entropy if reduction == "mean" else summed_cross_entropy

    def loss(net: Net, x: Tensor, y: Tensor) -> Tensor:
        smoothing = label_smoothing if y.ndim == 1 else 0.0
        return F.cross_entropy(net(x), y, label_smoothing=smoothing, reduction=reduction)

    return loss


def summed_cross_entropy(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy summed over the batch, as in the released EWE code; arguments as :func:`cross_entropy`.

    Its stream says ``summed=True``, so that it serves SGD too.
    """
    return F.cross_entropy(net(x), y, reduction="sum")


def divergence(one: Tensor, two: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of the answers ``two`` from ``one``, log-probabilities ``[n, classes]``."""
    return F.kl_div(two, one, log_target=True, reduction="batchmean")


def distances(x: Tensor, distance: Distance) -> Tensor:
    """Pairwise distances ``[n, n]`` of the rows of ``x`` ``[n, d]``, through one matrix product.

    ``cosine`` is 1 - cosine similarity, in 0..2; ``euclidean`` is the *squared* distance of the paper's Eq. 1.
    Computed in float32 also where autocast is on and ``x`` is bfloat16: small differences of products decide here.
    """
    x = x.float() if x.element_size() < 4 else x
    # The product with a copy outside the graph, mirrored: x @ x.T and its gradient, one matrix product less backward.
    with _without_autocast(x.device):
        half = x @ x.detach().T
    products = half + half.T - half.detach()
    squared = products.diagonal()
    if distance == "cosine":
        # Not F.normalize: its gradient at a row of norm 1e-6 is a million times the others'. Scaling the [n, n]
        # products instead of the [n, d] rows spares two passes over the rows.
        scale = torch.rsqrt(squared + 1e-8)
        return (1 - products * scale[:, None] * scale[None, :]).clamp_min(0)
    # Rounding makes small distances negative, and a negative distance would count as nearer than itself.
    return (squared[:, None] + squared[None, :] - 2 * products).clamp_min(0)


def _without_autocast(device: torch.device) -> torch.autocast | nullcontext[None]:
    """A context in which products are as precise as their factors; nothing where they are anyway."""
    on = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else nullcontext()


def snnl(x: Tensor, groups: Tensor, temperature: Tensor | float, distance: Distance = "cosine") -> Tensor:
    """Soft nearest neighbour loss (Jia et al. 2021, Eq. 1; Frosst et al. 2019): high when the groups are entangled.

    ``x`` ``[n, ...]`` are activations, ``groups`` ``[n]`` their labels (trigger or not), ``temperature`` > 0. Written
    with masked log-sum-exps, it is finite where the formula divides 0 by 0: far points underflow to a large loss with a
    gradient, and a row without a partner in its group is left out.

    Raises ``ValueError`` when no row has a partner or all rows are of one group: then there is nothing to entangle, and
    the loss would silently be constant (the audio code released with v1 of the paper did that).
    """
    same = groups[:, None] == groups[None, :]
    itself = torch.eye(len(groups), dtype=torch.bool, device=x.device)
    partners = same & ~itself
    paired = partners.any(1)
    # `bool` of a device tensor synchronises, so a caller in the inner loop checks its groups once and calls `_snnl`.
    if bool(same.all()) or not bool(paired.any()):
        raise ValueError("SNNL needs two groups, one of them with at least two samples")
    return _snnl(x, partners, itself, paired, temperature, distance)


def class_snnl(x: Tensor, y: Tensor, temperature: float, distance: Distance = "cosine") -> Tensor:
    """The SNNL of ``x`` ``[n, ...]`` whose groups are the classes ``y`` ``[n]`` int64: low when they lie apart.

    For batches of a training: without host synchronisation, and 0 where no class has two samples.
    """
    same = y[:, None] == y[None, :]
    itself = torch.eye(len(y), dtype=torch.bool, device=x.device)
    partners = same & ~itself
    return _snnl(x, partners, itself, partners.any(1), temperature, distance)


def _snnl(
    x: Tensor,
    partners: Tensor,
    itself: Tensor,
    paired: Tensor,
    temperature: Tensor | float,
    distance: Distance,
    floor: float = 0.0,
) -> Tensor:
    # Distances do not mind the order of the features: that of the memory needs no copy.
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        x = x.movedim(1, 3)
    similarity = -distances(x.flatten(1), distance) / temperature
    lowest = torch.finfo(similarity.dtype).min
    near = similarity.masked_fill(~partners, lowest).logsumexp(1)
    all_others = similarity.masked_fill(itself, lowest).logsumexp(1)
    losses = all_others - near
    if floor:
        least = torch.full_like(near, math.log(floor))
        losses = -torch.logaddexp(near - torch.logaddexp(all_others, least), least)
    # Where no row has a partner, the sum is 0 and so is the loss.
    return losses.masked_fill(~paired, 0).sum() / paired.sum().clamp_min(1)


class Entanglement:
    """The SNNL of batches whose first half are triggers and second half are not, summed over hidden layers.

    Checks the batch once, and then costs one matrix product a layer and no host synchronisation. Each layer has its own
    temperature, a tensor of logarithms that a caller may learn: so it stays positive whatever the steps are.
    """

    def __init__(
        self,
        layers: int,
        temperature: float,
        distance: Distance,
        batch_size: int,
        device: torch.device,
        floor: float = 0.0,
    ) -> None:
        """``floor`` is added to both sums and to their quotient, as the released code does (1e-5): a row whose points
        are all far then has the loss -log(floor) and no gradient. With 0 it has one, however far they are."""
        if batch_size < 4 or batch_size % 2:
            raise ValueError(f"an entangled batch needs an even size of at least 4, not {batch_size}")
        half = batch_size // 2
        groups = torch.arange(batch_size, device=device) < half
        self.log_temperature = torch.full((layers,), math.log(temperature), device=device, requires_grad=True)
        self.distance: Distance = distance
        self.floor = floor
        self._itself = torch.eye(batch_size, dtype=torch.bool, device=device)
        self._partners = (groups[:, None] == groups[None, :]) & ~self._itself
        self._paired = torch.ones(batch_size, dtype=torch.bool, device=device)
        self.bound = -math.log((half - 1) / (batch_size - 1))
        """The SNNL, per layer, of perfectly mixed groups; far-apart pairs across the groups exceed it."""

    def __call__(self, activations: list[Tensor]) -> Tensor:
        """The sum over layers of their SNNL; ``activations`` are ``[batch_size, ...]`` each, after the ReLU."""
        temperatures = self.log_temperature.clamp(math.log(1e-3), math.log(1e6)).exp()
        return torch.stack(
            [
                _snnl(x, self._partners, self._itself, self._paired, temperature, self.distance, self.floor)
                for x, temperature in zip(activations, temperatures, strict=True)
            ]
        ).sum()
