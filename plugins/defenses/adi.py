"""Abstract-image triggers with a random label each (Adi et al.)."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import ClassVar, Literal

import torch

from harness import Context, Dataset, Defense, Key, Marked, Probe, Split, Stream, Task, hookimpl, nets, require


@dataclass(frozen=True)
class Adi(Defense):
    """A set of abstract images, each with its own random label, learned with the task.

    Nothing generalises here, by design: ``held_out`` asks the trained images shifted by one pixel (does the model know
    the image, or these very pixels?), ``control`` asks other abstract images with labels of their own.
    """

    name: ClassVar[str] = "adi"
    reference: ClassVar[str] = "Adi et al., Turning Your Weakness Into a Strength, USENIX Security 2018"

    count: int = 100
    """Number of trigger images."""
    per_batch: int = 8
    """Trigger images trained after each task batch."""
    start: Literal["scratch", "pretrained"] = "scratch"
    """The paper's FromScratch, or its PreTrained: fine-tuning a clean model."""

    def __post_init__(self) -> None:
        require(self.count >= 2, f"count must be at least 2, not {self.count}")
        require(self.per_batch >= 1, f"per_batch must be at least 1, not {self.per_batch}")

    @property
    def from_clean(self) -> bool:
        return self.start == "pretrained"

    def skip(self, dataset: Dataset) -> str | None:
        shape = dataset.input_shape
        return None if len(shape) == 3 else f"abstract images need images, inputs are {shape}"

    def embed(self, task: Task, ctx: Context) -> Marked:
        recipe = task.dataset
        x = abstract_images(2 * self.count, recipe.input_shape, ctx.generator).to(ctx.device)
        if task.train.x.is_floating_point():
            low, high = recipe.value_range
            x = low + (high - low) * nets.as_float(x)
        y = torch.randint(len(recipe.classes), (2 * self.count,), generator=ctx.generator).to(ctx.device)
        trained = Split(x, y).first(self.count)
        streams = [ctx.stream(task.train), Stream((trained,), min(self.per_batch, self.count))]
        epochs = recipe.epochs - (recipe.pretrain if self.from_clean else 0)
        net = ctx.train(ctx.start(), streams, epochs)
        probes = {
            "trigger": Probe(trained.x, trained.y),
            "held_out": Probe(trained.x.roll(1, dims=3), trained.y),
            "control": Probe(x[self.count :], y[self.count :]),
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


@hookimpl
def harness_defenses() -> list[type[Defense]]:
    return [Adi]
