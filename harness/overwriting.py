"""Marks of a thief's own: a scheme embeds one in a stolen model, with the thief's inputs for the owner's."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from harness.contracts import (
    Arrays,
    Context,
    Dataset,
    Defense,
    Key,
    Loss,
    Marked,
    Optimization,
    Pool,
    Split,
    Stream,
    Task,
)
from harness.errors import Skip
from harness.values import Recipe

if TYPE_CHECKING:
    from typing import Unpack

    import torch
    from torch import Tensor, nn

    from harness.nets import Net

HELD_OUT = 0.1
"""Share of the thief's inputs that is kept for held-out triggers and controls."""


def embed(scheme: Defense, net: Net, data: Split, pool: Pool, ctx: Context, epochs: int) -> Marked:
    """A copy of ``net`` in which ``scheme`` has embedded a mark of its own, in ``epochs``, and that mark's key.

    The scheme gets the stolen model wherever it would have a fresh net or a clean model, ``data`` for the owner's
    samples, and random source and target classes: nothing of the owner's key or choice. Where ``pool.patch`` is not
    known, a patch is of the default side. Raises :class:`Skip` where the scheme cannot mark such a model.
    """
    if scheme.innocent or scheme.fingerprint or "model" not in scheme.protects:
        raise Skip(f"{scheme.name} embeds nothing in a model that could overwrite a mark")
    task, means = own_task(data, pool, ctx.generator), _Means(ctx, net, epochs)
    recipe = scheme.triggers(task.dataset)
    if reason := scheme.skip(task.dataset) or (recipe.skip(task.dataset) if recipe else None):
        raise Skip(reason)
    if recipe is not None and recipe.data:
        raise Skip(f"{scheme.name} needs inputs of another data set, which the thief lacks")
    triggers = recipe.make(task, means) if recipe else Key()
    return scheme.embed(Task(task.dataset, task.train, task.holdout, None, triggers), means)


def draw(scheme: Defense, net: Net, data: Split, pool: Pool, ctx: Context) -> Key:
    """A key as :func:`embed` would make it, embedded in nothing: no training takes a step."""
    return embed(scheme, net, data, pool, ctx, epochs=0).key


def own_task(data: Split, pool: Pool, generator: torch.Generator) -> Task:
    """The task of a thief who plays the owner with ``data``, by the public recipe of ``pool`` and classes drawn."""
    import torch

    held_out = int(HELD_OUT * len(data))
    if not 0 < held_out < len(data):
        raise Skip(f"{len(data)} inputs are too few to hold some out for a mark")
    train, holdout = data[:-held_out], data[-held_out:]
    source, target = torch.randperm(len(pool.recipe.classes), generator=generator)[:2].tolist()
    recipe = pool.recipe

    class ThiefData(Dataset):
        """The thief's inputs as a data set, for its recipe alone: the samples are in the task."""

        name = "own-data"
        input_shape = recipe.input_shape
        classes = recipe.classes
        value_range = recipe.value_range
        available = len(data)

        def load(self, root: Path) -> Arrays:
            raise NotImplementedError

    known = {each.name: getattr(recipe, each.name) for each in fields(Recipe)}
    if pool.patch is not None:
        known["patch"] = pool.patch
    settings = {each.name: known[each.name] for each in fields(ThiefData) if each.name in known}
    own = ThiefData(train=len(train), holdout=len(holdout), pretrain=1, source=source, target=target, **settings)
    return Task(own, train, holdout, None, Key())


class _Means(Context):
    """The means of an attack, for a scheme that embeds its mark in the stolen model."""

    def __init__(self, ctx: Context, net: Net, epochs: int) -> None:
        self.device, self.generator = ctx.device, ctx.generator
        self._ctx, self._net, self._epochs = ctx, net, epochs

    @property
    def epochs(self) -> int:
        return self._epochs

    def build(self) -> Net:
        return copy.deepcopy(self._net)

    def start(self) -> Net:
        return copy.deepcopy(self._net)

    def train(
        self,
        net: Net,
        streams: Sequence[Stream],
        epochs: int,
        *,
        parameters: Sequence[nn.Parameter] | None = None,
        optimizers: Sequence[torch.optim.Optimizer] = (),
        **optimization: Unpack[Optimization],
    ) -> Net:
        if not self._epochs:  # a key is drawn
            return net
        return self._ctx.train(net, streams, epochs, parameters=parameters, optimizers=optimizers, **optimization)

    def stream(self, split: Split, loss: Loss | None = None) -> Stream:
        return self._ctx.stream(split, loss)

    def predict(self, net: nn.Module, x: Tensor) -> Tensor:
        return self._ctx.predict(net, x)

    def activation_frequencies(self, net: Net, x: Tensor) -> dict[str, Tensor]:
        return self._ctx.activation_frequencies(net, x)
