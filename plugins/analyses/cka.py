"""Similarity of a model's representations of triggers and of the inputs that they were made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from harness import Analysis, Context, Key, Measure, Skip, Split, Task, metrics, nets


class Cka(Analysis):
    """Linear CKA of every layer between held-out triggers and their own untriggered sources, pair by pair.

    Rows: quantity ``cka`` (debiased, 1 = alike) and ``pairs`` (the number of rows compared), layer.
    """

    name = "cka"
    reference = "Kornblith et al., ICML 2019; debiased: Nguyen, Raghu and Kornblith, ICLR 2021"

    def run(self, model: nets.Net, task: Task, test: Split, key: Key, ctx: Context) -> Sequence[Measure]:
        triggered, plain = (key.probes.get(name) for name in ("held_out", "control"))
        if "mask" not in key.tensors or not triggered or not plain or len(triggered.x) != len(plain.x):
            raise Skip("the key's held-out triggers are not paired with untriggered inputs")
        pairs = len(plain.x)
        if pairs < metrics.CKA_PAIRS:
            raise Skip(f"{pairs} pairs: the debiased estimator needs at least {metrics.CKA_PAIRS}")
        with torch.inference_mode():
            layers = zip(model.taps, *(_taps(model, probe.x) for probe in (triggered, plain)), strict=True)
            return [
                measure
                for layer, a, b in layers
                for measure in (
                    Measure("cka", torch.tensor([metrics.linear_cka(a, b)]), layer),
                    Measure("pairs", torch.tensor([pairs]), layer),
                )
            ]


def _taps(net: nets.Net, x: torch.Tensor) -> list[torch.Tensor]:
    """Activations of every tap, after the ReLU, ``[n, features]`` each."""
    activations = net.activations(x)[1]
    return [activations[name].relu().flatten(1) for name in net.taps]
