"""Abstract-image triggers with a random label each (Adi et al.)."""

from __future__ import annotations

from math import pi
from typing import Literal

import torch

from harness import Context, Dataset, Defense, Key, Marked, Split, Stream, Task, needs_images, nets, option


class Adi(Defense):
    """A set of abstract images, each with its own random label, learned with the task.

    Nothing generalises here, by design: ``held_out`` asks the trained images shifted by one pixel (does the model know
    the image, or these very pixels?), ``control`` asks other abstract images with labels of their own.
    """

    name = "adi"
    reference = "Adi et al., Turning Your Weakness Into a Strength, USENIX Security 2018"

    count: int = option(100, doc="Number of trigger images.", at_least=2)
    per_batch: int = option(8, doc="Trigger images trained after each task batch.", at_least=1)
    start: Literal["scratch", "pretrained"] = option(
        "scratch", doc="The paper's FromScratch, or its PreTrained: fine-tuning a clean model."
    )

    @property
    def from_clean(self) -> bool:
        return self.start == "pretrained"

    def skip(self, dataset: Dataset) -> str | None:
        return needs_images(dataset)

    def embed(self, task: Task, ctx: Context) -> Marked:
        recipe = task.dataset
        x = abstract_images(2 * self.count, recipe.input_shape, ctx.generator).to(ctx.device)
        if task.train.x.is_floating_point():
            low, high = recipe.value_range
            x = low + (high - low) * nets.as_float(x)
        y = torch.randint(len(recipe.classes), (2 * self.count,), generator=ctx.generator).to(ctx.device)
        trained = Split(x, y).first(self.count)
        streams = [ctx.stream(task.train), Stream((trained,), min(self.per_batch, self.count))]
        net = ctx.train(ctx.start(), streams, ctx.epochs)
        probes = {
            "trigger": trained,
            "held_out": Split(trained.x.roll(1, dims=3), trained.y),
            "control": Split(x[self.count :], y[self.count :]),
        }
        return Marked(net, Key(probes))


def abstract_images(count: int, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Random smooth fields ``[count, *shape]`` uint8: sums of six plane waves a channel, of up to two periods."""
    channels, height, width = shape
    waves = 6
    frequency, phase, strength = (
        torch.rand(size, generator=generator)
        for size in (
            (2, count, channels, waves, 1, 1),
            (count, channels, waves, 1, 1),
            (count, channels, waves, 1, 1),
        )
    )
    down = torch.linspace(0, 1, height)[:, None]
    right = torch.linspace(0, 1, width)[None, :]
    angle = 2 * pi * ((4 * frequency[0] - 2) * down + (4 * frequency[1] - 2) * right + phase)
    field = (strength * angle.cos()).sum(2)
    low, high = field.amin((2, 3), keepdim=True), field.amax((2, 3), keepdim=True)
    return ((field - low) / (high - low) * 255).round().byte()
