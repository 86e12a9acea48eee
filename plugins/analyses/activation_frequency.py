"""Frequency with which each neuron fires on task data and on triggers."""

from __future__ import annotations

from collections.abc import Sequence

from harness import Analysis, Context, Key, Measure, Skip, Split, Task, nets


class ActivationFrequency(Analysis):
    """Share of inputs (and positions) on which each neuron of each hidden layer is above 0.

    Rows: quantity ``frequency``, layer, group ``task`` (the test set) or ``trigger``, index = neuron.
    """

    name = "activation-frequency"
    reference = "Jia et al., Entangled Watermarks, arXiv 2002.12200 v1, Figures 2, 3 and 18"

    def run(self, model: nets.Net, task: Task, test: Split, key: Key, ctx: Context) -> Sequence[Measure]:
        if "trigger" not in key.probes:
            raise Skip("the key has no triggers")
        groups = {"task": test.x, "trigger": key.trigger.x}
        return [
            Measure("frequency", values, layer, group)
            for group, x in groups.items()
            for layer, values in nets.activation_frequencies(model, x).items()
        ]
