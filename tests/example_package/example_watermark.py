"""The simplest black-box watermark: some of the owner's own images, with a wrong label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from harness import Context, Defense, Key, Marked, Probe, Split, Task, hookimpl, require


@dataclass(frozen=True)
class WrongLabels(Defense):
    """Teaches the model the label after the right one, on a few images."""

    name: ClassVar[str] = "wrong-labels"

    count: int = 20
    """Number of images with a wrong label."""

    def __post_init__(self) -> None:
        require(self.count >= 1, f"count must be at least 1, not {self.count}")

    def embed(self, task: Task, ctx: Context) -> Marked:
        chosen = task.holdout.first(self.count)
        trigger = Split(chosen.x, (chosen.y + 1) % len(task.dataset.classes))
        everything = Split(torch.cat([task.train.x, trigger.x]), torch.cat([task.train.y, trigger.y]))
        net = ctx.train(ctx.build(), [ctx.stream(everything)], task.dataset.epochs)
        return Marked(net, Key({"trigger": Probe(trigger.x, trigger.y)}))


@hookimpl
def harness_defenses() -> list[type[Defense]]:
    return [WrongLabels]
