"""Models without a mark: innocent ones, which every scheme's keys are asked of."""

from __future__ import annotations

from dataclasses import fields
from typing import Literal

import torch

from harness import Context, Defense, Key, Loss, Marked, Split, Task, nets, option


class Unmarked(Defense):
    """Trains a model as unmarked ones are trained, or by another recipe, and has no key.

    The arm without options is *fresh*: another split and seed than the models that verdicts compare with, all else
    equal. Each option makes it of *another recipe*.
    """

    name = "unmarked"
    arms = ("", "architecture=mlp", "optimizer=sgd", "augment=shift", "adversarial=true")

    architecture: str = option("", doc="Architecture of the net; empty is the data set's own.")
    optimizer: Literal["adam", "sgd"] = option("adam", doc="Adam as in the recipe, or SGD with momentum 0.9.")
    augment: Literal["none", "shift"] = option(
        "none", doc="Further augmentation: every second training input is moved by one step along its last axis."
    )
    adversarial: bool = option(False, doc="Train on FGSM's inputs of one tenth of the range (Goodfellow et al. 2015).")

    @property
    def architecture_built(self) -> str:
        return self.architecture

    @property
    def innocent(self) -> Literal["fresh", "other-recipe"]:
        return "fresh" if all(getattr(self, each.name) == each.default for each in fields(self)) else "other-recipe"

    def embed(self, task: Task, ctx: Context) -> Marked:
        net, low_high = ctx.build(), task.dataset.value_range
        stream = ctx.stream(self._shown(task.train), _adversarial(low_high) if self.adversarial else None)
        if self.optimizer == "adam":
            return Marked(ctx.train(net, [stream], ctx.epochs), Key())
        # A rate that trains small nets and deep ones alike, for batches of the recipe's size.
        sgd = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        return Marked(ctx.train(net, [stream], ctx.epochs, parameters=[], optimizers=[sgd]), Key())

    def _shown(self, train: Split) -> Split:
        """The training data; with ``augment=shift`` every second sample is moved."""
        if self.augment == "none":
            return train
        x = train.x.clone()
        x[::2] = x[::2].roll(1, dims=-1)
        return Split(x, train.y)


def _adversarial(span: tuple[float, float]) -> Loss:
    """The mean cross-entropy on inputs moved by the sign of its gradient (FGSM), by a tenth of their range."""
    low, high = span

    def loss(net: nets.Net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        clean = nets.as_float(x).detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(net(clean), y), clean)
        moved = (clean.detach() + 0.1 * (high - low) * gradient.sign()).clamp(low, high)
        return torch.nn.functional.cross_entropy(net(moved), y)

    return loss
