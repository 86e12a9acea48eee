"""Places of triggers among task data in the penultimate layer, in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from harness import Analysis, Context, Key, Measure, NotInstalled, Skip, Split, Task, nets, option


class Projection(Analysis):
    """Two coordinates of penultimate activations of triggers, and of test inputs by class.

    Rows: quantities ``x`` and ``y``, layer ``penultimate``, group ``trigger``, ``target``, ``source`` or ``other``
    (classes), index = sample; and for PCA ``explained``, the share of the variance along each axis.
    """

    name = "projection"
    reference = "Jia et al., Entangled Watermarks, arXiv 2002.12200 v1, Figures 4 and 14"
    arms = ("",)

    method: Literal["pca", "umap"] = option("pca", doc="Principal components, or UMAP (needs the extra `umap`).")
    samples: int = option(100, doc="Largest number of inputs of each group.", at_least=2)

    def run(self, model: nets.Net, task: Task, test: Split, key: Key, ctx: Context) -> Sequence[Measure]:
        if "trigger" not in key.probes:
            raise Skip("the key has no triggers")
        source, target = task.dataset.source, task.dataset.target
        other = (test.y != source) & (test.y != target)
        groups = {
            "trigger": key.trigger.x,
            "target": test.of(target).x,
            "source": test.of(source).x,
            "other": test.x[other],
        }
        groups = {name: x[: self.samples] for name, x in groups.items()}
        features = torch.cat([nets.penultimate(model, x) for x in groups.values()]).double().cpu()
        points, explained = self._project(features, ctx.generator)
        placed = zip(groups, points.split([len(x) for x in groups.values()]), strict=True)
        measures = [
            Measure(axis, part[:, i], "penultimate", name) for name, part in placed for i, axis in enumerate("xy")
        ]
        return measures if explained is None else [*measures, Measure("explained", explained, "penultimate")]

    def _project(self, features: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Coordinates ``[n, 2]`` of ``features`` ``[n, units]``, and the explained shares ``[2]`` where there are."""
        if self.method == "pca":
            return _principal(features)
        try:
            import umap
        except ImportError as error:
            raise NotInstalled("UMAP is not installed: pip install 'watermark-harness[umap]'") from error
        seed = int(torch.randint(2**31, (), generator=generator))
        return torch.from_numpy(umap.UMAP(random_state=seed, n_jobs=1).fit_transform(features.numpy())).double(), None


def _principal(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first two principal components; each axis points to where its largest loading is positive."""
    centred = features - features.mean(0)
    _, singular, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    strongest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    axes = axes * strongest.sign()
    variance = singular.square()
    return centred @ axes.T, variance[:2] / variance.sum().clamp_min(1e-300)
