"""Similarity of the task's classes, pair by pair: Algorithm 1 of EWE picks a similar pair."""

from __future__ import annotations

from collections.abc import Sequence

from harness import Analysis, Context, Key, Measure, Split, Task, metrics, nets


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
            for label, row in enumerate(metrics.class_similarities(x, test.y, classes))
        ]
