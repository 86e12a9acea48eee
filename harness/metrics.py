"""Counts and shares: accuracy, agreement, overlap, CKA. Tensors in, plain numbers out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def accuracy(predicted: Tensor, truth: Tensor) -> float:
    """Share of ``predicted`` labels ``[n]`` that are the ``truth`` ``[n]``, 0..1."""
    return float((predicted == truth).double().mean())


def agreement(ours: Tensor, theirs: Tensor) -> float:
    """Share of inputs on which two models answer the same label ``[n]``, 0..1."""
    return accuracy(ours, theirs)


def class_similarities(x: Tensor, y: Tensor, classes: int) -> Tensor:
    """The mean cosines ``[classes, classes]`` float64 of all pairs of rows of ``x`` ``[n, d]``, one of either class.

    The mean of all products of unit vectors is the product of their means: no pair is formed.
    """
    from torch.nn.functional import normalize, one_hot

    members = one_hot(y, classes).double()
    means = (members.T @ normalize(x.double(), dim=1)) / members.sum(0)[:, None]
    similarities: Tensor = means @ means.T
    return similarities


def mask_overlap(found: Tensor, truth: Tensor) -> float:
    """Intersection over union of two masks ``[height, width]``, each binarised at 0.5; 0 when both are empty."""
    a, b = found > 0.5, truth > 0.5
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 0.0


def window_rank(found: Tensor, truth: Tensor) -> float | None:
    """Share of the windows that lie at least as high on the map ``found`` as the true one, itself included; (0, 1].

    The windows are all shifts of the mask ``truth`` (``[height, width]``, binarised at 0.5) that stay on the map, and a
    window's height is the mean of ``found`` inside it. If the trigger were placed at random, this would be uniform: a
    p-value. ``None`` where there is nothing to rank: an empty mask, or one that fits at one place only (two corners).
    """
    import torch

    mask = (truth > 0.5).double()
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    if not len(rows):
        return None
    top, left = int(rows[0]), int(columns[0])
    stamp = mask[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
    heights = torch.nn.functional.conv2d(found.double()[None, None], stamp[None, None])[0, 0]
    # A hair's slack: the same sum in another order must count as a tie.
    if heights.numel() == 1:
        return None
    reached = heights[top, left] - 1e-9 * (1 + heights.abs().max())
    return float((heights >= reached).double().mean())


CKA_PAIRS = 4
"""The least number of rows for the debiased estimator of CKA."""


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA, debiased, of two representations ``[n, d1]`` and ``[n, d2]`` of the same n inputs, row by row.

    Kornblith et al., ICML 2019, with HSIC estimated without bias (Nguyen et al., ICLR 2021, Eq. 3): the plain estimate
    tends to 1 as the features outnumber the rows, whatever they are. 1 for representations equal up to rotation and
    scale, about 0 for unrelated ones (it may fall below); NaN where one is constant.

    Raises ``ValueError`` unless both have the same number of rows, at least :data:`CKA_PAIRS`.
    """
    if len(x) != len(y) or len(x) < CKA_PAIRS:
        raise ValueError(f"CKA needs the same number of rows, at least {CKA_PAIRS}, not {len(x)} and {len(y)}")
    # Centring the features leaves the estimator as it is, and keeps the products small.
    grams = [(z - z.mean(0)) @ (z - z.mean(0)).T for z in (x.double(), y.double())]
    cross, own_x, own_y = (_hsic(grams[i], grams[j]) for i, j in ((0, 1), (0, 0), (1, 1)))
    if own_x <= 0 or own_y <= 0:
        return float("nan")
    return cross / math.sqrt(own_x * own_y)


def _hsic(k: Tensor, m: Tensor) -> float:
    """The unbiased estimate of HSIC from Gram matrices ``[n, n]`` (Song et al., JMLR 2012, Eq. 5)."""
    n = len(k)
    k, m = k - k.diag().diag(), m - m.diag().diag()
    trace = (k * m).sum()
    totals = k.sum() * m.sum() / ((n - 1) * (n - 2))
    rows = 2 * (k.sum(0) * m.sum(0)).sum() / (n - 2)
    return float((trace + totals - rows) / (n * (n - 3)))
