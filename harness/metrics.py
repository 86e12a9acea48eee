"""What is counted: accuracy, agreement, overlap. Tensors in, plain numbers out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def accuracy(predicted: Tensor, truth: Tensor) -> float:
    """Share of ``predicted`` labels ``[n]`` that are the ``truth`` ``[n]``, 0..1."""
    return float((predicted == truth).double().mean())


def agreement(ours: Tensor, theirs: Tensor) -> float:
    """Share of inputs on which two models answer the same label ``[n]``, 0..1."""
    return accuracy(ours, theirs)


def mask_overlap(found: Tensor, truth: Tensor) -> float:
    """Intersection over union of two masks ``[height, width]``, each binarised at 0.5; 0 when both are empty."""
    a, b = found > 0.5, truth > 0.5
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 0.0
