"""A dataset, a scheme, an attack and a net that do next to nothing: what a run of them costs is the harness's own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from harness import (
    Architecture,
    Arrays,
    Attack,
    Context,
    Dataset,
    Defense,
    Key,
    Marked,
    Pool,
    Probe,
    Task,
    WhiteBoxAttack,
    hookimpl,
    nets,
)
from harness.contracts import Family


@dataclass(frozen=True)
class Dots(Dataset):
    """Forty dots, black or white."""

    name: ClassVar[str] = "dots"
    input_shape: ClassVar[tuple[int, ...]] = (1, 2, 2)
    classes: ClassVar[tuple[str, ...]] = ("black", "white")
    available: ClassVar[int] = 40

    train: int = 20
    holdout: int = 4
    architecture: str = "dot"
    epochs: int = 2
    pretrain: int = 1
    source: int = 0
    target: int = 1

    def load(self, root: Path) -> Arrays:
        y = np.arange(self.available) % 2
        x = np.broadcast_to(y[:, None, None, None] * 255, (self.available, *self.input_shape)).astype(np.uint8)
        return Arrays(x, y, x, y)


@cache
def dot_net() -> type[nets.Net]:
    """The class of the net, made when it is first built: deriving from ``nets.Net`` at import would import torch."""

    class DotNet(nets.Net):
        def __init__(self) -> None:
            super().__init__()
            self.logits = torch.nn.Linear(4, 2)

        def activations(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            return self.logits(nets.as_float(x).flatten(1)), {}

    return DotNet


@dataclass(frozen=True)
class Dot(Architecture):
    """One dense layer: ten numbers."""

    name: ClassVar[str] = "dot"

    def build(self, input_shape: tuple[int, ...], classes: int) -> nets.Net:
        return dot_net()()


@dataclass(frozen=True)
class Nothing(Defense):
    """Marks nothing: its victim is a fresh net, its key one dot."""

    name: ClassVar[str] = "nothing"

    def embed(self, task: Task, ctx: Context) -> Marked:
        one = task.train.first(1)
        return Marked(ctx.build(), Key({"trigger": Probe(one.x, one.y)}))


@dataclass(frozen=True)
class Idle(WhiteBoxAttack):
    """Returns the victim as it is; ``number`` makes one attack many."""

    name: ClassVar[str] = "idle"
    family: ClassVar[Family] = "removal"

    number: int = 0

    def run(self, victim: nets.Net, pool: Pool, ctx: Context) -> nets.Net:
        return victim


@hookimpl
def harness_datasets() -> list[type[Dataset]]:
    return [Dots]


@hookimpl
def harness_defenses() -> list[type[Defense]]:
    return [Nothing]


@hookimpl
def harness_attacks() -> list[type[Attack]]:
    return [Idle]


@hookimpl
def harness_architectures() -> list[type[Architecture]]:
    return [Dot]
