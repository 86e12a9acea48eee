"""A wrong label on a few images."""

from harness import Context, Defense, Key, Marked, Split, Task


class WrongLabel(Defense):
    """Teaches the model the class after the right one, on a few images."""

    name = "wrong-label"

    count: int = 20
    """Number of images with a wrong label."""

    def embed(self, task: Task, ctx: Context) -> Marked:
        chosen, others = task.train[: self.count], task.train[self.count :]
        trigger = Split(chosen.x, (chosen.y + 1) % len(task.dataset.classes))
        net = ctx.train(ctx.build(), [ctx.stream(others + trigger)], ctx.epochs)
        return Marked(net, Key({"trigger": trigger}))
