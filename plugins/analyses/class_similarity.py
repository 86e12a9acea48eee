"""Similarity of the task's classes, pair by pair: Algorithm 1 of EWE picks a similar pair."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from harness import Analysis, Context, Key, Measure, Split, Task, nets


class ClassSimilarity(Analysis):
    """Mean cosine similarity between the test inputs of any two classes, as inputs and as penultimate activations.

    Rows: quantity ``similarity``, layer ``input`` or ``penultimate``, group = one class's number, index = the other's.
    """

    name = "class-similarity"
    reference = "Jia et al., Entangled Watermarks, arXiv 2002.12200 v1, Algorithm 1 line 1, Figure 12"

    def run(self, model: nets.Net, task: Task, test: Split, key: Key, ctx: Context) -> Sequence[Measure]:
        layers = {"input": nets.as_float(test.x).flatten(1), "penultimate": nets.penultimate(model, test.x)}
        classes = len(task.dataset.classes)
        return [
            Measure("similarity", row, layer, str(label))
            for layer, x in layers.items()
            for label, row in enumerate(_similarities(x, test.y, classes))
        ]


def _similarities(x: torch.Tensor, y: torch.Tensor, classes: int) -> torch.Tensor:
    """``[classes, classes]``: the mean cosine of all pairs of rows of ``x`` ``[n, d]``, one of either class.

    The mean of all products of unit vectors is the product of their means: no pair is formed.
    """
    unit = torch.nn.functional.normalize(x.double(), dim=1)
    members = torch.nn.functional.one_hot(y, classes).double()
    means = (members.T @ unit) / members.sum(0)[:, None]
    return means @ means.T
