"""Removal by taking away the units that a reconstructed trigger excites, and training on inputs that carry it."""

from __future__ import annotations

import math

import torch

from harness import Context, Dataset, Pool, Skip, Split, TuningAttack, inversion, needs_images, nets, option


class Laundering(TuningAttack):
    """Resets the units that the most suspicious trigger excites, and fine-tunes with it under the right labels.

    Neural Cleanse reconstructs the smallest trigger to each class; the smallest of them is taken. Units whose mean
    activation it raises by more than a threshold, in standard deviations of the unit on clean inputs, are silenced, in
    convolutions and dense layers by thresholds of their own. Then the model is trained on the pool, and on inputs that
    carry the trigger under their own labels.

    The thief needs images, and their labels by default, and nothing of the scheme: the released configuration that is
    told source and target is another attack. Differences from the paper: activations are compared in standard
    deviations, since their scale is the model's own, by thresholds that were chosen for digits (seed 0); at most half
    of a layer is reset; one trigger is laundered; there are 10 epochs and not 5.

    Measured on digits (seeds 100-102, mean and 95% interval), of a patch that victims answer always: 0.3% [0, 1.3] is
    left at a cost of 0.7 points of accuracy; Neural Cleanse's unlearning leaves 33% (0 to 71%) at 2.0 points. Unmarked
    models answer 0%.
    """

    name = "laundering"
    reference = "Aiken et al., Neural Network Laundering, Computers & Security 2021 (arXiv 2004.11368)"

    steps: int = option(400, doc="Steps of the search, as neural-cleanse's.", at_least=1)
    convolution: float = option(2.0, doc="Threshold of convolutions, in standard deviations.", at_least=0)
    dense: float = option(1.0, doc="Threshold of dense layers, in standard deviations.", at_least=0)
    most: float = option(0.5, doc="Largest share of a layer's units that is reset.", at_least=0, at_most=1)
    epochs: int = option(10, doc="Epochs of fine-tuning.", at_least=1)

    def skip(self, dataset: Dataset) -> str | None:
        return needs_images(dataset)

    def run(self, victim: nets.Net, pool: Pool, ctx: Context) -> nets.Net:
        data = self.data(victim, pool, ctx)
        found = inversion.find_triggers(victim, pool, ctx, inversion.Settings(steps=self.steps))
        victim.requires_grad_(True)
        trigger = most_suspicious(found)
        x = nets.as_float(pool.x)
        stamped = inversion.stamp(x, trigger.mask, trigger.pattern)
        self._reset(victim, x, stamped)
        carrying = Split(nets.as_stored(stamped, pool.x.dtype), data.y)[data.y != trigger.target]
        return ctx.train(victim, [ctx.stream(data + carrying)], self.epochs)

    def _reset(self, net: nets.Net, x: torch.Tensor, stamped: torch.Tensor) -> None:
        """Silence, in each layer, the units that ``stamped`` excites above ``x``, images ``[n, c, h, w]``."""
        clean, excited = activations(net, x), activations(net, stamped)  # of all layers, before any is reset
        flat = {name: tap.ndim == 2 for name, tap in net.activations(x[:1])[1].items()}
        for layer, before in clean.items():
            rise = (excited[layer].mean(0) - before.mean(0)) / before.std(0, correction=0).clamp_min(1e-6)
            order = rise.argsort(descending=True, stable=True)[: int(self.most * len(rise))]
            chosen = torch.zeros_like(rise, dtype=torch.bool).index_fill(0, order, True)
            net.silence(layer, chosen & (rise > (self.dense if flat[layer] else self.convolution)))


def most_suspicious(found: list[inversion.Trigger]) -> inversion.Trigger:
    """The trigger of the smallest norm, hence of the largest anomaly index.

    Raises :class:`Skip` where no search found one.
    """
    there = [trigger for trigger in found if math.isfinite(trigger.norm)]
    if not there:
        raise Skip("no trigger was found to launder")
    return min(there, key=lambda trigger: trigger.norm)


def activations(net: nets.Net, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Activations ``[n, units]`` of each hidden layer after the ReLU, means over positions."""
    found: dict[str, list[torch.Tensor]] = {name: [] for name in net.hidden}
    with torch.no_grad():
        for part in nets.parts(x):
            taps = net.activations(part)[1]
            for name, parts in found.items():
                tap = taps[name].relu()
                parts.append(tap.flatten(2).mean(2) if tap.ndim > 2 else tap)
    return {name: torch.cat(parts) for name, parts in found.items()}
