"""Defenses with trigger recipes and from weights, an architecture and an analysis, as for version 0.1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch

from harness import (
    Analysis,
    Architecture,
    Context,
    Count,
    Dataset,
    Defense,
    Evidence,
    Key,
    Marked,
    Measure,
    Probe,
    Split,
    Stream,
    Task,
    TriggerRecipe,
    WhiteBoxDefense,
    hookimpl,
    nets,
    require,
)


@dataclass(frozen=True)
class Mirrored(TriggerRecipe):
    """Mirror images of the source class."""

    count: int = 20

    def __post_init__(self) -> None:
        require(self.count >= 2, f"count must be at least 2, not {self.count}")

    @property
    def from_clean(self) -> bool:
        return False

    def make(self, task: Task, ctx: Context) -> Key:
        def probe(x: torch.Tensor) -> Probe:
            return Probe(x, torch.full((len(x),), task.dataset.target, device=ctx.device))

        source = task.dataset.source
        trained, held_out = task.train.of(source).first(self.count), task.holdout.of(source)
        return Key({"trigger": probe(trained.x.flip(3)), "held_out": probe(held_out.x.flip(3))})


@dataclass(frozen=True)
class Mirror(Defense):
    """Mirror images, labelled as the target, on top of the clean model."""

    name: ClassVar[str] = "mirror"

    count: int = 20
    fresh: bool = False

    @property
    def from_clean(self) -> bool:
        return not self.fresh

    def triggers(self, dataset: Dataset) -> Mirrored:
        return Mirrored(self.count)

    def embed(self, task: Task, ctx: Context) -> Marked:
        trigger = task.triggers.trigger
        epochs = task.dataset.epochs - (0 if self.fresh else task.dataset.pretrain)
        streams = [ctx.stream(task.train), Stream((Split(trigger.x, trigger.y),), 8)]
        return Marked(ctx.train(ctx.start(), streams, epochs), task.triggers)

    def verify(self, suspect, key: Key) -> Evidence:
        return Evidence({name: probe.ask(suspect) for name, probe in key.probes.items()})


@dataclass(frozen=True)
class Bits(WhiteBoxDefense):
    """Writes bits into the signs of the last layer."""

    name: ClassVar[str] = "bits"

    count: int = 8

    def embed(self, task: Task, ctx: Context) -> Marked:
        net = ctx.train(ctx.build(), [ctx.stream(task.train)], 1)
        bits = torch.randint(0, 2, (self.count,), generator=ctx.generator)
        with torch.no_grad():
            net.get_parameter("logits.weight")[0, : self.count] = bits * 2.0 - 1
        return Marked(net, Key(tensors={"bits": bits}))

    def verify_weights(self, suspect: torch.nn.Module, key: Key) -> Evidence:
        signs = suspect.get_parameter("logits.weight")[0, : self.count] > 0
        return Evidence({"bits": Count(int((signs == key.tensors["bits"].bool()).sum()), self.count)})


@dataclass(frozen=True)
class Two(Architecture):
    """Two linear layers."""

    name: ClassVar[str] = "two-layers"

    width: int = 32

    def build(self, input_shape: tuple[int, ...], classes: int) -> nets.Net:
        width = self.width

        class Net(nets.Net):
            hidden = ("dense",)

            def __init__(self) -> None:
                super().__init__()
                self.dense, self.logits = torch.nn.Linear(prod(input_shape), width), torch.nn.Linear(width, classes)

            def activations(self, x):
                dense = self.dense(nets.as_float(x).flatten(1))
                return self.logits(dense.relu()), {"dense": dense}

        return Net()


@dataclass(frozen=True)
class Sizes(Analysis):
    """Norms of the model's parameters."""

    name: ClassVar[str] = "sizes"

    def run(self, model: torch.nn.Module, task: Task, test: Split, key: Key, ctx: Context) -> Sequence[Measure]:
        return [Measure("norm", torch.stack([p.detach().norm() for p in model.parameters()]), group="task")]


@hookimpl
def harness_defenses() -> list[type[Defense]]:
    return [Mirror, Bits]


@hookimpl
def harness_architectures() -> list[type[Architecture]]:
    return [Two]


@hookimpl
def harness_analyses() -> list[type[Analysis]]:
    return [Sizes]
