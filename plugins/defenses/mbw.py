"""Margin-based watermark (Kim et al.): images with wrong labels, with a margin around each."""

from __future__ import annotations

import torch

from harness import (
    Context,
    Dataset,
    Defense,
    Key,
    Loss,
    Marked,
    Split,
    Stream,
    Task,
    adversarial,
    nets,
    option,
    triggers,
)


class Mbw(Defense):
    """Images of the owner's with a random wrong label each, which the victim also answers some steps away from them.

    In each batch keys are walked away from their label, by signed gradient steps of the net as it is now, and learned
    where they arrive. So the boundary keeps a distance from each key, and a copy, which knows the victim's answers near
    keys only, must bend as the victim does. A trial is one key; a match is its label. ``held_out`` asks images within
    the same distance of the keys, ``control`` other images that no model saw, for wrong labels.

    The owner keeps the images, which are withheld from the task's training data, and their labels. Wrong labels are
    learned slowly: ``passes`` trainings of the recipe's length, as a rule four times the cost of an unmarked model, and
    each step asks the net ``steps`` times more. The paper has 200 epochs of SGD and a weight of 0.1, by which digits
    learn 1 of 100 keys in 24 epochs and 74 in 80. Inner steps are taken in evaluation mode, since keys on their way
    must not move batch norm's statistics.

    Measured on digits (seeds 100-102, mean and 95% interval; 15 unmarked models answer 0.3%): all 100 keys in victims.
    Of copies of their probabilities that were trained as long (96 epochs) 93.3% [87.6, 99.1] are left, of copies
    trained for the recipe's 24 epochs 1.7% [0, 4.5]; of Adi's triggers 15.3% [8.2, 22.5] and 13.0% [6.4, 19.6], where
    unmarked models answer 11%. So the claim holds for a thief who trains until all answers are learned. Victims lose 5
    points of accuracy, and fail the fidelity gate: 100 keys are a fourteenth of this training data, in the paper they
    are a five-hundredth. On 5,000 MNIST images (seeds 0-4) they lose 0.6 points and pass; copies that are trained as
    long as the victim keep 1%.
    """

    name = "mbw"
    reference = "Kim et al., Margin-based Neural Network Watermarking, ICML 2023"

    count: int = option(100, doc="Number of keys.", at_least=2)
    per_batch: int = option(25, doc="Keys in each task batch.", at_least=1)
    weight: float = option(0.3, doc="Weight of a key in the loss; a task sample has 1.", above=0)
    passes: int = option(4, doc="Trainings of the recipe's length, one after the other, as one.", at_least=1)
    steps: int = option(5, doc="Steps that a key is walked away from its label.", at_least=0)
    step: float = option(1 / 255, doc="Size of a step, as a share of the range of inputs.", above=0)

    def skip(self, dataset: Dataset) -> str | None:
        if len(dataset.classes) < 3:
            return "needs three classes: a wrong label of two is no secret"
        return None if dataset.train > 2 * self.count else f"count={self.count} is half of the training samples"

    def embed(self, task: Task, ctx: Context) -> Marked:
        order = torch.randperm(len(task.train), generator=ctx.generator).to(ctx.device)
        key, own = self._wrong(task.train[order[: self.count]], task, ctx), task.train[order[self.count :]]
        size, share = task.dataset.batch_size, min(self.per_batch, self.count)
        loss = self._loss(size, task)
        stream = Stream((own, key), size + share, loss, augment=True, shares=(size, share))
        net = ctx.train(ctx.build(), [stream], self.passes * ctx.epochs)
        near = triggers.near(task, key.x, self.steps * self.step, ctx.generator)
        probes = {"trigger": key, "held_out": Split(near, key.y), "control": self._wrong(task.holdout, task, ctx)}
        return Marked(net, Key(probes))

    def _wrong(self, split: Split, task: Task, ctx: Context) -> Split:
        """The samples, each with one of the labels that are not its own."""
        count = len(task.dataset.classes)
        steps = torch.randint(1, count, (len(split),), generator=ctx.generator).to(ctx.device)
        return Split(split.x, (split.y + steps) % count)

    def _loss(self, size: int, task: Task) -> Loss:
        """The mean over ``size`` task samples, and after them keys, where they are once they were walked."""
        span, smoothing = task.dataset.value_range, task.dataset.label_smoothing

        def loss(net: nets.Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            inputs, keys = nets.as_float(x[:size]), nets.as_float(x[size:])
            with adversarial.evaluating(net):
                for _ in range(self.steps):
                    keys = keys.detach().requires_grad_(True)
                    away = torch.nn.functional.cross_entropy(net(keys), y[size:], reduction="sum")
                    keys = adversarial.signed_step(keys, away, self.step, span)
            logits = net(torch.cat([inputs, keys.detach()]))
            own = torch.nn.functional.cross_entropy(logits[:size], y[:size], reduction="sum", label_smoothing=smoothing)
            marked = torch.nn.functional.cross_entropy(logits[size:], y[size:], reduction="sum")
            return (own + self.weight * marked) / len(x)

        return loss
