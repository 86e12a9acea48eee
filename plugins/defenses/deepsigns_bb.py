"""The black-box half of DeepSigns (Rouhani et al.): random images with random labels, selected after training."""

from __future__ import annotations

import torch

from harness import Context, Defense, Key, Marked, Skip, Split, Task, option, triggers

NEAR = 5 / 255
"""Radius of the neighbourhood that ``held_out`` asks, as a share of the range of inputs."""


class DeepSignsBb(Defense):
    """Random noise images with a random label each, of which the key keeps those that only the marked model answers.

    Many more candidates than the key needs are learned with the task, by the clean model. The key is drawn from those
    that the marked model then answers as labelled and the clean model does not.

    A trial is one key, and matches when its label is answered. ``held_out`` asks a neighbour of each key, every value
    moved by up to 5/255 of the range, ``control`` other noise images with labels of their own, which nobody learned.
    The owner keeps the images and labels. The clean model made the key, so it can be no innocent model. The paper takes
    images from regions that activations of the task leave empty; here they are uniform noise, which is far from them.

    Measured: 5 seeds of digits (100-104), victims at 98.9%, unmarked models at 98.2%. Of the keys victims answer 100%,
    after fine-tuning 34.8% (95%: 23.6 to 46.0), after pruning 58.0% (40.6 to 75.4), their copies 12.6% (6.1 to 19.1),
    unmarked models 15.4%. So the paper's claim that no key is lost by fine-tuning does not hold here. With 64
    candidates in a batch less is left (32.3% after fine-tuning, seeds 100-102), and a ResNet loses 3 points of
    accuracy, since its batch norm then sees as much noise as task data.
    """

    name = "deepsigns-bb"
    reference = (
        "Rouhani, Chen and Koushanfar, DeepSigns: An End-to-End Watermarking Framework for Ownership Protection of "
        "Deep Neural Networks, ASPLOS 2019"
    )

    count: int = option(100, doc="Largest number of keys.", at_least=2)
    candidates: int = option(20, doc="Candidates for each key.", at_least=1)
    per_batch: int = option(16, doc="Candidates in each task batch.", at_least=1)
    learning_rate: float | None = option(None, doc="Learning rate of the marking; by default the recipe's.", above=0)

    @property
    def from_clean(self) -> bool:
        return True

    def embed(self, task: Task, ctx: Context) -> Marked:
        net, classes = ctx.start(), len(task.dataset.classes)
        size = (self.count * (self.candidates + 1), *task.dataset.input_shape)
        x = triggers.as_inputs(task, torch.rand(size, generator=ctx.generator))
        y = torch.randint(classes, (len(x),), generator=ctx.generator).to(ctx.device)
        control, candidates = Split(x, y)[: self.count], Split(x, y)[self.count :]
        unknown = ctx.predict(net, candidates.x).argmax(1) != candidates.y
        stream = triggers.mixed_stream(task, candidates, self.per_batch)
        net = ctx.train(net, [stream], ctx.epochs, learning_rate=self.learning_rate)
        learned = ctx.predict(net, candidates.x).argmax(1) == candidates.y
        chosen = (learned & unknown).nonzero()[:, 0]
        if len(chosen) < 2:
            raise Skip(f"{len(chosen)} of {len(candidates)} candidates were learned: no key")
        trigger = candidates[chosen].first(self.count)
        near = triggers.near(task, trigger.x, NEAR, ctx.generator)
        return Marked(net, Key({"trigger": trigger, "held_out": Split(near, trigger.y), "control": control}))
