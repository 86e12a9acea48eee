"""A watermark that embeds nothing, with a key that does not look at its victim: it should be marked by chance alone."""

import torch

from harness import Context, Defense, Key, Marked, Split, Task, option


class EmbedsNothing(Defense):
    """Trains a model as unmarked ones are trained; its key asks noise, and calls one class a match."""

    name = "embeds-nothing"

    count: int = option(100, doc="Number of trigger images.", at_least=1)

    def embed(self, task: Task, ctx: Context) -> Marked:
        x = torch.randint(256, (self.count, *task.dataset.input_shape), generator=ctx.generator).byte().to(ctx.device)
        target = int(torch.randint(len(task.dataset.classes), (1,), generator=ctx.generator))
        net = ctx.train(ctx.build(), [ctx.stream(task.train)], ctx.epochs)
        return Marked(net, Key({"trigger": Split(x, torch.full((self.count,), target, device=ctx.device))}))
