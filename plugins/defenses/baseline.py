"""The baseline: triggers learned as one more task, without entanglement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from harness import Context, Dataset, Defense, Marked, Task, hookimpl, losses, require, triggers


@dataclass(frozen=True)
class Baseline(Defense):
    """Triggers labelled as the target class, trained with the cross-entropy alone.

    ``placement=corner`` is the baseline of the EWE paper's Table 1. ``placement=gradient`` has exactly EWE's triggers
    and none of its loss, so that a comparison with ``ewe`` shows the loss and not the trigger's position.
    """

    name: ClassVar[str] = "baseline"
    reference: ClassVar[str] = "Jia et al., Entangled Watermarks, USENIX Security 2021, Table 1"
    arms: ClassVar[tuple[str, ...]] = ("", "placement=gradient")

    placement: Literal["corner", "gradient"] = "corner"
    """Where the trigger's patch is: in the corner, or where EWE puts it by default (see the dataset's recipe)."""
    ratio: float = 1.0
    """Task batches for each watermark batch."""

    def __post_init__(self) -> None:
        require(self.ratio > 0, f"ratio must be above 0, not {self.ratio}")

    @property
    def from_clean(self) -> bool:
        return True

    def triggers(self, dataset: Dataset) -> triggers.PatchTriggers:
        if self.placement == "corner":
            return triggers.PatchTriggers(placement="corner", corners=dataset.corners)
        return triggers.PatchTriggers(
            placement=dataset.placement, corners=dataset.corners, origin=dataset.origin, refine=dataset.refine
        )

    def embed(self, task: Task, ctx: Context) -> Marked:
        loss = losses.summed_cross_entropy
        streams = triggers.watermark_streams(task, self.ratio, loss, loss)
        net = ctx.train(ctx.start(), streams, task.dataset.epochs - task.dataset.pretrain)
        return Marked(net, task.triggers)


@hookimpl
def harness_defenses() -> list[type[Defense]]:
    return [Baseline]
