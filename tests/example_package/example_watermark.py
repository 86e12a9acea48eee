"""The simplest black-box watermark: some of the owner's own images, with a wrong label."""

from __future__ import annotations

from harness import Context, Defense, Key, Marked, Split, Task, option


class WrongLabels(Defense):
    """Teaches the model the label after the right one, on a few images."""

    name = "wrong-labels"

    count: int = option(20, doc="Number of images with a wrong label.", at_least=1)

    def embed(self, task: Task, ctx: Context) -> Marked:
        chosen = task.holdout.first(self.count)
        trigger = Split(chosen.x, (chosen.y + 1) % len(task.dataset.classes))
        net = ctx.train(ctx.build(), [ctx.stream(task.train + trigger)], ctx.epochs)
        return Marked(net, Key({"trigger": trigger}))
