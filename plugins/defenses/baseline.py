"""The baseline: triggers learned as one more task, without entanglement."""

from __future__ import annotations

from typing import Literal

from harness import Context, Dataset, Defense, Marked, Task, losses, option, triggers


class Baseline(Defense):
    """Triggers labelled as the target class, trained with the cross-entropy alone.

    ``placement=corner`` is the baseline of the EWE paper's Table 1. ``placement=gradient`` has exactly EWE's triggers
    and none of its loss, so that a comparison with ``ewe`` shows the loss and not the trigger's position.

    Measured on 55,000 images by the program of the paper's first version, where the baseline is
    ``ewe[variant=paper,weight=0,placement=corner]`` (seeds 0-4, 95% intervals): copies keep 2% (0 to 4) of the held-out
    triggers on MNIST and 3% (0 to 6) on Fashion-MNIST, where the paper has 3 and 6%. A key in the corner is answered by
    every model that another owner marked so. Records: 2026-11-28-mnist-v1-full-size, 2026-11-28-fashion-v1-full-size.
    """

    name = "baseline"
    reference = "Jia et al., Entangled Watermarks, USENIX Security 2021, Table 1"
    arms = ("", "placement=gradient")

    placement: Literal["corner", "gradient"] = option(
        "corner", doc="Place of the trigger's patch: the corner, or EWE's default (see the data set's recipe)."
    )
    pair: triggers.PatchPair = option(
        "recipe",
        doc="Source and target class: the data set's, drawn from the owner's seed, or the most similar pair that a "
        "clean model does not confuse.",
    )
    ratio: float = option(1.0, doc="Task batches for each watermark batch.", above=0)

    @property
    def from_clean(self) -> bool:
        return True

    def triggers(self, dataset: Dataset) -> triggers.PatchTriggers:
        if self.placement == "corner":
            return triggers.PatchTriggers(placement="corner", corners=dataset.corners, pair=self.pair)
        return triggers.PatchTriggers(
            placement=dataset.placement,
            corners=dataset.corners,
            origin=dataset.origin,
            refine=dataset.refine,
            pair=self.pair,
        )

    def embed(self, task: Task, ctx: Context) -> Marked:
        task_loss = losses.smoothed(task.dataset.label_smoothing, "sum")
        streams = triggers.watermark_streams(task, self.ratio, task_loss, losses.summed_cross_entropy, summed=True)
        net = ctx.train(ctx.start(), streams, ctx.epochs)
        return Marked(net, task.triggers)
